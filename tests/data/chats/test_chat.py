import re

import pytest
import torch

from longva.data.chats.chat import encode_conversation, read_conversation
from longva.errors import LongVAError
from longva.model.random_model import random_longva


@pytest.fixture(scope="module")
def processor():
    return random_longva()[1]


def conversation(*turns: tuple[str, str], **media):
    return read_conversation(
        {**media, "conversations": [{"from": who, "value": text} for who, text in turns]}
    )


def tokens_and_labels(processor, encoded) -> list[tuple[str, str]]:
    """Each token as text, and its label: "" where there is nothing to learn."""
    decode = processor.tokenizer.decode
    return [
        (decode([token]), "" if label == -100 else decode([label]))
        for token, label in zip(
            encoded["input_ids"].tolist(), encoded["labels"].tolist(), strict=True
        )
    ]


def masked(text: str) -> list[tuple[str, str]]:
    """A text of single-byte tokens and special tokens without labels."""
    pieces = []
    while text:
        special = next(
            (s for s in ("<|im_start|>", "<|im_end|>", "<image>", "<video>") if text.startswith(s)),
            text[0],
        )
        pieces.append((special, ""))
        text = text.removeprefix(special)
    return pieces


def learned(text: str) -> list[tuple[str, str]]:
    return [(token, token) for token, _ in masked(text)]


def test_only_what_the_assistant_says_has_labels_token_by_token(processor):
    talk = conversation(
        ("system", "Be brief."),
        ("human", "<image>\nWhat?"),
        ("gpt", "A cat."),
        ("human", "And?"),
        ("gpt", "A hat."),
        ("human", "Thanks."),
        image="a.jpg",
    )
    encoded = encode_conversation(processor, talk.messages, {"image": [3], "video": []})
    assert tokens_and_labels(processor, encoded) == [
        *masked("<|im_start|>system\nBe brief.<|im_end|>\n"),
        *masked("<|im_start|>user\n<image><image><image>\nWhat?<|im_end|>\n"),
        *masked("<|im_start|>assistant\n"),
        *learned("A cat.<|im_end|>"),
        *masked("\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"),
        *learned("A hat.<|im_end|>"),  # nothing answers the last turn
    ]


def test_the_tokens_are_those_of_the_processor_and_the_default_system_prompt_is_masked(processor):
    talk = conversation(("human", "Hi\n<image>"), ("gpt", "Yo"), image=["a.jpg"])
    image = torch.zeros(80, 100, 3, dtype=torch.uint8).numpy()
    text = processor.apply_chat_template(talk.messages, tokenize=False)
    whole = processor(text=text, images=[image], return_tensors="pt")["input_ids"][0]
    count = int((whole == processor.image_token_id).sum())
    columns, rows = processor.image_processor.grid_of(100, 80)
    assert count == processor.image_tokens(rows, columns)
    encoded = encode_conversation(processor, talk.messages, {"image": [count], "video": []})
    assert encoded["input_ids"].tolist() == whole[:-1].tolist()  # without the last newline
    assert int((encoded["labels"] != -100).sum()) == len("Yo") + 1


def test_plain_is_media_and_caption_without_a_question(processor):
    talk = conversation(("human", "Describe it.\n<image>"), ("gpt", "A cat."), image="a.jpg")
    encoded = encode_conversation(
        processor, talk.messages, {"image": [2], "video": []}, template="plain"
    )
    assert tokens_and_labels(processor, encoded) == [
        *masked("<image><image>"),
        *learned("A cat.\n"),
    ]


