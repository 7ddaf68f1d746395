"""What each policy keeps when the context is full, and that what it keeps is all that is known."""

import random
from itertools import islice

import numpy as np
import pytest
import torch

from longva.errors import LongVAError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.model.random_model import random_longva
from longva.nano.film import draw_frame
from longva.nano.world import haystack, random_layout, random_scene
from longva.watching.assistant import LongVA
from tests.hard_videos import change_packet, hide_vp9_keyframe, write_video

ROOM = 8


@pytest.fixture(scope="module")
def parts():
    return random_longva(dtype=torch.float64)


@pytest.fixture(scope="module")
def pictures():
    return list(np.random.default_rng(0).integers(0, 256, (40, 30, 30, 3), dtype=np.uint8))


def film(pictures, numbers):
    numbers = list(numbers)
    return open_media([pictures[n] for n in numbers], seconds=np.array(numbers) / 2)


def asked(session):
    answer = session.ask("What happens?", max_new_tokens=6, evidence=99)
    return answer.text, {e.seconds: e.weight for e in answer.evidence}


def assert_knows_just(session, longva, pictures, numbers):
    """The answers are those of a session that has watched these frames and no others."""
    (text, weights), (want, wanted) = (
        asked(session),
        asked(longva.watch(film(pictures, numbers), fps=2)),
    )
    assert text == want and sorted(weights) == sorted(wanted) == [n / 2 for n in numbers]
    for seconds, weight in weights.items():
        assert weight == pytest.approx(wanted[seconds], abs=1e-9)


KEPT = {
    "stop": {6: range(6), 11: range(8), 12: range(8), 24: range(8)},
    "newest": {
        6: range(6),
        11: [*range(4), 9, 10],
        12: [*range(4), 9, 10, 11],
        24: [*range(4), 22, 23],
    },
    "thin": {6: range(6), 11: range(0, 11, 2), 12: range(0, 11, 2), 24: range(0, 24, 4)},
}
NOTES = {
    "stop": "the context is full since 0:00:04, so 16 of 24 frames are not known",
    "newest": "the context was full, so 18 of 24 frames are forgotten, between 0:00:02 and 0:00:11",
    "thin": "the context was full, so only one frame in 4 is known",
}


@pytest.mark.parametrize("kv", ["model", "int8"])
@pytest.mark.parametrize("policy", ["stop", "newest", "thin"])
def test_a_policy_knows_just_the_frames_that_it_keeps(parts, pictures, policy, kv):
    longva = LongVA(*parts, name="random", chunk_tokens=16, kv=kv)
    session = longva.watch(film(pictures, range(3)), fps=2, policy=policy, max_frames=ROOM)
    assert session.notes == []
    for frames, kept in KEPT[policy].items():
        session.extend(film(pictures, range(frames)))
        assert session.frames == len(kept) <= ROOM
        if kv == "model":
            assert_knows_just(session, longva, pictures, kept)
        asked(session)
    (note,) = session.ask("What?", max_new_tokens=1).notes
    assert note.endswith(NOTES[policy])
    assert session.ask_all(["What?"], max_new_tokens=1)[0].to_json()["notes"] == [note]


@pytest.mark.parametrize("policy", ["stop", "newest", "thin"])
def test_a_film_that_is_longer_than_the_context_is_watched_by_the_policy(parts, pictures, policy):
    longva = LongVA(*parts, name="random")
    session = longva.watch(
        [film(pictures, range(2)), film(pictures, range(30))], fps=2, policy=policy, max_frames=10
    )
    kept = {"stop": range(8), "newest": [*range(4), 28, 29], "thin": range(0, 30, 4)}[policy]
    assert [len(medium) for medium in session.media] == [2, len(kept)]
    assert session.media[1].seconds is not None
    assert (session.media[1].seconds * 2).tolist() == list(kept)
    assert session.extend(film(pictures, range(30))) == 0


def note_of(policy, kept, came):
    """What is to be said of a film of which these frames are kept."""
    at = lambda number: f"0:00:0{round(number / 2)}"  # noqa: E731
    lost = f"{came - len(kept)} of {came} frames"
    if policy == "stop":
        assert kept == list(range(len(kept)))
        return f"the context is full since {at(kept[-1])}, so {lost} are not known"
    if policy == "thin":
        assert kept == list(range(0, came, kept[1]))
        return f"the context was full, so only one frame in {kept[1]} is known"
    assert kept[0] == 0 and kept[-1] == came - 1
    (gap,) = (n for n in range(1, len(kept)) if kept[n] > kept[n - 1] + 1)
    between = f"{at(kept[gap - 1])} and {at(kept[gap])}"
    return f"the context was full, so {lost} are forgotten, between {between}"


