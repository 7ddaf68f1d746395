import json
import math
import random

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from longva.attention.evidence import EvidenceCollector, Match
from longva.cli import app
from longva.media.medium import open_media
from longva.nano.film import draw_frame
from longva.nano.world import Layout, random_scene
from longva.prompts.decoding import Sampling
from longva.watching.answer import NOTHING
from longva.watching.assistant import LongVA
from tests import hard_videos


@pytest.fixture(scope="module")
def nano() -> LongVA:
    return LongVA.from_pretrained("nano")


def drawn(names):
    """Pictures of four seconds of each object."""
    rng = random.Random(0)
    scenes = [random_scene(rng, [name]) for name in names]
    return [np.array(draw_frame(scene, Layout())) for scene in scenes for _ in range(4)]


def test_nano_says_when_nothing_that_it_knows_is_shown(nano, h264):
    session = nano.watch(open_media(drawn(["cat", "anchor", "key"]), fps=1))
    for question in ("What number is with the anchor?", "What is beside the key?"):
        answer = session.ask(question)
        assert answer.known is True and NOTHING not in answer.to_json()["notes"]
    absent = [
        session.ask(f"What is beside the {name}?")
        for name in ("skull", "moon", "cup", "hand", "gear", "pen")
    ]
    assert all(answer.text for answer in absent)  # it answers, and two of three times says this
    assert sum(answer.known is False for answer in absent) >= 4
    real = nano.watch(h264, fps=5).ask("Who arrives?")  # a film that nobody drew for it
    assert real.known is False and real.to_json()["known"] is False
    assert NOTHING in real.to_json()["notes"] and f"({NOTHING})" in real._repr_html_()


def test_a_model_that_was_not_calibrated_gives_the_same_answers_and_no_confidence(longva, video):
    nano, plain = LongVA.from_pretrained("nano"), LongVA.from_pretrained("nano")
    plain.model.config.confidence = None
    for keep in (False, True):
        told, bare = nano.watch(video), plain.watch(video)
        for question in ("What number is with the cup?", "What is beside the cup?"):
            a, b = (s.ask(question, keep=keep) for s in (told, bare))
            assert (a.text, a.evidence, a.prompt_tokens) == (b.text, b.evidence, b.prompt_tokens)
            assert b.known is None and {"known", "confidence"}.isdisjoint(b.to_json())
    assert longva.watch(video).ask("What?", max_new_tokens=1).confidence is None
    assert nano.watch([]).ask("What?", max_new_tokens=1).known is None  # there is nothing to see


def test_confidence_is_of_the_best_match_of_the_last_words_query_and_of_the_answers_odds(nano):
    session = nano.watch(open_media(drawn(["cat", "anchor", "key"]), fps=1))
    answer = session.ask("What number is with the anchor?", sampling=Sampling(logprobs=0))
    prompt = session._question("What number is with the anchor?")
    ids = [one.token for one in answer.logprobs][:-2]  # all but the last word, and the end
    match, by = Match(1, 1, [(prompt < 0).nonzero().flatten()]), nano.model.config.confidence
    session._reader.read(
        torch.cat([prompt, torch.tensor(ids)]), evidence=EvidenceCollector(match=match)
    )
    probability = min(math.exp(sum(one.logprob for one in answer.logprobs)), 1 - 1e-6)
    odds = math.log(probability / (1 - probability))
    score = by["bias"] + by["match"] * match.found[-1][0] + by["odds"] * odds
    assert answer.confidence == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-3)


def test_the_command_says_so_before_and_after_the_answer(tmp_path):
    path = hard_videos.write_video(tmp_path / "film.mp4", 30)
    told = CliRunner().invoke(app, ["ask", str(path), "Who arrives?"])
    assert "nano is an example" in told.stderr and f"   ({NOTHING})\n" in told.stdout
    told = CliRunner().invoke(app, ["ask", str(path), "Who arrives?", "--json"])
    (answer,) = json.loads(told.stdout)
    assert answer["known"] is False and answer["notes"] == [NOTHING]


def test_of_several_films_each_is_said_to_show_it_or_not(nano, h264):
    shown = open_media(drawn(["cat", "anchor"]), fps=1)
    other = open_media(drawn(["key", "cup"]), fps=1)
    question = "What number is with the anchor?"
    for films, known in (
        ([shown, h264], [True, False]),
        ([h264, shown], [False, True]),
        ([other, shown], [False, True]),
        ([other, h264], [False, False]),
    ):
        session = nano.watch(films, fps=1)
        answer = session.ask(question)
        assert answer.known_media == known and answer.known is any(known)
        told = answer.to_json()
        assert (told["known"], told["known_media"]) == (any(known), known)
        note = "what is asked about seems to be in the list of 8 images alone"
        assert told["notes"][-1:] == ([note] if any(known) else [NOTHING])
        together = session.ask_all([question, "What is beside the cat?"])[0]
        assert (together.text, together.known_media) == (answer.text, known)
        assert together.confidences == pytest.approx(answer.confidences, abs=1e-3)
    assert "known_media" not in nano.watch(shown).ask(question).to_json()
