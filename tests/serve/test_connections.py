"""Connections that ask nothing, or say that they are somebody else."""

import socket
import time
from contextlib import ExitStack

import httpx
import pytest

from longva.serve.connections import BoundedProtocol, connection_options, most_connections
from tests.serve.conftest import serving

HALF = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: "
NO_BODY = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"


def connect(server, said: bytes) -> socket.socket:
    url = httpx.URL(server.url)
    one = socket.create_connection((url.host, url.port), timeout=30)
    one.sendall(said)
    return one


def is_alive(server) -> bool:
    return httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200


@pytest.mark.parametrize(
    "said", [b"", HALF, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + HALF]
)
def test_who_does_not_come_to_the_point_is_left(longva, tmp_path, monkeypatch, said):
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 0.3)
    with serving(longva, tmp_path) as server, connect(server, said) as one:
        received = b"."
        try:
            while received:
                received = one.recv(4096)
        except ConnectionResetError:
            pass
        assert is_alive(server)


@pytest.mark.parametrize("said", [b"", HALF, NO_BODY])
def test_the_longest_without_a_request_makes_room(longva, tmp_path, said):
    options = connection_options(most=8)
    with serving(longva, tmp_path, connections=options) as server, ExitStack() as stack:
        for _ in range(3):
            ones = [stack.enter_context(connect(server, said)) for _ in range(30)]
            assert is_alive(server)
        ones[-1].sendall(b"a")  # the latest is still there
        time.sleep(0.05)
        ones[-1].settimeout(0.05)
        with pytest.raises(TimeoutError):
            ones[-1].recv(1)


def test_connections_leave_descriptors_for_the_rest(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert most_connections(256) == 384
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert most_connections(256) == 1024


@pytest.mark.parametrize(("trusted", "client"), [([], "127.0.0.1"), (["127.0.0.1"], "9.8.7.6")])
def test_who_asks_is_told_by_trusted_proxies_only(longva, tmp_path, trusted, client):
    options = connection_options(most=8, trusted_proxies=trusted)
    seen = []
    with serving(longva, tmp_path, connections=options) as server:
        reserve = server.engine.worker.reserve
        server.engine.worker.reserve = lambda name: (seen.append(name), reserve(name))[1]
        body = {"model": "random", "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]}
        httpx.post(
            f"{server.url}/v1/chat/completions", json=body, headers={"X-Forwarded-For": "9.8.7.6"}
        )
    assert seen == [client]
