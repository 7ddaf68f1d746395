import copy
import json
import re
import tracemalloc
from pathlib import Path

import fsspec
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from longva.data.chats.conversations import ConversationConfig, ConversationDataset
from longva.data.chats.media import VideoConfig
from longva.data.chats.mixtures import DatasetConfig
from longva.errors import LongVAError, RecipeError
from longva.model.random_model import random_longva
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings

SIZES = {"wide.png": (160, 60), "small.png": (40, 40), "tall.png": (50, 200)}


@pytest.fixture(scope="module")
def model_and_processor():
    return random_longva()


@pytest.fixture
def folder(tmp_path, video) -> Path:
    for name, size in SIZES.items():
        Image.new("RGB", size, "red").save(tmp_path / name)
    (tmp_path / "scenes.mp4").symlink_to(video)
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(12):
        Image.new("RGB", (64, 48), (number * 20, 0, 0)).save(frames / f"{number}.jpg")
    return tmp_path


def sample(question: str, answer: str = "Yes.", **fields) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**fields, "conversations": turns}


def config(folder: Path, samples: list[dict], **changes) -> ConversationConfig:
    path = folder / "samples.json"
    path.write_text(json.dumps(samples))
    video = {"video": VideoConfig(num_frames=5)}
    return ConversationConfig(datasets=(DatasetConfig(path=path),), **{**video, **changes})


MIXED = [
    sample("<image>\nWide?", image="wide.png", id=7),
    sample("Hello"),
    sample("<image> <image>\nSame?", image=["small.png", "tall.png"]),
    sample("<video>\nWhen?", video="scenes.mp4"),
    sample("<image>\nAnd here?", video="frames"),
    sample("<image> or <video>?", image="tall.png", video="frames"),
]


def test_samples_of_every_kind_run_through_the_model(folder, model_and_processor):
    model, processor = model_and_processor
    dataset = ConversationDataset(config(folder, MIXED), processor)
    assert len(dataset) == 6 and dataset.lengths is None
    for index, (images, frames) in enumerate(
        [(1, []), (0, []), (2, []), (0, [5]), (0, [5]), (1, [5])]
    ):
        item = dataset[index]
        rows = item.get("image_grid_thw", torch.empty(0, 3)).tolist()
        assert len(rows) == images
        assert [n for n, _, _ in item.get("video_grid_thw", torch.empty(0, 3)).tolist()] == frames
        with torch.no_grad():
            model(**{name: x[None] if x.ndim == 1 else x for name, x in item.items()})
    wide = dataset[0]
    columns, rows = processor.image_processor.grid_of(160, 60)
    assert wide["pixel_values"].shape == (columns * rows, 3, 56, 56)
    assert int((wide["input_ids"] == processor.image_token_id).sum()) == columns * rows * 4


def test_reading_a_sample_again_gives_it_again(folder, model_and_processor):
    dataset = ConversationDataset(config(folder, MIXED), model_and_processor[1])
    for index in (5, 3, 3):
        first, again = dataset[index], dataset[index]
        assert all(first[name].equal(again[name]) for name in first | again)


def test_a_batch_is_padded_at_the_right_and_gives_the_same_logits(folder, model_and_processor):
    model, processor = model_and_processor
    dataset = ConversationDataset(config(folder, MIXED), processor)
    loader = DataLoader(
        dataset, batch_sampler=[[0, 1, 3, 5]], collate_fn=dataset.collate, num_workers=1
    )
    (batch,) = loader
    lengths = [len(dataset[index]["input_ids"]) for index in (0, 1, 3, 5)]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["input_ids"].shape == (4, max(lengths))
    assert (
        batch["image_grid_thw"].shape == (2, 3)
        and batch["video_grid_thw"].tolist() == [[5, 1, 1]] * 2
    )
    short = lengths[1]
    assert set(batch["input_ids"][1, short:].tolist()) == {processor.tokenizer.pad_token_id}
    assert set(batch["labels"][1, short:].tolist()) == {-100}
    model = copy.deepcopy(model).double()  # where equal sums differ by 1e-16, however they are done
    with torch.no_grad():
        together = model(**{n: x for n, x in batch.items() if n != "labels"}).logits
        for row, index in enumerate((0, 1, 3, 5)):
            item = dataset[index]
            alone = model(**{n: x[None] if x.ndim == 1 else x for n, x in item.items()}).logits[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, rtol=0, atol=1e-12)


