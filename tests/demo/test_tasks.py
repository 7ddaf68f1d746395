"""Find, summaries, the library and what is taken along, without a browser."""

import asyncio
import base64
import json
import os
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from longva.demo import asking, jobs
from longva.demo.ask_tab import AskTab
from longva.demo.estimate import watching_of
from longva.demo.export import files_of, parts_of, write_clips
from longva.demo.library import Library
from longva.demo.medium import open_medium
from longva.demo.parts import draw
from longva.demo.visitor import Job, Visitor
from longva.errors import LongVAError
from longva.media.sampling import FrameSampling
from longva.media.subtitles import read_subtitles
from longva.watching.feature_cache import FeatureCache
from longva.watching.features import FrameSettings
from longva.watching.store import Watching
from longva.watching.tasks import Outline, Search
from tests.demo.conftest import a_visitor, answered, ask
from tests.hard_videos import numbers_of, write_video


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "noise.png"
    Image.effect_noise((120, 60), 60).convert("RGB").save(path)
    return path


async def done(setting, visitor, asked, sampling=FrameSampling(fps=2.0)) -> Job:  # noqa: B008
    digests = tuple(medium.digest for medium in visitor.media)
    watching = Watching(digests=digests, sampling=sampling)
    visitor.job = Job(watching=watching, media=list(visitor.media), asked=asked)
    async for _ in jobs.do(setting, visitor):
        pass
    return visitor.job


def text_of(file) -> str:
    return base64.b64decode(file.address.partition(",")[2]).decode()


def test_what_is_found_is_that_of_a_session_and_can_be_taken_along(setting, video, tmp_path):
    visitor = a_visitor(setting, video)
    session = setting.engine.longva.watch(video, fps=2)
    want = session.find("the cat", least=0)
    job = asyncio.run(done(setting, visitor, Search(query="the cat", least=0)))
    assert (job.state, job.result.ranges) == ("done", want)
    drawn = draw("job", job=job, files=files_of)
    assert drawn.count('class="lv-range"') == len(want) and drawn.count("<img") == len(want)
    assert f'data-seconds="{want[0].start:.3f}"' in drawn
    told, subtitles = files_of(job)
    assert json.loads(text_of(told))["ranges"][0]["file"] == video.name
    (tmp_path / "found.srt").write_text(text_of(subtitles))
    cues = read_subtitles(tmp_path / "found.srt")
    assert [(cue.start, cue.end) for cue in cues] == sorted((f.start, f.end) for f in want)
    none = asyncio.run(done(setting, visitor, Search(query="the cat", least=1)))
    assert "Nothing found in 12 frames" in draw("job", job=none, files=files_of)


def test_a_summary_comes_chapter_by_chapter_and_keeps_no_session(setting, video, tmp_path):
    visitor, longva = a_visitor(setting, video), setting.engine.longva
    want = longva.summarize(video, chapter=2, max_new_tokens=6)
    outline = Outline(chapter=2, max_new_tokens=6)
    job = asyncio.run(done(setting, visitor, outline, FrameSampling(fps=1.0)))
    assert replace(job.result, film="") == replace(want, film="") and job.chapters == want.chapters
    assert job.result.film == video.name and len(setting.engine.store) == 0
    drawn = draw("job", job=job, files=files_of)
    assert drawn.count('class="lv-chapter"') == 3 and 'data-seconds="2.000"' in drawn
    told, subtitles, page = files_of(job)
    assert json.loads(text_of(told))["chapters"] == [vars(chapter) for chapter in want.chapters]
    assert text_of(subtitles) == want.srt() and text_of(page).startswith(f"# {video.name}\n")


def test_a_job_that_is_stopped_or_fails_says_so(setting, video, image, caplog):
    async def stopped():
        visitor = a_visitor(setting, video)
        media = list(visitor.media)
        watching = Watching(digests=(media[0].digest,), sampling=FrameSampling(fps=1.0))
        visitor.job = Job(watching=watching, media=media, asked=Outline(chapter=1))
        async for _ in jobs.do(setting, visitor):
            if visitor.job.chapters:
                visitor.job.stop()
        return visitor.job

    job = asyncio.run(stopped())
    assert job.state == "stopped" and 0 < len(job.chapters) < 6 and job.result is None
    assert "Stopped." in draw("job", job=job, files=files_of)
    visitor = a_visitor(setting, image)
    failed = asyncio.run(done(setting, visitor, Search(query="a")))
    assert failed.state == "failed" and failed.text.startswith("only a video has times")
    assert 'role="alert"' in draw("job", job=failed, files=files_of)


