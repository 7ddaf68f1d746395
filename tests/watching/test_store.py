"""Watched media in an LRU by bytes."""

import random
from dataclasses import replace

import numpy as np
import pytest

from longva.errors import ContextLengthError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.model.random_model import random_longva
from longva.nano.world import draw_scene, random_scene
from longva.watching.assistant import LongVA
from longva.watching.store import SessionStore, Watching


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three different pictures; to the store they are media like any other."""
    folder, rng, films = tmp_path_factory.mktemp("films"), random.Random(1), []
    for number in range(3):
        draw_scene(random_scene(rng)).save(folder / f"{number}.png")
        films.append(open_media(folder / f"{number}.png"))
    return films


def watching(*media, **rule):
    digests = tuple(medium.fingerprint() for medium in media)
    return Watching(digests=digests, sampling=FrameSampling(**rule))


def size_of_one(longva, film):
    store = SessionStore(longva, max_bytes=2**40)
    store.session(watching(film), [film])
    return store.used_bytes


def test_equal_content_shares_a_session_whatever_it_is_called(longva, films):
    store = SessionStore(longva, max_bytes=2**30)
    first = store.session(watching(films[0]), [films[0]])
    assert store.session(watching(films[0]), []) is first
    other = store.session(watching(films[0], fps=2.0), [films[0]])
    assert other is not first and (store.hits, store.misses) == (1, 2)


def test_the_least_recently_used_goes_first_and_the_budget_is_kept(longva, films):
    one = size_of_one(longva, films[0])
    store = SessionStore(longva, max_bytes=int(2.6 * one))
    for film in films[:2]:
        store.session(watching(film), [film])
    store.session(watching(films[0]), [])
    store.session(watching(films[2]), [films[2]])
    assert watching(films[0]) in store and watching(films[2]) in store
    assert watching(films[1]) not in store and store.evictions == 1
    assert store.used_bytes <= store.max_bytes and len(store) == 2


@pytest.mark.parametrize("frames", [0, 16])
def test_what_the_store_says_a_session_may_hold_is_watched(frames):
    longva = LongVA(*random_longva(), name="random", look_again=frames)
    store = SessionStore(longva, max_bytes=int(1.3 * longva.plan(60).kv_cache))
    pictures = np.zeros((store.max_frames, 30, 30, 3), np.uint8)
    film = open_media(list(pictures), seconds=np.arange(len(pictures)))
    by_default = Watching(digests=("film",), sampling=FrameSampling(num_frames=len(pictures)))
    assert store.session(by_default, [film]).frames == store.max_frames > 20
    one_more = FrameSampling(num_frames=store.max_frames + 1)
    with pytest.raises(ContextLengthError, match="sessions may take"):
        more = open_media([*pictures, pictures[0]], seconds=np.arange(len(pictures) + 1))
        store.session(Watching(digests=("more",), sampling=one_more), [more])


def test_a_session_that_grew_is_measured_again(longva, films):
    one = size_of_one(longva, films[0])
    store = SessionStore(longva, max_bytes=int(2.4 * one))
    for film in films[:2]:
        session = store.session(watching(film), [film])
    session.ask("word " * 400, max_new_tokens=1, keep=True)
    store.settle(watching(films[1]))
    assert len(store) == 1 and one < store.used_bytes <= store.max_bytes


def test_more_than_the_budget_is_refused_with_numbers(longva, films):
    store = SessionStore(longva, max_bytes=1000)
    with pytest.raises(ContextLengthError, match="Take fewer frames"):
        store.session(watching(films[0]), [films[0]])
    assert len(store) == 0


def test_what_does_not_fit_the_memory_beside_others_is_watched_alone(longva, films):
    class Tight(LongVA):
        """Its device has room for one session."""

        def plan(self, frames, **options):
            plan = super().plan(frames, **options)
            return replace(plan, max_frames=0) if frames > 1 and len(store) else plan

    store = SessionStore(longva, max_bytes=2**30)
    store.longva = Tight(longva.model, longva.processor, name="tight")
    for film in films:
        store.session(watching(film), [film])
        assert len(store) == 1 and watching(film) in store
    store.make_room_for(2)
    assert len(store) == 0 and store.evictions == 3


def test_a_session_may_be_dropped_while_it_is_used(longva, films):
    store = SessionStore(longva, max_bytes=2**30)
    session = store.session(watching(films[0]), [films[0]])
    store.drop(watching(films[0]))
    assert session.ask("What?", max_new_tokens=2).text is not None
    store.settle(watching(films[0]))
    assert len(store) == 0 and store.used_bytes == 0


def test_what_failed_is_not_kept(longva, films):
    def gives_up(stage, done, total):
        raise KeyboardInterrupt

    store = SessionStore(longva, max_bytes=2**30)
    with pytest.raises(KeyboardInterrupt):
        store.session(watching(films[0]), [films[0]], gives_up)
    assert len(store) == 0 and store.used_bytes == 0


def test_planned_frames_are_those_that_are_watched(longva, films, video):
    store = SessionStore(longva, max_bytes=2**30)
    film = open_media(video)
    for media, options in (
        ([films[0]], {}),
        ([film], {"num_frames": 5}),
        ([film], {"fps": 2.0, "max_frames": 7}),
        ([film, films[1]], {"fps": 1.0}),
    ):
        how = watching(*media, **options)
        session = store.session(how, media)
        assert session.frames == longva.num_frames(media, how.sampling)


def test_the_default_number_of_frames_fits_the_budget(longva, films, video):
    film = open_media(video)
    least = SessionStore(longva, max_bytes=2**40).longva.plan(4).kv_cache
    store = SessionStore(longva, max_bytes=int(1.45 * least))
    assert 4 <= store.max_frames < longva.plan(1).max_frames
    most = watching(film, fps=1000.0, max_frames=store.max_frames)
    assert store.session(most, [film]).kv_bytes <= store.max_bytes


def test_a_session_without_media_talks(longva):
    store = SessionStore(longva, max_bytes=2**30)
    session = store.session(Watching(), [])
    assert session.frames == 0 and session.ask("Hello?", max_new_tokens=3).evidence == []
