import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import LongVAError, VideoError
from longva.media.cue import Cue, srt
from longva.media.medium import open_media
from longva.media.subtitles import with_subtitles
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings, WatchedFrames
from longva.watching.turns import PLACE, told_between, with_media
from tests.hard_videos import add_subtitles

FRAMES = WatchedFrames(
    kind="video",
    source="film.mp4",
    tokens_per_frame=4,
    seconds=np.arange(6.0),
    indices=np.arange(6),
)
CUES = [Cue(0.5, 2.0, "Hello"), Cue(3.0, 3.5, "there"), Cue(3.2, 9.0, "you"), Cue(7.0, 8.0, "late")]


@pytest.fixture
def film(video):
    return open_media(video)


def test_media_stand_before_the_words_of_the_first_message():
    history = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    image = replace(FRAMES, kind="image", seconds=None)
    assert with_media(history, [FRAMES, image]) == (
        [
            {
                "role": "user",
                "content": [
                    {"type": "video"},
                    {"type": "image"},
                    {"type": "text", "text": "Hello"},
                ],
            },
            {"role": "assistant", "content": "Hi"},
        ],
        [24, 24],
    )
    assert history[0]["content"] == "Hello"


def test_subtitles_stand_after_the_frame_that_is_on_screen_when_they_begin(film):
    told = told_between(FRAMES, with_subtitles(film, CUES), FrameSettings(), label="a.mp4")
    assert told.before == ("a.mp4:", '"Hello"', "", "", '"there"\n"you"', "") and told.after == ""
    (first,), rows = with_media([{"role": "user", "content": "What?"}], [told])
    assert rows == [4, 12, 8]
    assert [part.get("text", "*") for part in first["content"]] == [
        *("a.mp4:", "*", '"Hello"', "*", '"there"\n"you"', "*", "What?")
    ]
    # What is shown of the film only: "Hello" is over, "late" not yet said.
    later = told_between(FRAMES.part(3), with_subtitles(film, CUES), FrameSettings())
    assert later.before == ("", '"there"\n"you"', "")
    assert told_between(FRAMES, film, FrameSettings()) is FRAMES


def test_the_command_reads_a_file_of_subtitles_or_the_film_s_own_track(video, tmp_path):
    own = add_subtitles(video, srt(CUES), tmp_path / "film.mkv")

    def told(film, *options) -> dict:
        words = ["ask", str(film), "What?", "--max-new-tokens", "1", "--json", *map(str, options)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)[0]

    plain = told(video)["prompt_tokens"]
    for options in (["--subtitles", "own"], ["--subtitles", own.with_suffix(".srt")]):
        assert told(own, *options)["prompt_tokens"] > plain
    assert told(own)["prompt_tokens"] == plain
    refused = CliRunner().invoke(app, ["ask", str(video), "What?", "--subtitles", "own"])
    assert isinstance(refused.exception, VideoError)
    assert str(refused.exception).endswith("0 text tracks. Give a file of subtitles.")


def test_times_stand_before_the_first_frame_of_each_so_many_seconds(film):
    told = told_between(FRAMES, film, FrameSettings(time_tokens=2))
    assert told.before == ("0:00:00", "", "0:00:02", "", "0:00:04", "")
    sparse = replace(FRAMES, seconds=FRAMES.seconds * 2.5)
    told = told_between(sparse, film, FrameSettings(time_tokens=4))
    assert told.before == ("0:00:00", "", "0:00:05", "", "0:00:10", "0:00:12.5")


def test_a_part_of_frames_keeps_its_texts_and_frames_that_follow_bring_theirs(film):
    told = told_between(FRAMES, with_subtitles(film, CUES), FrameSettings(time_tokens=3))
    again = told.part(0, 4).followed_by(told.part(4))
    assert (again.before, again.after) == (told.before, told.after)
    assert told.part(0, 1).followed_by(FRAMES.part(1)).before == ("0:00:00", *[""] * 5)


@pytest.mark.parametrize("time_tokens", [0, -1, float("nan"), float("inf")])
def test_times_need_a_distance(time_tokens):
    with pytest.raises(LongVAError, match="time_tokens needs more than 0 seconds"):
        FrameSettings(time_tokens=time_tokens)


def test_what_has_no_times_has_no_subtitles(image, longva):
    with pytest.raises(VideoError, match="no times, which subtitles need"):
        with_subtitles(open_media(image), CUES)
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 2
    with pytest.raises(LongVAError, match="no times, which subtitles and times") as caught:
        longva.watch([pictures], settings=FrameSettings(time_tokens=1))
    assert caught.value.remedies == {"frames_fps": 1}
    longva.watch([pictures], settings=FrameSettings(time_tokens=1), frames_fps=1)


def words(session) -> str:
    """What a prompt says: its text, and `*` for each run of frames."""
    prompt = session._question("What?")
    changes = torch.cat([torch.tensor([True]), (prompt[1:] < 0) != (prompt[:-1] < 0)])
    starts = changes.nonzero().flatten().tolist()
    runs = [prompt[a:b] for a, b in zip(starts, [*starts[1:], len(prompt)], strict=True)]
    decode = session.processor.tokenizer.decode
    return "".join("*" if run[0] < 0 else decode(run) for run in runs)


