import numpy as np
import pytest
import torch

from longva.attention.branches import BranchAttention
from longva.attention.evidence import EvidenceCollector
from longva.errors import ContextLengthError, LongVAError
from longva.media.medium import open_media
from longva.model.random_model import random_longva
from longva.prompts.decoding import Sampling
from longva.watching.assistant import LongVA

QUESTIONS = [
    "What?",
    "What happens after the second scene, and why?",
    "Who?",
    "Who is it?",
    "What?",
]


@pytest.fixture(scope="module")
def pictures():
    frames = np.random.default_rng(0).integers(0, 256, (12, 30, 30, 3), dtype=np.uint8)
    return open_media(list(frames), seconds=np.arange(12) / 2)


def asked(session, **options):
    return session.ask_all(QUESTIONS, **options), [session.ask(q, **options) for q in QUESTIONS]


def texts(answers):
    return [(a.text, a.answer_tokens, a.finish_reason, a.prompt_tokens) for a in answers]


def assert_same_evidence(together, alone, atol=1e-9):
    for a, b in zip(together, alone, strict=True):
        places = [sorted((e.frame, e.seconds, e.weight) for e in x.evidence) for x in (a, b)]
        torch.testing.assert_close(*map(torch.tensor, places), atol=atol, rtol=0)


@pytest.mark.parametrize("chunk_tokens", [3, 4096])
@pytest.mark.parametrize("heads", [None, [[1, 0], [1, 3]]])
def test_questions_asked_together_are_answered_as_if_alone(pictures, heads, chunk_tokens):
    parts = random_longva(dtype=torch.float64, evidence_heads=heads)
    session = LongVA(*parts, name="random", chunk_tokens=chunk_tokens).watch(pictures, fps=2)
    together, alone = asked(session, max_new_tokens=9, evidence=99)
    assert texts(together) == texts(alone) and len({a.text for a in together}) > 2
    assert_same_evidence(together, alone)


@pytest.fixture(scope="module")
def parts():
    return random_longva(dtype=torch.float64)


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_with_a_quantised_cache_too(parts, pictures, kv):
    session = LongVA(*parts, name="random", kv=kv).watch(pictures, fps=2)
    together, alone = asked(session, max_new_tokens=9, evidence=99)
    assert texts(together) == texts(alone)
    assert_same_evidence(together, alone)


def test_each_answer_ends_by_itself(parts, pictures):
    session = LongVA(*parts, name="random").watch(pictures, fps=2)
    plain = [session.ask(q, max_new_tokens=12).text for q in QUESTIONS]
    stop = [plain[0][2], plain[1][7]]
    together, alone = asked(session, max_new_tokens=12, stop=stop)
    assert texts(together) == texts(alone)
    assert len({a.answer_tokens for a in together}) > 1
    sampling = Sampling(temperature=0.8, seed=3, repetition_penalty=1.2, min_tokens=2)
    together, alone = asked(session, max_new_tokens=12, sampling=sampling)
    assert texts(together) == texts(alone)


def test_after_a_conversation_and_without_media(parts, pictures):
    longva = LongVA(*parts, name="random")
    for media in ([pictures], []):
        session = longva.watch(media, now=True)
        session.ask("Hello?", max_new_tokens=4, keep=True)
        held, history = session._reader.held, list(session.history)
        together, alone = asked(session, max_new_tokens=5)
        assert texts(together) == texts(alone)
        assert torch.equal(session._reader.held, held) and session.history == history


def test_each_answer_has_the_context_to_itself(pictures):
    parts = random_longva(dtype=torch.float64, max_position_embeddings=1500)
    longva = LongVA(*parts, name="random")
    frames = [pictures.files[0]] * 48
    session = longva.watch([frames])
    together, alone = asked(session, max_new_tokens=1, evidence=99)
    assert texts(together) == texts(alone)
    room = 1500 - alone[0].prompt_tokens
    long = ["x" * (room - 4), "y" * (room - 2)]  # a byte a token; together more than the context
    got = session.ask_all(long, max_new_tokens=9)
    assert texts(got) == texts([session.ask(q, max_new_tokens=9) for q in long])
    with pytest.raises(ContextLengthError, match="model's context is 1,500 tokens"):
        session.ask_all(["What?", "x" * 1500])
    assert texts(session.ask_all(QUESTIONS, max_new_tokens=1)) == texts(alone)


def test_what_cannot_be_asked_is_refused_before_anything_is_read(parts, pictures):
    session = LongVA(*parts, name="random").watch(pictures, fps=2)
    assert session.ask_all([]) == []
    pieces = iter(session.stream("What?", max_new_tokens=9))
    next(pieces)
    with pytest.raises(LongVAError, match="question is empty"):
        session.ask_all(["What?", " "])
    next(pieces)
    session.ask_all(["What?"], max_new_tokens=1)
    with pytest.raises(LongVAError, match="another question was asked"):
        next(pieces)


def test_branches_see_what_is_shared_and_themselves():
    query, key, value = (
        torch.randn(1, h, n, 8, dtype=torch.float64) for h, n in [(4, 3), (2, 9), (2, 9)]
    )
    visible = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]]).bool()
    heard = [(row, EvidenceCollector()) for row in (0, 2)]
    attention = BranchAttention(5, visible, heard)
    out = attention.attend(query, key, value, 0.3)
    attention.observe(0, query, key, 0.3)
    weights = {row: collector.weights() for row, collector in heard}
    for row, seen in enumerate(visible):
        keys = torch.cat([torch.ones(5).bool(), seen])
        k, v = (x[:, :, keys].repeat_interleave(2, 1) for x in (key, value))
        shares = (query[:, :, row, None] @ k.transpose(-1, -2) * 0.3).softmax(-1)
        torch.testing.assert_close(out[:, :, row, None], shares @ v)
        if row in weights:
            torch.testing.assert_close(weights[row], shares.mean((0, 1, 2)))
