import gc

import numpy as np
import pytest
import torch

from longva.errors import ContextLengthError, VideoError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.model.random_model import random_longva
from longva.prompts import steps
from longva.prompts.reader import PromptReader
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings

QUESTION = "What happens?"


@pytest.fixture(scope="module")
def parts():
    return random_longva(dtype=torch.float64)


def longva_of(parts, **options) -> LongVA:
    return LongVA(*parts, name="random", **options)


def asked(session):
    answer = session.ask(QUESTION, max_new_tokens=6, evidence=99)
    return answer.text, [(e.medium, e.frame, e.weight) for e in answer.evidence]


def held(session):
    layers = session._reader._layers
    return torch.stack([buffer[:, :, : session._watched] for x in layers for buffer in x.buffers])


@pytest.fixture(scope="module")
def pictures():
    frames = np.random.default_rng(0).integers(0, 256, (40, 30, 30, 3), dtype=np.uint8)
    return open_media(list(frames), seconds=np.arange(40) / 2)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 100, 4096])
def test_streamed_is_the_same_to_the_last_bit_as_one_table_of_all_features(
    parts, pictures, chunk_tokens
):
    longva = longva_of(parts, chunk_tokens=chunk_tokens)
    streamed = longva.watch([pictures, pictures], fps=2)
    whole = longva.watch([pictures, pictures], fps=2, now=False)
    every = FrameSampling(fps=2)
    table = longva.encode(pictures, every, FrameSettings())[1].flatten(0, 1)
    whole._reader.rows = torch.cat([table, table])
    prompt = whole._symbols(
        [{"role": "user", "content": [{"type": "video"}, {"type": "video"}]}], streamed.media
    )
    whole._reader.read(prompt[: streamed._watched])
    whole.media, whole._ahead.parts = streamed.media, []
    whole._watched = whole._settled = streamed._watched
    assert torch.equal(held(streamed), held(whole))
    assert asked(streamed) == asked(whole)


def test_what_lies_between_tower_and_cache_does_not_grow_with_the_film(parts):
    longva = longva_of(parts, chunk_tokens=64)
    model = longva.model.model
    width = model.config.text_config.hidden_size

    def most_alive(frames: int) -> int:
        """Bytes of tensors of rows, whenever the tower begins a batch."""
        media, most = open_media(list(np.zeros((frames, 8, 8, 3), np.uint8))), 0

        def count(*_):
            nonlocal most
            memory = {}
            for x in gc.get_objects():
                if isinstance(x, torch.Tensor) and x.shape[-1:] == (width,):
                    storage = x.untyped_storage()
                    memory[storage.data_ptr()] = storage.nbytes()
            most = max(most, sum(memory.values()))

        gc.collect()
        gc.freeze()  # what was there before is not counted
        hook = model.vision_tower.encoder.layers[0].register_forward_pre_hook(count)
        try:
            longva.watch(media, fps=1)
        finally:
            hook.remove()
            gc.unfreeze()
        return most

    few, many = most_alive(64), most_alive(192)
    assert 0 < many <= few < 192 * 4 * width * 8


def test_after_an_interrupt_questions_are_about_what_was_watched_and_it_goes_on(parts, pictures):
    longva = longva_of(parts, chunk_tokens=32)
    by_content = FrameSettings(named=False)
    session = longva.watch([pictures, pictures], fps=2, now=False, settings=by_content)
    assert session.frames == 0 and session.watched_until is None

    def interrupt(stage, done, total):
        assert (stage, total) == ("watch", 80)
        if done >= 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.watch(interrupt)
    assert session.frames == 56  # to the batch
    assert session.watched_until == (session.frames - 41) / 2
    second = pictures.choose(FrameSampling(fps=2))[: session.frames - 40]
    until = open_media([pictures.files[i] for i in second], seconds=np.arange(len(second)) / 2)
    watched = longva.watch([pictures, until], fps=2, settings=by_content)
    assert asked(session)[0] == asked(watched)[0]

    session.ask("Who?", max_new_tokens=3, keep=True)
    told = []
    session.watch(lambda *progress: told.append(progress))
    assert session.frames == 80 and told[-1][1] == told[-1][2] < 40
    session.history.clear()
    fresh = longva.watch([pictures, pictures], fps=2, settings=by_content)
    torch.testing.assert_close(held(session), held(fresh))
    assert asked(session)[0] == asked(fresh)[0]
    session.watch()  # there is nothing left
    assert session.frames == 80


