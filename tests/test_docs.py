"""Pages that name files and functions: what they name is there."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import longva
from tests.test_examples import PAGES, blocks_in

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "longva"
NAMED = re.compile(r"`((?:\w+/)*\w+\.py)(?:: (\w+))?`")


def names_in(path: Path) -> set[str]:
    """Functions, classes, methods and constants of a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/paper_map.md"])
def test_files_and_functions_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = [match for match in NAMED.findall(text) if "/" in match[0]]
    assert named
    for file, name in named:
        path = ROOT / file if file.startswith(("tests/", "benchmarks/")) else SOURCE / file
        assert path.is_file(), f"{page} names {file}"
        assert not name or name in names_in(path), f"{page} names {file}: {name}"


def test_the_tree_in_the_architecture_has_every_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == packages


def described() -> set[str]:
    """What the reference of the site describes, by full name; a module's members are listed."""
    text = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    found = set()
    for name, members in re.findall(
        r"^::: (\S+)(?:\n    options: {members: \[(.*?)\])?", text, re.M
    ):
        is_class = name.rpartition(".")[2][0].isupper()
        found |= {name} if is_class or not members else {f"{name}.{m}" for m in members.split(", ")}
    return found


def test_the_reference_describes_what_is_there():
    for name in described() - {"longva.errors"}:
        module, _, member = name.rpartition(".")
        assert hasattr(import_module(module), member), name


def test_the_reference_describes_the_package_and_all_that_pages_import():
    wanted = {getattr(longva, name) for name in longva.__all__}
    for page in PAGES:
        for language, text in blocks_in(page):
            for node in ast.walk(ast.parse(text)) if language == "python" else ():
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("longva"):
                    home = import_module(str(node.module))
                    wanted |= {getattr(home, alias.name) for alias in node.names}
    told = (name.rpartition(".") for name in described() - {"longva.errors"})
    members = [getattr(import_module(module), member) for module, _, member in told]
    assert [each for each in wanted if not any(each is member for member in members)] == []
