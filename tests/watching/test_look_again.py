"""The frames where a first answer looks are read again, alone."""

import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from longva.checkpoints.fingerprint import model_fingerprint, vision_fingerprint
from longva.errors import LongVAError
from longva.media.medium import open_media
from longva.model.random_model import random_longva
from longva.nano.asked_film import draw_film
from longva.nano.film import draw_frame
from longva.nano.world import haystack, random_layout, random_scene
from longva.watching.answer import Answer
from longva.watching.assistant import LongVA
from longva.watching.features import WatchedFrames
from longva.watching.look_again import is_due, looked_at
from longva.watching.question import Question
from tests.watching.families import make

QUESTION = "What happens?"


@pytest.fixture(scope="module")
def parts():
    return random_longva(dtype=torch.float64)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 30, 3), dtype=np.uint8)


def film(pictures, numbers=range(20)):
    return open_media([pictures[n] for n in numbers], seconds=np.array([*numbers]) / 2)


def medium(frames: int, kind: str = "video", unit: int = 1) -> WatchedFrames:
    return WatchedFrames(
        kind=kind,
        source="a.mp4",
        tokens_per_frame=4,
        seconds=np.arange(frames) / 2,
        indices=np.arange(frames),
        unit=unit,
    )


def chosen(shares, media, most):
    return [frames.tolist() for frames in looked_at(torch.tensor(shares), media, most)]


def test_the_frames_with_most_are_chosen_in_the_films_order():
    assert chosen([0.1, 0.2, 0.5, 0.0, 0.2], [medium(5)], 3) == [[1, 2, 4]]


def test_of_each_film_something_is_chosen_and_images_stay_whole():
    media = [medium(3), medium(2, "image"), medium(3)]
    shares = [0.5, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 1e-9]
    assert chosen(shares, media, 3) == [[0, 1], [0, 1], [2]]
    assert chosen(shares, media, 1) == [[0], [0, 1], [2]]


def test_frames_that_are_encoded_together_are_chosen_together():
    assert chosen([0.1, 0.2, 0.7], [medium(5, unit=2)], 2) == [[4]]
    assert chosen([0.1, 0.2, 0.7], [medium(5, unit=2)], 4) == [[2, 3, 4]]


def test_a_film_of_no_more_frames_is_looked_at_once():
    assert is_due([medium(5)], 4) and not is_due([medium(5)], 5)
    assert not is_due([medium(5)], 0) and not is_due([medium(9, "image")], 4)


def test_an_excerpt_keeps_all_that_is_told_between_frames():
    whole = replace(medium(4), before=("a.mp4:", "", "one", "two"), after="end")
    part = whole.excerpt(np.array([1, 2]))
    assert (part.before, part.after) == (("a.mp4:", "one"), "two\nend")
    assert part.seconds is not None and part.seconds.tolist() == [0.5, 1.0]
    assert whole.excerpt(np.array([3])).before == ("a.mp4:\none\ntwo",)


@pytest.mark.parametrize("chunk_tokens", [None, 16])
def test_an_answer_is_that_of_who_watched_just_the_frames_looked_at(parts, pictures, chunk_tokens):
    longva = LongVA(*parts, name="random", look_again=4, chunk_tokens=chunk_tokens)
    answer = longva.watch(film(pictures), fps=2).ask(QUESTION, max_new_tokens=6, evidence=99)
    assert (answer.looked_again, answer.frames, len(answer.evidence)) == (4, 20, 20)
    assert all(one.weight == 0 for one in answer.evidence[4:])
    answer = replace(answer, evidence=answer.evidence[:4])
    first = LongVA(*parts, name="random", look_again=0).watch(film(pictures), fps=2)
    looks = first.ask(QUESTION, max_new_tokens=16, evidence=4)
    assert {one.frame for one in looks.evidence} == {one.frame for one in answer.evidence}

    numbers = sorted(one.frame for one in answer.evidence)
    alone = first.watcher.watch(film(pictures, numbers), fps=2)
    want = alone.ask(QUESTION, max_new_tokens=6, evidence=99)
    assert answer.text == want.text and want.looked_again == 0
    assert answer.logprob == pytest.approx(want.logprob, abs=1e-9)
    weights = {one.seconds: one.weight for one in want.evidence}
    for one in answer.evidence:
        assert one.weight == pytest.approx(weights[one.seconds], abs=1e-9)


def test_a_conversation_is_seen_by_both_looks_and_the_frames_stay_in_the_cache(parts, pictures):
    longva = LongVA(*parts, name="random", look_again=4)
    session = longva.watch(film(pictures), fps=2)
    watched = session._reader.length
    first = session.ask(QUESTION, max_new_tokens=4, keep=True)
    assert session.history[1]["content"] == first.text and session._reader.length == watched
    second = session.ask("And then?", max_new_tokens=4)
    assert second.cached_tokens == watched and second.prompt_tokens > first.prompt_tokens
    fresh = longva.watch(film(pictures), fps=2)
    assert fresh.ask("And then?", max_new_tokens=4).logprob != second.logprob


