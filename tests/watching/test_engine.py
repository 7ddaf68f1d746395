"""Questions to one engine."""

import asyncio
import threading

import pytest
import torch
from PIL import Image

from longva.errors import DeviceMemoryError, VideoError
from longva.media.medium import Media, open_media
from longva.media.sampling import FrameSampling
from longva.prompts.decoding import Sampling
from longva.watching.engine import Engine, Question
from longva.watching.events import EventStream, Failed, Finished, Progress, Text, Watched
from longva.watching.store import SessionStore, Watching, _kv_bytes

QUESTION = Question(text="What?", max_new_tokens=4, evidence=None)


@pytest.fixture
def engine(longva):
    engine = Engine(longva, max_bytes=2**30, max_waiting=4, max_waiting_per_client=4)
    engine.worker.start()
    yield engine
    engine.worker.stop()


def four_frames(path) -> Watching:
    return Watching(digests=(open_media(path).fingerprint(),), sampling=FrameSampling(num_frames=4))


def ask(engine, path, *, opened=None, then=lambda: None) -> list:
    """Ask, call `then` once the question is in the queue, and return the events."""

    def opening():
        if opened is not None:
            opened.append(path)
        return [open_media(path)]

    async def read():
        stream = EventStream(engine.worker, "ann")
        await engine.answer(QUESTION, four_frames(path), opening, stream)
        then()
        return [event async for batch in stream.batches(pause=0) for event in batch]

    return asyncio.run(read())


def test_the_events_of_a_question_tell_its_whole_way(engine, longva, video):
    events = ask(engine, video)
    want = longva.watch(video, frames=4).ask("What?", max_new_tokens=4, evidence=4)
    assert events[0] == Progress("queue", 0, 1)
    assert Progress("watch", 4, 4) in events
    (watched,) = [event for event in events if isinstance(event, Watched)]
    assert (watched.frames, watched.reused) == (4, False) and watched.seconds > 0
    after = events[events.index(watched) + 1 :]
    assert "".join(event.text for event in after if isinstance(event, Text)).strip() == want.text
    assert isinstance(events[-1], Finished)
    assert events[-1].result.prompt_tokens == want.prompt_tokens
    assert len(events[-1].result.evidence) == 4


def test_media_that_were_watched_are_not_opened_again(engine, video):
    opened: list = []
    ask(engine, video, opened=opened)
    events = ask(engine, video, opened=opened)
    assert len(opened) == 1
    assert [event.reused for event in events if isinstance(event, Watched)] == [True]


def test_media_whose_session_is_dropped_while_a_question_waits_are_watched_again(engine, video):
    ask(engine, video)
    waits, opened = threading.Event(), []

    def drop(_):
        assert waits.wait(60)
        engine.store.clear()

    engine.worker.submit(engine.worker.reserve("bob"), drop)
    events = ask(engine, video, opened=opened, then=waits.set)
    assert len(opened) == 1 and isinstance(events[-1], Finished)
    assert [event.reused for event in events if isinstance(event, Watched)] == [False]


def test_a_medium_that_cannot_be_opened_is_told_before_the_queue(engine, tmp_path, video):
    path = tmp_path / "film.mp4"
    path.write_bytes(video.read_bytes())
    how = four_frames(path)
    path.write_bytes(b"no film")

    async def read():
        stream = EventStream(engine.worker, "ann")
        await engine.answer(QUESTION, how, lambda: [open_media(path)], stream)
        return [event async for batch in stream.batches(pause=0) for event in batch]

    (failed,) = asyncio.run(read())
    assert isinstance(failed, Failed) and isinstance(failed.error, VideoError)
    assert engine.worker.waiting == 0


def no_gpu_memory():
    raise torch.OutOfMemoryError("none left")


def no_host_memory():
    raise MemoryError


