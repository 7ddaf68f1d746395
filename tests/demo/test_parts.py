"""The parts of the demo, without a browser."""

import asyncio
import json
import re
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from longva.demo import asking
from longva.demo.api_call import client_code, request_of
from longva.demo.ask_tab import record_vote
from longva.demo.estimate import estimate as estimate_of
from longva.demo.estimate import watching_of
from longva.demo.examples import FILM_SECONDS, NEEDLE_SECOND, make_examples
from longva.demo.medium import STRIP_PICTURES, open_medium
from longva.demo.needle_map import NeedleMap, draw_map, even_grid
from longva.demo.parts import draw
from longva.demo.speed import Speed
from longva.demo.timeline import timeline
from longva.demo.visitor import Visitor
from longva.errors import LongVAError
from longva.media.medium import open_media
from longva.media.sampling import ONE_A_SECOND, FrameSampling
from longva.model.random_model import random_longva
from longva.nano.world import COLOURS, OBJECTS
from longva.prompts.decoding import Sampling
from longva.watching.answer import Answer, Evidence
from longva.watching.assistant import LongVA
from longva.watching.engine import Engine, Question
from longva.watching.store import Watching
from tests.demo.conftest import a_turn, a_visitor, answered, ask


def an_answer(**fields) -> Answer:
    evidence = [Evidence(frame=8, seconds=1.0, weight=0.5), Evidence(frame=40, seconds=5, weight=0)]
    values = {
        "question": "what?",
        "text": "a cat",
        "evidence": evidence,
        "model": "nano",
        "media": ["film.mp4"],
        "frames": 6,
        "prompt_tokens": 1234,
        "answer_tokens": 2,
        "finish_reason": "stop",
        "timings": {"answer": 0.26},
    }
    return Answer(**values | fields)


def conversation(turns) -> str:
    return draw("conversation", turns=turns)


def estimate(plan, seconds) -> str:
    return draw("estimate", plan=plan, tokens=9, seconds=seconds)


def stage(medium) -> str:
    return draw("stage", media=[medium])


# asking


def test_follow_ups_are_remembered_and_a_dropped_session_gets_its_history_back(setting, video):
    visitor = a_visitor(setting, video)
    first, second = (ask(setting, visitor, question) for question in ("First?", "Second?"))
    assert first.watched.startswith("Watched 6 frames") and not second.watched
    assert [turn["role"] for turn in visitor.history] == ["user", "assistant"] * 2
    assert second.answer.prompt_tokens > first.answer.prompt_tokens
    alone = ask(setting, visitor, "Second?", remember=False)
    assert alone.answer.prompt_tokens == first.answer.prompt_tokens + 1  # "Second" and "First"
    assert len(visitor.history) == 4

    kept = ask(setting, visitor, "Third?")
    setting.engine.store.clear()
    visitor.history = visitor.history[:4]
    again = ask(setting, visitor, "Third?")
    assert again.watched and again.text == kept.text
    assert len(again.answer.evidence) == 3 and len(visitor.attention) == 6


def test_visitors_of_one_film_share_what_was_watched_and_not_their_conversations(
    setting, video, tmp_path
):
    other_name = shutil.copy(video, tmp_path / "the same by another name.mp4")
    ann, bob = a_visitor(setting, video), a_visitor(setting, other_name)
    alone = setting.engine.longva.watch(video, fps=1.0)

    def expected(question, keep):
        return alone.ask(question, max_new_tokens=4, keep=keep)

    for question in ("First?", "Second?"):
        want = expected(question, keep=True)
        for visitor in (ann, bob):
            turn = ask(setting, visitor, question)
            assert bool(turn.watched) == (visitor is ann and question == "First?")
            assert (turn.text, turn.answer.prompt_tokens) == (want.text, want.prompt_tokens)
            assert turn.answer.media == [visitor.media[0].path.name]
    assert len(setting.engine.store) == 1

    ask(setting, ann, "Only Ann?")
    assert "Only Ann?" in str(ann.history) and "Only Ann?" not in str(bob.history)
    third, want = ask(setting, bob, "Third?"), expected("Third?", keep=False)
    assert (third.text, third.answer.prompt_tokens) == (want.text, want.prompt_tokens)