@pytest.mark.parametrize("films", [1, 2])
@pytest.mark.parametrize("room", range(1, 7))
@pytest.mark.parametrize("policy", ["stop", "newest", "thin"])
def test_in_the_smallest_rooms_each_film_has_a_true_note(parts, pictures, policy, room, films):
    longva = LongVA(*parts, name="random")
    media = [film(pictures, range(7 + n)) for n in range(films)]
    session = longva.watch(media, fps=2, policy=policy, max_frames=room)
    session.extend(film(pictures, range(16)))
    notes = session.ask("What?", max_new_tokens=1).notes
    kept = [(medium.seconds * 2).astype(int).tolist() for medium in session.media]
    came = [*range(7, 6 + films), 16]
    want = [note_of(policy, *one) for one in zip(kept, came, strict=True)]
    sources = [medium.source for medium in session.media]
    assert notes == [f"{name}: {note}" for name, note in zip(sources, want, strict=True)]
    assert all(2 <= len(numbers) <= max(2, room) for numbers in kept)


@pytest.mark.parametrize("policy", ["stop", "newest", "thin"])
def test_what_is_forgotten_of_each_film_is_said_under_its_name(parts, pictures, policy, tmp_path):
    longva = LongVA(*parts, name="random")
    media = [film(pictures, range(30)) for _ in range(2)]
    session = longva.watch(media, fps=2, policy=policy, max_frames=12)
    names = [note.split(": ")[0] for note in session.notes]
    assert names == ["the list of 30 images (1)", "the list of 30 images (2)"]
    session.save(tmp_path / "a.safetensors")
    assert longva.resume(tmp_path / "a.safetensors").notes == session.notes


def test_a_session_interrupted_in_its_first_film_goes_on_with_that_one(parts, pictures, tmp_path):
    longva = LongVA(*parts, name="random", chunk_tokens=4)
    media = [film(pictures, range(12)), film(pictures, range(30))]
    session = longva.watch(media, fps=2, policy="thin", max_frames=ROOM, now=False)

    def interrupt(*_):
        raise KeyboardInterrupt

    longva.family.batch, before = 2, longva.family.batch
    try:
        with pytest.raises(KeyboardInterrupt):
            session.watch(interrupt)
    finally:
        longva.family.batch = before
    assert len(session.media) == 1 and session.frames < 6
    session.save(tmp_path / "a.safetensors")
    resumed = longva.resume(tmp_path / "a.safetensors")
    resumed.extend(film(pictures, range(12)))
    assert (resumed.media[0].seconds * 2).tolist() == [*range(0, 12, 2)]
    assert [note.endswith("only one frame in 2 is known") for note in resumed.notes] == [True]


def test_the_note_of_a_misnumbered_film_counts_its_true_frames(parts, tmp_path):
    options = {"b": "300k", "deadline": "realtime", "cpu-used": "8", "g": "20"}
    path = write_video(tmp_path / "vp9.webm", codec="libvpx-vp9", options=options)
    path = change_packet(path, tmp_path / "hidden.webm", 40, hide_vp9_keyframe)
    longva, rule = LongVA(*parts, name="random"), FrameSampling(max_frames=16)
    session = longva.watch(path, sampling=rule, policy="newest")
    assert session.media[0].indices.tolist() == [*range(4), *range(54, 59)]
    assert "50 of 59 frames are forgotten" in session.notes[0]
    rule = FrameSampling(max_frames=6)  # the newest that is kept turns out not to be there
    session = longva.watch(path, sampling=rule, policy="newest")
    assert session.notes[0].endswith("56 of 59 frames are forgotten, after 0:00:00")


@pytest.mark.parametrize("policy", [None, "stop"])
def test_a_misnumbered_film_is_gone_on_with_behind_its_true_end(parts, tmp_path, policy):
    options = {"b": "300k", "deadline": "realtime", "cpu-used": "8", "g": "20"}
    short, long = (
        change_packet(
            write_video(tmp_path / f"{n}.webm", n, codec="libvpx-vp9", options=options),
            tmp_path / f"hidden{n}.webm",
            40,
            hide_vp9_keyframe,
        )
        for n in (60, 80)
    )
    session = LongVA(*parts, name="random").watch(short, fps=25, policy=policy)
    session.extend(open_media(long, exact=True))
    assert session.media[0].indices[56:62].tolist() == [*range(56, 62)]


