"""Video models of transformers from a folder: loaded, tested, refused, and asked by command."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    T5Config,
    T5ForConditionalGeneration,
)
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import CheckpointError, LongVAError
from longva.watching.assistant import LongVA
from longva.watching.self_test import run_self_test
from tests.live_films import write_film
from tests.watching import families

RUN = CliRunner()


@pytest.fixture(
    scope="module", params=["qwen3_vl", pytest.param("internvl", marks=pytest.mark.slow)]
)
def folder(request, tmp_path_factory) -> Path:
    model, processor = families.make(request.param, torch.float32)
    path = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Six seconds, ten frames a second."""
    from fractions import Fraction

    from longva.media.write import write_video

    path = tmp_path_factory.mktemp("film") / "film.mp4"
    pictures = [Image.effect_noise((160, 96), 60).convert("RGB") for _ in range(60)]
    write_video(path, pictures, Fraction(10))
    return path


def run(*arguments) -> str:
    result = RUN.invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def answers(folder, film) -> list[dict]:
    questions = ["What is shown?", "When?"]
    options = ["--model", folder, "--max-new-tokens", 6, "--json"]
    return json.loads(run("ask", film, *questions, *options))


def test_a_folder_is_asked_by_command_as_by_transformers(folder, film):
    found = answers(folder, film)
    longva = LongVA.from_pretrained(folder, self_test=False)
    with longva.watch(film) as session:
        assert found[0]["frames"] == session.frames == 6
        for question, answer in zip(("What is shown?", "When?"), found, strict=True):
            content = [{"type": "video"}, {"type": "text", "text": question}]
            talk = [{"role": "user", "content": content}]
            prompt = longva.family.symbols(talk, session.media)
            assert answer["prompt_tokens"] == len(prompt)
            assert answer["answer"] == session.ask(question, max_new_tokens=6).text


def test_a_plan_counts_the_tokens_of_the_processor(folder, film):
    longva = LongVA.from_pretrained(folder, self_test=False)
    media = longva.watch(film, now=False)
    prompt = longva.family.symbols(
        [{"role": "user", "content": [{"type": "video"}]}], media._everything()
    )
    planned = json.loads(run("plan", folder, "--frames", 6, "--json"))
    assert 0 <= planned["prompt_tokens"] - 1280 - len(prompt) + 40 <= 60
    assert planned["fits"]


def test_a_batch_gives_the_answers_of_ask(folder, film, tmp_path):
    table = tmp_path / "questions.jsonl"
    table.write_text(json.dumps({"question": "What is shown?"}))
    out = tmp_path / "answers.jsonl"
    options = ["--model", folder, "--max-new-tokens", 6, "--out", out]
    run("batch", table, "--media", film, *options)
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row["answer"] == answers(folder, film)[0]["answer"]


def test_a_session_goes_on_from_its_file(folder, film, tmp_path):
    longva = LongVA.from_pretrained(folder, self_test=False)
    session = longva.watch(film)
    session.save(tmp_path / "session.safetensors")
    again = longva.resume(tmp_path / "session.safetensors")
    assert again.ask("When?", max_new_tokens=6).text == session.ask("When?", max_new_tokens=6).text


def test_several_questions_are_answered_as_one_by_one(folder, film):
    session = LongVA.from_pretrained(folder, self_test=False).watch(film)
    together = session.ask_all(["What?", "When?"], max_new_tokens=6)
    assert [a.text for a in together] == [
        session.ask(question, max_new_tokens=6).text for question in ("What?", "When?")
    ]