def test_words_of_a_search_are_never_markup(setting, video):
    evil = "<img src=x onerror=alert(1)>"
    job = asyncio.run(done(setting, a_visitor(setting, video), Search(query=evil, least=0)))
    assert "<img src=x" not in draw("job", job=job, files=files_of)


# several films


@pytest.fixture
def films(tmp_path):
    """Two films of numbered frames, of other lengths."""
    paths = tmp_path / "a.mp4", tmp_path / "b.mp4"
    for path, count in zip(paths, (50, 100), strict=True):
        write_video(path, count)
    return paths


def test_one_question_about_several_films_is_that_of_a_session_of_all(setting, films):
    longva = setting.engine.longva
    visitor = Visitor()
    visitor.show(*(open_medium(path, longva) for path in films))
    watching = watching_of(visitor.media, 4)  # the longest film's second a frame: left alone
    turn = ask(setting, visitor, "which?", watching=watching)
    want = longva.watch(list(films), fps=1).ask("which?", max_new_tokens=4, evidence=9)
    assert (turn.text, turn.answer.prompt_tokens) == (want.text, want.prompt_tokens)
    assert visitor.attention == want.evidence and turn.answer.media == ["a.mp4", "b.mp4"]
    drawn = draw("conversation", turns=[turn])
    best = want.evidence[0]
    assert f'data-medium="{best.medium}" data-frame="{best.frame}"' in drawn
    assert "b.mp4 0:0" in drawn or "a.mp4 0:0" in drawn
    assert watching_of(visitor.media, 3).sampling == FrameSampling(num_frames=3)
    # Whoever has the same films by other names has another prompt, and another session.
    other = films[0].with_name("c.mp4")
    shutil.copy(films[0], other)
    visitor.show(open_medium(other, longva), visitor.media[1])
    assert watching_of(visitor.media, 4) not in setting.engine.store


def test_films_of_one_name_are_numbered_wherever_they_are_named(setting, films, tmp_path):
    paths = [tmp_path / str(number) / "film.mp4" for number in (1, 2)]
    for path, film in zip(paths, films, strict=True):
        path.parent.mkdir()
        shutil.copy(film, path)
    visitor = Visitor()
    visitor.show(*(open_medium(path, setting.engine.longva) for path in paths))
    turn = ask(setting, visitor, "which?", watching=watching_of(visitor.media, 4))
    labels = [file.label for file in files_of(turn) if file.label != "JSON"]
    assert {*labels} <= {"SRT of film.mp4 (1)", "SRT of film.mp4 (2)"} and labels
    drawn = draw("about", media=visitor.media) + draw("conversation", turns=[turn])
    assert "film.mp4 (1)</b>" in drawn and "film.mp4 (2)</b>" in drawn
    assert re.search(r"film.mp4 \([12]\) 0:0", drawn) and "film.mp4 0:0" not in drawn


def test_films_are_added_taken_away_and_no_more_than_eight(setting, films, monkeypatch):
    gr = pytest.importorskip("gradio")

    async def visit():
        with gr.Blocks():
            tab = AskTab(setting)
        stage, visitor = tab.stage_handlers, Visitor(key="k")
        await stage.show(visitor, films[0])
        await answered(setting, visitor, "what?")
        drawn = await stage.begin_adding(visitor)
        assert drawn[tab.welcome].visible and drawn[tab.back].visible
        drawn = await stage.show(visitor, films[1])
        assert [medium.path.name for medium in visitor.media] == ["a.mp4", "b.mp4"]
        assert not visitor.turns and not visitor.adding and not drawn[tab.welcome].visible
        assert drawn[tab.stage].count("<video") == 2 == drawn[tab.timeline].count("lv-timeline")
        assert drawn[tab.summarize].visible is False  # of one film
        await stage.begin_adding(visitor)
        await stage.show(visitor, films[0])  # again: it is there once
        assert [medium.path.name for medium in visitor.media] == ["b.mp4", "a.mp4"]
        drawn = await stage.take_away(visitor, SimpleNamespace(medium=0))
        assert [medium.path.name for medium in visitor.media] == ["a.mp4"]
        monkeypatch.setattr("longva.demo.stage_handlers.MOST_MEDIA", 1)
        await stage.begin_adding(visitor)
        with pytest.raises(gr.Error, match="At most 1 films together"):
            await stage.show(visitor, films[1])
        await stage.end_adding(visitor)
        await stage.clear(visitor)
        assert visitor.media == []

    asyncio.run(visit())


# what is taken along


