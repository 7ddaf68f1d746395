from types import SimpleNamespace

import pytest
import torch

from longva.attention.evidence import EvidenceCollector, Match
from longva.errors import NonFiniteError
from longva.watching.look_up import Heard, LookUp, as_said, listener

ABOUT = {"head": [0, 0], "after": "number", "reach": 6.0}
ABOUT |= {"when": "WHEN", "times": "TIMES", "first": "FIRST"}
WORDS = ["<end>", "anchor", "cup", "number", "42", "17", "at", "or", "WHEN", "TIMES", "FIRST", "s"]
FOUR = [4.0, 4.0, 9.0, 8.0]  # scores of the frames: the third and the fourth match


class Words:
    """A tokenizer of one token a word."""

    def convert_tokens_to_ids(self, word: str) -> int:
        return WORDS.index(word)

    def decode(self, ids, skip_special_tokens: bool) -> str:
        return " ".join(WORDS[token] for token in ids)


def model(about=ABOUT):
    return SimpleNamespace(config=SimpleNamespace(look_up=about))


def medium(seconds, source="film.mp4", unit=1):
    frames = len(seconds or [0] * 4)
    return SimpleNamespace(
        seconds=seconds, indices=list(range(0, 10 * frames, 10)), source=source, unit=unit
    )


def heard(found, media=None, about=ABOUT, begun=()) -> Heard:
    """Reads an answer of which each token was chosen with these scores of the media's units."""
    match = Match(0, 0, [])
    match.found = [[torch.tensor(of) for of in media] for media in found]
    media = media or [medium([0.0, 1.0, 2.0, 3.0])]
    return Heard(model(about), Words(), EvidenceCollector([], match=match), media, begun)


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


NOWHERE = [[0.0] * 4]
FILMS = ["a film.mp4", "c/a film.mp4", "b.mp4", "b.mp4.part"]


def test_a_time_is_that_of_the_first_frame_of_the_shot_that_matches_best():
    answer = heard([NOWHERE, NOWHERE, [FOUR], NOWHERE, NOWHERE])
    assert answer.text(ids("anchor number 42 at WHEN")) == "anchor number 42 at 0:00:02.0"
    assert answer.text(ids("anchor number 42 at")) == "anchor number 42 at"


@pytest.mark.parametrize(
    ("scores", "times"),
    [
        ([9.0, 0, 8.0, 0], 2),
        ([9.0, 9.0, 9.0, 9.0], 1),
        ([9.0, 0, 7.0, 0], 2),  # 4 is between 7 and the floor of 3, 2 between 9 and 7
        ([9.0, 0, 5.0, 0], 1),
        ([9.0, 0, 7.0, 9], 2),
    ],
)
def test_shots_are_counted_down_to_the_largest_gap_between_their_best_frames(scores, times):
    answer = heard([NOWHERE, NOWHERE, [scores]])
    assert answer.text(ids("cup number 17 TIMES s")) == f"cup number 17 {times} s"


def test_in_an_excerpt_frames_that_are_not_in_a_row_in_the_film_are_two_shots():
    answer = heard([NOWHERE, NOWHERE, [[9.0, 9.0, 9.0, 0.0]]])
    answer.places = [torch.tensor([3, 4, 9, 10])]
    assert answer.text(ids("cup number 17 TIMES s")) == "cup number 17 2 s"
    assert answer.shots(LookUp(2, 2)) == [(0, 0, 2), (0, 2, 3)]


@pytest.mark.parametrize(("anchor", "cup", "first"), [(0, 3, "anchor"), (2, 1, "cup")])
def test_the_first_of_two_is_the_one_that_was_found_earlier(anchor, cup, first):
    at = [[[9.0 if frame == place else 0.0 for frame in range(4)]] for place in (anchor, cup)]
    answer = heard([NOWHERE, NOWHERE, at[0], NOWHERE, NOWHERE, NOWHERE, at[1]])
    text = answer.text(ids("anchor number 42 or cup number 17 FIRST"))
    assert text == f"anchor number 42 or cup number 17 {first}"


def test_of_several_media_the_one_that_matches_best_is_named():
    media = [medium([0.0, 1.0, 2.0, 3.0], "a.mp4"), medium([0.0, 5.0, 10.0, 15.0], "b.mp4")]
    answer = heard([NOWHERE, NOWHERE, [[3.0, 0, 0, 0], [0, 9.0, 0, 0]]], media)
    assert answer.text(ids("cup number 17 at WHEN")) == "cup number 17 at 0:00:05.0 of b.mp4"


