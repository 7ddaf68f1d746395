"""Other people's models by their own processors: one plain forward of transformers each."""

import importlib.util

import pytest
import torch
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

from longva.errors import RecipeError
from longva.model.random_model import random_longva
from longva.nano.needles import own_pictures
from longva.niah.cells import Grid
from longva.niah.image_text_model import ImageTextModel
from longva.niah.log import read_rows
from longva.niah.needles import NeedleRecipe
from longva.niah.visual import VisualRecipe, ask, open_pictures, run_visual
from tests.watching import families

pytestmark = pytest.mark.usefixtures("undrawn")

SMOL = pytest.param(
    "smolvlm",
    marks=pytest.mark.skipif(not importlib.util.find_spec("num2words"), reason="num2words"),
)
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", SMOL)


def saved(folder, model, processor) -> str:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def recipe(folder, model, **settings) -> VisualRecipe:
    grid = {"grid": Grid(lengths=(4, 7), depths=(0.0, 0.5)), "max_new_tokens": 3}
    fields = {"adapter": "huggingface", "frames_as": "video", "needles": NeedleRecipe(count=2)}
    return VisualRecipe(model=str(model), output_dir=folder, **fields | grid | settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_frames_are_one_video_of_as_many_tokens_as_the_processor_writes(name, tmp_path):
    model, processor = families.make(name, torch.float32)
    settings = recipe(tmp_path / "run", saved(tmp_path / "model", model, processor))
    summary = run_visual(settings)
    assert summary["protocol"] == {"frames": "video", "scoring": "teacher_forced"}
    rows = read_rows(tmp_path / "run")
    pictures, needles = open_pictures(settings)
    probes = ask(settings, needles, num_pictures=len(pictures[0]))
    assert len(rows) == len(probes) == 8
    for probe in probes:
        row, frames = rows[probe.row.key], probe.row.frames
        talk = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": ""}]}]
        talk[0]["content"][1]["text"] = row.question
        text = processor.apply_chat_template(talk, add_generation_prompt=True)
        assert text.count(processor.video_token) == 1
        side = 28 if name.startswith("llava") else 16
        if name == "qwen3_vl":  # which shares a budget of pixels out over the frames
            edges = processor.video_processor.size
            budget = {"min_pixels": edges["shortest_edge"], "max_pixels": edges["longest_edge"]}
            side, _ = smart_resize(frames, 336, 336, factor=8, **budget)
        about = {"fps": 1.0, "frames_indices": list(range(frames)), "total_num_frames": frames}
        pixels = torch.zeros(frames, 3, side, side, dtype=torch.uint8)
        off = {"do_resize": False, "do_sample_frames": False, "return_tensors": "pt"}
        made = processor(text=[text], videos=[pixels], video_metadata=[about], **off)
        assert row.prompt_tokens == made["input_ids"].shape[1]
        assert row.logprob < 0 and row.generated is not None and row.predicted
        assert len(set(row.evidence_frames)) == min(5, frames) and max(row.evidence_frames) < frames


@pytest.mark.parametrize(
    ("name", "frames_as"),
    [("qwen3_vl", "video"), ("llava_onevision", "video"), ("qwen3_vl", "images")],
)
def test_an_answer_is_scored_as_the_model_would_generate_it(name, frames_as, tmp_path):
    model, processor = families.make(name)
    settings = recipe(tmp_path / "run", "random", frames_as=frames_as)
    options = {"name": name, "max_new_tokens": 4, "frames_as": frames_as}
    tested = ImageTextModel(model, processor, **options)
    pictures, needles = open_pictures(settings)
    tested.encode(pictures, tmp_path)
    probe = ask(settings, needles, num_pictures=len(pictures[0]))[1]
    inputs = tested.inputs(probe.frames.tolist(), probe.row.question, 1.0)
    if frames_as == "video":
        grid = inputs.get("video_grid_thw")
        assert grid is None or len(grid) == 1
    told = tested.reply(probe.frames.tolist(), probe.row.question, probe.row.answer, 1.0)
    ids = processor.tokenizer(probe.row.answer, add_special_tokens=False)["input_ids"]
    forced = torch.tensor([ids])
    written = model.generate(  # held to the answer, token by token
        **inputs,
        max_new_tokens=len(ids),
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        prefix_allowed_tokens_fn=lambda _, so_far: [
            ids[len(so_far) - inputs["input_ids"].shape[1]]
        ],
    )
    logits = torch.cat(written.logits).double().log_softmax(-1)
    assert torch.equal(written.sequences[:, inputs["input_ids"].shape[1] :], forced)
    chosen = logits[torch.arange(len(ids)), forced[0]].sum().item()
    assert told.logprob == pytest.approx(chosen, abs=1e-5)  # generate rounds to float32
    assert told.is_greedy == (logits.argmax(-1).tolist() == ids)


@pytest.mark.parametrize(
    ("name", "frames_as"),
    [
        ("internvl", "video"),
        ("llava_onevision", "video"),
        ("internvl", "images"),
        ("qwen2_5_vl", "video"),
        ("qwen3_vl", "video"),
    ],
)
def test_every_frame_or_pair_has_tokens_of_its_own(name, frames_as, tmp_path):
    model, processor = families.make(name)
    tested = ImageTextModel(model, processor, name="m", max_new_tokens=0, frames_as=frames_as)
    settings = recipe(tmp_path / "run", "random", max_new_tokens=0)
    pictures, needles = open_pictures(settings)
    tested.encode(pictures, tmp_path)
    probe = ask(settings, needles, num_pictures=len(pictures[0]))[2]
    frames, needle = probe.frames.tolist(), probe.row.position
    inputs, tokens = told(tested, frames, probe.row.question)
    assert torch.isin(inputs["input_ids"][0][tokens], tested.visual_ids).all()
    other = [*frames]
    other[needle] = frames[needle + 1]  # another picture in the needle's place
    changed, _ = told(tested, other, probe.row.question)
    with torch.inference_mode():
        layers = [
            model(**one, output_hidden_states=True).hidden_states[0][0] for one in (inputs, changed)
        ]
    differs = (layers[0] != layers[1]).any(-1).nonzero().flatten().tolist()
    assert differs and set(differs) <= set(tokens[needle // tested.unit].tolist())
    reply = tested.reply(frames, probe.row.question, probe.row.answer, 1.0)
    assert reply.generated is None and len(reply.evidence_frames) == 5
    if tested.unit == 2:  # both frames of a pair, the earlier first
        pairs = [frame // 2 for frame in reply.evidence_frames]
        assert reply.evidence_frames == sorted(
            reply.evidence_frames, key=lambda frame: (pairs.index(frame // 2), frame)
        )


def told(tested, frames, question):
    inputs = tested.inputs(frames, question, 1.0)
    tokens = tested.frame_tokens(inputs, len(frames))
    assert len(set(tokens.flatten().tolist())) == tokens.numel()
    assert len(tokens) == -(-len(frames) // tested.unit)
    return inputs, tokens


def test_longva_is_shown_one_video_by_its_own_processor(tmp_path):
    model, processor = random_longva(max_grids=2)
    run_visual(recipe(tmp_path / "run", saved(tmp_path / "model", model, processor)))
    rows = read_rows(tmp_path / "run")
    assert len(rows) == 8
    for row in rows.values():
        content = [{"type": "video"}, {"type": "text", "text": row.question}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        mark = processor.tokenizer("<video>", add_special_tokens=False)["input_ids"]
        assert text.count("<video>") == 1 and len(mark) == 1
        per_frame = model.config.tokens_per_grid()
        written = len(processor.tokenizer(text)["input_ids"]) - 1
        assert row.prompt_tokens == written + row.frames * per_frame
        assert row.logprob < 0 and len(row.evidence_frames) == 5


def test_a_model_that_sees_finds_the_needle_and_looks_at_it(tmp_path):
    one = {"grid": Grid(lengths=(12,), depths=(0.0, 0.5, 1.0)), "needles": NeedleRecipe(count=2)}
    settings = recipe(tmp_path / "run", "nano", max_new_tokens=8, **one)
    summary = run_visual(settings, **own_pictures(settings))
    assert summary["mean"] == 1.0 and summary["localisation"]["hit@1"] == 1.0
    assert all(row.generated is not None for row in read_rows(tmp_path / "run").values())


def test_a_model_without_videos_is_shown_images(tmp_path):
    model, processor = families.make("gemma3")
    with pytest.raises(
        RecipeError, match=r"gemma reads pictures, and no videos.*frames_as='images'"
    ):
        ImageTextModel(model, processor, name="gemma", max_new_tokens=3, frames_as="video")
    ImageTextModel(model, processor, name="gemma", max_new_tokens=3, frames_as="images")


def test_a_folder_measured_by_images_is_not_gone_on_with_by_a_video(tmp_path):
    model, processor = families.make("internvl", torch.float32)
    folder = saved(tmp_path / "model", model, processor)
    one = {"grid": Grid(lengths=(2,), depths=(0.0,)), "needles": NeedleRecipe(count=1)}
    run_visual(recipe(tmp_path / "run", folder, frames_as="images", **one))
    with pytest.raises(RecipeError, match="another measurement"):
        run_visual(recipe(tmp_path / "run", folder, **one))
