import json
import pickle
import subprocess
from pathlib import Path

import pytest

from longva.data.chats import samples
from longva.data.chats.mixtures import DatasetConfig, MixtureConfig, read_samples, take_indices
from longva.data.chats.samples import Samples
from longva.errors import LongVAError, RecipeError
from longva.recipes import load_recipe


@pytest.fixture
def ten(tmp_path) -> Path:
    path = tmp_path / "ten.json"
    path.write_text(json.dumps([{"id": number} for number in range(10)]))
    return path


def ids(samples: Samples) -> list[int]:
    return [samples[index]["id"] for index in range(len(samples))]


def taken(path: Path, take: str) -> list[int]:
    return ids(Samples(MixtureConfig(datasets=(DatasetConfig(path=path, take=take),))))


@pytest.mark.parametrize(
    ("take", "want"),
    [
        ("all", list(range(10))),
        ("first: 3", [0, 1, 2]),
        ("first:25%", [0, 1, 2]),  # rounded up
        ("last: 2", [8, 9]),
        ("end:20%", [8, 9]),  # the original's word
        ("random: 100%", list(range(10))),
        ("first: 12.5%", [0, 1]),
        ("random: 0", []),
    ],
)
def test_a_part_of_a_data_set_is_taken(take, want):
    assert take_indices(take, [b"%d" % n for n in range(10)]) == want


def test_random_samples_depend_on_content_alone(tmp_path, ten):
    chosen = taken(ten, "random: 4")
    assert len(chosen) == 4 and chosen == taken(ten, "random: 40%")
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(json.dumps({"id": n}) + "\n" for n in reversed(range(10))))
    assert taken(turned, "random: 4") == chosen[::-1]


def test_a_mixture_is_read_from_a_recipe_and_from_the_originals_yaml(tmp_path, ten):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"datasets: [{{path: {ten}, take: 'first: 2'}}, {{path: {ten}, media_folder: /m}}]"
    )
    samples = Samples(load_recipe(MixtureConfig, recipe))
    assert ids(samples) == [0, 1, *range(10)]
    assert samples.media_path(0, "a.jpg") == tmp_path / "a.jpg"
    assert samples.media_path(2, "a.jpg") == Path("/m/a.jpg")
    assert samples.name(3) == f"{ten}, sample 1"
    old = tmp_path / "old.yaml"
    old.write_text(f"datasets:\n- json_path: {ten}\n  sampling_strategy: 'end:10%'\n")
    recipe.write_text(f"mixture: {old}\nmedia_folder: pictures")
    samples = Samples(load_recipe(MixtureConfig, recipe))
    assert ids(samples) == [9] and samples.media_path(0, "a.jpg") == Path("pictures/a.jpg")


def test_a_list_is_read_item_by_item_and_no_damage_is_passed_over(tmp_path):
    path = tmp_path / "list.json"
    for text in ("[]", " [ ] ", '[{"id": 1}]', ' [{"id": 1} ,\n {"id": "]"}\n]\n'):
        path.write_text(text)
        assert list(read_samples(path)) == json.loads(text)
    for text in ('[{"id": 1} {"id": 2}]', '[{"id": 1}', '[{"id": 1}] [{"id": 2}]', '[{"id": }]'):
        path.write_text(text)
        with pytest.raises(LongVAError, match=f"{path} is not json: .*char"):
            list(read_samples(path))
    path.write_text('{"id": 1}{')
    with pytest.raises(LongVAError, match="is not json: Extra data"):
        list(read_samples(path))


def test_the_index_is_made_once_and_anew_when_a_file_has_changed(ten, monkeypatch):
    first, config = taken(ten, "all"), MixtureConfig(datasets=(DatasetConfig(path=ten),))
    with monkeypatch.context() as patch:
        patch.setattr(samples, "read_samples", None)  # not called again
        assert taken(ten, "all") == first
        assert ids(pickle.loads(pickle.dumps(Samples(config)))) == first
    ten.write_text('[{"id": 7}]')
    assert taken(ten, "all") == [7]


