"""Other people's video models through our sessions: the answers of a fresh `generate`.

Random tiny weights in float64, so that what is equal in mathematics is equal to about 1e-12; the
logits of `generate` are rounded to float32.
"""

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from longva.errors import LongVAError, VideoError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings
from tests.watching import families

QUESTIONS = ["What?", "Who arrives, and when?"]
FRAMES = 12
NEEDS = {
    "smolvlm": [pytest.mark.skipif(not importlib.util.find_spec("num2words"), reason="num2words")]
}
FAST = ("qwen2_5_vl", "qwen3_vl", "internvl", "llava_onevision", "gemma3")
"""What differs most; the others run with the slow tests."""

EVERY = [
    name if name in FAST else pytest.param(name, marks=[pytest.mark.slow, *NEEDS.get(name, ())])
    for name in families.FAMILIES
]


def film(frames: int = FRAMES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (frames, 3, 20, 30), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=EVERY)
def family(request) -> SimpleNamespace:
    """A model, its processor, and the assistant made of them."""
    model, processor = families.make(request.param)
    longva = LongVA(model, processor, name=request.param, chunk_tokens=37)
    return SimpleNamespace(name=request.param, model=model, processor=processor, longva=longva)


def inputs(family, session, question: str, frames: int = FRAMES) -> dict:
    """What the family's own processor makes of the whole prompt."""
    processor, (medium,) = family.processor, session.media
    size = family.longva.family.prompts.geometry(medium.size)
    pixels = open_media(film(frames)).frames_at(range(frames), size=size).pixels
    off = {"do_resize": False, "return_tensors": "pt"}
    if getattr(processor, "video_token", None):
        content = [{"type": "video"}]
        about = {"fps": 1.0, "frames_indices": list(range(frames)), "total_num_frames": frames}
        given = {"videos": [pixels], "video_metadata": [about]}
        off["do_sample_frames"] = False
    else:
        content = [{"type": "image"}] * frames
        given = {"images": [list(pixels.numpy())], "input_data_format": "channels_first"}
    talk = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    made = processor(text=[text], **given, **off)
    return {
        name: value.double() if value.is_floating_point() else value
        for name, value in made.items()
        if isinstance(value, torch.Tensor)
    }