@pytest.mark.parametrize("fill", [no_gpu_memory, no_host_memory, lambda: torch.empty(10**15)])
def test_sessions_make_room_when_memory_runs_out(engine, video, monkeypatch, fill):
    ask(engine, video)

    def no_memory(*args, **kwargs):
        fill()

    monkeypatch.setattr(type(engine.longva.model), "get_output_embeddings", no_memory)
    assert isinstance(ask(engine, video)[-1].error, DeviceMemoryError)
    assert len(engine.store) == 0
    monkeypatch.undo()
    assert isinstance(ask(engine, video)[-1], Finished)


def test_a_plan_counts_what_sessions_would_give_back(engine, video, monkeypatch):
    monkeypatch.setattr("longva.watching.watcher.usable_memory", lambda _: 0)
    before = engine.plan(4).device_memory
    monkeypatch.undo()
    ask(engine, video)
    monkeypatch.setattr("longva.watching.watcher.usable_memory", lambda _: 0)
    assert engine.plan(4).device_memory == before + engine.store.used_bytes > before


def test_a_question_about_a_watched_film_goes_between_the_steps_of_watching_another(
    engine, longva, video, tmp_path
):
    image = tmp_path / "noise.png"
    Image.effect_noise((120, 60), 60).convert("RGB").save(image)
    other = Watching(digests=(open_media(image).fingerprint(),))
    want = [ask(engine, video)[-1].result.text, longva.watch(image).ask("What?", max_new_tokens=4)]
    begun, asked, order = threading.Event(), threading.Event(), []

    def hold(*_):
        begun.set()
        assert asked.wait(60)

    async def finish(name, watching, path):
        stream = EventStream(engine.worker, name)
        await engine.answer(QUESTION, watching, lambda: [open_media(path)], stream)
        if name == "quick":
            asked.set()
        events = [event async for batch in stream.batches(pause=0) for event in batch]
        assert isinstance(events[-1], Finished)
        order.append((name, events[-1].result.text))

    async def both():
        slow = asyncio.create_task(finish("slow", other, image))
        assert await asyncio.to_thread(begun.wait, 60)
        await asyncio.gather(slow, finish("quick", four_frames(video), video))

    hook = longva.model.model.vision_tower.embeddings.register_forward_pre_hook(hold)
    try:
        asyncio.run(both())
    finally:
        hook.remove()
    assert order == [("quick", want[0]), ("slow", want[1].text)]


class SlowFilm:
    """A film whose frames are decoded when it is let go."""

    def __init__(self, path, monkeypatch):
        self.begun, self.free = threading.Event(), threading.Event()
        self.digest = open_media(path).fingerprint()
        plain = Media.stream

        def stream(media, *args, **options):
            if media.fingerprint() == self.digest:
                self.begun.set()
                assert self.free.wait(60)
            yield from plain(media, *args, **options)

        monkeypatch.setattr(Media, "stream", stream)


@pytest.fixture
def films(tmp_path):
    """Three films of the same length."""
    paths = []
    for level in (0, 100, 200):
        pictures = [Image.new("RGB", (64, 48), (level, 10 * n, 0)) for n in range(6)]
        paths.append(tmp_path / f"{level}.gif")
        pictures[0].save(paths[-1], save_all=True, append_images=pictures[1:], duration=500)
    return paths


def test_while_one_film_is_decoded_others_are_watched_and_asked_about(engine, films, monkeypatch):
    slow_film, *others = films
    alone = Engine(engine.longva, max_bytes=2**30, max_waiting=4, max_waiting_per_client=4)
    alone.worker.start()
    want = {path: ask(alone, path)[-1].result.text for path in films}
    alone.worker.stop()
    slow, order = SlowFilm(slow_film, monkeypatch), []

    async def finish(path):
        stream = EventStream(engine.worker, path.name)
        await engine.answer(QUESTION, four_frames(path), lambda: [open_media(path)], stream)
        events = [event async for batch in stream.batches(pause=0) for event in batch]
        assert events[-1].result.text == want[path]
        order.append(path)

    async def all_of_them():
        first = asyncio.create_task(finish(slow_film))
        assert await asyncio.to_thread(slow.begun.wait, 60)
        for path in (*others, others[0]):  # two are watched, one is asked about again
            await finish(path)
        slow.free.set()
        await first

    asyncio.run(all_of_them())
    assert order == [*others, others[0], slow_film]