def test_without_a_clock_the_frame_is_named_and_of_units_the_first_frame():
    answer = heard([NOWHERE, NOWHERE, [FOUR]], [medium(None)])
    assert answer.text(ids("cup number 17 at WHEN")) == "cup number 17 at frame 20"
    pairs = heard([NOWHERE, NOWHERE, [[0.0, 9.0]]], [medium([0.0, 1.0, 2.0, 3.0], unit=2)])
    assert pairs.text(ids("cup number 17 at WHEN")) == "cup number 17 at 0:00:02.0"


def test_of_one_look_up_alone_nothing_is_first():
    answer = heard([NOWHERE, NOWHERE, [FOUR]])
    assert answer.text(ids("cup number 17 FIRST")) == "cup number 17 FIRST"


def test_what_the_prompt_begins_the_answer_with_was_not_heard():
    begun = ids("anchor number 42 or")
    answer = heard([NOWHERE, NOWHERE, [FOUR]], begun=begun)
    assert answer.text(ids("cup number 17 FIRST")) == "cup number 17 FIRST"
    assert answer.text(ids("cup number 17 at WHEN")) == "cup number 17 at 0:00:02.0"
    after = heard([[FOUR]], begun=ids("anchor number"))
    assert after.look_ups(ids("42 at")) == [LookUp(word=0, name=1)]
    assert after.text(ids("42 at WHEN")) == "42 at 0:00:02.0"


def test_scores_that_are_no_numbers_are_an_error():
    with pytest.raises(NonFiniteError):
        heard([NOWHERE, NOWHERE, [[float("nan")] * 4]]).text(ids("cup number 17 at WHEN"))


def test_media_of_one_name_are_numbered():
    media = [medium([0.0, 1.0], f"{folder}/film.mp4") for folder in "ab"]
    answer = heard([NOWHERE, NOWHERE, [[9.0, 0.0], [0.0, 3.0]]], media)
    assert answer.text(ids("cup number 17 at WHEN")).endswith("0:00:00.0 of film.mp4 (1)")


def test_a_pointer_stays_a_word_where_nothing_was_looked_up():
    assert heard([NOWHERE] * 3).text(ids("cup at WHEN")) == "cup at WHEN"
    nothing = Heard(model(None), Words(), EvidenceCollector([]), [])
    assert nothing.text(ids("cup number 17 at WHEN")) == "cup number 17 at WHEN"
    assert nothing.look_ups(ids("cup number 17")) == []


def test_a_head_alone_finds_look_ups_of_no_answer():
    bare = heard([NOWHERE] * 3, about={"head": [0, 0]})
    assert bare.look_ups(ids("cup number 17")) == []
    assert heard([NOWHERE] * 3).look_ups(ids("cup number 17")) == [LookUp(word=2, name=2)]


def test_a_listener_hears_each_frame_of_each_medium_apart():
    prompt = torch.tensor([7, -1, -2, 8, -3, -4, -5, -6, 9])
    media = [
        SimpleNamespace(rows=2, tokens_per_frame=2),
        SimpleNamespace(rows=4, tokens_per_frame=2),
    ]
    told = listener(model(), None, prompt, media)
    assert told.match is not None
    told.match.note(torch.arange(9.0))
    assert [of.tolist() for of in told.match.found[0]] == [[2.0], [5.0, 7.0]]
    assert listener(model(None), None, prompt, media).match is None


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("anchor number 42 at 0:12:07.0", "anchor number 42 at WHEN"),
        ("anchor number 42 at 12:00:07.5 of b.mp4", "anchor number 42 at WHEN"),
        ("anchor number 42 at frame 12 of a film.mp4 (2)", "anchor number 42 at WHEN"),
        ("anchor number 42 at 0:00:07.5 of b.mp4.part", "anchor number 42 at WHEN"),
        ("cup number 17 , 12 times", "cup number 17 , TIMES times"),
        ("cup number 17", "cup number 17"),
    ],
)
def test_in_a_conversation_an_answer_has_its_pointers_and_not_what_they_stand_for(told, said):
    films = [medium([0.0], name) for name in FILMS]
    assert as_said(told, model().config, films) == said
    assert as_said(told, SimpleNamespace(), films) == told  # a model without pointers
    assert as_said("at 0:00:01.0 of you", model().config, []) == "at WHEN of you"
