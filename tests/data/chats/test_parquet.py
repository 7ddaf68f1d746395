"""Samples in Parquet with their media inside, as data sets of the hub are written."""

import json
import pickle
from pathlib import Path

import datasets
import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from longva.data.chats.conversations import ConversationConfig, ConversationDataset
from longva.data.chats.media import VideoConfig
from longva.data.chats.mixtures import DatasetConfig, MixtureConfig
from longva.data.chats.preferences import PreferenceDataset
from longva.data.chats.samples import Samples
from longva.errors import LongVAError, RecipeError
from longva.model.random_model import random_longva


@pytest.fixture(scope="module")
def processor():
    return random_longva()[1]


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, size in enumerate([(160, 60), (40, 40), (50, 200), (64, 48)]):
        Image.new("RGB", size, (number * 60, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def turns(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


CHATS = [
    {"images": ["0.png"], "messages": turns("<image>What?", "A bar.")},
    {"images": [], "messages": turns("Hello", "Hi.")},
    {"images": ["1.png", "2.png"], "messages": turns("<image><image>Same?", "No.")},
    {"images": ["3.png"], "messages": turns("<image>Dark?", "No.")},
]


def conversations(path: Path, processor, **settings) -> ConversationDataset:
    config = ConversationConfig(datasets=(DatasetConfig(path=path),), **settings)
    return ConversationDataset(config, processor)


def assert_same_items(some, others) -> None:
    assert len(some) == len(others)
    for one, other in ((some.item(n), others.item(n)) for n in range(len(some))):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == other[name] if name == "key" else value.equal(other[name])


def hub_files(folder: Path, shards: int = 1) -> Path:
    """What `push_to_hub` uploads, of `CHATS`: the pictures' bytes lie in the rows."""
    rows = {
        "images": [[str(folder / name) for name in chat["images"]] for chat in CHATS],
        "messages": [chat["messages"] for chat in CHATS],
        "source": ["made"] * len(CHATS),
    }
    data = datasets.Dataset.from_dict(rows)
    data = data.cast_column("images", datasets.List(datasets.Image()))
    data = data.with_format("arrow").map(
        datasets.table.embed_table_storage, batched=True, load_from_cache_file=False
    )
    hub = folder / "hub"
    hub.mkdir()
    for shard in range(shards):
        name = f"train-{shard:05}-of-{shards:05}.parquet"
        data.shard(shards, shard).with_format(None).to_parquet(hub / name)
    for picture in folder.glob("*.png"):
        picture.unlink()
    return hub


@pytest.mark.parametrize("shards", [1, 2])
def test_a_data_set_of_the_hub_is_read_as_its_files_would_be(shards, folder, processor):
    (folder / "chats.json").write_text(json.dumps(CHATS))
    files = conversations(folder / "chats.json", processor, group_by_length=True)
    want = [files.item(index) for index in range(len(CHATS))]
    lengths = (abs(files.lengths) - files.samples.num_bytes() // 4).tolist()
    inside = conversations(hub_files(folder, shards) / "train-*.parquet", processor,
                           group_by_length=True)  # fmt: skip
    for index, one in enumerate(want):
        got = inside.item(index)
        assert got.keys() == one.keys() and all(got[name].equal(one[name]) for name in one)
    assert (abs(inside.lengths) - inside.samples.num_bytes() // 4).tolist() == lengths
    again = pickle.loads(pickle.dumps(inside.samples))  # as a process of the loader gets it
    assert again.media_path(0, again[0]["images"][0]).is_file()


def test_the_name_of_a_sample_does_not_depend_on_where_the_index_is(folder, tmp_path, monkeypatch):
    path = hub_files(folder) / "train-00000-of-00001.parquet"
    config = MixtureConfig(datasets=(DatasetConfig(path=path),))
    here = Samples(config)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    there = Samples(config)
    assert here.folder != there.folder
    assert [here.key(n) for n in range(4)] == [there.key(n) for n in range(4)]


def test_a_film_and_pairs_and_names_of_files_are_read_from_parquet_too(folder, video, processor):
    picture, film = (folder / "0.png").read_bytes(), video.read_bytes()
    pairs = {
        "image": [{"bytes": picture, "path": None}, None],
        "video": [None, film],
        "prompt": ["<image>What?", "<video>When?"],
        "chosen": ["A bar.", "Now."],
        "rejected": ["A cat.", "Never."],
    }
    pyarrow.parquet.write_table(pyarrow.table(pairs), folder / "pairs.parquet")
    named = [
        {"image": "0.png", "prompt": "<image>What?", "chosen": "A bar.", "rejected": "A cat."},
        {"video": str(video), "prompt": "<video>When?", "chosen": "Now.", "rejected": "Never."},
    ]
    (folder / "pairs.json").write_text(json.dumps(named))
    by_name = [
        {**row, **{kind: {"bytes": None, "path": row.get(kind)} for kind in ("image", "video")}}
        for row in named
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(by_name), folder / "named.parquet")
    inside, files, names = (
        PreferenceDataset(
            MixtureConfig(
                datasets=(DatasetConfig(path=folder / name),), video=VideoConfig(num_frames=4)
            ),
            processor,
        )
        for name in ("pairs.parquet", "pairs.json", "named.parquet")
    )
    assert_same_items(inside, files)
    assert_same_items(names, files)


def test_parquet_is_read_from_an_object_store(folder, processor):
    store = fsspec.filesystem("memory")
    hub = hub_files(folder, shards=2)
    for file in hub.iterdir():
        store.pipe(f"/parquet/{file.name}", file.read_bytes())
    here = conversations(hub / "train-*.parquet", processor)
    there = conversations(Path("memory://parquet/train-*.parquet"), processor)
    assert_same_items(there, here)


def test_what_cannot_be_read_is_said(folder, processor):
    hub = hub_files(folder)
    file = hub / "train-00000-of-00001.parquet"
    with pytest.raises(RecipeError, match=r"hub is a folder. Name its files, such as .*\*") as told:
        conversations(hub, processor)
    conversations(Path(str(told.value).split("such as ")[1].removesuffix(".")), processor)
    with pytest.raises(RecipeError, match="no data set .*test-.*Give a .json, .jsonl or .parquet"):
        conversations(hub / "test-*.parquet", processor)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(LongVAError, match="cannot be read as Parquet"):
        conversations(file, processor)
