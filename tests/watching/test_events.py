"""Tasks in the model's thread and those who read their events in an event loop."""

import asyncio
import threading

import pytest

from longva.errors import VideoError
from longva.watching import events as events_module
from longva.watching.events import EventStream, Failed, Finished, Progress, Stopped, Text
from longva.watching.worker import ModelWorker, QueueFullError, TaskCancelledError


@pytest.fixture
def worker():
    worker = ModelWorker(max_waiting=2, max_waiting_per_client=2)
    worker.start()
    yield worker
    worker.stop()


def batches_of(worker, work, *, after_each=lambda stream: None) -> list[list]:
    """Have `work(stream)` done; return the batches that were read."""

    async def read():
        stream, batches = EventStream(worker, "ann"), []
        stream.submit(lambda: work(stream))
        async for batch in stream.batches(pause=0):
            batches.append(batch)
            after_each(stream)
        return batches

    return asyncio.run(read())


class PanicException(BaseException):
    """As a library's Rust raises it."""


def test_a_panic_is_told_and_the_next_task_is_done(worker):
    def work(stream):
        raise PanicException("not a char boundary")

    ((failed,),) = batches_of(worker, work)
    assert str(failed.error) == "a library failed: not a char boundary"
    assert batches_of(worker, lambda stream: "done") == [[Finished("done")]]


def test_events_come_in_order_and_the_result_last(worker):
    def work(stream):
        for number in range(3):
            stream.tell(Text(str(number)))
        return "done"

    (*told, last) = [event for batch in batches_of(worker, work) for event in batch]
    assert told == [Text("0"), Text("1"), Text("2")] and last == Finished("done")


def test_what_was_told_since_the_last_batch_comes_together(worker):
    async def read():
        stream, told = EventStream(worker, "ann"), threading.Event()

        def work():
            for number in range(3):
                stream.tell(Progress("watch", number, 3))
            told.set()

        stream.submit(work)
        await asyncio.to_thread(told.wait, 60)
        return await anext(stream.batches(pause=0))

    assert asyncio.run(read())[:3] == [Progress("watch", number, 3) for number in range(3)]


def test_an_error_of_the_task_is_its_last_event(worker):
    error = VideoError("broken")

    def work(stream):
        stream.tell(Text("so far"))
        raise error

    (*_, last) = [event for batch in batches_of(worker, work) for event in batch]
    assert last == Failed(error)


def test_who_closes_does_not_wait_and_the_task_ends_when_it_tells_something(worker):
    free, ended = threading.Event(), threading.Event()

    def work(stream):
        stream.tell(Text("begun"))
        assert free.wait(60)
        try:
            stream.tell(Text("too late"))
        except TaskCancelledError:
            ended.set()
            raise

    batches = batches_of(worker, work, after_each=EventStream.close)
    assert batches == [[Text("begun")], [Stopped()]] and not ended.is_set()
    free.set()
    assert ended.wait(60)


def test_what_was_not_read_before_closing_is_never_told(worker):
    async def read():
        stream, told = EventStream(worker, "ann"), threading.Event()

        def work():
            stream.tell(Text("unread"))
            told.set()

        stream.submit(work)
        await asyncio.to_thread(told.wait, 60)
        stream.close()
        stream.emit(Text("late"))  # from a thread that does not know yet
        return [batch async for batch in stream.batches(pause=0)]

    assert asyncio.run(read()) == [[Stopped()]]


def test_a_task_that_was_closed_before_it_began_is_not_done(worker):
    done = []

    async def read():
        stream = EventStream(worker, "ann")
        stream.close()
        stream.submit(lambda: done.append(1))
        return [batch async for batch in stream.batches(pause=0)]

    assert asyncio.run(read()) == [[Stopped()]]
    worker.stop()
    assert done == []


def test_a_reader_who_leaves_gives_the_task_up_and_frees_its_place(worker):
    async def read():
        streams = [EventStream(worker, "ann") for _ in range(2)]
        with pytest.raises(QueueFullError):
            EventStream(worker, "bob")
        for stream in streams:
            stream.emit(Text("hello"))
            batches = stream.batches(pause=0)
            assert await anext(batches) == [Text("hello")]
            await batches.aclose()

    asyncio.run(read())
    assert worker.waiting == 0


def test_a_silent_task_yields_empty_batches_so_that_a_reader_can_leave(worker, monkeypatch):
    monkeypatch.setattr(events_module, "SILENT_SECONDS", 0.01)
    free = threading.Event()
    batches = batches_of(worker, lambda _: free.wait(60), after_each=lambda _: free.set())
    assert batches[0] == [] and batches[-1] == [Finished(True)]


def test_a_task_whose_loop_is_gone_is_given_up(worker):
    asked, gone, ended = threading.Event(), threading.Event(), threading.Event()

    async def leave():
        stream = EventStream(worker, "ann")

        def work():
            asked.set()
            assert gone.wait(60)
            try:
                stream.tell(Text("to nobody"))
                stream.tell(Text("to nobody"))
            except TaskCancelledError:
                ended.set()
                raise

        stream.submit(work)
        await asyncio.to_thread(asked.wait, 60)

    asyncio.run(leave())
    gone.set()
    assert ended.wait(60)
