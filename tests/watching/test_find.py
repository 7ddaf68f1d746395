import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import LongVAError
from longva.media.cue import srt
from longva.media.medium import open_media
from longva.media.subtitles import read_subtitles
from longva.nano.film import draw_frame, write_frames
from longva.nano.world import Layout, mosaic, random_scene
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings
from longva.watching.find import Found, Searched, _Search, _Span, merged, ranges
from longva.watching.found_files import contact_sheet, cues, edl, when, write_clips
from longva.watching.turns import PLACE
from tests import hard_videos

SHOTS = [(8, 16), (30, 36)]


@pytest.fixture(scope="module")
def nano() -> LongVA:
    return LongVA.from_pretrained("nano")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """48 seconds, a frame each: an anchor in `SHOTS`, other objects for 6 seconds each."""
    rng = random.Random(1)
    others = ("sun", "cat", "key", "pen", "cup", "star", "hand", "gear")
    scenes = [random_scene(rng, [name]) for name in others for _ in range(6)]
    scenes = [scenes[second - second % 6] for second in range(48)]
    for first, stop in SHOTS:
        scenes[first:stop] = [random_scene(rng, ["anchor"])] * (stop - first)
    path = tmp_path_factory.mktemp("find") / "film.mp4"
    write_frames(path, ((scene, Layout()) for scene in scenes))
    return path


@pytest.mark.parametrize("by", ["yes/no", "attention"])
def test_what_is_shown_is_found_and_what_is_not_is_not(nano, film, by):
    session = (nano if by == "yes/no" else without_yes_and_no()).watch(film)
    found = session.find("the anchor")
    assert {(one.start, one.end) for one in found} >= set(SHOTS)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(one.by == by and one.first <= one.frame <= one.last for one in found)
    if by == "yes/no":  # by attention alone others may be found, too
        assert len(found) == 2 and session.find("the umbrella") == []
    assert session.find("the anchor", least=1.1) == []


def test_a_question_is_asked_as_it_is(nano, film):
    found = nano.watch(film).find("What number is with the anchor?")
    places = [[a <= one.start and one.end <= b for a, b in SHOTS] for one in found]
    assert all(map(any, places)) and all(map(any, zip(*places, strict=True)))


def test_a_search_changes_no_answer_and_keeps_the_conversation(nano, film):
    want, got = nano.watch(film), nano.watch(film)
    answers = []
    for session in (want, got):
        session.ask("What number is with the cat?", keep=True)
        if session is got:
            session.find("the anchor")
        answers.append(session.ask("What color is behind the anchor?", keep=True))
        assert len(session.history) == 4
    assert answers[0].text == answers[1].text
    assert answers[0].prompt_tokens == answers[1].prompt_tokens


def test_a_single_second_is_found_and_times_are_those_of_the_film(nano, film):
    (one,) = nano.watch(film, start=15, end=20).find("the anchor")
    assert (one.start, one.end, one.first, one.last) == (15.0, 16.0, 15, 15)


def test_the_medium_that_shows_it_is_named(nano, film, tmp_path):
    write_frames(tmp_path / "other.mp4", [(random_scene(random.Random(2), ["cow"]), Layout())] * 6)
    found = nano.watch([tmp_path / "other.mp4", film]).find("the anchor")
    assert {one.medium for one in found} == {1}
    assert sorted((one.start, one.end) for one in found) == SHOTS


def test_a_film_is_probed_under_its_own_name(nano, monkeypatch):
    monkeypatch.setattr(nano.model.config, "names_media", True)
    film = open_media(np.zeros((4, 48, 48, 3), np.uint8), fps=1)
    session = nano.watch([replace(film, name="a/cat"), replace(film, name="b/sun")])
    tokenizer = nano.processor.tokenizer
    search = _Search(Searched(session._reader, session.media, session._question, tokenizer), ["a"])
    for number, medium in enumerate(session.media):
        alone = session._question("a", [medium])  # as if there were no other film
        before = int((alone < 0).nonzero()[0])
        spans = search._before(number)
        assert torch.equal(torch.cat([search.prompts[0][a:b] for a, b in spans]), alone[:before])
        part, rows = search._alone(_Span(4 * number, 4 * number + 4))
        assert part.length == before + len(rows) == before + medium.rows
        assert tokenizer.decode(alone[:before]).endswith(("user cat :", "user sun :")[number])


def test_a_film_that_stands_among_words_is_found_in_and_resumed(nano, film, tmp_path):
    settings = FrameSettings(opening=(("user", PLACE),))
    session = nano.watch(film, settings=settings)
    assert sorted((one.start, one.end) for one in session.find("the anchor")) == SHOTS
    session.save(tmp_path / "a.session")
    again = nano.resume(tmp_path / "a.session")
    assert again.find("the anchor") == session.find("the anchor")


