"""A server in a process of its own, and what it costs: used by the benchmarks of serving."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from openai import OpenAI


@dataclass(frozen=True)
class Serving:
    """A running `longva serve`."""

    url: str
    process: psutil.Process
    model: str

    def cpu(self) -> float:
        """CPU seconds that it has used."""
        times = self.process.cpu_times()
        return times.user + times.system

    def resident(self) -> int:
        """Bytes of memory that it holds."""
        return self.process.memory_info().rss

    def client(self, timeout: float = 600) -> OpenAI:
        """One of OpenAI's clients."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=timeout)


@contextmanager
def serving(
    model: str, folder: Path, *options: str, command=("-m", "longva"), key: str = "any"
) -> Iterator[Serving]:
    """Run `longva serve` until the context ends; its log is `folder`/server.log.

    Args:
        model: name or folder.
        folder: shared as file://; what is fetched lies there, too.
        *options: further ones of the command.
        command: what Python runs.
        key: an API key that the server takes.
    """
    log = (folder / "server.log").open("w")
    arguments = ["--model", model, "--port", "0", "--media-folder", str(folder)]
    running = subprocess.Popen(
        [sys.executable, *command, "serve", *arguments, *options], stdout=log, stderr=log
    )
    try:
        url = _address(folder / "server.log", running)
        named = {"Authorization": f"Bearer {key}"}
        name = httpx.get(f"{url}/v1/models", headers=named, timeout=60).json()["data"][0]["id"]
        yield Serving(url, psutil.Process(running.pid), name)
    finally:
        running.terminate()
        running.wait(60)
        log.close()


def _address(log: Path, running: subprocess.Popen) -> str:
    while running.poll() is None:
        for line in log.read_text().splitlines():
            if "running on http" in line:
                return "http" + line.rpartition("running on http")[2].split()[0]
        time.sleep(0.1)
    raise RuntimeError(log.read_text())
