"""Other people's video models through our sessions: the answers of a fresh `generate`.

Random tiny weights in float64, so that what is equal in mathematics is equal to about 1e-12; the
logits of `generate` are rounded to float32.
"""

import importlib.util
import inspect
import operator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from longva.errors import LongVAError, VideoError
from longva.media.live import LiveFrame
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings
from longva.watching.live import follow
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
            before = session._ahead.copy()._offered
            with pytest.raises(LongVAError, match="watch the longer film as a whole"):
                session.extend(film())
            assert all(map(operator.is_, session._ahead._offered, before))
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
    _, features = longva.encode(medium, FrameSampling(), FrameSettings())
    frames = longva.describe(medium, FrameSampling())
    (whole,) = longva.stream(medium, frames, FrameSettings())
    assert len(features) == 2 and torch.equal(features, whole)


def test_a_frame_waits_for_the_other_of_its_pair():
    model, processor = families.make("qwen2_5_vl")
    session = LongVA(model, processor, name="pairs").watch(film()[:4])
    assert session.extend(film()[:5]) == 0
    assert session.extend(film()[:7]) == 2 and session.frames == 6


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("policy", ["stop", "newest", "thin"])
def test_policies_forget_whole_frames_or_pairs(name, policy, tmp_path):
    longva = LongVA(*families.make(name), name="forgetful")
    some = [open_media(film(n), seconds=range(n)) for n in (4, 9, FRAMES)]
    session = longva.watch(some[0], policy=policy, max_frames=6)
    session.extend(some[1])
    session.save(tmp_path / "session.safetensors")
    session = longva.resume(tmp_path / "session.safetensors")
    session.extend(some[2])
    (medium,) = session.media
    numbers = medium.indices.tolist()
    single = {"stop": range(6), "newest": [0, 1, 2, 11], "thin": range(0, 12, 2)}
    paired = {"stop": range(6), "newest": [0, 1, 10, 11], "thin": [0, 1, 4, 5, 8, 9]}
    assert numbers == list((single if medium.unit == 1 else paired)[policy])
    again = longva.watch(open_media(film()[numbers], seconds=numbers), frames=len(numbers))
    assert again.media[0].indices.tolist() == list(range(len(numbers)))
    asked = {"max_new_tokens": 10}
    assert session.ask("What?", **asked).text == again.ask("What?", **asked).text
    torch.testing.assert_close(logits(session, "When?"), logits(again, "When?"), atol=1e-9, rtol=0)
    if policy == "thin":
        known = "one frame in 2" if medium.unit == 1 else "one pair of frames in 2"
        assert session.notes[-1].endswith(f"the context was full, so only {known} is known")


