import pytest
import torch

from longva.errors import RecipeError
from longva.model.random_model import byte_tokenizer
from longva.niah.book import read_text, tokenise_book
from longva.niah.cells import Grid
from longva.niah.text import PREFIX, TextRecipe, ask, run_text
from longva.niah.text_needles import DISTRACTORS, NEEDLE, QUESTION, magic_numbers

TEXT = 'One. Two and 3.14 of it! "Is it?" he said.\n\nLast word'


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def sentences(book) -> list[str]:
    bounds = [*book.ends.tolist(), len(book.tokens)]
    return [bytes_of(book.tokens[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]


def bytes_of(tokens) -> str:
    return byte_tokenizer().decode(tokens)


def test_the_strings_are_the_originals():
    assert PREFIX == "This is a very long story book: <book>"
    assert NEEDLE.format(12) == "\nThe special magic Singapore number is: 12.\n"
    assert QUESTION.startswith("</book>.\n Based on the content of the book, Question: What is the")
    assert QUESTION.endswith("Answer: The special magic Singapore number is: ")
    assert [text.split("magic ")[1].split(" number")[0] for text in DISTRACTORS] == [
        "New York",
        "London",
        "Paris",
        "Tokyo",
        "Beijing",
        "Berlin",
    ]


def test_a_needle_may_stand_where_a_sentence_ends_in_the_text(tokenizer):
    book = tokenise_book(TEXT, tokenizer, 1)
    places = {TEXT[:end] for end in book.ends.tolist() if end < len(TEXT)}
    assert places == {
        "",
        "One.",
        "One. ",
        "One. Two and 3.14 of it!",
        "One. Two and 3.14 of it! ",
        'One. Two and 3.14 of it! "Is it?"',
        'One. Two and 3.14 of it! "Is it?" ',
        'One. Two and 3.14 of it! "Is it?" he said.',
        'One. Two and 3.14 of it! "Is it?" he said.\n',
        'One. Two and 3.14 of it! "Is it?" he said.\n\n',
    }


def test_whole_word_tokens_are_cut_at_the_same_sentences():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["One", ".", "Two", "and", "3", "14", "of", "it", "!", "he", "said", "Last", "[U]"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[U]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[U]")
    book = tokenise_book(TEXT, fast, 1)
    starts = [words[int(token)] for token in book.tokens[book.ends]]
    assert starts == ["One", "Two", "[U]", "he", "Last"]  # the fourth sentence begins with a quote


def test_a_short_book_is_repeated_with_its_sentences(tokenizer):
    book = tokenise_book("One. Two.", tokenizer, 25)
    assert bytes_of(book.tokens) == "One. Two.\n\n" * 3
    assert book.repeats == 3
    assert {0, 4, 11, 15, 22, 26} <= set(book.ends.tolist())


def test_a_text_without_a_full_stop_only_has_a_start(tokenizer):
    book = tokenise_book("no end", tokenizer, 20)
    assert [book.sentence_end(point, 20) for point in (0, 5, 9, 17, 20)] == [0, 8, 16, 20, 20]


def probes(tokenizer, lengths=(400, 800), depths=(0.0, 0.5, 1.0), trials=2, distractors=0, **grid):
    recipe = TextRecipe(
        model="none",
        output_dir="none",
        grid=Grid(lengths=lengths, depths=depths, **grid),
        trials=trials,
        distractors=distractors,
        seed=1,
    )
    book = tokenise_book(read_text(None), tokenizer, max(lengths))
    return list(ask(recipe, book, tokenizer))


@pytest.mark.parametrize("distractors", [0, 3, 5])
def test_every_prompt_has_its_length_needle_and_question(tokenizer, distractors):
    for probe in probes(tokenizer, lengths=(900, 1500), distractors=distractors):
        row, text = probe.row, bytes_of(torch.cat(probe.pieces))
        assert len(text) == row.length  # a byte is a token here
        assert text.startswith(PREFIX) and text.endswith(QUESTION)
        assert text.count("special magic") == 1 + distractors + 2  # and twice in the question
        assert text.index(NEEDLE.format(row.answer)) == row.position
        assert len(row.distractors) == distractors
        assert all(text[at:].startswith("\nThe special magic ") for at in row.distractors)
        assert row.position not in row.distractors


def test_needles_stand_at_their_depth_after_a_full_stop(tokenizer):
    for probe in probes(tokenizer, lengths=(4000,), depths=(0.1, 0.5, 0.9)):
        row, text = probe.row, bytes_of(torch.cat(probe.pieces))
        before = text[len(PREFIX) : row.position]
        assert before.rstrip()[-1] in '.!?"'
        haystack = len(text) - len(PREFIX) - len(QUESTION) - len(NEEDLE.format(row.answer))
        point = int(row.depth * haystack)
        assert point <= len(before) < point + 600  # one long sentence on at most


def test_depth_0_and_1_are_the_very_ends_of_the_book(tokenizer):
    for probe in probes(tokenizer, depths=(0.0, 1.0)):
        text = bytes_of(torch.cat(probe.pieces))
        needle = NEEDLE.format(probe.row.answer)
        want = PREFIX + needle if probe.row.depth == 0 else needle + QUESTION
        assert want in text


def test_an_absolute_grid_keeps_what_stands_before_the_needle(tokenizer):
    told = probes(tokenizer, lengths=(1000, 2000), kind="absolute", trials=1)
    texts = {
        probe.row.length: bytes_of(torch.cat(probe.pieces))[: probe.row.position]
        for probe in told
        if probe.row.depth * probe.row.length == 1000
    }
    assert len(texts) == 2
    assert texts[2000].startswith(texts[1000][:700])


def test_prompts_are_views_of_one_book(tokenizer):
    book = tokenise_book(read_text(None), tokenizer, 2000)
    grid = Grid(lengths=(1000, 2000), depths=(0.5,))
    recipe = TextRecipe(model="none", output_dir="none", grid=grid, trials=1)
    memory = {p.pieces[1].untyped_storage().data_ptr() for p in ask(recipe, book, tokenizer)}
    assert memory == {book.tokens.untyped_storage().data_ptr()}


def test_numbers_depend_on_seed_and_trial_alone():
    assert magic_numbers(1, 0, 3)[0][0] == magic_numbers(1, 0, 0)[0][0]
    drawn = {tuple(magic_numbers(seed, trial, 3)[0]) for seed in (1, 2) for trial in (0, 1)}
    assert len(drawn) == 4
    numbers, depths = magic_numbers(24242424, 0, 5)
    assert len(set(numbers)) == 6 and all(0 <= number < 10**7 for number in numbers)
    assert ((depths >= 0) & (depths < 1)).all()


def test_a_length_without_room_says_how_much_is_needed(tokenizer):
    with pytest.raises(
        RecipeError, match=r"50 tokens do not hold .* take \d+\. Use lengths of \d+"
    ):
        probes(tokenizer, lengths=(50,))


def test_a_tokenizer_with_a_first_token_gets_it(tokenizer):
    from tokenizers import processors

    begins = byte_tokenizer()
    begins.add_special_tokens({"bos_token": "<|im_start|>"})
    begins.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", begins.bos_token_id)]
    )
    probe = probes(begins)[0]
    assert probe.pieces[0][0] == begins.bos_token_id
    assert sum(map(len, probe.pieces)) == probe.row.length


def test_a_book_is_read_from_a_file_or_a_folder_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("Two.\n")
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "c.md").write_text("No.")
    assert read_text(tmp_path) == "One.\n\nTwo."
    assert read_text(tmp_path / "b.txt") == "Two."


def test_a_missing_book_is_named(tmp_path):
    with pytest.raises(RecipeError, match="neither a text file nor a folder of .txt files"):
        read_text(tmp_path / "absent")
    with pytest.raises(RecipeError, match="neither a text file"):
        read_text(tmp_path)
    (tmp_path / "empty.txt").write_text(" ")
    with pytest.raises(RecipeError, match="holds no text"):
        read_text(tmp_path)


def test_a_book_that_is_not_utf8_says_where(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Un caf\u00e9.".encode("latin1"))
    message = r"haystack: .*latin.txt is not UTF-8 text: byte 6 is 0xe9. Convert it: iconv"
    with pytest.raises(RecipeError, match=message):
        read_text(tmp_path / "latin.txt")


def test_a_missing_book_is_found_before_the_model_is_looked_for(tmp_path):
    recipe = TextRecipe(
        model=str(tmp_path / "no model"),
        output_dir=tmp_path / "run",
        grid=Grid(lengths=(400,)),
        haystack=tmp_path / "absent",
    )
    with pytest.raises(RecipeError, match="haystack: .*absent is neither .* Try haystack=None"):
        run_text(recipe)


def test_the_text_that_ships_is_long_plain_and_keeps_the_secret():
    text = read_text(None)
    assert len(text) > 30_000 and text.isascii()
    assert "Singapore" not in text and "magic" not in text.lower()


def test_a_repeated_haystack_and_files_that_are_none_are_told(tmp_path):
    (tmp_path / "book.txt").write_text("One. Two. " * 9)
    (tmp_path / "book.pdf").write_bytes(b"")
    grid = Grid(lengths=(700,), depths=(0.5,))
    recipe = TextRecipe(
        model="nano", haystack=tmp_path, grid=grid, trials=1, output_dir=tmp_path / "out"
    )
    with pytest.warns(UserWarning) as told:
        run_text(recipe)
    said = [str(one.message) for one in told if "longva" in one.filename]
    assert said[0] == f"{tmp_path}: left out as no .txt files: book.pdf"
    assert "the haystack repeats: its text has " in said[1] and "the longest prompt 700" in said[1]
