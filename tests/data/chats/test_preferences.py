import json
import math
from pathlib import Path

import pytest
from PIL import Image

from longva.data.chats.media import VideoConfig
from longva.data.chats.mixtures import DatasetConfig, MixtureConfig
from longva.data.chats.preferences import (
    PreferenceDataset,
    ReferenceLogProbs,
    read_preference,
)
from longva.errors import LongVAError, RecipeError
from longva.model.random_model import random_longva

HOUND = {
    "id": "v1_0",
    "video": "v1",
    "prompt": "<video>\nWhat is he doing?",
    "answer": "He is reading.",
    "chosen": "He reads.",
    "rejected": "He sleeps on a sofa.",
    "chosen_score": 5,
    "rejected_score": 2,
}
PLAIN = {"prompt": "Colour?", "chosen": "Red.", "rejected": "Blue.", "image": "red.png"}
ASKED = [{"from": "human", "value": "2 + 2?"}]
TEXT = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}


@pytest.fixture(scope="module")
def processor():
    return random_longva()[1]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "v1").mkdir()
    for number in range(6):
        Image.new("RGB", (96, 64), (number * 40, 0, 0)).save(tmp_path / "v1" / f"{number}.jpeg")
    Image.new("RGB", (100, 60), "red").save(tmp_path / "red.png")
    return tmp_path


def dataset(folder: Path, processor, rows=(HOUND, PLAIN, TEXT), **changes) -> PreferenceDataset:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    video = {"video": VideoConfig(num_frames=4)}
    config = MixtureConfig(datasets=(DatasetConfig(path=path),), **{**video, **changes})
    return PreferenceDataset(config, processor)