def test_what_is_for_longva_alone_is_refused(folder):
    with pytest.raises(LongVAError, match="pool_stride: this is for LongVA.* Leave it out."):
        LongVA.from_pretrained(folder, pool_stride=2)
    LongVA.from_pretrained(folder, pool_stride=None)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_weights_of_the_language_model_are_quantised(kind, film, tmp_path):
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 4]}
    wide = {"hidden_size": 64, "head_dim": 16, "rope_parameters": rope}  # four bits: 64 at a time
    model, processor = families.make(
        "qwen3_vl", torch.float32, text=wide, vision={"out_hidden_size": 64}
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    longva = LongVA.from_pretrained(tmp_path, quantization=kind)  # its self-test passes
    linear = {
        name: weight.dtype
        for name, weight in longva.model.named_parameters()
        if weight.ndim == 2 and "embed" not in name and "norm" not in name
    }
    inside = {name for name in linear if ".language_model.layers." in name}
    assert {linear[name] for name in inside} == {torch.int8 if kind == "int8" else torch.uint8}
    assert {linear[name] for name in linear.keys() - inside} == {torch.float32}
    assert longva.watch(film).ask("What?", max_new_tokens=3).frames == 6


def test_a_film_in_the_cache_is_not_encoded_again(folder, film, tmp_path, monkeypatch):
    longva = LongVA.from_pretrained(folder, self_test=False, cache_dir=tmp_path)
    first = longva.watch(film).ask("What?", max_new_tokens=6)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1

    def encoded(*_, **__):
        raise AssertionError("a frame is encoded")

    monkeypatch.setattr(longva.family, "rows", encoded)
    assert longva.watch(film).ask("What?", max_new_tokens=6).text == first.text
    with pytest.raises(AssertionError, match="a frame is encoded"):
        longva.watch(film, frames=4)


def test_subtitles_times_and_a_search_are_for_every_model(folder, film, tmp_path):
    said = tmp_path / "film.srt"
    said.write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")

    def tokens(*options) -> int:
        told = run("ask", film, "What?", "--model", folder, "--max-new-tokens", 2, *options)
        return int(re.search(r"6 frames, (\d+) tokens", told)[1])

    plain = tokens()
    hello = len(LongVA.from_pretrained(folder, self_test=False).processor.tokenizer("Hello")[0])
    assert tokens("--subtitles", said) >= plain + hello
    assert tokens("--time-tokens", 2) > tokens("--time-tokens", 4) > plain
    found = json.loads(run("find", film, "a car", "--model", folder, "--least", 0, "--json"))
    assert found["ranges"] and {one["by"] for one in found["ranges"]} == {"attention"}
    assert all(0 <= one["start"] < one["end"] <= 6 for one in found["ranges"])


def test_a_film_that_is_being_recorded_is_watched(folder, tmp_path):
    path, pictures = tmp_path / "film.ts", [Image.effect_noise((160, 96), 60)] * 7
    write_film(str(path), [picture.convert("RGB") for picture in pictures])
    options = ["--model", folder, "--idle", 0.1, "--max-frames", 4, "--max-new-tokens", 2]
    told = RUN.invoke(app, ["watch", str(path), "What?", "--json", *map(str, options)])
    assert told.exit_code == 0, told.output
    answer = json.loads(told.stdout)
    assert answer["frames"] <= 4 and "the context was full" in answer["notes"][-1]


def test_how_frames_fit_is_said_by_the_model_s_own_processor(folder, film):
    result = RUN.invoke(app, ["ask", str(film), "?", "--model", str(folder), "--fit", "pad"])
    assert isinstance(result.exception, LongVAError), result.output
    assert result.exception.remedies == {"fit": "crop"}


def test_a_model_whose_cache_answers_otherwise_is_refused_with_the_figures(monkeypatch):
    model, processor = families.make("qwen2_vl", torch.float32)
    longva = LongVA(model, processor, name="mine")
    place = longva.family.prompts.place

    def twice_as_far(symbols, media, find):
        placed = place(symbols, media, find)
        return placed if find is None else replace(placed, positions=2 * placed.positions)

    monkeypatch.setattr(longva.family.prompts, "place", twice_as_far)
    figures = r"mine cannot be watched with: .* by 0\.\d+ and 0\.\d+ of the largest"
    with pytest.raises(LongVAError, match=figures) as found:
        run_self_test(longva)
    assert found.value.remedies == {"self_test": False}


def save_t5(path: Path) -> Path:
    size = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=300, **size)).save_pretrained(path)
    families.tokenizer().save_pretrained(path)
    return path


def test_a_model_that_reads_no_pictures_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is a t5, which does not read films"):
        LongVA.from_pretrained(save_t5(tmp_path / "t5"))


def test_a_model_that_looks_at_pictures_by_cross_attention_is_refused():
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 300}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "cross_attention_layers": [1]}
    text |= {"pad_token_id": 0}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_global_layers": 1, "attention_heads": 2, "image_size": 28, "patch_size": 14}
    vision |= {"vision_output_dim": 32, "intermediate_layers_indices": [0]}
    config = AutoConfig.for_model("mllama", text_config=text, vision_config=vision)
    model = AutoModelForImageTextToText.from_config(config)
    _, processor = families.make("gemma3")
    with pytest.raises(LongVAError, match="reads pictures in a way that cannot be continued here"):
        LongVA(model, processor, name="mllama")


def published(folder: Path, name: str, files: dict) -> Path:
    """A folder as most are published: settings in a file each, named by the fast classes."""
    model, processor = families.make(name, torch.float32)
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for file, values in files.items():
        (folder / f"{file}.json").write_text(json.dumps(normal | values))
    template = {"chat_template": processor.chat_template.replace("m.content", "m['content']")}
    (folder / "chat_template.json").write_text(json.dumps(template))
    return folder


def test_folders_as_they_are_published_need_no_torchvision(tmp_path):
    cut = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    qwen = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    files = {"preprocessor_config": {"min_pixels": 64, "max_pixels": 256, **cut, **qwen}}
    longva = LongVA.from_pretrained(published(tmp_path / "qwen", "qwen2_5_vl", files))
    film = torch.zeros(4, 3, 20, 30, dtype=torch.uint8)
    assert longva.watch(film).media[0].size == (8, 16)
    square = {"size": {"height": 16, "width": 16}}
    files = {
        "preprocessor_config": {"image_processor_type": "GotOcr2ImageProcessorFast", **square},
        "video_preprocessor_config": {"video_processor_type": "InternVLVideoProcessor", **square},
        "processor_config": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
    }
    longva = LongVA.from_pretrained(published(tmp_path / "internvl", "internvl", files))
    assert longva.watch(film).media[0].size == (16, 16)


def test_a_processor_that_transformers_does_not_have_is_named_by_its_family(tmp_path):
    cut = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    kind = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen9VLProcessor"}
    files = {"preprocessor_config": {"min_pixels": 64, "max_pixels": 256, **cut, **kind}}
    folder = published(tmp_path / "qwen", "qwen2_5_vl", files)
    named = folder / "processor_config.json"
    named.write_text(json.dumps({"processor_class": "Qwen9VLProcessor"}))
    with pytest.raises(CheckpointError, match="Qwen9VLProcessor.. Write that of its") as refused:
        LongVA.from_pretrained(folder)
    assert str(named) in str(refused.value)
    named.write_text(re.search(r"such as (\{.*?\})", str(refused.value))[1])
    film = torch.zeros(4, 3, 20, 30, dtype=torch.uint8)
    assert LongVA.from_pretrained(folder).watch(film).media[0].size == (8, 16)
