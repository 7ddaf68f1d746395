"""The parts of the demo, without a browser."""

import json
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from longva.assistant import LongVA
from longva.demo import asking, needle_map
from longva.demo.api_call import client_code, request_of
from longva.demo.conversation import conversation
from longva.demo.estimate import Speed, estimate
from longva.demo.examples import FILM_SECONDS, NEEDLE_SECOND, make_examples
from longva.demo.feedback import append, record
from longva.demo.jobs import Job, Stopped
from longva.demo.medium import STRIP_PICTURES, open_medium, stage
from longva.demo.needle_map import MapSettings, draw_map
from longva.demo.shared_model import Sampling, SharedModel
from longva.demo.timeline import timeline
from longva.demo.visitor import Options, Turn, Visitor
from longva.errors import ContextLengthError, VideoError
from longva.frame_sampling import FrameSampling
from longva.model.random_model import random_longva
from longva.nano.world import COLOURS, OBJECTS
from longva.session import Answer, Evidence
from longva.session import Sampling as TokenSampling
from longva.video import open_media, read_frames

OPTIONS = Options(watching=Sampling(fps=1.0), tokens=TokenSampling(), max_new_tokens=4)


def a_turn(**fields) -> Turn:
    return Turn(**{"question": "what?", "options": OPTIONS} | fields)


def an_answer(**fields) -> Answer:
    evidence = [Evidence(frame=8, seconds=1.0, weight=0.5), Evidence(frame=40, seconds=5, weight=0)]
    values = {
        "question": "what?",
        "text": "a cat",
        "evidence": evidence,
        "model": "nano",
        "media": ["/somewhere/private/film.mp4"],
        "frames": 6,
        "prompt_tokens": 1234,
        "answer_tokens": 2,
        "finish_reason": "stop",
        "timings": {"answer": 0.26},
    }
    return Answer(**values | fields)


# jobs


def test_a_job_shows_its_steps_and_its_end():
    seen = []

    def work(job):
        for step in range(3):
            seen.append(step)
            job.step()

    shown = [len(seen) for _ in Job(work).updates()]
    assert seen == [0, 1, 2] and shown[-1] == 3


def test_a_stopped_job_ends_at_its_next_step():
    asked, ended, steps_after = threading.Event(), threading.Event(), []

    def work(job):
        try:
            while True:
                if asked.is_set():
                    steps_after.append(1)
                job.step()
        finally:
            ended.set()

    job = Job(work)
    for _ in job.updates():
        job.stop()
        asked.set()
    assert ended.wait(60) and len(steps_after) <= 1


def test_who_stops_a_job_does_not_wait_for_its_step():
    begun, go = threading.Event(), threading.Event()

    def work(job):
        begun.set()
        go.wait(60)

    job = Job(work)
    threading.Thread(target=lambda: begun.wait(60) and job.stop()).start()
    assert list(job.updates())[-1:] == [None]  # it woke up, and ended
    assert begun.is_set() and not go.is_set()
    go.set()


def test_a_job_that_was_stopped_before_it_began_does_nothing():
    begun = []
    job = Job(begun.append)
    job.stop()
    assert list(job.updates()) == [None] and begun == []


def test_leaving_a_job_stops_it():
    ended = threading.Event()

    def work(job):
        try:
            while True:
                job.step()
        finally:
            ended.set()

    updates = Job(work).updates()
    next(updates)
    updates.close()
    assert ended.wait(timeout=60)


def test_a_job_is_stopped_before_or_after_its_last_step():
    inside, go, seen = threading.Event(), threading.Event(), []

    def work(job):
        with job.last_step():
            inside.set()
            assert go.wait(60)
            seen.append("done")

    def stop():
        job.stop()
        seen.append("stopped")

    job = Job(work)
    updates = job.updates()
    next(updates)
    assert inside.wait(60)
    stopping = threading.Thread(target=stop)
    stopping.start()
    stopping.join(0.1)
    go.set()
    stopping.join()
    list(updates)
    assert seen == ["done", "stopped"]
    with pytest.raises(Stopped), job.last_step():
        seen.append("too late")
    assert seen == ["done", "stopped"]