def test_an_answer_is_taken_along_as_json_subtitles_and_clips(setting, tmp_path):
    path = write_video(tmp_path / "film.mp4", 150)  # 25 a second
    visitor = a_visitor(setting, path)
    turn = ask(setting, visitor, "what?", evidence=6)
    told, subtitles = files_of(turn)
    assert json.loads(text_of(told)) == json.loads(json.dumps(turn.answer.to_json()))
    (tmp_path / "a.srt").write_text(text_of(subtitles))
    shown = sorted(item.seconds for item in turn.answer.shown_evidence)
    cues = read_subtitles(tmp_path / "a.srt")
    assert [(cue.start, cue.end) for cue in cues] == [(s, s + 1) for s in shown]
    target = write_clips(parts_of(turn), tmp_path)
    with zipfile.ZipFile(target) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "cut")
    assert len(names) == len(shown) and [*target.parent.iterdir()] == [target]
    for name, item in zip(names, turn.answer.shown_evidence, strict=True):
        first = max(0, round(25 * (item.seconds - 1)))
        stop = min(150, round(25 * (item.seconds + 2)))
        assert numbers_of(tmp_path / "cut" / name) == list(range(first, stop))
    with pytest.raises(LongVAError, match="nothing to cut"):
        write_clips([], tmp_path)


def test_the_same_question_again_or_edited_begins_where_it_stood(setting, video):
    gr = pytest.importorskip("gradio")

    async def visit():
        with gr.Blocks():
            tab = AskTab(setting)
        visitor = Visitor(key="k")
        await tab.stage_handlers.show(visitor, video)
        values = (6, None, "", "", True, 3, 4, 0, 1, 0)

        async def asked(question, *how):
            await tab.begin(visitor, question, *(how or values))
            async for _ in asking.answer(setting, visitor):
                pass
            return visitor.turns[-1]

        first, second = [await asked(question) for question in ("one?", "two?")]
        assert len(visitor.history) == 4
        await tab.act(visitor, SimpleNamespace(act="retry", turn=1))
        assert visitor.busy and len(visitor.turns) == 2 and len(visitor.history) == 2
        async for _ in asking.answer(setting, visitor):
            pass
        assert visitor.turns[-1].text == second.text  # greedy: the same
        drawn = await tab.act(visitor, SimpleNamespace(act="edit", turn=0))
        assert (visitor.turns, visitor.history) == ([], [])
        assert drawn[tab.question] == "one?"
        again = await asked("one?")
        assert again.text == first.text
        warm = (6, None, "", "", True, 3, 4, 1.5, 1, 7)
        turn = await asked("three?", *warm)
        await tab.act(visitor, SimpleNamespace(act="retry", turn=1))
        assert visitor.turns[-1].question.sampling.seed == 8
        with pytest.raises(gr.Error, match="One question at a time"):
            await tab.act(visitor, SimpleNamespace(act="edit", turn=0))
        visitor.stop()
        assert turn not in visitor.turns

    asyncio.run(visit())


# the library


def test_a_browser_finds_its_films_again_and_nobody_elses(setting, video, image, tmp_path):
    library, longva = Library(tmp_path / "library", 2**30), setting.engine.longva
    film, picture = open_medium(video, longva), open_medium(image, longva)
    library.add("me", film)
    library.add("me", picture)
    library.add("you", film)
    library.add("", film)  # a page that keeps no secret
    library.add("me", film)
    assert [kept.name for kept in library.of("me")] == [video.name, image.name]  # the latest first
    assert [kept.name for kept in library.of("you")] == [video.name] and library.of("") == []
    (kept, other) = library.of("me")
    assert (kept.size, kept.seconds) == (video.stat().st_size, film.media.duration)
    assert other.seconds == 0 and kept.picture.startswith("data:image/jpeg")
    assert library.path("me", kept.digest).read_bytes() == video.read_bytes()
    assert library.path("you", picture.digest) is None and library.path("me", "../x") is None
    for place in library.folder.iterdir():
        assert "me" != place.name != "you" and place.stat().st_mode & 0o077 == 0
    again = Library(tmp_path / "library", 2**30)  # of a demo that is started again
    assert again.of("me") == library.of("me")
    library.delete("me", kept.digest)
    library.delete("me", "../../x")
    assert [k.name for k in library.of("me")] == [image.name] and len(library.of("you")) == 1