def test_what_was_watched_is_dropped_with_the_last_visitor_who_asked_about_it(setting, video):
    ann, bob = a_visitor(setting, video), a_visitor(setting, video)
    for visitor in (ann, bob):
        ask(setting, visitor, "what?")
    more = ask(
        setting,
        ann,
        "what?",
        watching=Watching(digests=(ann.media[0].digest,), sampling=FrameSampling(num_frames=3)),
    )
    assert more.answer.frames == 3 and len(setting.engine.store) == 2
    asking.leave(setting, ann)
    assert len(setting.engine.store) == 1
    asking.leave(setting, Visitor())
    asking.leave(setting, bob)
    assert len(setting.engine.store) == 0 and not setting.asked


def test_what_goes_wrong_is_said_and_later_questions_are_answered(setting, video, caplog):
    visitor, store = a_visitor(setting, video), setting.engine.store
    store.session = lambda *_: 1 / 0
    failed = ask(setting, visitor, "what?")
    assert failed.state == "failed" and "server's log" in failed.text
    assert "ZeroDivisionError" in caplog.text
    del store.session
    assert ask(setting, visitor, "what?").state == "done"


def test_a_film_that_was_deleted_is_named_without_its_folder(setting, video, tmp_path):
    path = Path(shutil.copy(video, tmp_path / "gone.mp4"))
    visitor = a_visitor(setting, path)
    path.unlink()
    failed = ask(setting, visitor, "what?")
    assert failed.state == "failed" and "gone.mp4" in failed.text
    assert str(tmp_path) not in failed.text


def test_too_many_questions_are_turned_away(setting, video):
    visitor, worker = a_visitor(setting, video), setting.engine.worker
    places = [worker.reserve(f"visitor {number}") for number in range(4)]
    assert ask(setting, visitor, "what?").text.startswith("Too many questions are waiting")
    worker.cancel(places[0])
    assert ask(setting, visitor, "what?").state == "done"


def test_a_film_opened_while_pictures_are_drawn_gets_none_of_the_answer(
    setting, video, monkeypatch
):
    visitor, other = a_visitor(setting, video), open_medium(video, setting.engine.longva)
    drawing, shown = threading.Event(), threading.Event()

    def draw(*_):
        drawing.set()
        assert shown.wait(60)
        return {1: "data:old"}

    async def open_another():
        assert await asyncio.to_thread(drawing.wait, 60)
        visitor.show(other)
        shown.set()

    async def both():
        everything = Watching(
            digests=(visitor.media[0].digest,), sampling=FrameSampling(num_frames=48)
        )
        asked = answered(setting, visitor, "what?", watching=everything, evidence=48)
        turn, _ = await asyncio.gather(asked, open_another())
        return turn

    monkeypatch.setattr(asking, "frame_pictures", draw)
    turn = asyncio.run(both())
    assert turn.state == "stopped" and visitor.media[0] is other
    assert (visitor.history, visitor.attention, visitor.pictures) == ([], [], {})


def test_a_visitor_who_stops_does_not_wait_for_the_model(setting, video):
    visitor, begun, held = a_visitor(setting, video), threading.Event(), threading.Event()
    language_model = setting.engine.longva.model.model.language_model
    hook = language_model.register_forward_pre_hook(lambda *_: (begun.set(), held.wait(60))[:0])

    async def stop():
        asked = asyncio.create_task(answered(setting, visitor, "what?"))
        assert await asyncio.to_thread(begun.wait, 60)
        visitor.stop()
        return await asked

    try:
        turn = asyncio.run(stop())
        assert not held.is_set() and (turn.state, turn.text) == ("stopped", "")
    finally:
        held.set()
        hook.remove()
    assert ask(setting, visitor, "what?").state == "done"
    assert len(visitor.history) == 2


# what is shown


def test_a_video_has_a_strip_of_pictures_over_its_whole_length(longva, video):
    medium = open_medium(video, longva)
    assert (medium.is_image, medium.frames, medium.suggested) == (False, 48, 6)
    frames = sorted(medium.pictures)
    assert (len(frames), frames[0], frames[-1]) == (STRIP_PICTURES, 0, 47)
    assert 'data-seconds="0.000"' in timeline(medium)
    assert "<video" in stage(medium)