def test_two_questions_about_a_film_that_is_being_watched_watch_it_once(engine, films, monkeypatch):
    slow, reused = SlowFilm(films[0], monkeypatch), []

    async def finish():
        stream = EventStream(engine.worker, "ann")
        how = four_frames(films[0])
        await engine.answer(QUESTION, how, lambda: [open_media(films[0])], stream)
        events = [event async for batch in stream.batches(pause=0) for event in batch]
        reused.extend(event.reused for event in events if isinstance(event, Watched))

    async def both():
        first = asyncio.create_task(finish())
        assert await asyncio.to_thread(slow.begun.wait, 60)
        second = asyncio.create_task(finish())
        while not engine.worker.waiting:
            await asyncio.sleep(0)
        slow.free.set()
        await asyncio.gather(first, second)

    asyncio.run(both())
    assert sorted(reused) == [False, True]


def test_a_film_waits_until_its_cache_fits_beside_those_that_are_being_watched(longva, films):
    one = longva.plan(4)
    store = SessionStore(longva, max_bytes=int(1.5 * _kv_bytes(one)))
    media = [[open_media(path)] for path in films]
    assert store.may_begin(four_frames(films[0]), media[0])
    seen = []

    def look(*_):
        seen.append(store.may_begin(four_frames(films[1]), media[1]))
        seen.append(store.may_begin(four_frames(films[0]), media[0]))

    store.session(four_frames(films[0]), media[0], look)
    assert set(seen) == {False}
    assert store.may_begin(four_frames(films[1]), media[1])


def test_decoding_has_a_bound(longva, films, monkeypatch):
    slow = SlowFilm(films[0], monkeypatch)
    options = {"max_bytes": 2**30, "max_waiting": 4, "max_waiting_per_client": 4}
    engine = Engine(longva, **options, decode_seconds=0.05)
    engine.worker.start()
    failed = ask(engine, films[0])[-1]
    slow.free.set()
    assert isinstance(failed, Failed) and isinstance(failed.error, VideoError)
    assert "more than 0.05 seconds to decode. Take fewer frames" in str(failed.error)
    monkeypatch.undo()
    engine.decode_seconds = None
    assert isinstance(ask(engine, films[0])[-1], Finished)
    engine.worker.stop()


def test_others_are_answered_between_the_tokens_of_a_long_answer_but_not_about_its_film(
    engine, longva, films
):
    for path in films[:2]:
        ask(engine, path)
    begun, asked, order = threading.Event(), threading.Event(), []
    endless = Question(text="What?", max_new_tokens=30, sampling=Sampling(ignore_eos=True))

    async def finish(name, question, path):
        stream = EventStream(engine.worker, name)
        await engine.answer(question, four_frames(path), lambda: [open_media(path)], stream)
        events = [event async for batch in stream.batches(pause=0) for event in batch]
        order.append((name, events[-1].result.text))

    def hold(*_):
        begun.set()
        assert asked.wait(60)

    async def all_of_them():
        slow = asyncio.create_task(finish("slow", endless, films[0]))
        assert await asyncio.to_thread(begun.wait, 60)
        others = [
            asyncio.create_task(finish("same", QUESTION, films[0])),
            asyncio.create_task(finish("other", QUESTION, films[1])),
        ]
        while engine.worker.waiting < 2:
            await asyncio.sleep(0)
        asked.set()
        await asyncio.gather(slow, *others)

    hook = longva.model.model.language_model.register_forward_pre_hook(hold)
    try:
        asyncio.run(all_of_them())
    finally:
        hook.remove()
    assert [name for name, _ in order] == ["other", "slow", "same"]
    want = [(films[1], QUESTION), (films[0], endless), (films[0], QUESTION)]
    for (_, text), (path, question) in zip(order, want, strict=True):
        options = {"max_new_tokens": question.max_new_tokens, "sampling": question.sampling}
        assert text == longva.watch(path, frames=4).ask(question.text, **options).text
