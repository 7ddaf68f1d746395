"""What people and data sets write is text; only the template writes control tokens."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast

from longva.data.chats.chat import encode_conversation
from longva.data.chats.preferences import read_preference
from longva.model import LongVAProcessor
from longva.model.chat_format import (
    MARK,
    apply_template,
    beginning,
    chat_ids,
    control_tokens,
    stop_at_turn_end,
    template_ids,
    text_ids,
    turn_end,
)
from longva.model.random_model import SPECIAL_TOKENS, random_longva

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n\n"
    "{{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
NO_END = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@cache
def tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE with merges, over newlines too, as those of Qwen2 and Llama-3 have them."""
    special = [*SPECIAL_TOKENS, "<s>", "</s>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    text = [
        "assistant\n\n\nsystem\nYou are a helpful assistant.\n\nuser\nWhat? What is it? end|>\n"
    ]
    trained.train_from_iterator(
        text * 9,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos:
        number = trained.token_to_id("<s>")
        trained.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", number)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        pad_token="<|endoftext|>",
        extra_special_tokens=special,
    )


@cache
def processor(bos: bool = False, template: str | None = None) -> LongVAProcessor:
    made = random_longva()[1]
    parts = made.image_processor, tokenizer(bos), made.video_processor
    return LongVAProcessor(*parts, patches_per_grid=16, chat_template=template)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def row(made: LongVAProcessor, messages: list[dict], **options) -> tuple[list[int], list[int]]:
    encoded = encode_conversation(made, messages, {"image": [], "video": []}, **options)
    return encoded["input_ids"].tolist(), encoded["labels"].tolist()


@pytest.mark.parametrize("bos", [False, True])
def test_training_asking_and_the_processor_give_a_prompt_the_same_ids(bos):
    made, question = processor(bos), [user("What is it?")]
    asked = chat_ids(made, question)
    trained, labels = row(made, [*question, assistant("A cat.")])
    whole = made.apply_chat_template(question, add_generation_prompt=True, tokenize=True)
    text = made.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    assert asked == whole[0] == made(text=text)["input_ids"][0]
    assert trained[: len(asked)] == asked and set(labels[: len(asked)]) == {-100}
    assert made.tokenizer.decode(trained[len(asked) :]) == "A cat.<|im_end|>"
    assert (asked[:1] == [made.tokenizer.bos_token_id]) == bos


def test_captions_of_stage_1_begin_as_prompts_do_and_the_beginning_is_no_target():
    made = processor(bos=True)
    for messages in ([user("Say."), assistant("A cat.")], [user(" "), assistant("A <s> cat.")]):
        ids, labels = row(made, messages, template="plain")
        assert ids[0] == made.tokenizer.bos_token_id and labels[0] == -100
        assert ids.count(made.tokenizer.bos_token_id) == 1 and labels[1:] == ids[1:]


def test_a_template_that_writes_the_beginning_gets_it_once():
    made = processor(bos=True, template=LLAMA3)
    ids = chat_ids(made, [user("What?")])
    whole = made.apply_chat_template([user("What?")], add_generation_prompt=True, tokenize=True)
    assert ids == whole[0] and ids.count(made.tokenizer.bos_token_id) == 1


texts = st.text(st.sampled_from("ab \n.é<|>猫")).map(str.strip)


@given(st.lists(texts, min_size=3, max_size=5).filter(lambda said: len(said) % 2 == 1))
@settings(max_examples=50, deadline=None)
def test_a_later_question_has_the_ids_in_training_that_it_has_when_asked(said):
    made = processor(bos=True)
    talk = [(user, assistant)[n % 2](text) for n, text in enumerate(said)]
    asked = chat_ids(made, talk)
    trained, _ = row(made, [*talk, assistant("Yes.")])
    assert trained[: len(asked)] == asked


spelt = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "<s>", "</s>", "<|im_", "end|>", "<", "|>", " ", "a", MARK]),
    max_size=6,
).map("".join)