def test_asked_together_each_question_has_frames_of_its_own(parts, pictures):
    session = LongVA(*parts, name="random", look_again=4).watch(film(pictures), fps=2)
    questions = [QUESTION, "Who is there, and why?"]
    assert not session.can_answer_together
    together = session.ask_all(questions, max_new_tokens=4)
    alone = [session.ask(question, max_new_tokens=4) for question in questions]
    assert [(a.text, a.evidence) for a in together] == [(a.text, a.evidence) for a in alone]


def test_a_second_question_ends_an_answer_of_a_second_look(parts, pictures):
    session = LongVA(*parts, name="random", look_again=4).watch(film(pictures), fps=2)
    stream = iter(session.stream(QUESTION, max_new_tokens=6))
    next(stream)
    session.ask("And then?", max_new_tokens=4)
    with pytest.raises(LongVAError, match="another question was asked"):
        list(stream)


@pytest.mark.parametrize("policy", [None, "newest"])
def test_a_resumed_session_is_due(parts, pictures, tmp_path, policy):
    longva = LongVA(*parts, name="random", look_again=4)
    session = longva.watch(film(pictures), fps=2, policy=policy, max_frames=policy and 10)
    session.save(tmp_path / "a.safetensors")
    resumed = longva.resume(tmp_path / "a.safetensors")
    for question in (QUESTION, "And then?"):
        want = session.ask(question, max_new_tokens=6)
        got = resumed.ask(question, max_new_tokens=6)
        assert (got.text, got.evidence, got.looked_again) == (want.text, want.evidence, 4)


def test_a_session_without_features_is_resumed_without_a_second_look(parts, pictures, tmp_path):
    LongVA(*parts, name="random").watch(film(pictures), fps=2).save(tmp_path / "a.safetensors")
    with pytest.raises(LongVAError, match="features") as refused:
        LongVA(*parts, name="random", look_again=4).resume(tmp_path / "a.safetensors")
    assert refused.value.remedies == {"look_again": 0}
    longva = LongVA(*parts, name="random", **refused.value.remedies)
    assert longva.resume(tmp_path / "a.safetensors").ask(QUESTION, max_new_tokens=2).frames == 20


def test_a_film_that_grows_is_looked_at_again_as_a_whole(parts, pictures):
    longva = LongVA(*parts, name="random", look_again=4)
    grown = longva.watch(film(pictures, range(12)), fps=2)
    grown.extend(film(pictures))
    whole = longva.watch(film(pictures), fps=2)
    got, want = (s.ask(QUESTION, max_new_tokens=6, evidence=9) for s in (grown, whole))
    assert [one.frame for one in got.evidence] == [one.frame for one in want.evidence]
    assert got.text == want.text


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "smolvlm", "llava_next_video"])
def test_models_of_other_families_look_again_at_whole_units(name):
    parts = make(name)
    pictures = np.random.default_rng(0).integers(0, 256, (14, 32, 32, 3), dtype=np.uint8)
    longva = LongVA(*parts, name=name, look_again=4)
    session = longva.watch(open_media(list(pictures), seconds=np.arange(14.0)), fps=1)
    answer = session.ask(QUESTION, max_new_tokens=4, evidence=9)
    unit = longva.family.unit
    looked_at = sorted(one.frame for one in answer.evidence if one.weight > 0)
    assert answer.looked_again == len(looked_at) * unit == 4
    numbers = [number + n for number in looked_at for n in range(unit)]
    alone = open_media([pictures[n] for n in numbers], seconds=np.array(numbers, float))
    want = LongVA(*parts, name=name).watch(alone, frames=4).ask(QUESTION, max_new_tokens=4)
    assert answer.text == want.text
    assert answer.logprob == pytest.approx(want.logprob, abs=1e-9)


def test_a_plan_has_room_for_what_is_read_again_and_for_the_features(parts):
    model, _ = parts
    once = LongVA(*parts, name="random").plan(20)
    again = LongVA(*parts, name="random", look_again=4).plan(20)
    tokens = model.config.tokens_per_grid()
    features = 20 * tokens * model.config.text_config.hidden_size * 8
    text = once.prompt_tokens - 20 * tokens
    a_token = once.kv_cache / once.prompt_tokens
    want = once.kv_cache + features + (4 * tokens + text) * a_token
    assert again.kv_cache == pytest.approx(want, abs=2)
    assert again.prompt_tokens == once.prompt_tokens


@pytest.mark.parametrize("frames", [-1, 4.5])
def test_what_is_no_number_of_frames_is_refused(parts, frames):
    with pytest.raises(LongVAError, match=f"look_again must be 0 frames or more, got {frames}"):
        LongVA(*parts, name="random", look_again=frames)


def test_frames_that_are_read_again_are_not_read_a_third_time(parts, pictures):
    longva = LongVA(*parts, name="random", look_again=1)
    answer = longva.watch([film(pictures), film(pictures, range(9))], fps=2).ask(QUESTION)
    assert answer.looked_again == 2  # one of each