def test_what_is_found_out_about_samples_depends_on_where_their_media_are(ten):
    files = (DatasetConfig(path=ten),)
    here, there = (
        Samples(MixtureConfig(datasets=files, media_folder=folder))
        for folder in (Path("a"), Path("b"))
    )
    assert here.remember("x", [1], lambda: "here") == "here"
    assert here.remember("x", [1], lambda: "again") == "here"
    assert here.remember("x", [2], lambda: "other settings") == "other settings"
    assert there.remember("x", [1], lambda: "there") == "there"


def test_a_cache_that_cannot_be_written_is_named_with_its_remedy(ten, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(ten))  # a file
    with pytest.raises(RecipeError, match="ten.json/longva/.* Set the variable XDG_CACHE_HOME"):
        taken(ten, "all")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert len(taken(ten, "all")) == 10


def test_a_file_that_is_not_there_is_given(tmp_path, ten):
    with pytest.raises(RecipeError, match="no data set .*Give a .json, .jsonl or .parquet file of"):
        taken(tmp_path / "gone.json", "all")
    lines = tmp_path / "ten.jsonl"
    lines.write_text("".join(json.dumps({"id": number}) + "\n" for number in range(10)))
    assert taken(ten, "all") == taken(lines, "all") == list(range(10))
    mixture = tmp_path / "mixture.yaml"
    with pytest.raises(RecipeError, match="There is no mixture .*Give a YAML file"):
        Samples(MixtureConfig(mixture=mixture))
    mixture.write_text(f"datasets: [{{path: {ten}}}]")
    assert len(Samples(MixtureConfig(mixture=mixture))) == 10


def test_a_list_that_is_not_utf_8_is_converted(ten):
    ten.write_bytes('[{"id": "café"}]'.encode("latin1"))
    with pytest.raises(LongVAError, match="Convert it: iconv") as refused:
        taken(ten, "all")
    command = str(refused.value).split("Convert it: ")[1].split()
    ten.write_bytes(subprocess.run([*command, ten], check=True, capture_output=True).stdout)
    assert taken(ten, "all") == ["café"]


def test_lines_end_at_newlines_alone(tmp_path):
    path = tmp_path / "lines.jsonl"
    values = ["a\u2028b", "c\u0085d", "e"]
    lines = [json.dumps({"id": value}, ensure_ascii=False) for value in values]
    path.write_bytes("\r\n".join([*lines, "", ""]).encode())
    assert taken(path, "all") == values


def test_what_cannot_be_taken_is_named(tmp_path, ten):
    with pytest.raises(RecipeError, match="ten.json: take 'first: 11' asks for 11 of 10 samples"):
        taken(ten, "first: 11")
    with pytest.raises(RecipeError, match="There is no data set /nowhere.json"):
        taken(Path("/nowhere.json"), "all")
    with pytest.raises(RecipeError, match="as in 'random: 10%', got 'middle: 3'"):
        DatasetConfig(path=ten, take="middle: 3")
    with pytest.raises(RecipeError, match="give datasets, .* or mixture"):
        MixtureConfig()
    with pytest.raises(RecipeError, match="no samples"):
        taken(ten, "first: 0")
    ten.write_text("[1, 2]")
    with pytest.raises(LongVAError, match="must hold a list of samples"):
        taken(ten, "all")
    ten.write_text("[")
    with pytest.raises(LongVAError, match="ten.json is not json"):
        taken(ten, "all")
    ten.write_bytes('[{"id": "café"}]'.encode("latin1"))
    with pytest.raises(LongVAError, match="ten.json is not UTF-8 text: byte 12 is 0xe9.*iconv"):
        taken(ten, "all")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_bytes("datasets:\n- {path: café.json}".encode("latin1"))
    with pytest.raises(RecipeError, match=r"wrong.yaml must hold .*x00e9"):
        Samples(MixtureConfig(mixture=wrong))
    wrong.write_text("datasets:\n- {pth: a.json}")
    with pytest.raises(RecipeError, match="must hold `datasets:` and a list of {path, take"):
        Samples(MixtureConfig(mixture=wrong))
    with pytest.raises(RecipeError, match="There is no mixture"):
        Samples(MixtureConfig(mixture=tmp_path / "none.yaml"))


def test_a_misspelt_key_of_a_recipe_is_named(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("datasets: [{path: a.json, tak: all}]")
    with pytest.raises(
        RecipeError, match=r"datasets\.0\.tak: unknown key \(got 'all'\); did you mean take"
    ):
        load_recipe(MixtureConfig, recipe)
