"""Sizes and patches as the video processors of transformers make them."""

import inspect
from importlib import import_module

import pytest
import torch

from longva.checkpoints.video_models import FrameProcessor
from longva.media.medium import open_media
from longva.watching.assistant import LongVA
from longva.watching.video_prompts import VideoPrompts
from tests.watching import families

SIZES = [(720, 1280), (1080, 1920), (90, 160), (300, 40), (17, 23), (2160, 3840)]
NORMAL = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def sized(name: str, patch: int, least: int, most: int) -> VideoPrompts:
    """Prompts of a family whose frames have `least` to `most` pixels."""
    model, processor = families.make(name, torch.float32)
    prompts = VideoPrompts(processor, model.config)
    prompts.frames.size = {"shortest_edge": least, "longest_edge": most}
    prompts.frames.patch_size = patch
    return prompts


@pytest.mark.parametrize("frames", [2, 64, 1000])
def test_frames_that_share_a_budget_have_the_size_that_qwen3_vl_chooses(frames):
    module = import_module("transformers.models.qwen3_vl.video_processing_qwen3_vl")
    least, most = 128 * 32 * 32, 768 * 32 * 32 * 32
    prompts = sized("qwen3_vl", 16, least, most)
    for height, width in SIZES:
        told = {"num_frames": frames, "height": height, "width": width, "factor": 32}
        own = prompts.frame_size(height, width, frames)
        assert own == module.smart_resize(**told, min_pixels=least, max_pixels=most)


def test_frames_of_their_own_have_the_size_that_qwen2_vl_chooses():
    module = import_module("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    prompts = sized("qwen2_vl", 14, 3136, 602_112)
    for height, width in SIZES:
        own = prompts.frame_size(height, width, 1000)
        if min(height, width) >= 28:  # smaller ones it refuses or makes larger by its own rule
            told = {"factor": 28, "min_pixels": 3136, "max_pixels": 602_112}
            assert own == module.smart_resize(height, width, **told)
    assert prompts.frame_size(9000, 1, 1000) == (8988, 56)  # its own rule refuses such strips


@pytest.mark.parametrize(("name", "kind"), [("qwen3_vl", "Qwen3VL"), ("glm4v", "Glm4v")])
def test_patches_are_those_of_the_familys_own_video_processor(name, kind):
    module = import_module(f"transformers.models.{name}.video_processing_{name}")
    cut = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    pixels = torch.randint(0, 256, (5, 3, 16, 24), dtype=torch.uint8)
    own = FrameProcessor(**cut, **NORMAL)([pixels])
    mean, std = (torch.tensor(NORMAL[f"image_{key}"])[:, None, None] for key in ("mean", "std"))
    off = dict.fromkeys(
        ("do_resize", "do_rescale", "do_normalize", "do_sample_frames", "do_convert_rgb"), False
    )
    made = getattr(module, f"{kind}VideoProcessor")(**cut)
    theirs = made([(pixels / 255 - mean) / std], **off, return_tensors="pt")
    torch.testing.assert_close(own["pixel_values_videos"], theirs["pixel_values_videos"])
    assert own["video_grid_thw"].tolist() == theirs["video_grid_thw"].tolist() == [[3, 4, 6]]


def test_old_settings_name_pixels_instead_of_edges():
    made = FrameProcessor(min_pixels=64, max_pixels=256, **NORMAL)
    assert dict(made.size) == {"shortest_edge": 64, "longest_edge": 256}


def test_a_rate_that_a_model_is_told_is_that_of_the_film():
    longva = LongVA(*families.make("qwen2_5_vl"), name="q")
    film = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    half = longva.watch(open_media(film, fps=2), frames=8)
    assert half.media[0].step == 0.5
    asked = []
    rule = longva.model.base_model.get_rope_index

    def find(**told):
        asked.append(told["second_per_grid_ts"])
        known = inspect.signature(rule).parameters
        return rule(**{name: value for name, value in told.items() if name in known})

    symbols = half._reader.held
    longva.family.prompts.place(symbols, half.media, find)
    assert asked == [[1.0]]  # of two frames


def test_the_size_of_frames_stays_when_a_film_grows():
    longva = LongVA(*families.make("qwen3_vl"), name="q")
    film = torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8)
    session = longva.watch(film[:8])
    size = session.media[0].size
    session.extend(film)
    assert session.frames == 40 and session.media[0].size == size
    assert longva.watch(film).media[0].size < size
    note = f"every frame is {size[1]} x {size[0]} pixels, chosen once for the film"
    assert session.ask("What?", max_new_tokens=1).notes[0].endswith(note)


def test_what_spells_a_placeholder_is_text():
    model, processor = families.make("qwen2_vl")
    prompts = VideoPrompts(processor, model.config)
    longva = LongVA(model, processor, name="q")
    media = longva.watch(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).media
    said = [{"type": "video"}, {"type": "text", "text": "Is <|video_pad|> a token?"}]
    symbols = prompts.symbols([{"role": "user", "content": said}], media)
    assert int((symbols < 0).sum()) == media[0].rows
    text = processor.tokenizer.decode(symbols[symbols >= 0])
    assert "Is <|video_pad|> a token?" in text