def test_an_image_is_shown_in_the_parts_that_the_model_sees(longva, tmp_path):
    path = tmp_path / "a b'\"<i>.png"
    Image.new("RGB", (3 * 56, 2 * 56), "red").save(path)
    medium = open_medium(path, longva)
    assert (medium.is_image, medium.frames, medium.columns) == (True, 6, 3)
    assert timeline(medium).count("<li>") == 6
    assert "data-seconds" not in timeline(medium)
    assert "<i>" not in stage(medium)


def test_evidence_lights_up_and_stands_for_its_second(longva, video):
    medium = open_medium(video, longva)
    lit = [
        Evidence(frame=9, seconds=1.125, weight=0.4),
        Evidence(frame=47, seconds=5.875, weight=0.1),
    ]
    drawn = timeline(medium, lit, lit, {9: "data:nine"})
    assert drawn.count("lv-lit") == 2 and "data:nine" in drawn
    assert drawn.count("<span>0:01</span>") == 1  # the strip's own pictures of that second are gone
    assert "--weight: 1.0000" in drawn and "--weight: 0.2500" in drawn
    assert 'd="M0 36H187.5V0.0H979.2V27.0H1000V36Z"' in drawn


def test_words_are_never_markup():
    evil = "<img src=x onerror=alert(1)>"
    turns = [a_turn(question=evil, text=evil, state="done", answer=an_answer())]
    turns += [a_turn(question=evil, text=evil, state=state) for state in ("answering", "failed")]
    assert "<img" not in conversation(turns)


def test_a_turn_shows_how_far_it_is():
    assert "Waiting for the model" in conversation([a_turn()])
    watching = a_turn(state="watching", progress=("watch", 16, 48))
    assert "Watching: 16 of 48 frames" in conversation([watching])
    reading = a_turn(state="watching", progress=("prefill", 4096, 8000))
    assert "Reading the frames: 4,096 of 8,000 tokens" in conversation([reading])
    done = conversation([a_turn(state="done", text="a cat", answer=an_answer())])
    assert done.count("lv-chip") == 1  # the other frame got none of the attention
    answer = an_answer(notes=["only the first of its <3> pictures is read"])
    done = conversation([a_turn(state="done", text="a cat", answer=answer)])
    assert "only the first of its &lt;3&gt; pictures is read" in done
    done = conversation([a_turn(state="done", text="a cat", answer=an_answer())])
    assert "nothing watched again · 1,234 tokens · 0.3 s" in done
    assert 'data-seconds="1.000"' in done


def test_times_in_an_answer_jump_there(setting, video):
    def times(text, duration=3700.0):
        turn = a_turn(state="done", text=text, answer=an_answer(evidence=[]))
        drawn = draw("conversation", turns=[turn], durations=[duration])
        return re.findall(r'lv-time" data-seconds="([\d.]+)">([^<]+)<', drawn)

    assert times("at 1:01:05, 0:07 and after 12.5 seconds") == [
        ("3665", "1:01:05"),
        ("7", "0:07"),
        ("12.5", "12.5"),
    ]
    assert times("9:99:00 is none, nor 2:03:04 of a shorter film, nor 5 men", 60) == []
    assert times("0:07", None) == []
    drawn = draw(
        "conversation", turns=[a_turn(state="done", text="<b>0:07", answer=None)], durations=[60]
    )
    assert "&lt;b&gt;<button" in drawn


def test_the_estimate_says_whether_it_fits(longva):
    few, many = longva.plan(10), longva.plan(1_000_000)
    assert "fits; up to" in estimate(few, 0.1) and "under 1 s" in estimate(few, 0.1)
    assert f"at most {many.max_frames:,} frames do" in estimate(many, 150.0)
    assert "lv-too-much" in estimate(many, 1) and "lv-too-much" not in estimate(few, 1)


def test_seconds_are_those_of_the_nearest_watching(longva):
    speed, short, long = Speed(1.0), longva.plan(10), longva.plan(100)
    speed.learn(short, 2.0)
    assert speed.seconds(short) == pytest.approx(2)
    speed.learn(long, 5.0)
    speed.learn(short, 1.0)  # the latest counts
    assert speed.seconds(long) == pytest.approx(5) and speed.seconds(short) == pytest.approx(1)
    more = longva.plan(101)
    assert 5 < speed.seconds(more) < 5.2
    assert Speed.of(longva).flops_per_second > 0


def counted(setting, visitor, watching, question, remember=True) -> int:
    drawn = estimate_of(setting, visitor, watching, question, remember)
    return int(re.search(r"<b>([\d,]+)</b> tokens", drawn)[1].replace(",", ""))