def generated(family, session, question: str, frames: int = FRAMES):
    """The text of ten greedy tokens of transformers alone, and their logits [10, V]."""
    made = inputs(family, session, question, frames)
    out = family.model.generate(
        **made,
        max_new_tokens=10,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = out.sequences[0, made["input_ids"].shape[1] :]
    text = family.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return text, torch.cat(out.logits)


def logits(session, question: str) -> torch.Tensor:
    """Of the token after a question, [1, V]."""
    reader = session._reader
    hidden = reader.read(session._symbols([session._turn(question)], session.media))
    return reader.logits(hidden)


def check(family, session, frames: int = FRAMES, questions=QUESTIONS) -> None:
    for question in questions:
        text, own = generated(family, session, question, frames)
        assert session.ask(question, max_new_tokens=10).text == text
        torch.testing.assert_close(logits(session, question).float(), own[:1], atol=1e-6, rtol=0)


def test_questions_about_watched_frames_are_answered_as_by_generate(family):
    check(family, family.longva.watch(film()), questions=[*QUESTIONS, QUESTIONS[0]])


def test_chunks_change_nothing(family):
    family.longva.chunk_tokens = 5
    try:
        check(family, family.longva.watch(film()), questions=QUESTIONS[1:])
    finally:
        family.longva.chunk_tokens = 37


def test_a_film_that_grows_is_answered_about_as_if_watched_at_once(family):
    session = family.longva.watch(film()[:3])  # of pairs, the last frame waits
    said = session.ask(QUESTIONS[0], max_new_tokens=2).text
    if family.name == "smolvlm":  # its template begins with the number of frames
        for policy in (None, "newest"):
            session = family.longva.watch(film()[:3], policy=policy, max_frames=policy and 6)
            before = vars(session._ahead.copy())
            with pytest.raises(LongVAError, match="watch the longer film as a whole"):
                session.extend(film())
            assert all(vars(session._ahead)[name] is before[name] for name in ("_numbers", "_last"))
            assert vars(session._ahead)["_offered"] == before["_offered"]
            assert session.frames == 3 and not session.notes
            assert session.ask(QUESTIONS[0], max_new_tokens=2).text == said
        return
    for frames in (7, FRAMES):
        session.extend(film()[:frames])
    assert session.frames == FRAMES
    check(family, session, questions=QUESTIONS[1:])


def test_evidence_is_the_attention_of_an_eager_forward(family):
    session = family.longva.watch(film())
    answer = session.ask(QUESTIONS[0], max_new_tokens=1, evidence=FRAMES)
    family.model.set_attn_implementation("eager")
    try:
        made = inputs(family, session, QUESTIONS[0])
        with torch.inference_mode():
            layers = family.model(**made, output_attentions=True).attentions
    finally:
        family.model.set_attn_implementation({"text_config": "evidence"})
    mass = torch.stack([layer[0, :, -1].double() for layer in layers]).mean((0, 1))
    (medium,) = session.media
    visual = torch.isin(
        made["input_ids"][0], torch.tensor([family.longva.family.prompts.placeholder])
    )
    own = mass[visual][: medium.rows].view(-1, medium.tokens_per_frame).sum(1)
    frames = {item.frame: item.weight for item in answer.evidence}
    found = torch.tensor([frames[frame] for frame in range(0, FRAMES, medium.unit)])
    torch.testing.assert_close(found, own.float() / own.sum().float(), atol=1e-7, rtol=0)


def test_one_frame_is_no_beginning_for_a_model_that_encodes_pairs():
    model, processor = families.make("qwen2_5_vl")
    session = LongVA(model, processor, name="pairs").watch(film()[:1])
    assert session.frames == 1 and session.ask(QUESTIONS[0], max_new_tokens=2).text
    with pytest.raises(VideoError, match="encodes frames in pairs, and one was watched"):
        session.extend(film())


def test_the_features_of_a_film_are_one_a_pair():
    longva = LongVA(*families.make("qwen2_5_vl"), name="pairs")
    medium = open_media(film()[:4], seconds=range(4))
    features = longva.encode(medium, FrameSampling(), FrameSettings())
    frames = longva.describe(medium, FrameSampling())
    (whole,) = longva.stream(medium, frames, FrameSettings())
    assert len(features) == 2 and torch.equal(features, whole)


def test_a_frame_waits_for_the_other_of_its_pair():
    model, processor = families.make("qwen2_5_vl")
    session = LongVA(model, processor, name="pairs").watch(film()[:4])
    assert session.extend(film()[:5]) == 0
    assert session.extend(film()[:7]) == 2 and session.frames == 6


@pytest.mark.parametrize("policy", ["stop", "newest", "thin"])
def test_policies_forget_frames_that_are_encoded_singly(policy):
    session = LongVA(*families.make("internvl"), name="singly").watch(
        film()[:4], policy=policy, max_frames=6
    )
    session.extend(film())
    (medium,) = session.media
    assert len(medium) <= 6 and session.notes
    chosen = film()[medium.indices.tolist()]
    again = session.watcher.watch(open_media(chosen, seconds=medium.indices.tolist()))
    asked = {"max_new_tokens": 10}
    assert session.ask("What?", **asked).text == again.ask("What?", **asked).text
    pairs = LongVA(*families.make("qwen2_vl"), name="pairs")
    with pytest.raises(LongVAError, match="encodes 2 frames together"):
        pairs.watch(film(), policy=policy)


def test_what_stands_elsewhere_is_read_again():
    model, processor = families.make("qwen2_vl")
    session = LongVA(model, processor, name="q").watch(film())
    reader, prompt = session._reader, session._reader.held
    assert reader.share(prompt) == reader.share(prompt) == len(prompt)
    place = reader._place
    reader._place = lambda symbols: replace(place(symbols), positions=place(symbols).positions + 1)
    reader._placed = replace(reader._placed, symbols=prompt[:0])
    assert reader.share(prompt) == reader.share(prompt) == 0