@pytest.mark.parametrize(
    ("text", "media", "want"),
    [
        ("<image>\nWhat?", {"image": "a"}, ["image", "What?"]),
        ("What?\n<image>", {"image": "a"}, ["image", "What?"]),  # alone: first, as LLaVA trains
        ("What?", {"image": "a"}, ["image", "What?"]),  # no placeholder
        ("<image>", {"image": "a"}, ["image"]),
        ("<image> <image>\nSame?", {"image": ["a", "b"]}, ["image", "image", "Same?"]),
        (
            "A: <image> B: <image>\nSame?",
            {"image": ["a", "b"]},
            ["A: ", "image", "B: ", "image", "Same?"],
        ),
        ("<image>\nWhen?", {"video": "v"}, ["video", "When?"]),  # LLaVA's name for videos too
        ("<video>\nWhen?", {"video": "v"}, ["video", "When?"]),
        ("<image> in <video>?", {"image": "a", "video": "v"}, ["image", "in ", "video", "?"]),
        ("Hello", {}, "Hello"),
        ("Hello", {"image": None, "video": []}, "Hello"),
    ],
)
def test_placeholders_become_parts(text, media, want):
    content = conversation(("human", text), ("gpt", "yes"), **media).messages[0]["content"]
    if isinstance(content, list):
        content = [part.get("text", part["type"]) for part in content]
    assert content == want


def test_an_answer_before_any_question_is_left_out():
    talk = conversation(("gpt", "Hello!"), ("human", "Hi"), ("gpt", "Yes?"))
    assert [message["content"] for message in talk.messages] == ["Hi", "Yes?"]


@pytest.mark.parametrize(
    ("turns", "media", "message"),
    [
        ([("human", "<image> <image>"), ("gpt", "x")], {"image": "a"}, "2 image .* but 1 image"),
        ([("human", "<video>"), ("gpt", "x")], {"image": "a"}, "0 image and 1 video placeholder"),
        ([("human", "<image>"), ("gpt", "x")], {}, r"1 image .* but 0 image\(s\)"),
        ([("human", "Hi"), ("gpt", "an <image>")], {}, "turn of role assistant has <image>"),
        ([("human", "Hi")], {}, "no turn of the assistant"),
        ([], {}, "no turn of the assistant"),
    ],
)
def test_what_is_no_conversation_says_why(turns, media, message):
    with pytest.raises(LongVAError, match=message) as caught:
        conversation(*turns, **media)
    if "Give conversations" in str(caught.value):
        conversation(("human", "Hi"), ("gpt", "Hello"))
        said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        assert len(read_conversation({"messages": said}).messages) == 2


def test_long_text_is_cut_but_never_media_nor_the_whole_answer(processor):
    talk = conversation(("human", "<image>\nWhat?"), ("gpt", "0123456789"), image="a")
    counts = {"image": [100], "video": []}
    whole = encode_conversation(processor, talk.messages, counts)
    length = len(whole["input_ids"])
    with pytest.warns(UserWarning, match="some samples lose text behind max_tokens"):
        cut = encode_conversation(processor, talk.messages, counts, max_tokens=length - 5)
    assert cut["input_ids"].equal(whole["input_ids"][:-5])
    assert cut["labels"].equal(whole["labels"][:-5])
    for max_tokens in (length - 11, 120):
        with pytest.raises(LongVAError, match="100 of them of images and videos.*Raise max_tokens"):
            encode_conversation(processor, talk.messages, counts, max_tokens=max_tokens)
    encode_conversation(processor, talk.messages, counts, max_tokens=length)
    fewer = {"image": [50], "video": []}
    encode_conversation(processor, talk.messages, fewer, max_tokens=length - 11)


def test_a_template_that_ends_no_answer_is_refused_until_another_is_taken():
    processor, talk = random_longva()[1], conversation(("human", "Hi"), ("gpt", "Hello"))
    whole, none = processor.chat_template, {"image": [], "video": []}
    plain = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    processor.chat_template = processor.tokenizer.chat_template = plain
    with pytest.raises(LongVAError, match="would not learn to stop. Add such a token, or take an"):
        encode_conversation(processor, talk.messages, none)
    processor.chat_template = plain.replace("\n", "<|im_end|>")
    encode_conversation(processor, talk.messages, none)
    processor.chat_template = whole
    encode_conversation(processor, talk.messages, none)


QUESTION = {"from": "human", "value": "<image>\nWhat?"}
ANSWER = {"from": "gpt", "value": "A cat."}
PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]