def test_the_estimate_counts_what_will_be_asked(setting, video):
    visitor = a_visitor(setting, video)
    for how in ((6,), (20,), (6, 2.0), (6, None, "1", "0:04.5")):
        watching = watching_of(visitor.media, *how)
        for question in ("what is shown?", "and then, after that?"):  # the second one follows up
            want = counted(setting, visitor, watching, question)
            turn = ask(setting, visitor, question, watching=watching)
            assert turn.answer.prompt_tokens == want
        visitor.forget_conversation()
    drawn = estimate_of(setting, visitor, watching, "what?", True)
    assert "under 1 s" in drawn  # it has been watched


def test_the_controls_make_a_rule(setting, video):
    medium = a_visitor(setting, video).media
    assert watching_of(medium, 6).sampling == ONE_A_SECOND
    assert watching_of(medium, 7).sampling == FrameSampling(num_frames=7)
    assert watching_of(medium, 6, 2.5).sampling == FrameSampling(fps=2.5)
    part = watching_of(medium, 6, None, " 0:01 ", "3.5").sampling
    assert part == FrameSampling(fps=1.0, start=1.0, end=3.5)
    for wrong in (("x", ""), ("5", "2"), ("100", "")):
        with pytest.raises(LongVAError):
            watching_of(medium, 6, None, *wrong)
    asked = Question(text="What?")
    body = request_of("nano", medium, asked, watching_of(medium, 6, None, "1", "3.5"), 3)
    assert body["longva"] == {"evidence": 3, "fps": 1.0, "start": 1.0, "end": 3.5}


# examples


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return make_examples(tmp_path_factory.mktemp("examples"), grid_size=56)


def test_examples_show_what_they_ask_about(examples):
    assert [example.path.suffix for example in examples] == [".mp4", ".mp4", ".png"]
    for example in examples:
        asked_object = example.answer.split()[0]
        assert asked_object in OBJECTS and asked_object in example.question
    film = open_media(examples[1].path)
    assert film.duration == FILM_SECONDS
    seconds = open_media(examples[1].path).frames_at(FrameSampling(fps=1), size=56).pixels.float()
    color = examples[1].answer.split()[-1]
    corner = seconds[:, :, 0, 0]  # the background, second by second
    shown = corner[NEEDLE_SECOND]
    assert np.abs(shown.numpy() - np.array(COLOURS[color])).max() < 40
    assert float((seconds[NEEDLE_SECOND] - seconds[NEEDLE_SECOND - 1]).abs().mean()) > 5
    assert float((seconds[NEEDLE_SECOND] - seconds[NEEDLE_SECOND + 1]).abs().mean()) > 5


def test_examples_are_the_same_each_time(examples, tmp_path):
    again = make_examples(tmp_path, grid_size=56)
    assert [(e.question, e.answer) for e in again] == [(e.question, e.answer) for e in examples]


# request and log


def request(watching=Watching(sampling=ONE_A_SECOND), **fields) -> dict:  # noqa: B008
    medium = SimpleNamespace(is_image=False, path=Path("film.mp4"))
    history = [{"role": "user", "content": "First?"}, {"role": "assistant", "content": "Yes."}]
    question = Question(text="Second?", history=history, max_new_tokens=4, **fields)
    return request_of("nano", [medium], question, watching, evidence=3)


def test_the_request_is_one_that_the_server_takes():
    schema = pytest.importorskip("longva.serve.schema")
    body = request()
    taken = schema.ChatRequest.model_validate(body)
    assert [message.role for message in taken.messages] == ["user", "assistant", "user"]
    assert taken.messages[0].media() == ("file:///path/to/film.mp4",)
    assert [message.text() for message in taken.messages] == ["First?", "Yes.", "Second?"]
    assert (taken.longva.fps, taken.longva.frames, taken.longva.evidence) == (1.0, None, 3)
    assert set(body) <= set(schema.ChatRequest.model_fields)


def test_the_request_says_how_tokens_are_chosen_only_where_it_matters():
    assert not {"top_p", "seed"} & set(request())
    warm = request(sampling=Sampling(temperature=0.5, top_p=0.9, seed=3))
    assert (warm["temperature"], warm["top_p"], warm["seed"]) == (0.5, 0.9, 3)
    assert request(watching=Watching(sampling=FrameSampling(num_frames=20)))["longva"] == {
        "evidence": 3,
        "frames": 20,
    }