def test_frames_are_encoded_once_whatever_is_forgotten(parts, pictures):
    longva, encoded = LongVA(*parts, name="random"), []
    hook = longva.model.model.vision_tower.embeddings.register_forward_hook(
        lambda _, __, out: encoded.append(len(out))
    )
    session = longva.watch(film(pictures, range(3)), fps=2, policy="newest", max_frames=ROOM)
    for frames in range(4, 25):
        session.extend(film(pictures, range(frames)))
    hook.remove()
    assert sum(encoded) == 24


def test_an_interrupt_while_frames_are_read_again_loses_nothing(parts, pictures):
    longva = LongVA(*parts, name="random", chunk_tokens=4)
    session = longva.watch(film(pictures, range(8)), fps=2, policy="thin", max_frames=ROOM)

    def interrupt(*_):
        raise KeyboardInterrupt

    longva.family.batch, before = 2, longva.family.batch
    try:
        with pytest.raises(KeyboardInterrupt):
            session.extend(film(pictures, range(16)), interrupt)
        assert 0 < session.frames < 8
        asked(session)
        session.extend(film(pictures, range(24)))
    finally:
        longva.family.batch = before
    assert_knows_just(session, longva, pictures, range(0, 24, 4))


@pytest.mark.parametrize(
    ("policy", "room", "until", "kept"),
    [("thin", 8, 16, [*range(0, 16, 2)]), ("newest", 16, 18, [*range(4), *range(12, 18)])],
)
def test_frames_that_an_interrupt_left_to_be_read_again_are_kept_in_the_file(
    parts, pictures, tmp_path, policy, room, until, kept
):
    longva = LongVA(*parts, name="random", chunk_tokens=4)
    session = longva.watch(film(pictures, range(room)), fps=2, policy=policy, max_frames=room)

    def interrupt(*_):
        raise KeyboardInterrupt

    longva.family.batch, before = 1, longva.family.batch
    try:
        with pytest.raises(KeyboardInterrupt):
            session.extend(film(pictures, range(until)), interrupt)
    finally:
        longva.family.batch = before
    held = [n for n in kept if n < room]
    assert 0 < session.frames < len(held)
    session.save(tmp_path / "a.safetensors")
    resumed = longva.resume(tmp_path / "a.safetensors")
    assert resumed.frames == session.frames
    resumed.watch()  # reads again what was left, from the file
    assert_knows_just(resumed, longva, pictures, held)
    resumed.extend(film(pictures, range(until)))
    assert_knows_just(resumed, longva, pictures, kept)


def test_a_session_that_forgets_is_saved_and_goes_on(parts, pictures, tmp_path):
    longva = LongVA(*parts, name="random")
    session = longva.watch(film(pictures, range(11)), fps=2, policy="thin", max_frames=ROOM)
    session.save(tmp_path / "a.safetensors")
    resumed = longva.resume(tmp_path / "a.safetensors")
    assert resumed.notes == session.notes
    for one in (session, resumed):
        one.extend(film(pictures, range(24)))
        assert_knows_just(one, longva, pictures, range(0, 24, 4))


def test_no_policy_of_that_name(parts, pictures):
    with pytest.raises(LongVAError, match="called 'oldest'. Choose one of: stop, newest, thin"):
        LongVA(*parts, name="random").watch(pictures, policy="oldest")  # pyright: ignore


@pytest.fixture(scope="module")
def nano():
    return LongVA.from_pretrained("nano")


@pytest.mark.parametrize(
    ("policy", "second", "known"),
    [
        ("stop", 5, True),
        ("stop", 25, False),
        ("newest", 1, True),
        ("newest", 10, False),
        ("newest", 29, True),
        ("thin", 8, True),
        ("thin", 9, False),
        ("thin", 28, True),
    ],
)
def test_nano_finds_the_needle_where_the_policy_kept_it(nano, policy, second, known):
    rng = random.Random(5)
    scene = random_scene(rng, ["anchor"])
    shown = list(islice(haystack(rng, without=["anchor"]), 30))
    shown[second] = (scene, random_layout(rng))
    frames = [np.array(draw_frame(*one)) for one in shown]
    session = nano.watch(film(frames, range(10)), fps=2, policy=policy, max_frames=16)
    for until in (20, 30):
        session.extend(film(frames, range(until)))
    answer = session.ask("What number is with the anchor?")
    assert (second / 2 in session.media[0].seconds) is known
    assert (answer.text == f"anchor number {scene.number}") is known
    assert (answer.evidence[0].seconds == second / 2) is known
    assert len(answer.notes) == 1
