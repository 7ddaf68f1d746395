import random
from collections import Counter
from dataclasses import replace

import pytest

from longva.nano.corpus import Writer
from longva.nano.honest_corpus import Asker, HonestWriter
from longva.nano.wordings import UNKNOWN
from longva.nano.words import vocabulary
from longva.nano.world import COLOURS, OBJECTS, Scene

TALKS = {"talk": 1.0}
ANCHOR = Scene(object="anchor", number=42, color="red", companion="club")
VALUES = {"number": 1, "color": 2, "beside": 3}
"""Where a frame's words have what is asked."""


def answers(words: list[str]) -> tuple[list[list[str]], list[tuple[list[str], list[str]]]]:
    """Split a talk of scenes told as frames in these, and in questions with answers."""
    shown, asked, turns = [], [], " ".join(words).split("<|im_start|> ")
    first = turns[2].split()[1:]
    while len(first) > 3 and first[0] in OBJECTS and first[2] in COLOURS:
        shown.append(first[:4])
        first = first[4:]
    for question, answer in zip([" ".join(first), *turns[4::2]], turns[3::2], strict=False):
        if answer.strip().endswith("<|im_end|>"):
            asked.append((question.split(), answer.split()[1:-1]))
    return shown, asked


def is_true(answer: list[str], shown: list[list[str]]) -> bool:
    """Judge an answer, whose numbers are of any scene of the object."""
    if "or" in answer:
        *parts, told = " ".join(answer).replace(" or ", " : ").split(" : ")
        parts, told = (parts, told) if told == "firstseen first" else ([*parts, told], "")
        lacks = any(part.endswith("not shown") for part in parts)
        return lacks == (not told) and all(is_true(part.split(), shown) for part in parts)
    name, *rest = answer
    of = [scene for scene in shown if scene[0] == name]
    if rest in (["not", "shown"], ["no"]):
        return not of
    if rest == ["yes"]:
        return bool(of)
    assert rest[2:] in ([], ["at", "whenseen"], [",", "timesseen", "times"])
    return (len(of) == 1 or rest[-1] == "times") and rest[1] in [
        scene[VALUES[rest[0]]] for scene in of
    ]


def test_every_answer_of_a_talk_is_true():
    kinds = set()
    for seed in range(150):
        writer = HonestWriter(seed, TALKS)
        writer._style = lambda styles: 0
        shown, asked = answers(writer.talk(256))
        for question, answer in asked:
            if "<unk>" in question:
                assert " ".join(answer) == UNKNOWN
            else:
                assert is_true(answer, shown), (question, answer, shown)
            kinds.add(answer[1] if len(answer) < 5 else answer[-1])
    assert kinds == {*VALUES, "yes", "no", "not", "whenseen", "times", "first", "shown", "word"} | {
        *(kind for kind in kinds if kind.isdigit())
    }


@pytest.mark.parametrize("kind", ["talk", "drill"])
@pytest.mark.parametrize("longest_shot", [1, 24])
def test_documents_fill_the_length_they_are_given(kind, longest_shot):
    writer = HonestWriter(1, {kind: 1.0}, longest_shot)
    for length in (60, 300, 3000):
        lengths = [len(writer.document(length)) for _ in range(20)]
        assert min(lengths) > 0.6 * length
        assert max(lengths) <= length


def test_only_known_words_are_written():
    known = set(vocabulary(honest=True))
    writer = HonestWriter(0, {"talk": 0.5, "drill": 0.3, "album": 0.2})
    for _ in range(30):
        assert set(writer.sequence(128)) <= known


def test_what_is_told_in_a_row_is_one_shot():
    for seed in range(40):
        words, asker = HonestWriter(seed, TALKS, longest_shot=24)._film(600, 0)
        scenes = {tuple(words[i : i + 4]) for i in range(0, len(words), 4)}
        assert Counter(scene[0] for scene in scenes) == asker.counts


def test_an_asker_tells_absent_from_shown():
    shots = [replace(ANCHOR, object=name) for name in ("cup", "anchor", "cup")]
    asker = Asker(random.Random(0), shots)
    told = {(kind, asker.about(kind)[1]) for kind in ("count", "companion") for _ in range(400)}
    assert {("count", f"{name} number 42 , timesseen times") for name in ("cup", "anchor")} < told
    assert {answer for _, answer in told if answer.startswith("anchor")} == {
        "anchor number 42 , timesseen times",
        "anchor beside club",
    }
    assert all(answer.endswith("not shown") for _, answer in told if answer[:3] not in "cup,anc")


def test_of_two_objects_one_may_be_absent():
    shots = [replace(ANCHOR, object=name) for name in ("cup", "anchor")]
    asker = Asker(random.Random(0), shots)
    told = {asker.about("first")[1] for _ in range(400)}
    both = "anchor number 42 or cup number 42 : firstseen first"
    assert both in told
    assert all("not shown" in answer or answer.endswith("firstseen first") for answer in told)


def test_without_the_new_kinds_it_writes_what_a_writer_does():
    shares = {"album": 0.5, "quiz": 0.5}
    assert HonestWriter(3, shares).sequence(200) == Writer(3, shares).sequence(200)