def yes_and_no(nano: LongVA) -> LongVA:
    """A model that answers every question by yes or no, as a random direction of its state says."""
    longva = LongVA.from_pretrained("nano", dtype="float32")
    yes, no = longva.processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    direction = torch.randn(longva.model.config.text_config.hidden_size) * 100
    with torch.no_grad():
        head = longva.model.get_output_embeddings().weight
        head[yes], head[no] = direction, -direction
    return longva


def without_yes_and_no() -> LongVA:
    """A model that says neither: the embedded one without these words."""
    longva = LongVA.from_pretrained("nano", dtype="float32")
    words = longva.processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    with torch.no_grad():
        longva.model.get_output_embeddings().weight[words] = 0
    return longva


def test_a_model_that_says_yes_or_no_is_believed_and_asked_about_all_windows(nano, film):
    calls = []
    session = yes_and_no(nano).watch(film)
    found = session.find("the anchor", progress=lambda *call: calls.append(call), least=0.0)
    assert {one.by for one in found} == {"yes/no"}
    assert all(0 <= one.score <= 1 for one in found)
    for window in (0, 32):  # of 0 or more is everything
        assert any(one.first < window + 32 and window <= one.last for one in found)
    (_, done, total) = calls[-1]
    assert done == total >= 2  # 48 frames are two windows
    sure = session.find("the anchor")
    assert all(one.score >= 0.5 for one in sure)


def test_ranges_are_joined_over_a_frame_but_not_from_medium_to_medium():
    spans = [_Span(6, 8, 0.2, "attention"), _Span(0, 3, 0.5, "attention"), _Span(4, 6, 0.9, "x")]
    assert [(s.first, s.stop, s.score) for s in merged(spans, [0])] == [(0, 8, 0.9)]
    assert [(s.first, s.stop) for s in merged(spans, [0, 4])] == [(0, 3), (4, 8)]
    assert [(s.first, s.stop) for s in merged(spans, [0, 3])] == [(0, 3), (4, 8)]
    evidence = torch.tensor([0, 1.0, 0, 1, 0])
    assert [(s.first, s.stop) for s in ranges(evidence, [0, 2])] == [(1, 2), (3, 4)]


def test_what_ends_a_film_and_comes_second_in_the_next_is_found_in_both(nano):
    rng = random.Random(6)
    first, second = (
        open_media([np.asarray(draw_frame(random_scene(rng, [n]), Layout())) for n in names], fps=1)
        for names in (["cat", "cat", "sun", "anchor"], ["key", "anchor", "cup", "cup"])
    )
    found = nano.watch([first, second]).find("the anchor")
    assert sorted((one.medium, one.first, one.last) for one in found) == [(0, 3, 3), (1, 1, 1)]


def test_pictures_and_empty_queries_are_refused(nano, longva, image, video):
    with pytest.raises(LongVAError, match="only a video has times"):
        longva.watch(image).find("a cat")
    with pytest.raises(LongVAError, match="question is empty"):
        longva.watch(video).find(" ")
    with longva.watch(video) as session:
        pass
    with pytest.raises(LongVAError, match="session is closed"):
        session.find("a cat")


@pytest.mark.parametrize("kv", ["model", "int8", "int4"])
def test_any_model_and_cache_can_be_searched(kv, longva, video):
    searcher = LongVA(longva.model, longva.processor, name="random", kv=kv)
    found = searcher.watch(video, fps=8).find("a cat", least=0.0)
    assert found and all(isinstance(one, Found) for one in found)
    assert all(0 <= one.start < one.end <= 6.0 and one.by == "attention" for one in found)


def run(*words):
    told = CliRunner().invoke(app, [str(word) for word in words])
    assert told.exit_code == 0, told.output
    return told


def test_the_command_writes_clips_a_sheet_subtitles_and_a_cut_list(film, tmp_path):
    told = run(
        *("find", film, "the anchor", "--clips", tmp_path / "cut"),
        *("--contact-sheet", tmp_path / "sheet.png", "--srt", tmp_path / "found.srt"),
        *("--edl", tmp_path / "found.edl"),
    )
    assert told.stdout.startswith("2 found: the anchor\n")
    assert "0:00:08.0 - 0:00:16.0  score " in told.stdout
    seconds = {len(open_media(file)) for file in (tmp_path / "cut").iterdir()}
    assert seconds == {8, 6}
    assert Image.open(tmp_path / "sheet.png").size == (320, 188)
    told = read_subtitles(tmp_path / "found.srt")
    assert [(cue.start, cue.end) for cue in told] == SHOTS
    cuts = (tmp_path / "found.edl").read_text()
    assert "V     C        00:00:08:00 00:00:16:00 00:00:" in cuts
    assert cuts.count(" 00:00:00:00 ") == 1 and cuts.count(" 00:00:14:00\n") == 1
    rows = json.loads(run("find", film, "the anchor", "--json").stdout)
    assert sorted((row["start"], row["end"]) for row in rows["ranges"]) == SHOTS
    assert {row["file"] for row in rows["ranges"]} == {str(film)}


