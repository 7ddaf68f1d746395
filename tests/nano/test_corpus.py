import random
import re
from itertools import groupby

import pytest

from longva.nano.corpus import SHARES, Writer, ask, book, long_documents, tell
from longva.nano.words import SPECIAL, split_words, vocabulary, word_tokenizer
from longva.nano.world import OBJECTS, QUESTIONS, Scene, random_scene

ANCHOR = Scene(object="anchor", number=42, color="red", companion="club")
ASIDE = ("?", "number", "color", "beside")
KINDS = list(SHARES)


def test_a_seed_says_what_is_written():
    assert Writer(3).sequence(200) == Writer(3).sequence(200)
    assert Writer(3).sequence(200) != Writer(4).sequence(200)


@pytest.mark.parametrize("length", [64, 256, 2048])
def test_sequences_have_their_length_and_only_known_words(length):
    writer, known = Writer(0), set(vocabulary())
    for _ in range(20):
        words = writer.sequence(length)
        assert len(words) == length
        assert words[0] == "<|endoftext|>"
        assert set(words) <= known


@pytest.mark.parametrize("kind", KINDS)
def test_documents_fill_the_length_they_are_given(kind):
    shares = {name: float(name == kind) for name in KINDS}
    writer = Writer(1, shares)
    for length in (60, 300, 3000):
        lengths = [len(writer.document(length)) for _ in range(20)]
        assert min(lengths) > 0.6 * length
        assert max(lengths) <= length


@pytest.mark.parametrize("longest_shot", [1, 24])
def test_an_album_asks_only_what_one_scene_of_it_answers(longest_shot):
    writer = Writer(2, longest_shot=longest_shot)
    num_asked = 0
    for _ in range(40):
        words = writer.album(256)
        for i, word in enumerate(words):
            if word != "?":
                continue
            name = words[i - 1]
            told = [j for j in range(i) if words[j] == name and words[j + 1] not in ASIDE]
            answer = words[words.index("assistant", i) + 3]
            assert len(told) == 1
            assert answer in words[told[0] : told[0] + 14]
            num_asked += 1
    assert num_asked > 100


def test_shots_show_in_half_of_the_albums_what_nothing_asks_about():
    longest = []
    for seed in range(40):
        words = Writer(seed, longest_shot=24).album(2000)
        groups = [tuple(words[i : i + 4]) for i in range(len(words) - 3) if words[i] in OBJECTS]
        runs = [len(list(group)) for _, group in groupby(groups)]
        longest.append(max(runs))
    assert 10 < sum(run > 8 for run in longest) < 30
    assert max(longest) <= 48  # two shots of one scene may meet


def test_every_magic_number_that_is_asked_for_or_told_again_is_in_the_book():
    num_asked = num_told_again = 0
    for seed in range(40):
        words = " ".join(Writer(seed).magic(256))
        book, *answers = words.split("answer : ")
        if not answers:
            book, again = words.split("again : ")
            answers = [f"{fact.strip()} ." for fact in again.split(" .") if fact]
            num_told_again += len(answers)
        else:
            num_asked += len(answers)
        for answer in answers:
            fact = answer[: answer.index(" .") + 2]
            assert fact.startswith("the special magic ")
            assert fact in book
    assert min(num_asked, num_told_again) > 20


def test_a_quiz_is_answered_by_its_scenes():
    for seed in range(20):
        scenes, questions = " ".join(Writer(seed).quiz(120)).split(" again : ")
        for question in questions.split(" ; ")[:-1]:
            name, _, answer = question.split()
            told = scenes.split()
            assert answer in told[told.index(name) : told.index(name) + 14]


def test_a_scene_is_told_in_the_order_of_a_frames_tokens():
    assert tell(ANCHOR, 0) == ["anchor", "42", "red", "club"]
    assert tell(ANCHOR, 2) == split_words(ANCHOR.caption)


@pytest.mark.parametrize("about", list(QUESTIONS))
def test_a_question_reads_as_the_chat_template_writes_it(about):
    tokenizer = word_tokenizer()
    chat = (
        f"{QUESTIONS[about].format('anchor')}<|im_end|>\n"
        f"<|im_start|>assistant\n{ANCHOR.answer(about)}<|im_end|>\n"
    )
    assert tokenizer.tokenize(chat) == ask(ANCHOR, about)


def test_the_tokenizer_splits_as_split_words_does():
    tokenizer, text = word_tokenizer(), "</book>. The number is: 4471902? 42."
    words = ["<", "/", "book", ">", ".", "the", "number", "is:"]
    words += ["44", "71", "90", "2", "?", "42", "."]
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == words
    assert split_words(text) == words


def test_a_word_from_elsewhere_is_unknown():
    tokenizer = word_tokenizer()
    assert tokenizer("find the zebra").input_ids[-1] == tokenizer.unk_token_id


def test_special_tokens_come_first_and_stay_whole():
    tokenizer = word_tokenizer()
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(6))
    assert tokenizer("<|im_start|>user\n<image><image>find").input_ids[2:4] == [3, 3]
    assert len(tokenizer) == len(vocabulary())


def test_numbers_of_the_world_are_single_words():
    tokenizer, rng = word_tokenizer(), random.Random(0)
    for _ in range(50):
        assert len(tokenizer(str(random_scene(rng).number)).input_ids) == 1
    assert all(len(tokenizer(name).input_ids) == 1 for name in OBJECTS)


def test_the_book_says_no_magic_number_and_is_long_enough():
    text = book(words=500, seed=0)
    ids = word_tokenizer()(text).input_ids
    assert len(ids) >= 500
    assert word_tokenizer().unk_token_id not in ids
    assert "magic" not in text


def test_long_text_has_rows_of_its_length():
    text = long_documents(length=300, rows=2, seed=0)
    assert len(word_tokenizer()(text).input_ids) == 600


def shots(most_asked: float) -> int:
    """Scenes told four times in a row and more, in short albums."""
    writer = Writer(5, {"album": 1.0}, longest_shot=24, most_asked=most_asked)
    writer._style = lambda styles: 0
    words = [" ".join(writer.album(220)) for _ in range(100)]
    return sum(len(re.findall(r"(\w+ \d\d \w+ \w+ )\1{3,}", told)) for told in words)


def test_short_albums_have_shots_where_not_all_of_them_is_asked_about():
    assert shots(0.5) > 2 * shots(1.0) > 0
    few = Writer(1, most_asked=0.5)
    assert few.sequence(500) == Writer(1).sequence(500)