def test_the_prompt_says_subtitles_and_times_and_evidence_is_that_of_the_frames(longva, film):
    settings = FrameSettings(time_tokens=3)
    session = longva.watch(with_subtitles(film, CUES[:2]), settings=settings)
    assert '0:00:00*\n"Hello"*\n0:00:03*\n"there"*\nWhat?' in words(session)
    answer = session.ask("What?", max_new_tokens=2, evidence=9, keep=True)
    assert sorted(item.seconds for item in answer.evidence) == [0, 1, 2, 3, 4, 5]
    assert sum(item.weight for item in answer.evidence) == pytest.approx(1)
    assert answer.prompt_tokens == len(session._question("What?"))
    again = session.ask("And?", max_new_tokens=2)
    assert again.prompt_tokens > answer.prompt_tokens


def test_what_is_said_after_the_last_frame_does_not_run_into_what_follows(longva, film):
    late = with_subtitles(film, [Cue(5.5, 5.9, "late")])
    assert words(longva.watch(late, fps=1)).count('*\n"late"\nWhat?') == 1
    told = words(longva.watch([late, film], fps=1))
    assert '"late"\nscenes.mp4 (2):*\nWhat?' in told


def test_a_film_with_subtitles_can_be_watched_on_saved_and_gone_on_with(longva, film, tmp_path):
    told = with_subtitles(film, CUES)
    whole = longva.watch(told)
    session = longva.watch(told, end=2.5)
    assert session.extend(told) == 0  # its rule ends there
    session.save(tmp_path / "session")
    resumed = longva.resume(tmp_path / "session")
    assert words(resumed) == words(session) and '"Hello"' in words(session)
    assert '"there"' not in words(session)
    asked = [s.ask("What?", max_new_tokens=4).text for s in (session, resumed)]
    assert asked[0] == asked[1]
    growing = LongVA(longva.model, longva.processor, name="random")
    later = growing.watch(told, now=False)
    later.watch()
    assert words(later) == words(whole)


def test_a_film_that_goes_on_says_its_times_as_if_it_was_watched_whole(longva):
    def shown(start: int, stop: int):
        pictures = [np.full((30, 30, 3), 9 * n, np.uint8) for n in range(start, stop)]
        return open_media(pictures, seconds=np.arange(start, stop))

    settings = FrameSettings(time_tokens=3)
    session = longva.watch(shown(0, 2), fps=1, settings=settings)
    for start, stop in ((2, 3), (3, 4), (4, 8)):
        session.extend(shown(start, stop))
    whole = longva.watch(shown(0, 8), fps=1, settings=settings)
    assert words(session) == words(whole) and words(whole).count("0:00:0") == 3


def test_several_media_are_named_and_one_is_not(longva, video, image, tmp_path):
    copy = tmp_path / "other.mp4"
    copy.write_bytes(video.read_bytes())
    session = longva.watch([video, image, copy], frames=2)
    assert "scenes.mp4:*\nimage.png:*\nother.mp4:*\nWhat?" in words(session)
    assert ".mp4" not in words(longva.watch(video, frames=2))
    twice = longva.watch([video, video], frames=2)
    assert "scenes.mp4 (1):*\nscenes.mp4 (2):*\n" in words(twice)
    answer = session.ask("What?", max_new_tokens=1, evidence=2)
    assert "other.mp4" in answer.media[2]


def test_the_plan_counts_what_is_said(longva, film):
    much = with_subtitles(film, [Cue(n / 10, n / 10 + 1, "word " * 100) for n in range(50)])
    small = LongVA(longva.model, longva.processor, name="random")
    small.model.config.text_config.max_position_embeddings = 8192
    try:
        with pytest.raises(LongVAError, match="model's context is 8,192"):
            small.watch(much, frames=2)
        assert small.watch(with_subtitles(film, CUES), frames=2).frames == 2
    finally:
        small.model.config.text_config.max_position_embeddings = 32_768


def test_media_in_place_stand_where_the_texts_say():
    told = replace(FRAMES, in_place=True, before=("", "", "one", "", "", ""))
    image = replace(FRAMES, kind="image", seconds=None, in_place=True)
    talk = [
        {"role": "user", "content": f"Is {PLACE} as"},
        {"role": "assistant", "content": "What?"},
        {"role": "user", "content": f"{PLACE}{PLACE}"},
    ]
    messages, rows = with_media(talk, [told, image])
    assert rows == [8, 16, 24]
    assert [message["content"] for message in messages] == [
        [
            {"type": "text", "text": "Is "},
            {"type": "video"},
            {"type": "text", "text": "one"},
            {"type": "video"},
            {"type": "text", "text": " as"},
        ],
        "What?",
        [{"type": "image"}],  # the last place waits for its medium
    ]


def test_nothing_stands_between_frames_that_are_encoded_together():
    texts = ("", "one", "two", "three", "", "five")
    pairs = replace(FRAMES, unit=2, before=texts)
    assert pairs.texts == ("one", "", "two\nthree", "", "five", "")
    later = pairs.part(0, 3).what_follows(pairs)  # which begins anywhere in what was described
    assert later.texts == ("three", "", "five")
    assert replace(pairs, unit=1).texts == texts
