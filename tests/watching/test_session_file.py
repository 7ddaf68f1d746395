import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from longva.errors import LongVAError
from longva.media.medium import open_media
from longva.model.random_model import random_longva
from longva.watching.assistant import LongVA

QUESTION = "What happens?"


@pytest.fixture(scope="module")
def parts():
    return random_longva()


@pytest.fixture(scope="module")
def pictures():
    return list(np.random.default_rng(0).integers(0, 256, (20, 30, 30, 3), dtype=np.uint8))


def film(pictures, frames=20):
    return open_media(pictures[:frames], seconds=np.arange(frames) / 2)


def answers(session):
    two = [session.ask(q, max_new_tokens=6, evidence=99) for q in (QUESTION, "And then?")]
    return [(answer.text, answer.evidence, answer.media, answer.prompt_tokens) for answer in two]


@pytest.mark.parametrize("kv", ["model", "int8", "int4"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_resumed_session_answers_the_same_to_the_last_bit(
    parts, pictures, image, tmp_path, kv, keep
):
    longva = LongVA(*parts, name="random", kv=kv)
    session = longva.watch([image, film(pictures)], fps=2)
    session.ask("Who?", max_new_tokens=4, keep=keep)
    want = answers(session)
    session.save(tmp_path / "a.safetensors")
    resumed = LongVA(*parts, name="random", kv=kv).resume(tmp_path / "a.safetensors")
    assert resumed.history == session.history and resumed.watched_until == 9.5
    assert answers(resumed) == want == answers(session)


def test_a_resumed_session_watches_on(parts, pictures, tmp_path):
    longva = LongVA(*parts, name="random")
    session = longva.watch(film(pictures, 8), fps=1)
    session.save(tmp_path / "a.safetensors")
    resumed = longva.resume(tmp_path / "a.safetensors")
    assert resumed.extend(film(pictures)) == session.extend(film(pictures)) == 6
    assert answers(resumed) == answers(session)


def test_what_an_interrupt_left_is_what_is_saved(parts, pictures, tmp_path):
    longva = LongVA(*parts, name="random", chunk_tokens=16)
    session = longva.watch(film(pictures), fps=2, now=False)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.watch(interrupt)
    session.save(tmp_path / "a.safetensors")
    resumed = longva.resume(tmp_path / "a.safetensors")
    assert 0 < resumed.frames == session.frames < 20
    assert answers(resumed) == answers(session)


def test_sessions_of_other_models_and_what_is_no_session_are_refused(parts, pictures, tmp_path):
    path = tmp_path / "a.safetensors"
    longva = LongVA(*parts, name="random")
    longva.watch(film(pictures), fps=1).save(path)
    with pytest.raises(LongVAError, match="was written by another model than other"):
        LongVA(*random_longva(seed=1), name="other").resume(path)
    with pytest.raises(LongVAError, match="precision 'model', but .*'int8'. Try kv='model'"):
        LongVA(*parts, name="random", kv="int8").resume(path)
    model, processor = random_longva()
    model.config.set_pooling(mode="max")
    with pytest.raises(LongVAError, match="was written by another model"):
        LongVA(model, processor, name="pooled").resume(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LongVAError, match="is no session, or is damaged"):
        longva.resume(path)
    with pytest.raises(LongVAError, match="is no session, or is damaged"):
        longva.resume(tmp_path / "absent")
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(LongVAError, match="is no session of this version of longva. Watch again"):
        longva.resume(path)


def test_a_closed_session_is_neither_saved_nor_watched_on(parts, pictures, tmp_path):
    session = LongVA(*parts, name="random").watch(film(pictures, 8), fps=1)
    session.close()
    for again in (lambda: session.save(tmp_path / "a.safetensors"), session.watch):
        with pytest.raises(LongVAError, match="this session is closed"):
            again()
    with pytest.raises(LongVAError, match="this session is closed"):
        session.extend(film(pictures))
    assert not list(tmp_path.iterdir())


def test_what_an_interrupt_left_unwatched_is_not_forgotten_by_a_policy(parts, pictures, tmp_path):
    longva = LongVA(*parts, name="random", chunk_tokens=16)
    session = longva.watch(film(pictures, 4), policy="stop", max_frames=60, fps=2)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.extend(film(pictures * 2, 40), interrupt)
    session.save(tmp_path / "a.safetensors")
    resumed = longva.resume(tmp_path / "a.safetensors")
    assert 4 <= resumed.frames < 40 and resumed.notes == []
    resumed.extend(film(pictures * 2, 40))
    assert resumed.frames == 40 and resumed.notes == []