def test_the_code_for_the_client_makes_the_same_request(monkeypatch):
    made = []
    create = lambda **body: made.append(body) or []  # noqa: E731
    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    fake = SimpleNamespace(OpenAI=lambda **_: client)
    monkeypatch.setitem(sys.modules, "openai", fake)
    body = request()
    exec(client_code(body), {})
    assert made[0].pop("extra_body") == {"longva": body["longva"]}
    assert made[0] == {name: value for name, value in body.items() if name != "longva"}


def test_votes_are_lines_of_json(tmp_path):
    file = tmp_path / "new folder" / "votes.jsonl"
    turn = a_turn(answer=an_answer(), liked=False)
    record_vote(file, turn, request())
    turn.liked = True
    record_vote(file, turn, request())
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["liked"], second["liked"]) == (False, True)
    assert first["answer"] == "a cat" and first["media"] == "film.mp4"
    assert first["request"]["longva"]["evidence"] == 3
    assert file.stat().st_mode & 0o777 == 0o600


# the needle map


@pytest.fixture
def engine():
    """A small model with room for one in its queue."""
    longva = LongVA(*random_longva(), name="nano")
    engine = Engine(longva, max_bytes=2**30, max_waiting=1, max_waiting_per_client=1)
    engine.worker.start()
    yield engine
    engine.worker.stop()


SMALL = even_grid(longest=8, steps=2)


def measure(measured, after_each=lambda: None):
    async def read():
        async for _ in measured.updates():
            after_each()

    asyncio.run(read())


@pytest.mark.parametrize("name", ["nano", "another"])
def test_a_map_fills_in_square_by_square(engine, tmp_path, name):
    engine.longva.name = name
    measured = NeedleMap(engine, SMALL, 2, tmp_path)
    assert draw_map(measured).count("lv-unknown") == 4
    measure(measured)
    assert draw_map(measured).count("lv-unknown") == 0
    assert "of 8 (95 %:" in draw_map(measured)
    trials = [hit for hits in measured.squares().values() for hit in hits]
    assert sum(trials) / 8 == pytest.approx(measured.summary["mean"])
    assert not (tmp_path / "run" / "features").exists()


def test_a_stopped_map_keeps_what_is_known(engine, tmp_path, monkeypatch):
    measured, stopped = NeedleMap(engine, SMALL, 2, tmp_path), threading.Event()
    tell = NeedleMap._progress

    def tell_and_wait(self, stage, done, total):
        tell(self, stage, done, total)
        assert stopped.wait(60)
        tell(self, stage, done, total)  # ends the measurement

    def stop():
        if measured.done:
            measured.stop()
            stopped.set()

    monkeypatch.setattr(NeedleMap, "_progress", tell_and_wait)
    measure(measured, stop)
    engine.worker.stop()
    assert "Stopped: 1 of 8 answers" in draw_map(measured)
    assert draw_map(measured).count("lv-unknown") == 3


def test_a_map_that_was_stopped_before_it_began_measures_nothing(engine, tmp_path):
    measured = NeedleMap(engine, SMALL, 2, tmp_path)
    measured.stop()
    measure(measured)
    assert list(tmp_path.iterdir()) == [] and "Stopped: 0 of 8" in draw_map(measured)


def test_a_map_takes_a_place_in_the_queue_as_a_question_does(engine, tmp_path):
    engine.worker.reserve("somebody")
    measured = NeedleMap(engine, SMALL, 2, tmp_path)
    measure(measured)
    assert "Too many questions are waiting. Try again later: 0 of 8" in draw_map(measured)


def test_a_map_lets_questions_between_its_steps(engine, tmp_path, monkeypatch):
    order, tell = [], NeedleMap._progress

    def ask(self, stage, done, total):
        tell(self, stage, done, total)
        order.append(done)
        if done == 1:
            place = engine.worker.reserve("somebody")
            engine.worker.submit(place, lambda _: order.append("asked"), is_short=lambda: True)

    monkeypatch.setattr(NeedleMap, "_progress", ask)
    measured = NeedleMap(engine, SMALL, 2, tmp_path)
    measure(measured)
    assert order.index("asked") < order.index(8) and measured.summary