def test_a_library_is_bounded_and_what_was_opened_least_recently_goes(setting, tmp_path):
    longva, films = setting.engine.longva, []
    for number in range(3):
        path = write_video(tmp_path / f"{number}.mp4", 25 + number)
        films.append(open_medium(path, longva))
    size = max(film.path.stat().st_size for film in films)
    library = Library(tmp_path / "library", 3 * size)  # the entries take some, too
    for number, film in enumerate(films):
        library.add("me", film)
        for place in library.folder.glob(f"*/{film.digest}/entry.json"):
            os.utime(place, (number, number))
    names = [kept.name for kept in library.of("me")]
    assert names[0] == "2.mp4" and "0.mp4" not in names
    small = Library(tmp_path / "small", 10)
    small.add("me", films[0])  # larger than all that may be kept
    assert small.of("me") == []


def test_a_film_that_cannot_be_kept_is_left_out(setting, video, tmp_path):
    library = Library(tmp_path / "library", 2**30)
    film = open_medium(video, setting.engine.longva)
    library.add("me", film)
    (entry,) = library.folder.glob("*/*/entry.json")
    entry.unlink()
    (entry / "no file").mkdir(parents=True)  # as a full disk: the entry cannot be written
    library.add("me", film)
    assert library.of("me") == []
    assert [*library.folder.glob("*/*")] == []  # nor is a part of it, which nobody would count


def test_what_is_encoded_of_a_film_is_counted_and_deleted_with_it(longva, tmp_path, video):
    cache = FeatureCache(tmp_path / "cache")
    library = Library(cache.folder / "library", 2**30, cache)
    film = open_medium(video, longva)
    library.add("me", film)
    library.add("you", film)
    assert library.of("me")[0].encoded == 0
    frames = longva.describe(film.media, FrameSampling(num_frames=4))
    _, tokens = longva.encode(film.media, FrameSampling(num_frames=4), FrameSettings())
    for model in ("one", "other"):
        key = cache.key(film.media, frames, FrameSettings(), longva.processor, model)
        cache.save(key, tokens)
    size = sum(path.stat().st_size for path in cache.folder.glob("*.safetensors"))
    assert library.of("me")[0].encoded == size > 0
    library.delete("me", film.digest)
    assert library.of("you")[0].encoded == size  # whose it is, too
    library.delete("you", film.digest)
    assert [*cache.folder.glob("*.safetensors")] == []


def test_answers_put_films_into_the_library_and_it_opens_and_deletes_them(setting, video):
    gr = pytest.importorskip("gradio")

    async def visit():
        with gr.Blocks():
            tab = AskTab(setting)
        key, owner, visitor = "0" * 32, "1" * 32, Visitor()
        stage = tab.stage_handlers
        await stage.reopen(visitor, key, owner)
        await stage.show(visitor, video)
        assert setting.library.of(owner) == []
        await answered(setting, visitor, "what?")
        (kept,) = setting.library.of(owner)
        drawn = await stage.clear(visitor)
        assert video.name in drawn[tab.shelf] and "MiB in memory" in drawn[tab.shelf]
        await stage.show_kept(visitor, SimpleNamespace(digest=kept.digest))
        assert visitor.media[0].path.is_relative_to(setting.library.folder)
        assert visitor.media[0].digest == kept.digest
        turn = await answered(setting, visitor, "what?")
        assert not turn.watched  # the same content: nothing is watched again
        stranger = Visitor(key="s")
        await stage.reopen(stranger, "2" * 32, "3" * 32)
        with pytest.raises(gr.Error, match="not there any more"):
            await stage.show_kept(stranger, SimpleNamespace(digest=kept.digest))
        drawn = await stage.delete_kept(visitor, SimpleNamespace(digest=kept.digest))
        assert visitor.media == [] and drawn[tab.shelf] == ""
        assert len(setting.engine.store) == 0 and setting.library.of(owner) == []

    asyncio.run(visit())


def test_the_examples_do_not_fill_the_library(setting, video):
    visitor = Visitor(owner="me")
    visitor.show(open_medium(video, setting.engine.longva))
    example = SimpleNamespace(path=video)
    asking.keep(replace(setting, examples=[example]), visitor, SimpleNamespace(media=visitor.media))
    assert setting.library.of("me") == []


def test_pictures_of_evidence_are_those_of_their_film(setting, films):
    longva = setting.engine.longva
    media = [open_medium(path, longva) for path in films]
    wanted = [(0, 1), (1, 1), (1, 99), (1, 7)]
    pictures = asyncio.run(asking.pictures_of(media, wanted))
    missing = [place for place in wanted if place[1] not in media[place[0]].pictures]
    assert sorted(pictures) == sorted(missing) and missing
    assert len({*pictures.values()}) == len({frame for _, frame in missing})  # they are numbered