def test_an_interrupt_while_pairs_are_read_again_loses_none(tmp_path, monkeypatch):
    monkeypatch.setattr("longva.watching.video_family.VideoFamily.batch", 2)
    longva = LongVA(*families.make("qwen2_5_vl"), name="pairs", chunk_tokens=4)
    session = longva.watch(open_media(film(24), seconds=range(24)), policy="thin", max_frames=24)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.extend(open_media(film(48), seconds=range(48)), interrupt)
    held = [n for n in range(24) if n // 2 % 2 == 0]
    assert 2 < session.frames < len(held)
    session.save(tmp_path / "session.safetensors")
    resumed = longva.resume(tmp_path / "session.safetensors")
    resumed.watch()  # reads again what was left, from the file
    again = longva.watch(open_media(film(24)[held], seconds=held), frames=len(held))
    assert resumed.media[0].indices.tolist() == held
    for one in (session, resumed):
        one.extend(open_media(film(48), seconds=range(48)))
        assert one.media[0].indices.tolist() == [n for n in range(48) if n // 2 % 2 == 0]
    torch.testing.assert_close(logits(session, "?"), logits(resumed, "?"), atol=1e-9, rtol=0)
    resumed = longva.resume(tmp_path / "session.safetensors")
    resumed.watch()
    torch.testing.assert_close(logits(resumed, "?"), logits(again, "?"), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_what_comes_frame_by_frame_is_watched_in_whole_pairs(name):
    longva = LongVA(*families.make(name), name="live")
    pictures = film().permute(0, 2, 3, 1).numpy()
    frames = [LiveFrame(picture=p, seconds=float(n)) for n, p in enumerate(pictures)]
    steps = [frames[:1], [], frames[1:4], frames[4:9], frames[9:], None]
    source: Any = SimpleNamespace(next=lambda *_: steps.pop(0))
    known = []
    for session, is_due in follow(longva, source, name="camera", policy="newest", every=5):
        known += [session.frames] if is_due else []
    assert known == ([4, 10] if longva.family.unit == 2 else [5, 10])
    whole = longva.watch(open_media(film(), seconds=range(FRAMES)))
    assert session.frames == FRAMES
    torch.testing.assert_close(logits(session, "?"), logits(whole, "?"), atol=1e-9, rtol=0)


def test_what_stands_elsewhere_is_read_again():
    model, processor = families.make("qwen2_vl")
    session = LongVA(model, processor, name="q").watch(film())
    reader, prompt = session._reader, session._reader.held
    assert reader.share(prompt) == reader.share(prompt) == len(prompt)
    place = reader._place
    reader._place = lambda symbols: replace(place(symbols), positions=place(symbols).positions + 1)
    reader._placed = replace(reader._placed, symbols=prompt[:0])
    assert reader.share(prompt) == reader.share(prompt) == 0


DIVISIBLE = ["qwen2_5_vl", "qwen3_vl", "internvl", "llava_onevision"]


@pytest.fixture(scope="module", params=DIVISIBLE)
def divisible(request) -> SimpleNamespace:
    """Of `family`, those whose layers see everything before a token."""
    model, processor = families.make(request.param)
    longva = LongVA(model, processor, name=request.param, chunk_tokens=37)
    return SimpleNamespace(name=request.param, model=model, processor=processor, longva=longva)


@torch.inference_mode()
def masked_logits(family, session, hidden: slice) -> torch.Tensor:
    """After a question about a film of six frames, of whose rows it does not see some, [1, V]."""
    made = inputs(family, session, QUESTIONS[0], frames=6)
    ids = made.pop("input_ids")
    made.pop("attention_mask")
    visual = torch.isin(ids[0], torch.tensor([family.longva.family.prompts.placeholder]))
    rows = visual.nonzero().flatten()
    last = int(rows[session.media[0].tokens_per_frame * 6 // session.media[0].unit - 1])
    sees = torch.ones(len(visual), len(visual), dtype=torch.bool).tril()
    sees[last + 1 :, hidden] = False
    find = getattr(family.model.base_model, "get_rope_index", None)
    places = {}
    if find is not None:
        takes = find.__code__.co_varnames[: find.__code__.co_argcount]
        places["position_ids"] = find(ids, **{n: v for n, v in made.items() if n in takes})[0]
    logits = family.model(input_ids=ids, attention_mask=sees[None, None], **made, **places).logits
    return logits[:, -1]


def test_parts_of_a_film_are_asked_about_as_if_the_others_could_not_be_seen(divisible):
    session = divisible.longva.watch(film())
    reader, (medium,) = session._reader, session.media
    prompt = session._question(QUESTIONS[0])
    rows = (prompt < 0).nonzero().flatten()
    starts = rows[:: medium.tokens_per_frame]
    first, stop = 4 // medium.unit, 6 // medium.unit
    end = int(rows[stop * medium.tokens_per_frame - 1]) + 1
    question = prompt[int(rows[medium.rows - 1]) + 1 :]
    part = reader.excerpt([(0, int(starts[0])), (int(starts[first]), end)])
    ours = part.logits(part.append(question))
    want = masked_logits(divisible, session, slice(int(starts[0]), int(starts[first])))
    torch.testing.assert_close(ours, want, atol=1e-6, rtol=0)
    assert session.ask("What?", max_new_tokens=3).text  # the whole is as it was


def test_ranges_that_are_found_are_whole_frames_or_pairs_at_their_times(divisible):
    seconds = [2.0 * n for n in range(FRAMES)]
    session = divisible.longva.watch(open_media(film(), seconds=seconds), frames=FRAMES)
    said = session.ask(QUESTIONS[1], max_new_tokens=4).text
    found = session.find("a car", least=0.0)
    assert {one.by for one in found} == {"attention"}
    unit = session.media[0].unit
    for one in found:
        assert one.first % unit == 0 and (one.last + 1) % unit == 0
        assert (one.start, one.end) == (2.0 * one.first, 2.0 * (one.last + 1))
        assert one.first <= one.frame <= one.last and 0 <= one.score <= 1
    shown = {n for one in found for n in range(one.first, one.last + 1)}
    evidence = session.ask("When is a car shown?", max_new_tokens=1, evidence=FRAMES).evidence
    assert evidence[0].frame in shown
    assert session.ask(QUESTIONS[1], max_new_tokens=4).text == said


def test_questions_asked_together_are_answered_as_if_alone(family):
    session = family.longva.watch(film()[:6])
    session.ask("Who?", max_new_tokens=3, keep=True)
    asked = ["What?", "What happens in the end, and why?", "Where?"]
    for grown in (False, True):
        if grown and family.name != "smolvlm":
            session.extend(film())
        together = session.ask_all(asked, max_new_tokens=8, evidence=FRAMES)
        alone = [session.ask(question, max_new_tokens=8, evidence=FRAMES) for question in asked]
        assert [a.text for a in together] == [a.text for a in alone]
        assert [a.prompt_tokens for a in together] == [a.prompt_tokens for a in alone]
        for a, b in zip(together, alone, strict=True):
            weights = [
                [e.weight for e in sorted(x.evidence, key=lambda e: e.frame)] for x in (a, b)
            ]
            torch.testing.assert_close(*map(torch.tensor, weights), atol=1e-9, rtol=0)
    assert session.can_answer_together == (family.name != "gemma3")


def test_windows_and_pictures_that_see_all_of_themselves_cannot_be_searched():
    session = LongVA(*families.make("gemma3"), name="windows").watch(film())
    with pytest.raises(LongVAError, match="Gemma3.* has layers that see a window"):
        session.find("a car")


def several_films(family, session, cuts: list[int], question: str) -> dict:
    """What the family's processor makes of films that are cut out of one, each after its time."""
    processor, (medium,) = family.processor, session.media
    size = family.longva.family.prompts.geometry(medium.size)
    pixels = open_media(film()).frames_at(range(FRAMES), size=size).pixels
    content, written, made = [], [], {}
    for first, stop in pairwise(cuts):
        content += [{"type": "text", "text": f"0:00:{5 * len(written):02}"}, {"type": "video"}]
        about = {"fps": 1.0, "frames_indices": list(range(first, stop))}
        about["total_num_frames"] = stop - first
        one = processor.video_processor([pixels[first:stop]], video_metadata=[about])
        written.append(processor.replace_video_token(one, video_idx=0))
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                made.setdefault(name, []).append(value)
    talk = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    pieces = text.split(processor.video_token)
    text = "".join(a + b for a, b in zip(pieces, [*written, ""], strict=True))
    ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    made = {name: torch.cat(values, dim=values[0].ndim // 5) for name, values in made.items()}
    made = {n: v.double() if v.is_floating_point() else v for n, v in made.items()}
    if made["pixel_values_videos"].ndim == 5:
        made["pixel_values"] = made["pixel_values_videos"].flatten(0, 1)  # frames are pictures
    made["second_per_grid_ts"] = [2.0] * len(written)
    made["mm_token_type_ids"] = torch.tensor(processor.create_mm_token_type_ids(ids.tolist()))
    return made | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_texts_between_frames_stand_between_films_of_the_model(divisible):
    timed = {"settings": FrameSettings(time_tokens=5)}
    watch = divisible.longva.watch
    if divisible.name == "llava_onevision":
        with pytest.raises(LongVAError, match="ends every film with a row of its own"):
            watch(open_media(film(), seconds=range(FRAMES)), **timed)
        return
    session = watch(open_media(film()[:8], seconds=range(8)), **timed)
    session.extend(open_media(film(), seconds=range(FRAMES)))
    cuts = [0, 4, 10, FRAMES] if session.media[0].unit == 2 else [0, 5, 10, FRAMES]
    made = several_films(divisible, session, cuts, "When?")
    prompt, ids = session._question("When?"), made["input_ids"][0]
    visual = ids == divisible.longva.family.prompts.placeholder
    assert torch.equal(prompt.clamp_min(-1), ids.masked_fill(visual, -1))
    takes = inspect.signature(divisible.model.forward).parameters
    made = {name: value for name, value in made.items() if name in takes}
    greedy = {"max_new_tokens": 1, "do_sample": False}
    told = {"output_logits": True, "return_dict_in_generate": True}
    out = divisible.model.generate(**made, **greedy, **told)
    torch.testing.assert_close(logits(session, "When?").float(), out.logits[0], atol=1e-6, rtol=0)
