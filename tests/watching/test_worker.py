"""The queue before the model: fair, bounded, and rid of what nobody waits for."""

import threading
from concurrent.futures import Future

import pytest

from longva.watching.worker import ModelWorker, QueueFullError, TaskCancelledError


class Held:
    """Work that starts, says so, and waits to be let go."""

    def __init__(self):
        self.begun, self.release, self.ended_by = threading.Event(), threading.Event(), None

    def __call__(self, task):
        self.begun.set()
        assert self.release.wait(30)
        try:
            task.check()
        except Exception as error:
            self.ended_by = type(error).__name__
            raise


@pytest.fixture
def worker():
    worker = ModelWorker(max_waiting=6, max_waiting_per_client=4)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def held(worker):
    """The task that the worker is busy with."""
    work = Held()
    work.task = submit(worker, "first", work)
    assert work.begun.wait(30)
    yield work
    work.release.set()


def submit(worker, client, work):
    task = worker.reserve(client)
    worker.submit(task, work)
    return task


def names(worker, *clients):
    """Submit a task for each client, in order; return the order in which they are done."""
    done: list[str] = []
    last = threading.Event()

    def work(name):
        def append(task):
            done.append(name)
            if len(done) == len(clients):
                last.set()

        return append

    tasks = [submit(worker, name[0], work(name)) for name in clients]
    return done, last, tasks


def test_clients_take_turns_and_each_keeps_its_order(worker, held):
    done, last, _ = names(worker, "a1", "a2", "a3", "b1", "c1", "c2")
    held.release.set()
    assert last.wait(30)
    assert done == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_full_queue_says_when_to_come_back(worker, held):
    for _ in range(4):
        submit(worker, "greedy", lambda task: None)
    with pytest.raises(QueueFullError) as of_client:
        worker.reserve("greedy")
    assert 0 < of_client.value.retry_after <= 120
    prepares = [worker.reserve("modest"), worker.reserve("modest")]  # they count as well
    assert worker.waiting == 6
    with pytest.raises(QueueFullError):
        worker.reserve("late")
    worker.cancel(prepares[0])
    worker.submit(prepares[0], lambda task: None)  # too late: it was given up
    assert worker.waiting == 5 and worker.reserve("late")


def test_work_given_up_leaves_the_queue_and_makes_room(worker, held):
    done, last, tasks = names(worker, "a1", "b1", "c1")
    worker.cancel(tasks[1])
    assert worker.waiting == 2
    extra, last_extra, _ = names(worker, "d1")
    held.release.set()
    assert last_extra.wait(30)
    assert done == ["a1", "c1"] and extra == ["d1"]


def test_work_in_progress_notices_that_it_was_given_up(worker, held):
    worker.cancel(held.task)
    held.release.set()
    done, last, _ = names(worker, "a1")
    assert last.wait(30) and held.ended_by == "TaskCancelledError"


def test_a_task_that_fails_does_not_stop_the_others(worker):
    def broken(task):
        raise RuntimeError("out of order")

    submit(worker, "a", broken)
    done, last, _ = names(worker, "b1")
    assert last.wait(30) and worker.alive


def test_stop_gives_up_what_waits_and_what_is_done(worker, held):
    done, _, tasks = names(worker, "a1", "b1")
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    assert held.task.cancelled.wait(30)
    held.release.set()
    stopping.join(30)
    assert not worker.alive and done == [] and all(task.cancelled.is_set() for task in tasks)


def test_short_tasks_go_between_the_steps_of_a_long_one_in_turn(worker):
    done = []
    begun, ready, ended = threading.Event(), threading.Event(), threading.Event()

    def long(task):
        begun.set()
        assert ready.wait(30)
        for step in range(4):
            done.append(step)
            worker.between()

    def short(name):
        def work(task):
            done.append(name)
            worker.between()  # nothing goes between its own steps

        worker.submit(worker.reserve(name[0]), work, is_short=lambda: True)

    submit(worker, "first", long)
    assert begun.wait(30)
    short("a1")
    short("a2")
    submit(worker, "b", lambda task: done.append("another long one"))
    short("c1")
    submit(worker, "d", lambda task: ended.set())
    ready.set()
    assert ended.wait(30)
    assert done == [0, "a1", 1, "c1", 2, "a2", 3, "another long one"]