def test_an_error_of_the_work_reaches_the_reader():
    def work(job):
        job.step()
        raise VideoError("broken")

    with pytest.raises(VideoError, match="broken"):
        list(Job(work).updates())


# shared model


def watch(shared, visitor, path, **sampling):
    return shared.session(visitor, path, Sampling(**sampling or {"frames": 4}), lambda *_: None)


def test_a_visitor_finds_what_was_watched_again(longva, video):
    shared = SharedModel(longva)
    session, fresh = watch(shared, "ann", video)
    assert fresh and watch(shared, "ann", video) == (session, False)
    assert watch(shared, "bob", video)[0] is not session
    other, fresh = watch(shared, "ann", video, frames=5)
    assert fresh and other.frames == 5 and len(shared) == 2


def test_the_session_used_longest_ago_goes_first(longva, video):
    shared = SharedModel(longva, max_sessions=2)
    for visitor in ("ann", "bob", "ann", "cem"):
        watch(shared, visitor, video)
    assert len(shared) == 2
    assert not watch(shared, "ann", video)[1]
    assert watch(shared, "bob", video)[1]


def test_what_does_not_fit_beside_others_is_watched_alone(longva, video):
    class Tight(LongVA):
        """Has room for one session."""

        def watch(self, *args, **kwargs):
            if len(shared):
                raise asking_too_much
            return super().watch(*args, **kwargs)

    asking_too_much = ContextLengthError("no room")
    shared = SharedModel(Tight(longva.model, longva.processor, name="tight"))
    watch(shared, "ann", video)
    assert watch(shared, "bob", video)[1] and len(shared) == 1


def test_a_visitor_who_left_holds_nothing(longva, video):
    shared = SharedModel(longva)
    watch(shared, "ann", video)
    shared.forget("ann")
    shared.forget("nobody")
    assert len(shared) == 0


# asking


def test_follow_ups_are_remembered_and_a_dropped_session_gets_its_history_back(longva, video):
    shared, visitor = SharedModel(longva), Visitor()
    visitor.show(open_medium(video, longva))

    def ask(question, **options):
        visitor.turns.append(Turn(question=question, options=replace(OPTIONS, **options)))
        list(asking.start(shared, Speed(1e9), visitor).updates())
        return visitor.turns[-1]

    first, second = ask("First?"), ask("Second?")
    assert first.watched.startswith("Watched 6 frames") and not second.watched
    assert [turn["role"] for turn in visitor.history] == ["user", "assistant"] * 2
    assert second.answer.prompt_tokens > first.answer.prompt_tokens
    alone = ask("Second?", remember=False)
    assert alone.answer.prompt_tokens == first.answer.prompt_tokens + 1  # "Second" and "First"
    assert len(visitor.history) == 4

    kept = ask("Third?")
    shared.forget_all()
    visitor.history = visitor.history[:4]
    again = ask("Third?")
    assert again.watched and again.text == kept.text
    assert len(again.answer.evidence) == 3 and len(visitor.attention) == 6


def test_what_goes_wrong_is_said_and_later_questions_are_answered(longva, video, caplog):
    shared, visitor = SharedModel(longva), Visitor()
    visitor.show(open_medium(video, longva))
    shared.session = lambda *_: 1 / 0
    visitor.turns.append(a_turn())
    list(asking.start(shared, Speed(1e9), visitor).updates())
    assert visitor.turns[-1].state == "failed" and "server's log" in visitor.turns[-1].text
    assert "ZeroDivisionError" in caplog.text
    del shared.session
    visitor.turns.append(a_turn())
    list(asking.start(shared, Speed(1e9), visitor).updates())
    assert visitor.turns[-1].state == "done"


def test_a_film_opened_while_pictures_are_drawn_gets_none_of_the_answer(longva, video, monkeypatch):
    visitor, other = Visitor(), open_medium(video, longva)
    visitor.show(open_medium(video, longva))

    def draw(*_):
        visitor.show(other)
        return {1: "data:old"}

    monkeypatch.setattr(asking, "frame_pictures", draw)
    everything = replace(OPTIONS, watching=Sampling(frames=48), evidence=48)
    turn = a_turn(options=everything)
    visitor.turns.append(turn)
    job = asking.start(SharedModel(longva), Speed(1e9), visitor)
    list(job.updates())
    assert job._ended.wait(60)
    assert turn.state == "stopped" and visitor.medium is other
    assert (visitor.history, visitor.attention, visitor.pictures) == ([], [], {})


