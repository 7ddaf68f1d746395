"""What many tests share: a short real video, seeded random numbers, one thread a process."""

import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

# One result on every machine: forked ranks cannot share a GPU, which benchmarks/gpu_suite.py tests.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# No test asks the hub: where it cannot be reached, each try would take 25 seconds to give up.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from longva import chat_endpoint
from longva.media.write import write_video
from longva.nano.world import random_scene
from tests import hard_videos
from tests.clock import Clock
from tests.other_systems import left_out
from tests.scenes import scene_frames

collect_ignore = []
if sys.platform != "linux":
    collect_ignore = [Path(__file__).parents[1] / file for file in left_out()]

# Many small processes and threads on few cores wait for one another more than they compute.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    """Six seconds of H.264 at 8 frames a second; the scene changes every second."""
    path = tmp_path_factory.mktemp("media") / "scenes.mp4"
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(6)]
    write_video(path, scene_frames(scenes, frames_each=8))
    return path


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """Indices of training data go into a folder of this session."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def h264(tmp_path_factory) -> Path:
    """60 frames, keyframes at 0, 20, 40, B-frames."""
    return hard_videos.write_video(tmp_path_factory.mktemp("h264") / "h264.mp4")


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The time of `ChatEndpoint`, which nobody has to wait for."""
    clock = Clock()
    now = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.now)
    monkeypatch.setattr(chat_endpoint, "time", now)
    monkeypatch.setattr(chat_endpoint.RateLimiter, "sleep", lambda _, seconds: clock.sleep(seconds))
    return clock


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a server that is not there: its port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
