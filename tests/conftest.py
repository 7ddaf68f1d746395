"""What many tests share: a short real video, seeded random numbers, one thread a process."""

import random
from pathlib import Path

import pytest
import torch

from longva.nano.world import random_scene, scene_frames, write_video
from tests import hard_videos

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


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def h264(tmp_path_factory) -> Path:
    """60 frames, keyframes at 0, 20, 40, B-frames."""
    return hard_videos.write_video(tmp_path_factory.mktemp("h264") / "h264.mp4")