@pytest.mark.parametrize("kv", ["model", "int8"])
def test_a_film_that_grows_is_watched_on_as_a_fresh_session_would(parts, pictures, kv):
    longva = longva_of(parts, chunk_tokens=32, kv=kv)

    def grown(frames: int):
        return open_media(list(pictures.files[:frames]), seconds=np.arange(frames) / 2)

    session = longva.watch(grown(10), fps=1)
    for frames in (20, 21, 40):
        asked(session)
        session.ask("Who?", max_new_tokens=2, keep=True)
        before = session.frames
        fresh = longva.watch(grown(frames), fps=1)
        assert session.extend(grown(frames)) == fresh.frames - before
        assert session.watched_until == fresh.watched_until
        kept, session.history = session.history, []
        (text, evidence), (want, wanted) = asked(session), asked(fresh)
        assert text == want and [e[:2] for e in evidence] == [e[:2] for e in wanted]
        weights = [[e[2] for e in found] for found in (evidence, wanted)]
        torch.testing.assert_close(*weights, atol=1e-3 if kv == "int8" else 1e-9, rtol=0)
        session.history = kept
    assert session.extend(grown(40)) == 0


def test_frames_of_a_camera_come_with_their_times_and_are_numbered_on(parts, pictures):
    longva = longva_of(parts)

    def camera(first: int, last: int):
        return open_media(list(pictures.files[first:last]), seconds=np.arange(first, last) + 100.0)

    session = longva.watch(camera(0, 10), sampling=FrameSampling())
    assert session.extend(camera(10, 25)) == 15
    (watched,) = session.media
    assert watched.indices.tolist() == list(range(25)) and session.watched_until == 124
    fresh = longva.watch(camera(0, 25), sampling=FrameSampling())
    torch.testing.assert_close(held(session), held(fresh))


def test_what_cannot_be_gone_on_with_is_refused_and_changes_nothing(parts, pictures, image):
    longva = longva_of(parts)
    session = longva.watch(pictures, fps=1)
    want = asked(session)
    with pytest.raises(VideoError, match="cannot follow .*: either both have times, or none"):
        session.extend(list(pictures.files))
    for none in (longva.watch(image), longva.watch([])):
        with pytest.raises(VideoError, match="no video to go on with. Watch one first"):
            none.extend(pictures)
    long = open_media([pictures.files[0]] * 400_000, seconds=np.arange(400_000.0))
    with pytest.raises(ContextLengthError, match="400000 frames make a prompt"):
        session.extend(long)
    assert asked(session) == want


def test_an_entry_of_the_cache_is_written_on_the_way_and_only_of_all(parts, pictures, tmp_path):
    longva = longva_of(parts, cache_dir=tmp_path)
    session = longva.watch(pictures, fps=2, now=False)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.watch(interrupt)
    assert list(tmp_path.iterdir()) == []
    first, second = longva.watch(pictures, fps=2), longva.watch(pictures, fps=2)
    assert len(list(tmp_path.iterdir())) == 1
    assert first.timings["encode"] > 0 == second.timings["encode"]
    assert torch.equal(held(first), held(second))


def test_where_others_wait_watching_pauses_after_every_short_step(parts, pictures, monkeypatch):
    longva, encoded, read = longva_of(parts), [], []
    plain, without = longva.watch(pictures, fps=2), steps.steps.get()
    encode, forward = type(longva.model.model).encode_grids, PromptReader.forward
    monkeypatch.setattr(
        type(longva.model.model),
        "encode_grids",
        lambda self, grids: (encoded.append(len(grids)), encode(self, grids))[1],
    )
    monkeypatch.setattr(
        PromptReader,
        "forward",
        lambda self, chunk, *args, **more: (
            read.append(len(chunk)),
            forward(self, chunk, *args, **more),
        )[1],
    )
    pauses: list[int] = []
    token = steps.steps.set(steps.Steps(lambda: pauses.append(1), tokens=30, frames=6))
    try:
        cut = longva.watch(pictures, fps=2)
    finally:
        steps.steps.reset(token)
    assert without is None and max(encoded) == 6 and max(read) == 30
    assert len(pauses) == len(encoded) + len(read)
    torch.testing.assert_close(held(cut), held(plain), atol=1e-9, rtol=0)
    assert asked(cut)[0] == asked(plain)[0]
