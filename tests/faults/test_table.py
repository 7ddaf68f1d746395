"""The table of faults names tests that are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_of_the_table_is_there_and_every_test_of_this_folder_in_the_table():
    named = set(NAMED.findall((ROOT / "docs" / "faults.md").read_text(encoding="utf-8")))
    assert len(named) > 60
    for file, name in named:
        assert name in names_of(ROOT / file), f"docs/faults.md names {file}::{name}"
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            listed = {name for file, name in named if file == f"tests/faults/{path.name}"}
            assert names_of(path) == listed, f"docs/faults.md has not all of {path.name}"


def names_of(path: Path) -> set[str]:
    """Names of a file's tests."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name for node in functions if node.name.startswith("test_")}