@given(spelt, spelt, spelt)
@settings(max_examples=100, deadline=None)
def test_text_that_spells_control_tokens_stays_text(first, second, answer):
    made = processor()
    special = {made.tokenizer.convert_tokens_to_ids(t) for t in control_tokens(made.tokenizer)}

    def talk(first: str, second: str, answer: str) -> list[dict]:
        parts = [{"type": "text", "text": first}, {"type": "text", "text": second}]
        return [{"role": "user", "content": parts}, assistant(answer)]

    ids, labels = row(made, talk(first, second, answer))
    plain, _ = row(made, talk("a", "b", "c"))
    control = [token for token in ids if token in special]
    assert control == [token for token in plain if token in special]
    decode = made.tokenizer.decode
    want = "<|im_start|>user\n{}{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>"
    assert decode(ids).endswith(want.format(first, second, answer).replace(MARK, "\ufffd"))
    assert [token for token in labels if token in special] == control[-1:]


def test_text_without_control_tokens_is_tokenised_in_one_piece():
    made = processor()
    text = apply_template(made, [user("What is it?\n\n")], add_generation_prompt=True)
    assert template_ids(made.tokenizer, [text])[0] == made.tokenizer(text)["input_ids"]
    assert text_ids(made.tokenizer, "") == [] and beginning(made.tokenizer) == []


@pytest.mark.parametrize(
    ("template", "end"),
    [(None, "<|im_end|>"), (LLAMA3, "<|endoftext|>"), (MISTRAL, "</s>"), (NO_END, None)],
)
def test_the_end_of_a_turn_is_what_the_template_writes_after_an_answer(template, end):
    made = processor(bos=True, template=template)
    assert turn_end(made) == end
    generation = GenerationConfig(eos_token_id=3)
    for _ in range(2):
        stop_at_turn_end(generation, made)
    number = made.tokenizer.convert_tokens_to_ids(end) if end else None
    assert generation.eos_token_id == ([3, number] if end else 3)


def test_answers_that_would_never_end_are_not_trained_on():
    with pytest.raises(ValueError, match="would not learn to stop"):
        row(processor(template=NO_END), [user("Q"), assistant("A")])


def test_an_answer_ends_with_its_turn_whatever_ends_a_text():
    """The end of text is `</s>` here, the end of a turn `<|im_end|>`; the newline is no target."""
    talk = [user("Q"), assistant("Yes."), user("R"), assistant("No.")]

    def learned(**options) -> str:
        _, labels = row(processor(), talk, **options)
        return tokenizer().decode([token for token in labels if token != -100])

    assert learned() == "Yes.<|im_end|>No.<|im_end|>"
    assert learned(last_only=True) == "No.<|im_end|>"


def test_both_answers_of_a_preference_begin_as_asked():
    pair = read_preference({"prompt": "What?", "chosen": "A </s>", "rejected": "B"})
    made = processor(bos=True)
    asked = chat_ids(made, [user("What?")])
    for messages, text in ((pair.chosen, "A </s>"), (pair.rejected, "B")):
        ids, labels = row(made, messages)
        assert ids[: len(asked)] == asked
        assert tokenizer(True).decode(ids[len(asked) :]) == f"{text}<|im_end|>"
        assert torch.tensor(labels).ne(-100).sum() == len(ids) - len(asked)
        assert ids.count(made.tokenizer.eos_token_id) == 0


def test_the_mask_of_the_assistant_is_what_it_says_and_the_end_of_its_turn():
    _, made = random_longva()
    image = {"type": "image", "image": Image.new("RGB", (60, 60))}
    messages = [
        {"role": "user", "content": [image, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A caf\u00e9."}]},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    inputs = made.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    (ids,), (mask,) = inputs["input_ids"], inputs["assistant_masks"]
    tokenizer = made.tokenizer
    first, second = (text_ids(tokenizer, text) for text in ("A caf\u00e9.", "Yes."))
    between = "<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    between = text_ids(tokenizer, between, control_tokens=True)[1:]  # the first end is a target
    by_hand = [1] * len(first) + [1] + [0] * len(between) + [1] * len(second) + [1, 0]
    assert mask == [0] * (len(ids) - len(by_hand)) + by_hand
    assert ids[-len(by_hand) :] == [
        *first,
        tokenizer.eos_token_id,
        *between,
        *second,
        tokenizer.eos_token_id,
        *text_ids(tokenizer, "\n"),
    ]


def test_half_a_surrogate_pair_is_read_as_the_replacement_character():
    processor = random_longva()[1]
    for kind in ("content", "role"):
        half, whole = (
            chat_ids(processor, [{"role": "user", "content": "Why?", **{kind: f"so {letter}"}}])
            for letter in ("\ud83d", "\ufffd")
        )
        assert half == whole
    assert text_ids(processor.tokenizer, "\ud83d") == text_ids(processor.tokenizer, "\ufffd")