def test_a_still_image_is_drawn_whole_and_left_out_of_what_is_cut_by_time(film, tmp_path):
    rng = random.Random(0)
    pictures = [
        draw_frame(random_scene(rng, [n]), Layout()) for n in ("urn", "key", "cat", "anchor")
    ]
    mosaic([picture.resize((48, 48)) for picture in pictures], 2).save(tmp_path / "still.png")
    told = run(
        *("find", film, "the anchor", "--also", tmp_path / "still.png"),
        *("--contact-sheet", tmp_path / "sheet.png", "--clips", tmp_path / "cut"),
        *("--srt", tmp_path / "found.srt", "--edl", tmp_path / "found.edl"),
    )
    assert told.stdout.startswith("3 found") and "   still.png  frames 3 to 3  score" in told.stdout
    assert Image.open(tmp_path / "sheet.png").size == (480, 188)
    assert "Left out of clips, subtitles and cut list: 1 in still images" in told.stderr
    lines = told.stdout.splitlines()[1:]
    ranks = [rank for rank, line in enumerate(lines, start=1) if "film.mp4" in line]
    assert sorted(int(path.name[:2]) for path in (tmp_path / "cut").iterdir()) == ranks
    assert [(cue.start, cue.end) for cue in read_subtitles(tmp_path / "found.srt")] == SHOTS
    assert (tmp_path / "found.edl").read_text().count("CLIP NAME: film.mp4\n") == 2


def test_films_of_one_name_are_told_apart_in_sheets_and_cut_lists(film):
    found = [
        Found(start=1, end=2, score=0.5, by="x", frame=1, first=1, last=1, medium=number)
        for number in (1, 0)
    ]
    same, told = (
        [replace(open_media(film), name=name) for name in names]
        for names in (("a/film.mp4", "b/film.mp4"), ("film.mp4 (1)", "film.mp4 (2)"))
    )
    lines = edl(found, same, "x").splitlines()
    assert [line for line in lines if line.startswith("* SOURCE FILE")] == [
        "* SOURCE FILE: b/film.mp4",
        "* SOURCE FILE: a/film.mp4",
    ]
    assert lines.count("* FROM CLIP NAME: film.mp4") == 2
    sheets = [np.asarray(contact_sheet(found, media)) for media in (same, told)]
    assert np.array_equal(*sheets)


def test_a_query_of_several_lines_is_one_line_of_a_file(film):
    query = "a cat\n\n2\n00:00:05,000 --> 00:00:06,000\na dog"
    found = [Found(start=1, end=2, score=0.5, by="attention", frame=1, first=1, last=1)]
    said = "a cat 2 00:00:05,000 -> 00:00:06,000 a dog (0.5)"
    assert (
        srt(cues(found, [open_media(film)], query)) == f"1\n00:00:01,000 --> 00:00:02,000\n{said}\n"
    )
    title = edl(found, [open_media(film)], query).splitlines()[:2]
    assert title == [f"TITLE: {' '.join(query.split())}", "FCM: NON-DROP FRAME"]


def test_clips_of_what_is_found_have_the_right_frames(tmp_path, longva):
    path = hard_videos.write_video(tmp_path / "numbered.mp4", 100, rate=10)
    session = longva.watch(path)
    found = session.find("a number", least=0.0)
    assert found
    files = write_clips(found, [open_media(path)], tmp_path / "cut")
    for one, file in zip(found, files, strict=True):
        first, stop = round(one.start * 10), min(round(one.end * 10), 100)
        assert hard_videos.numbers_of(file) == list(range(first, stop))


def test_pictures_without_times_are_found_by_number_and_cut_by_no_time(nano, film, tmp_path):
    scenes = [random_scene(random.Random(n), [name]) for n, name in enumerate(("cat", "anchor"))]
    pictures = [np.asarray(draw_frame(scenes[n // 4 % 2], Layout())) for n in range(8)]
    found = nano.watch([pictures]).find("the anchor")
    assert [(one.first, one.last, one.start) for one in found] == [(4, 7, None)]
    assert when(found[0]) == "frames 4 to 7"
    with pytest.raises(LongVAError, match="have no times"):
        cues(found, [open_media(pictures)], "the anchor")
    assert replace(found[0], start=0.0, end=1.0).to_json()["end"] == 1.0
