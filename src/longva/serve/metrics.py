"""Prometheus metrics of one server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from longva.watching.store import SessionStore
from longva.watching.worker import ModelWorker

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class _Current(Collector):
    """Reads the queue and the store when it is asked."""

    def __init__(self, worker: ModelWorker, store: SessionStore):
        self._worker, self._store = worker, store

    def collect(self):
        store, gauge, counter = self._store, GaugeMetricFamily, CounterMetricFamily
        for kind, name, words, value in (
            (gauge, "requests_waiting", "Requests in the queue.", self._worker.waiting),
            (gauge, "sessions", "Watched media held.", len(store)),
            (gauge, "session_bytes", "Bytes of their KV caches.", store.used_bytes),
            (gauge, "session_bytes_max", "Budget of these bytes.", store.max_bytes),
            (counter, "session_hits", "Questions about media watched before.", store.hits),
            (counter, "session_misses", "Questions whose media had to be watched.", store.misses),
            (counter, "session_evictions", "Sessions dropped for room.", store.evictions),
        ):
            yield kind(f"longva_{name}", words, value=value)


class Metrics:
    """What is counted; `text()` is the body of GET /metrics."""

    def __init__(self, worker: ModelWorker, store: SessionStore):
        self.registry = registry = CollectorRegistry()
        registry.register(_Current(worker, store))
        self.requests = Counter(
            "longva_requests", "Answers by status of HTTP.", ["path", "status"], registry=registry
        )
        self.in_flight = Gauge("longva_requests_in_flight", "Open requests.", registry=registry)
        self.tokens = Counter("longva_tokens", "Tokens.", ["kind"], registry=registry)
        self.stages = Histogram(
            "longva_stage_seconds", "Time a stage took.", ["stage"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