def test_a_question_may_be_answered_by_one_look(parts, pictures):
    session = LongVA(*parts, name="random", look_again=4).watch(film(pictures), fps=2)
    once = LongVA(*parts, name="random").watch(film(pictures), fps=2)
    want = once.ask(QUESTION, max_new_tokens=6)
    got = session.ask(QUESTION, max_new_tokens=6, look_again=False)
    assert (got.text, got.evidence, got.looked_again) == (want.text, want.evidence, 0)


def test_who_asks_all_at_once_piece_by_piece_gets_a_second_look_too(parts, pictures):
    session = LongVA(*parts, name="random", look_again=4).watch(film(pictures), fps=2)
    asked = [Question(text=text, max_new_tokens=4) for text in (QUESTION, " ", "And then?")]
    told = list(session.stream_all(asked, given_up=lambda number: number == 2))
    answers = {number: one for number, one in told if isinstance(one, Answer)}
    assert [*answers] == [0] and answers[0].looked_again == 4
    assert answers[0].text == "".join(one for n, one in told if n == 0 and isinstance(one, str))
    assert [str(one) for n, one in told if n == 1] == ["the question is empty. Ask something."]


def test_features_that_are_missing_are_named(parts, pictures, tmp_path):
    LongVA(*parts, name="random", look_again=4).watch(film(pictures, range(12)), fps=2).save(
        tmp_path / "a.safetensors"
    )
    resumed = LongVA(*parts, name="random", look_again=0).resume(tmp_path / "a.safetensors")
    assert resumed._ahead.feature_bytes == 0  # which nothing would use
    resumed.extend(film(pictures))
    resumed.save(tmp_path / "b.safetensors")
    longva = LongVA(*parts, name="random", look_again=4)
    with pytest.raises(LongVAError, match="features"):
        longva.resume(tmp_path / "b.safetensors")
    resumed.look_again = 4
    with pytest.raises(LongVAError, match="features of frames are missing"):
        resumed.ask(QUESTION)


def test_what_is_never_looked_at_again_needs_no_features(parts, pictures, image, tmp_path):
    once = LongVA(*parts, name="random")
    for media in (image, film(pictures)):
        once.watch(media).save(tmp_path / "a.safetensors")
        longva = LongVA(*parts, name="random", look_again=40)
        assert longva.resume(tmp_path / "a.safetensors").ask(QUESTION).looked_again == 0


def test_features_count_as_memory_of_a_session_and_are_freed_with_it(parts, pictures):
    sessions = [
        LongVA(*parts, name="random", look_again=frames).watch(film(pictures), fps=2)
        for frames in (0, 4)
    ]
    model, _ = parts
    features = 20 * model.config.tokens_per_grid() * model.config.text_config.hidden_size * 8
    assert sessions[1].kv_bytes - sessions[0].kv_bytes == features
    sessions[1].close()
    assert sessions[1].kv_bytes == 0


def test_neither_cached_features_nor_sessions_depend_on_it(parts):
    model, _ = parts
    before = vision_fingerprint(model), model_fingerprint(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.config, "look_again", 9)
        assert (vision_fingerprint(model), model_fingerprint(model)) == before


def test_a_shot_that_is_longer_than_what_is_read_again_is_told_of_all_frames():
    rng = random.Random("a long shot")
    frames = list(islice(haystack(rng, without=["anchor"], held_out=True), 240))
    scene, layout = random_scene(rng, ["anchor"], held_out=True), random_layout(rng)
    frames[60:210] = [(scene, layout)] * 150
    pictures = np.stack([np.asarray(draw_frame(*one)) for one in frames])
    session = LongVA.from_pretrained("nano", look_again=128).watch(pictures, frames_fps=1)
    answer = session.ask("When does the anchor appear?", max_new_tokens=16)
    assert answer.looked_again == 0
    assert answer.text == f"anchor number {scene.number} at 0:01:00.0"


def test_a_shot_of_which_other_films_would_take_a_frame_is_told_of_all_frames():
    rng = random.Random("films beside a shot")
    scenes = [random_scene(rng, [name]) for name in ("cat", "anchor", "sun", "key", "cup", "urn")]
    pictures = [np.asarray(draw_frame(scene, random_layout(rng))) for scene in scenes]
    before, shot, behind, *others = pictures
    film, *others = [[before] * 3 + [shot] * 8 + [behind] * 3, *([other] * 2 for other in others)]
    nano = LongVA.from_pretrained("nano", look_again=8)
    for media, looked_again in (([film], 8), ([film, *others], 0)):
        session = nano.watch([open_media(one, fps=1) for one in media])
        answer = session.ask("How many times is there an anchor?")
        assert (answer.text.split(" , ")[1], answer.looked_again) == ("1 times", looked_again)


def test_nano_reads_again_what_it_found_among_a_thousand_frames():
    asked = draw_film(730_007, 1014)
    (_, scene), *_ = asked.shots("one")
    once, again = (
        LongVA.from_pretrained("nano", look_again=frames).watch(asked.pictures, frames_fps=1)
        for frames in (0, None)
    )
    question = f"what is the number of the {scene.object}?"
    answers = [session.ask(question, max_new_tokens=16) for session in (once, again)]
    assert [answer.looked_again for answer in answers] == [0, 128]
    assert answers[1].text == scene.answer("number")
