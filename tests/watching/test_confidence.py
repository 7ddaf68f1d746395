import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from longva.attention.evidence import EvidenceCollector, Match
from longva.cli import app
from longva.media.medium import open_media
from longva.nano.film import draw_frame
from longva.nano.wordings import UNKNOWN
from longva.nano.world import Layout, random_scene
from longva.prompts.decoding import Sampling
from longva.watching.answer import DENIED, NOTHING, Answer
from longva.watching.assistant import LongVA
from longva.watching.confidence import Confidence
from tests import hard_videos


@pytest.fixture(scope="module")
def nano() -> LongVA:
    return LongVA.from_pretrained("nano")


def drawn(names):
    """Pictures of four seconds of each object."""
    rng = random.Random(0)
    scenes = [random_scene(rng, [name]) for name in names]
    return [np.array(draw_frame(scene, Layout())) for scene in scenes for _ in range(4)]


def test_nano_says_what_is_not_shown_and_when_it_could_only_guess(nano, h264):
    session = nano.watch(open_media(drawn(["cat", "anchor", "key"]), fps=1))
    for question in ("What number is with the anchor?", "What is beside the key?"):
        answer = session.ask(question)
        assert answer.known is True and NOTHING not in answer.to_json()["notes"]
    absent = [
        session.ask(f"What is beside the {name}?")
        for name in ("skull", "moon", "cup", "hand", "gear", "pen")
    ]
    assert all(answer.text.endswith("not shown") for answer in absent)
    assert all(answer.known is False and not answer.is_guess for answer in absent)
    real = nano.watch(h264).ask("What number is with the pen?")  # a film that nobody drew for it
    assert real.known is False


ANSWER = Answer(
    question="?",
    text="urn not shown",
    evidence=[],
    model="nano",
    media=["a.mp4"],
    frames=1,
    prompt_tokens=9,
    answer_tokens=3,
    finish_reason="stop",
)


def test_names_of_films_are_not_taken_for_words_of_the_question_or_for_what_is_shown(nano):
    for count in (1, 2, 8):  # "the list of 8 images" has two words that nano does not know
        films = [open_media(drawn([name] * 4)[:count], fps=1) for name in ("sun", "umbrella")]
        for name in ("sun", "umbrella"):
            answer = nano.watch(films, fps=1).ask(f"What number is with the {name}?")
            assert answer.text.startswith(f"{name} number"), answer.text
    shown, other = (open_media(drawn([name]), fps=1) for name in ("sun", "umbrella"))
    answer = nano.watch([shown, replace(other, name="frames/hand")]).ask("Is there a hand?")
    assert answer.text == "hand no"


def test_a_conversation_about_several_films_goes_on_after_times_and_counts(nano):
    films = [open_media(drawn(names), fps=1) for names in (["cat", "anchor"], ["key", "anchor"])]
    session = nano.watch(films)
    for question, end in (
        ("When does the anchor appear?", "at 0:00:04.0 of the list of 8 images (1)"),
        ("How many times is there an anchor?", "2 times"),
        ("When does the key appear?", "at 0:00:00.0 of the list of 8 images (2)"),
    ):
        answer = session.ask(question, keep=True)
        assert answer.text.endswith(end) and "number" in answer.text, answer.text


def test_what_is_named_although_nothing_matches_is_a_guess():
    for shown, known in ((0.05, False), (0.5, True)):
        sure = Confidence(right=0.6, shown=shown, media=[True])
        told = replace(ANSWER, text="urn number 42", sure=sure)
        assert (told.known, told.is_guess, told.confidence) == (known, not known, 0.6)
        assert told.to_json()["notes"] == ([] if known else [NOTHING])
        assert (f"({NOTHING})" in told._repr_html_()) is not known


def test_a_refusal_is_no_guess_and_says_when_it_is_more_probably_wrong():
    for right, doubt in ((0.9, ""), (0.3, DENIED)):
        sure = Confidence(right=right, shown=0.9, media=[True], refuses=True)
        told = replace(ANSWER, sure=sure)
        assert told.confidence == right and told.known is False and told.doubt == doubt
        assert not told.is_guess
    assert (ANSWER.confidence, ANSWER.known, ANSWER.doubt) == (None, None, "")


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
    places = (prompt < 0).nonzero().view(-1, 4)
    layer, head = nano.model.config.look_up["head"]
    match, by = Match(layer, head, [places]), nano.model.config.confidence
    session._reader.read(
        torch.cat([prompt, torch.tensor(ids)]), evidence=EvidenceCollector(match=match)
    )
    probability = min(math.exp(sum(one.logprob for one in answer.logprobs)), 1 - 1e-6)
    odds = math.log(probability / (1 - probability))
    score = by["bias"] + by["match"] * float(match.found[-1][0].max()) + by["odds"] * odds
    assert answer.confidence == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-3)


def test_the_command_says_so_before_and_after_the_answer(tmp_path):
    path = hard_videos.write_video(tmp_path / "film.mp4", 30)
    told = CliRunner().invoke(app, ["ask", str(path), "Who arrives?"])
    assert "nano is an example" in told.stderr
    assert f"A  {UNKNOWN}\n   confidence " in told.stdout and NOTHING not in told.stdout
    told = CliRunner().invoke(app, ["ask", str(path), "Who arrives?", "--json"])
    (answer,) = json.loads(told.stdout)
    assert answer["known"] is False and answer["notes"] == []


def test_of_several_films_each_is_said_to_show_it_or_not(nano, h264):
    shown = open_media(drawn(["cat", "anchor"]), fps=1)
    other = open_media(drawn(["key", "cup"]), fps=1)
    question = "What number is with the anchor?"
    one, second = "the list of 8 images", "the list of 8 images (2)"
    for films, known, name in (
        ([shown, h264], [True, False], one),
        ([h264, shown], [False, True], one),
        ([other, shown], [False, True], second),
        ([other, h264], [False, False], ""),
    ):
        session = nano.watch(films, fps=1)
        answer = session.ask(question)
        assert answer.known_media == known and answer.known is any(known)
        told = answer.to_json()
        assert (told["known"], told["known_media"]) == (any(known), known)
        note = f"what is asked about seems to be in {name} alone"
        assert told["notes"][-1:] == ([note] if any(known) else [])
        together = session.ask_all([question, "What is beside the cat?"])[0]
        assert (together.text, together.known_media) == (answer.text, known)
        assert together.sure.shown == pytest.approx(answer.sure.shown, abs=1e-3)
    assert "known_media" not in nano.watch(shown).ask(question).to_json()
