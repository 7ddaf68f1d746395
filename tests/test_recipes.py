from dataclasses import dataclass, field
from pathlib import Path

import pytest

from longva.errors import RecipeError
from longva.recipes import STRICT, load_recipe, read_yaml, recipe_yaml, save_recipe
from longva.recipes.shipped import find_recipe, shipped_recipes


@dataclass(kw_only=True, frozen=True)
class Optim:
    __pydantic_config__ = STRICT
    lr: float = 1e-5
    schedule: str = "constant"


@dataclass(kw_only=True, frozen=True)
class Extend:
    __pydantic_config__ = STRICT
    base_model: str
    optim: Optim = field(default_factory=Optim)
    lengths: tuple[int, ...] = (1, 2)
    warmup: Optim | None = None
    seq_len: int = 224_000

    def __post_init__(self):
        if self.seq_len % 2:
            raise ValueError(f"seq_len must be even for zigzag sharding, got {self.seq_len}")


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "extend.yaml"
    path.write_text(text)
    return path


def test_a_recipe_becomes_a_dataclass_with_its_defaults(tmp_path):
    path = recipe(tmp_path, "base_model: m\noptim: {lr: 2e-5}\nlengths: [3, 4]\nseq_len: 32_000\n")
    assert load_recipe(Extend, path) == Extend(
        base_model="m", optim=Optim(lr=2e-5), lengths=(3, 4), seq_len=32_000
    )


def test_a_recipe_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "extend.yaml"
    path.write_bytes("base_model: café\n".encode("latin1"))
    with pytest.raises(RecipeError, match=r"extend.yaml is no YAML in UTF-8.*x00e9"):
        load_recipe(Extend, path)


def test_dotted_overrides_win_and_are_read_as_yaml(tmp_path):
    path = recipe(tmp_path, "base_model: m\n")
    overrides = ["optim.lr=3e-4", "lengths=[8]", "warmup.lr=1", "base_model=a=b"]
    assert load_recipe(Extend, path, overrides) == Extend(
        base_model="a=b", optim=Optim(lr=3e-4), lengths=(8,), warmup=Optim(lr=1.0)
    )


def test_every_problem_is_listed_with_its_key(tmp_path):
    path = recipe(tmp_path, "optim: {learning_rate: 1.0e-5}\nlengths: [1, x]\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(Extend, path)
    head, *problems = str(error.value).splitlines()
    assert head == f"{path}: 3 problem(s)"
    assert any(line.startswith("  base_model: is required") for line in problems)
    assert any("lengths.1: " in line and "(got 'x')" in line for line in problems)
    assert (
        "  optim.learning_rate: unknown key (got 1e-05); the keys here are lr, schedule" in problems
    )


REPEATED = "x0: &x0 [y]\n" + "".join(f"x{n}: &x{n} [{f'*x{n - 1}, ' * 9}]\n" for n in range(1, 10))
"""A few lines that stand for 9^9 words."""


MERGED = "x0: &x0 {a: 1}\n" + "".join(f"x{n}: &x{n} {{<<: *x{n - 1}}}\n" for n in range(1, 1500))
"""Mappings that take in one another, 1,500 deep."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_model: m\nseqlen: 3", "seqlen: unknown key .got 3.; did you mean seq_len?"),
        ("base_model: m\nwarmup: {sched: x}", "warmup.* unknown key .got 'x'."),
        ("base_model: m\nseq_len: 3", "seq_len must be even for zigzag sharding, got 3"),
        ("base_model: m\nseq_len: many", "seq_len: Input should be a valid integer.*got 'many'"),
        ("- base_model", "must hold `key: value` lines, it holds a list"),
        ("base_model: [", "is no YAML"),
        ("base_model: a\nseq_len: 2\nbase_model: b", "'base_model' is given twice\n.*line 3"),
        ("base_model: a\noptim: {lr: 1, lr: 2}", "'lr' is given twice"),
        ("base_model: 2024-02-30", "is no YAML.*day is out of range"),
        ("base_model: " + "[" * 10**6, "is no YAML.*nested more than 50 deep"),
        ("base_model: !!int ''", "is no YAML"),
        (MERGED + "<<: *x1499", "is no YAML.*RecursionError"),
        (REPEATED, r"x9: unknown key \(got \[\[\[.{,210}\.\.\.\); the keys here"),
    ],
    ids=lambda value: value[:30],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(Extend, recipe(tmp_path, text))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seq_len", "needs key=value"),
        (".lr=3", "needs key=value"),
        ("seq_len.x=3", "seq_len holds a int, which has no 'x'. Set it whole: seq_len="),
        ("base_model=[", "is no YAML"),
        ("optim={lr: 1, lr: 2}", "is no YAML with each key once"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(tmp_path, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(Extend, recipe(tmp_path, "base_model: m\nseq_len: 2"), [override])


def test_keys_that_stand_in_merged_mappings_too_are_no_repetition():
    text = "a: &a {x: 1}\nouter: {b: &b {<<: *a, x: 2}}\nc: {<<: *b, x: 3, 3: 4, '3': 5}"
    assert read_yaml(text) == {"a": {"x": 1}, "outer": {"b": {"x": 2}}, "c": {"x": 3, 3: 4, "3": 5}}


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"There is no recipe .*absent\.yaml"):
        load_recipe(Extend, tmp_path / "absent.yaml")


def test_each_shipped_recipe_is_found_by_its_name_and_says_what_runs_it():
    shipped = {recipe.name: recipe for recipe in shipped_recipes()}
    assert {"niah_text", "perplexity", "toy/extend", "nano/niah_visual"} <= shipped.keys()
    assert shipped["niah_visual"].command == "niah visual"
    assert shipped["toy/dpo"].command == "dpo"
    assert shipped["one_gpu/extend_80gb"].summary == (
        "The paper's extension on a single GPU of 80 GB, by host memory."
    )
    for recipe in shipped.values():
        assert find_recipe(recipe.name) == recipe.path
        assert len(recipe.summary) <= 120, recipe


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("niah_visul", "niah_visual"),
        ("niah_visual.yaml", "niah_visual"),
        ("recipes/toy/extend.yaml", "toy/extend"),
        ("extend_80gb", "one_gpu/extend_80gb"),
        ("dpo_80gb_lora", "one_gpu/dpo_80gb_lora"),
    ],
)
def test_a_wrong_name_suggests_the_one_that_is_like_it(wrong, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=rf"no recipe {wrong}.* Did you mean {meant}( or .*)?\?"):
        load_recipe(Extend, wrong)


def test_a_file_goes_before_a_shipped_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dpo").write_text("base_model: m\n", encoding="utf-8")
    assert load_recipe(Extend, "dpo") == Extend(base_model="m")


def test_a_resolved_recipe_loads_back_into_itself(tmp_path):
    before = Extend(base_model="m", optim=Optim(lr=1e-9), warmup=Optim())
    save_recipe(before, tmp_path / "out" / "recipe.yaml")
    assert load_recipe(Extend, tmp_path / "out" / "recipe.yaml") == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["recipe.yaml"]
    assert recipe_yaml(before).startswith("base_model: m\n")