def waits_for(worker, future, done, name):
    """A task that is away until a future is done."""

    def work(task):
        done.append(f"{name} begins")
        try:
            worker.away(future)
            done.append(f"{name} goes on")
        except TaskCancelledError:
            done.append(f"{name} was given up")
            raise

    return work


def test_others_have_the_model_while_a_task_is_away(worker):
    future, done, ended = Future(), [], threading.Event()
    submit(worker, "a", waits_for(worker, future, done, "a"))

    def long(task):
        done.append("b")
        future.set_result(None)
        worker.between()  # a has it back, and ends, before b goes on
        done.append("b ends")
        ended.set()

    submit(worker, "b", long)
    assert ended.wait(30)
    assert done == ["a begins", "b", "a goes on", "b ends"]


def test_a_task_that_is_away_can_be_given_up(worker):
    done, ended = [], threading.Event()
    begun = threading.Event()
    work = waits_for(worker, Future(), done, "a")
    task = submit(worker, "a", lambda task: (begun.set(), work(task)))
    assert begun.wait(30)
    worker.cancel(task)
    submit(worker, "b", lambda task: ended.set())
    assert ended.wait(30)
    worker.stop()
    assert done == ["a begins", "a was given up"]


def test_so_many_are_begun_and_none_that_may_not_is_overtaken(worker):
    futures, done, ended = [Future(), Future()], [], threading.Event()
    begun = threading.Semaphore(0)

    def away(number):
        def work(task):
            done.append(number)
            begun.release()
            worker.away(futures[number])

        return work

    submit(worker, "a", away(0))
    assert begun.acquire(timeout=30)
    place = worker.reserve("b")
    worker.submit(place, lambda task: done.append("big"), may_begin=lambda: False)
    submit(worker, "c", lambda task: done.append("small"))
    place = worker.reserve("d")
    worker.submit(place, lambda task: ended.set(), is_short=lambda: True)
    assert ended.wait(30)  # it goes between, and c not before b
    assert done == [0]
    ended.clear()
    futures[0].set_result(None)
    submit(worker, "e", lambda task: ended.set())
    assert ended.wait(30)
    assert done == [0, "big", "small"]


def test_waiting_for_a_decoder_has_a_bound(worker):
    seconds, ended = [], threading.Event()

    def work(task):
        seconds.append(worker.away(Future(), 0.01))
        ended.set()

    submit(worker, "a", work)
    assert ended.wait(30) and seconds[0] >= 0.01


def test_what_is_of_one_kind_is_done_in_one_turn_clients_in_turn(worker, held):
    done, ended = [], threading.Event()

    def work(task):
        done.append([task.item, *worker.take_along(3)])

    for item, kind in [("a1", 1), ("a2", 1), ("b1", 2), ("a3", 1), ("c1", 1)]:
        task = worker.reserve(item[0])
        worker.submit(task, work, kind=kind, item=item)
    worker.submit(worker.reserve("d"), lambda _: ended.set())
    held.release.set()
    assert ended.wait(30)
    assert done == [["a1", "c1", "a2", "a3"], ["b1"]] and worker.waiting == 0


def test_what_is_done_with_another_task_is_given_up_at_the_end(worker, held):
    begun, tasks = threading.Event(), []

    def work(task):
        worker.take_along(3)
        begun.set()
        assert tasks[1].cancelled.wait(30)

    for client in ("a", "b"):
        tasks.append(worker.reserve(client))
        worker.submit(tasks[-1], work, kind=1)
    held.release.set()
    assert begun.wait(30)
    worker.stop()
    assert not worker.alive and tasks[1].cancelled.is_set()


def test_short_tasks_go_between_the_steps_of_a_short_one_but_not_of_one_that_went_between(worker):
    done = []
    begun, ready, ended = threading.Event(), threading.Event(), threading.Event()

    def short(name, steps):
        def work(task):
            begun.set()
            assert ready.wait(30)
            for step in range(steps):
                done.append(f"{name}{step}")
                worker.between()

        worker.submit(worker.reserve(name), work, is_short=lambda: True)

    short("a", 3)
    assert begun.wait(30)
    short("b", 2)
    short("c", 2)
    worker.submit(worker.reserve("d"), lambda _: ended.set())
    ready.set()
    assert ended.wait(30)
    assert done == ["a0", "b0", "b1", "a1", "c0", "c1", "a2"]
