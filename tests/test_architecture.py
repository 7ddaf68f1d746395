"""The house rules that no linter knows: which way imports point, and how much a file may hold."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "longva"

# Bottom up. A module may import modules of lower rows, and of its own package.
ROWS = [
    {"errors"},
    {"finite"},
    {"files", "chat_endpoint", "losses"},
    {"recipes", "reporting", "media"},
    {"attention", "model"},
    {"parallel", "checkpoints"},
    {"prompts"},
    {"planning"},
    {"watching", "data"},
    {"niah"},
    {"train"},
    {"evaluate"},
    {"nano"},
    {"serve", "demo"},
    {"cli"},
    {"__main__"},
]
ROW = {name: number for number, names in enumerate(ROWS) for name in names}


def module_name(path: Path) -> str:
    """`longva.media.sampling` of its file; a package is named without `__init__`."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in SOURCE.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Modules of longva that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "longva":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "longva"}
    return found - {"longva", module_name(path)}


IMPORTS = {name: imports_of(path) for name, path in MODULES.items() if name != "longva"}


def package(name: str) -> str:
    return name.split(".")[1]


def test_every_package_has_a_row():
    assert {package(name) for name in IMPORTS} <= set(ROW)


def test_imports_point_down():
    upward = [
        f"{name} imports {target}"
        for name, targets in IMPORTS.items()
        for target in targets
        if package(target) != package(name) and ROW[package(target)] >= ROW[package(name)]
    ]
    assert not upward


def test_no_two_files_import_each_other_round_a_circle():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which shows the circle


def test_what_stands_at_the_root_is_what_everything_may_use():
    loose = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert loose <= {"errors", "finite", "losses", "chat_endpoint"}


def test_a_file_holds_no_more_than_400_lines():
    long = {name for name, path in MODULES.items() if len(path.read_text().splitlines()) > 400}
    assert long <= {"longva.model.modeling_longva"}  # one file, as transformers has its models


def test_importing_longva_needs_no_posix_system():
    posix = {"fcntl", "grp", "pwd", "resource", "termios"}
    for path in MODULES.values():
        top = ast.parse(path.read_text(encoding="utf-8")).body
        named = [alias.name for node in top if isinstance(node, ast.Import) for alias in node.names]
        named += [node.module for node in top if isinstance(node, ast.ImportFrom)]
        assert not posix & set(named), path


def test_the_ring_knows_nothing_of_the_model():
    ring = {name: targets for name, targets in IMPORTS.items() if package(name) == "parallel"}
    assert not {"model", "checkpoints"} & {package(t) for targets in ring.values() for t in targets}


def test_json_is_written_by_one_function_that_knows_no_nan():
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            writes = isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps")
            json = writes and isinstance(node.value, ast.Name) and node.value.id == "json"
            assert not json or name == "longva.finite", f"{path}:{node.lineno}: use to_json"


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys\nfrom longva.cli import app\n"
        "heavy = {'torch', 'transformers', 'av', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