@pytest.mark.parametrize(
    "sample",
    [
        {"images": ["a.png"], "conversations": [QUESTION, ANSWER]},  # LLaMA-Factory's sharegpt
        {
            "images": ["a.png"],
            "messages": [
                {"role": "user", "content": "<image>What?"},
                {"role": "assistant", "content": "A cat."},
            ],
        },  # its other format
        {
            "images": ["a.png"],
            "messages": [
                {"role": "user", "content": PARTS},
                {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
            ],
        },  # TRL's
        {"image": ["a.png"], "videos": None, "images": [], "conversations": [QUESTION, ANSWER]},
    ],
)
def test_samples_of_trl_and_llama_factory_are_read_as_llavas(sample):
    llava = read_conversation({"image": "a.png", "conversations": [QUESTION, ANSWER]})
    assert read_conversation({**sample, "id": "x", "source": "coco"}) == llava
    system = read_conversation({**sample, "system": "Be brief."}).messages
    assert system == [{"role": "system", "content": "Be brief."}, *llava.messages]


def test_videos_are_read_by_both_names():
    turns = [{"from": "human", "value": "<video>\nWhat?"}, ANSWER]
    for name, value in (("video", "v.mp4"), ("videos", ["v.mp4"])):
        talk = read_conversation({name: value, "conversations": turns})
        assert talk.videos == ["v.mp4"] and talk.messages[0]["content"][0] == {"type": "video"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"img": "a"}, "'img' looks like its media, .* image, images, video or videos"),
        ({"frames": ["1", "2"]}, "'frames' looks like its media"),
        ({"Image": "a.png"}, "'Image' looks like its media"),
        ({"picture": {"path": "a.png"}}, "'picture' looks like its media"),
        ({"screen": "shots/a.PNG"}, "'screen' looks like its media"),
        ({"film": ["a.mp4", "b.mkv"]}, "'film' looks like its media"),
        ({"image": "a.png", "audio": "a.wav"}, "'audio' is not read here"),
        ({"tools": '[{"name": "f"}]'}, "'tools' is not read here"),
        ({"image": "a.png", "images": ["b.png"]}, "image and images are two names of one field"),
        ({"messages": [QUESTION]}, "conversations and messages are two names of one field"),
    ],
)
def test_a_field_that_would_be_dropped_is_refused(fields, message):
    turns = [{"from": "human", "value": "What?"}, ANSWER]
    sample = {**fields, "conversations": turns}
    with pytest.raises(LongVAError, match=message) as caught:
        read_conversation(sample)
    named = re.findall(r"(\w+)'? (?:is|are|looks) ", str(caught.value))[0]
    given = sample.pop(named)  # left out, or one of two names kept
    if "Name the field so" in str(caught.value) and isinstance(given, str):
        assert read_conversation({**sample, "image": given}).images == [given]
    if "image" in sample:
        turns[0] = QUESTION
    read_conversation(sample)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "a.png", "image": "a.png"},  # which has its picture
        {
            "tools": "[]",
            "url": "https://example.org/a.png",
            "source": "coco",
            "width": 3,
            "picture": None,
        },
    ],
)
def test_other_fields_are_left_alone(fields):
    talk = read_conversation({**fields, "conversations": [{**QUESTION, "value": "What?"}, ANSWER]})
    assert talk.images == ([fields["image"]] if "image" in fields else []) and talk.notes == ()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.png"},
        {"type": "audio"},
        "What?",
        {"text": "What?"},
        {"type": "text"},
        {"type": ["image"]},
    ],
)
def test_parts_of_a_turn_that_are_not_read_are_refused(part):
    messages = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "A"}]
    with pytest.raises(LongVAError, match="the parts of a turn are .*in images and videos"):
        read_conversation({"messages": messages})
    messages[0]["content"] = [{"type": "text", "text": "What?"}, {"type": "image"}]
    assert read_conversation({"messages": messages, "images": ["a.png"]}).images == ["a.png"]


def test_turns_that_are_not_read_are_told():
    talk = conversation(("gpt", "Hello!"), ("human", "Hi"), ("gpt", "Yes?"), ("human", "Bye"))
    assert talk.notes == (
        "what the assistant says before the first question is left out",
        "what comes after the last answer is left out",
    )
