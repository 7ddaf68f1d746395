"""Pages that name files and functions: what they name is there."""

import ast
import re
from pathlib import Path

import pytest

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