def test_lengths_to_group_by_are_near_the_real_ones(folder, model_and_processor):
    long_text = sample("word " * 800, "Yes. " * 400)
    dataset = ConversationDataset(
        config(folder, [*MIXED, long_text], group_by_length=True), model_and_processor[1]
    )
    assert dataset.lengths is not None
    media = [
        int(sum((item["input_ids"] == token).sum() for token in (259, 260)))
        for item in (dataset[index] for index in range(7))
    ]
    texts = [len(json.dumps(s)) // 4 for s in [*MIXED, long_text]]
    signs = [1, -1, 1, 1, 1, 1, -1]  # negative: without media
    want = [s * (m + t) for s, m, t in zip(signs, media, texts, strict=True)]
    assert dataset.lengths.tolist() == want


def test_all_problems_are_reported_before_training(folder, model_and_processor):
    samples = [
        sample("<image>\nWhat?", image="gone.png", id="a"),
        sample("<image>\nWhat?", image="wide.png"),
        sample("<image>\nWhat?", id="b"),
        sample("<video>\nWhen?", video="gone.mp4"),
        {"id": "c", "conversations": []},
        sample("<image>", image={"path": "wide.png"}, id="d"),
        {"id": "e", "conversations": [{"from": "human", "value": None}]},
    ]
    with pytest.raises(LongVAError) as caught:
        ConversationDataset(config(folder, samples), model_and_processor[1])
    message = str(caught.value)
    assert message.startswith("6 problem(s) in the data:")
    for part in (
        f"samples.json, sample a: there is no {folder / 'gone.png'}",
        "samples.json, sample b: 1 image and 0 video placeholder(s), but 0 image(s)",
        f"samples.json, sample number 3: there is no {folder / 'gone.mp4'}",
        "samples.json, sample c: no turn of the assistant",
        "samples.json, sample d: image must be a path or a list of paths, got {'path'",
        "samples.json, sample e: each turn needs `from` and `value` (or",
    ):
        assert part in message
    many = [sample("<image>", image=f"{number}.png") for number in range(1500)]
    with pytest.raises(LongVAError, match=r"(?s)1,500 problem\(s\).*and 1,480 more"):
        ConversationDataset(config(folder, many), model_and_processor[1])


def test_images_that_take_more_than_may_be_read_are_reported_before_training(
    folder, model_and_processor
):
    """Where lengths are read anyway; else the sample says so when its turn comes."""
    many = sample("<image><image>\nSame?", image=["wide.png", "tall.png"], id="many")
    settings = config(folder, [MIXED[1], many], group_by_length=True, max_tokens=30)
    with pytest.raises(LongVAError, match=r"1 problem(.|\n)*many: its images take 4. tokens"):
        ConversationDataset(settings, model_and_processor[1])


def test_what_only_decoding_finds_names_the_file_or_sample(folder, model_and_processor):
    (folder / "torn.png").write_bytes((folder / "wide.png").read_bytes()[:60])
    samples = [
        sample("<image>", image="torn.png"),
        sample("<video>", video="scenes.mp4", id="long"),
    ]
    dataset = ConversationDataset(config(folder, samples, max_tokens=30), model_and_processor[1])
    with pytest.raises(LongVAError, match="torn.png is broken"):
        dataset[0]
    with pytest.raises(LongVAError, match="sample long: .*20 of them of images and videos"):
        dataset[1]


def test_samples_and_media_are_read_from_an_object_store(folder, model_and_processor):
    store = fsspec.filesystem("memory")
    rows = [sample("<image>", image="wide.png"), sample("<video>", video="scenes.mp4")]
    here = ConversationDataset(config(folder, rows), model_and_processor[1])
    for name in ("wide.png", "scenes.mp4", "samples.json"):
        store.pipe(f"/bucket/{name}", (folder / name).read_bytes())
    settings = {"video": VideoConfig(num_frames=5), "group_by_length": True}
    there = ConversationDataset(
        ConversationConfig(
            datasets=(DatasetConfig(path=Path("memory://bucket/samples.json")),), **settings
        ),
        model_and_processor[1],
    )
    for index in range(2):
        assert all(there[index][name].equal(x) for name, x in here[index].items())
    assert (there.lengths > 0).all()
    whole = [sample("<image>", image="memory://bucket/wide.png")]
    assert ConversationDataset(config(folder, whole), model_and_processor[1])[0].keys()
    store.rm("/bucket/wide.png")
    with pytest.raises(LongVAError, match="memory://bucket/wide.png cannot be read: FileNotFound"):
        there[0]
    gone = DatasetConfig(path=Path("memory://bucket/none.json"))
    with pytest.raises(RecipeError, match="There is no data set memory://bucket/none.json"):
        ConversationDataset(ConversationConfig(datasets=(gone,)), model_and_processor[1])


def test_an_opened_list_takes_so_little_a_sample_that_738_000_take_less_than_a_gib(
    folder, model_and_processor, monkeypatch
):
    """From the second start on; the samples themselves stay on the disk."""
    many = [sample(f"Question {number}?") for number in range(5000)]
    settings = config(folder, many, group_by_length=True)
    ConversationDataset(settings, model_and_processor[1])
    monkeypatch.setattr("longva.data.chats.samples.read_samples", None)  # not called again
    tracemalloc.start()
    opened = ConversationDataset(settings, model_and_processor[1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(opened) == 5000 and peak < 5000 * 2**30 / 738_000


def test_contradictory_video_settings_are_refused():
    with pytest.raises(RecipeError, match=r"video.max_frames caps video.fps"):
        VideoConfig(max_frames=8)
    with pytest.raises(LongVAError, match="num_frames and fps are different ways"):
        VideoConfig(num_frames=8, fps=1)


def test_videos_are_sampled_as_the_recipe_says(folder, model_and_processor):
    samples = [sample("<video>", video="scenes.mp4")]  # six seconds
    processor = model_and_processor[1]

    def frames(**video) -> int:
        dataset = ConversationDataset(
            config(folder, samples, video=VideoConfig(**video), group_by_length=True), processor
        )
        count = dataset[0]["video_grid_thw"][0, 0].item()
        assert dataset.lengths is not None
        assert dataset.lengths[0] - len(json.dumps(samples[0])) // 4 in (count * 4, count * 4 + 4)
        return int(count)

    assert frames(num_frames=3) == 3
    assert frames(fps=2) == 12
    assert frames(fps=2, max_frames=7) == 7
    assert frames(fps=2, start=1, end="0:02.5") == 3
    assert frames(fps=2, start=4) == 4
    assert frames() == 32  # the processor's own


def test_what_is_left_out_of_samples_is_told_once_with_their_number(folder, model_and_processor):
    greeted = [{"from": "gpt", "value": "Hello!"}, *sample("Hi")["conversations"]]
    samples = [sample("Hi"), {"conversations": greeted}, {"conversations": greeted}]
    with pytest.warns(UserWarning) as told:
        ConversationDataset(config(folder, samples), model_and_processor[1])
    assert [str(one.message) for one in told] == [
        "2 of 3 samples: what the assistant says before the first question is left out"
    ]


def asked_with_times(model_and_processor, video, every: float) -> torch.Tensor:
    """Token ids of a question that is asked with times; frames as the token of a video."""
    model, processor = model_and_processor
    longva = LongVA(copy.deepcopy(model), processor, name="random")
    session = longva.watch(video, fps=2, settings=FrameSettings(time_tokens=every))
    prompt = session._question("When is it?")
    return torch.where(prompt < 0, processor.video_token_id, prompt)


def test_a_model_is_trained_on_the_prompt_that_asking_with_times_gives(
    folder, video, model_and_processor
):
    def item(**how):
        data = [sample("<video>\nWhen is it?", "At 0:00:02.", video="scenes.mp4")]
        told = config(folder, data, video=VideoConfig(fps=2, **how))
        return ConversationDataset(told, model_and_processor[1])[0]

    for every in (1, 2.5):
        trained, asked = (
            item(time_tokens=every),
            asked_with_times(model_and_processor, video, every),
        )
        learned = trained["labels"] != -100
        assert trained["input_ids"][: int(learned.nonzero()[0])].tolist() == asked.tolist()
        said = model_and_processor[1].tokenizer.decode(trained["input_ids"][learned])
        assert said == "At 0:00:02.<|im_end|>"
    assert len(item()["input_ids"]) < len(item(time_tokens=2.5)["input_ids"])
    assert item()["pixel_values_videos"].equal(item(time_tokens=1)["pixel_values_videos"])


def test_times_stand_in_every_video_of_a_sample_and_in_none_of_its_images(
    folder, model_and_processor
):
    model, processor = model_and_processor
    (folder / "frames" / "times.txt").write_text("\n".join(str(n) for n in range(12)))
    data = [
        sample(
            "See <video> and <image> and <video>!",
            video=["frames", "scenes.mp4"],
            image="small.png",
        ),
        sample("<image>\nWhat?", image="small.png"),
    ]
    how = VideoConfig(num_frames=3, time_tokens=4)
    dataset = ConversationDataset(config(folder, data, video=how, group_by_length=True), processor)
    item = dataset[0]
    text = processor.tokenizer.decode(item["input_ids"])
    runs = re.sub(r"(?:<video>)+", "<video>", re.sub(r"(?:<image>)+", "<image>", text))
    assert "See \n0:00:00<video>\n0:00:05<video>\n0:00:11<video>\nand <image>" in runs
    assert "<image>\nand \n0:00:00<video>\n0:00:05.8<video>\n!" in runs.replace(
        "0:00:05.9", "0:00:05.8"
    )
    with torch.no_grad():
        model(**{name: x[None] if x.ndim == 1 else x for name, x in item.items()})
    assert not re.search(r"\d:\d\d", processor.tokenizer.decode(dataset[1]["input_ids"]))
    longer = ConversationDataset(
        config(folder, data, video=VideoConfig(num_frames=3), group_by_length=True), processor
    )
    assert dataset.lengths is not None and longer.lengths is not None
    assert dataset.lengths[0] > longer.lengths[0] and dataset.lengths[1] == longer.lengths[1]


def test_times_that_cannot_be_told_are_refused_with_what_to_do(folder, model_and_processor):
    data = [sample("<video>\nWhen?", video="frames")]
    how = VideoConfig(num_frames=3, time_tokens=4)
    dataset = ConversationDataset(config(folder, data, video=how), model_and_processor[1])
    with pytest.raises(LongVAError, match="no times, which video.time_tokens writes"):
        dataset[0]
    (folder / "frames" / "times.txt").write_text("\n".join(str(n) for n in range(12)))
    assert len(dataset[0]["input_ids"])
    with pytest.raises(RecipeError, match="template plain has none. Leave time_tokens out"):
        config(folder, data, video=how, template="plain")
    config(folder, data, video=how, template="chat")
    config(folder, data, template="plain")
    for every in (0, -1, float("nan"), float("inf")):
        with pytest.raises(RecipeError, match="time_tokens needs more than 0 seconds"):
            VideoConfig(time_tokens=every)