# what is shown


def test_a_video_has_a_strip_of_pictures_over_its_whole_length(longva, video):
    medium = open_medium(video, longva)
    assert (medium.kind, medium.frames, medium.suggested) == ("video", 48, 6)
    frames = sorted(medium.pictures)
    assert (len(frames), frames[0], frames[-1]) == (STRIP_PICTURES, 0, 47)
    assert 'data-seconds="0.000"' in timeline(medium)
    assert "<video" in stage(medium)


def test_an_image_is_shown_in_the_parts_that_the_model_sees(longva, tmp_path):
    path = tmp_path / "a b'\"<i>.png"
    Image.new("RGB", (3 * 56, 2 * 56), "red").save(path)
    medium = open_medium(path, longva)
    assert (medium.kind, medium.frames, medium.columns) == ("image", 6, 3)
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


def test_the_estimate_says_whether_it_fits(longva):
    few, many = longva.plan(10), longva.plan(1_000_000)
    assert "fits; up to" in estimate(few, 0.1) and "under 1 s" in estimate(few, 0.1)
    assert f"at most {many.max_frames:,} frames do" in estimate(many, 150.0)
    assert "lv-too-much" in estimate(many, 1) and "lv-too-much" not in estimate(few, 1)


def test_seconds_come_from_the_longest_watching(longva):
    speed, short, long = Speed(1.0), longva.plan(10), longva.plan(100)
    speed.learn(short, 2.0)
    assert speed.seconds(short) == pytest.approx(2)
    speed.learn(long, 5.0)
    speed.learn(short, 100.0)
    assert speed.seconds(long) == pytest.approx(5)
    assert Speed.of(longva).flops_per_second > 0


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
    seconds = read_frames(examples[1].path, FrameSampling(fps=1), size=56).pixels.float()
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


def request(**fields) -> dict:
    medium = SimpleNamespace(kind="video", name="film.mp4")
    first = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "First?"}]}
    history = [first, {"role": "assistant", "content": "Yes."}]
    return request_of("nano", medium, history, "Second?", replace(OPTIONS, **fields))


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
    warm = request(tokens=TokenSampling(temperature=0.5, top_p=0.9, seed=3))
    assert (warm["temperature"], warm["top_p"], warm["seed"]) == (0.5, 0.9, 3)
    assert request(watching=Sampling(frames=20))["longva"] == {"evidence": 3, "frames": 20}


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
    append(file, record(turn, request()))
    turn.liked = True
    append(file, record(turn, request()))
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["liked"], second["liked"]) == (False, True)
    assert first["answer"] == "a cat" and first["media"] == "film.mp4"
    assert first["request"]["longva"]["evidence"] == 3
    assert "private" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


# the needle map


@pytest.mark.parametrize("name", ["nano", "another"])
def test_a_map_fills_in_square_by_square(tmp_path, name):
    shared = SharedModel(LongVA(*random_longva(), name=name))
    settings = MapSettings(longest=8, steps=2, needles=2)
    measured = needle_map.start(shared, settings, tmp_path)
    assert draw_map(measured).count("lv-unknown") == 4
    for _ in measured.job.updates():
        pass
    assert draw_map(measured).count("lv-unknown") == 0
    assert "of 8 (95 %:" in draw_map(measured)
    trials = [hit for hits in measured.squares().values() for hit in hits]
    assert sum(trials) / 8 == pytest.approx(measured.summary["mean"])
    assert not (tmp_path / "run" / "features").exists()


def test_a_stopped_map_keeps_what_is_known(tmp_path):
    shared = SharedModel(LongVA(*random_longva(), name="nano"))
    measured = needle_map.start(shared, MapSettings(longest=8, steps=2, needles=2), tmp_path)
    progress = measured.job.step
    measured.job.step = lambda: (measured.stop(), progress())
    for _ in measured.job.updates():
        pass
    assert "Stopped: 1 of 8 answers" in draw_map(measured)
    assert draw_map(measured).count("lv-unknown") == 3