def test_a_pair_shares_prompt_and_media_and_only_its_answers_have_labels(folder, processor):
    item = dataset(folder, processor)[0]
    chosen, rejected = item["chosen_input_ids"], item["rejected_input_ids"]
    prompt = int((item["chosen_labels"] == -100).sum())
    assert chosen[:prompt].equal(rejected[:prompt])
    decode = processor.tokenizer.decode
    assert decode(item["chosen_labels"][prompt:]) == "He reads.<|im_end|>"
    assert decode(item["rejected_labels"][prompt:]) == "He sleeps on a sofa.<|im_end|>"
    assert int((item["rejected_labels"] == -100).sum()) == prompt
    text = decode(chosen[:prompt])
    assert text.endswith(
        "user\n" + "<video>" * 16 + "\nWhat is he doing?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert item["video_grid_thw"].tolist() == [[4, 1, 1]]
    image = dataset(folder, processor)[1]
    assert image["image_grid_thw"].shape == (1, 3) and "pixel_values_videos" not in image


def test_a_batch_holds_the_chosen_rows_and_then_the_rejected(folder, processor):
    pairs = dataset(folder, processor)
    items = [pairs[index] for index in range(3)]
    batch = pairs.collate(items)
    for row, name in enumerate(["chosen"] * 3 + ["rejected"] * 3):
        want = items[row % 3][f"{name}_input_ids"]
        assert batch["input_ids"][row][batch["attention_mask"][row].bool()].equal(want)
        kept = batch["labels"][row] != -100
        assert batch["labels"][row][kept].equal(batch["input_ids"][row][kept])
    assert batch["video_grid_thw"].shape == (1, 3)  # each medium once
    assert batch["keys"] == [item["key"] for item in items]


def test_the_key_changes_with_anything_that_the_reference_sees(folder, processor):
    key = dataset(folder, processor)[0]["key"]
    assert key == dataset(folder, processor, rows=(TEXT, HOUND))[1]["key"]
    others = {
        dataset(folder, processor, rows=[{**HOUND, "chosen": "He writes."}])[0]["key"],
        dataset(folder, processor, rows=[{**HOUND, "rejected": "He writes."}])[0]["key"],
        dataset(folder, processor, rows=[{**HOUND, "prompt": "What?"}])[0]["key"],
        dataset(folder, processor, video=VideoConfig(num_frames=3))[0]["key"],
        dataset(folder, processor, video=VideoConfig(num_frames=4, fit="pad"))[0]["key"],
    }
    Image.new("RGB", (96, 64), "white").save(folder / "v1" / "0.jpeg")
    others.add(dataset(folder, processor)[0]["key"])
    assert len(others) == 6 and key not in others


def test_bad_pairs_are_reported_together(folder, processor):
    rows = [{**HOUND, "video": "v2"}, {**PLAIN, "rejected": " "}, {"prompt": "x"}]
    with pytest.raises(
        LongVAError, match=r"(?s)3 problem.*v2.*rejected is not.*chosen, rejected is"
    ):
        dataset(folder, processor, rows)
    with pytest.raises(LongVAError, match="1 image and 0 video placeholder"):
        read_preference({**TEXT, "prompt": "<image> What?"})
    pairs = dataset(folder, processor, max_tokens=20)
    with pytest.raises(LongVAError, match="sample v1_0, chosen: .*Raise max_tokens"):
        pairs[0]


def test_reference_log_probs_survive_with_every_bit_and_are_shared_by_ranks(tmp_path):
    reference = {"model": "a", "dtype": "bfloat16"}
    first = ReferenceLogProbs(tmp_path, reference, rank=0)
    second = ReferenceLogProbs(tmp_path, reference, rank=1)
    first.append("k1", -math.pi * 1e3, -1e-300)
    second.append("k2", -2.5, -1e300)
    with pytest.raises(LongVAError, match="rejected is -inf"):
        second.append("k3", -2.5, -math.inf)
    assert "k2" not in first
    first.refresh()
    assert first["k1"] == (-math.pi * 1e3, -1e-300) and first["k2"] == (-2.5, -1e300)
    again = ReferenceLogProbs(tmp_path, reference)
    assert "k1" in again and "k2" in again and "k3" not in again


def test_a_line_torn_by_a_crash_is_computed_again(tmp_path):
    ReferenceLogProbs(tmp_path, {"model": "a"}).append("k1", -1.0, -2.0)
    path = tmp_path / "log_probs.0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.replace(b"k1", b"k2")[:-9])
    values = ReferenceLogProbs(tmp_path, {"model": "a"})
    assert "k2" not in values
    values.append("k2", -3.0, -4.0)
    assert ReferenceLogProbs(tmp_path, {"model": "a"})["k2"] == (-3.0, -4.0)


def test_the_numbers_of_another_reference_are_refused(tmp_path):
    ReferenceLogProbs(tmp_path, {"model": "a"})
    with pytest.raises(
        RecipeError, match=r"(?s)another reference:.*model: 'a' there, 'b' asked for"
    ):
        ReferenceLogProbs(tmp_path, {"model": "b"})


def test_pairs_of_trl_and_llama_factory_are_read_as_ours():
    ours = read_preference({**PLAIN, "image": ["red.png"]})
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Colour?"}]}
    asked = {"from": "human", "value": "<image>Colour?"}
    said = {name: {"from": "gpt", "value": PLAIN[name]} for name in ("chosen", "rejected")}
    turns = {
        name: [{"role": "assistant", "content": [{"type": "text", "text": PLAIN[name]}]}]
        for name in ("chosen", "rejected")
    }
    assert read_preference({"images": ["red.png"], "prompt": [user], **turns}) == ours
    assert read_preference({"images": ["red.png"], "conversations": [asked], **said}) == ours
    assert read_preference({"images": ["red.png"], "messages": [asked], **said}) == ours


def test_only_the_answers_that_differ_are_targets(folder, processor):
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "2 + 2?"},
    ]
    item = dataset(folder, processor, rows=[{"prompt": talk, "chosen": "4", "rejected": "5"}])[0]
    for name, answer in (("chosen", "4"), ("rejected", "5")):
        labels = item[f"{name}_labels"]
        assert processor.tokenizer.decode(labels[labels >= 0]) == f"{answer}<|im_end|>"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conversations": [{"from": "human", "value": "?"}]}, "Keep one of them"),
        ({"chosen": [{"from": "gpt", "value": "4"}] * 2}, "chosen is not"),
        ({"chosen": {"from": "human", "value": "4"}}, "no turn of the assistant follows"),
        ({"prompt": [*ASKED, {"from": "gpt", "value": "4"}]}, "must end with a turn of the user"),
        ({"rejected": {"from": "gpt", "value": " "}}, "that says something"),
        ({"prompt": [{"role": "system", "content": "?"}]}, "no turn of the assistant follows"),
        ({"picture": "red.png"}, "'picture' looks like its media"),
    ],
)
def test_pairs_that_would_lose_something_are_refused(fields, message):
    with pytest.raises(LongVAError, match=message) as caught:
        read_preference({**TEXT, **fields})
    if "Keep one of them" in str(caught.value):
        for dropped in ("prompt", "conversations"):
            kept = {**TEXT, **fields}
            del kept[dropped]
            read_preference(kept)
