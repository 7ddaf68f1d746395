"""The house rules that no linter knows."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "longva"

# A module may import modules of lower rows, and its own package.
ROWS = [
    {"errors"},
    {"finite"},
    {"whole_files", "folder_lock"},
    {"recipes", "losses", "flops", "block_kernels", "symbols", "rotary"}
    | {"intervals", "chat_endpoint", "host_memory"},
    {"frame_sampling", "frame_resize", "media_files", "video_file"},
    {"video_index"},
    {"video"},
    {"model", "parallel"},
    {"kv_cache"},
    {"prompt_tree", "planner", "visual_features", "data"},
    {"session"},
    {"assistant"},
    {"watching"},
    {"train", "niah"},
    {"nano"},
    {"evaluate"},
    {"demo", "serve"},
    {"cli"},
    {"__init__", "__main__"},
]
ROW = {name: number for number, names in enumerate(ROWS) for name in names}


def longva_imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("longva"):
            yield node.lineno, ([*node.module.split("."), "__init__"])[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "longva":
                    yield node.lineno, ([*alias.name.split("."), "__init__"])[1]


def test_imports_point_down():
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        assert name in ROW, f"{path}: give the new module {name!r} a row in ROWS"
        for line, target in longva_imports(path):
            if target == "__init__":  # `from longva import __version__`
                continue
            assert target == name or ROW[target] < ROW[name], (
                f"{path}:{line}: {name!r} may not import {target!r}"
            )


def test_model_and_parallel_never_meet():
    for package, other in (("model", "parallel"), ("parallel", "model")):
        for path in (SOURCE / package).rglob("*.py"):
            assert other not in {target for _, target in longva_imports(path)}, path


def test_json_is_written_by_one_function_that_knows_no_nan():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            writes = isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps")
            json = writes and isinstance(node.value, ast.Name) and node.value.id == "json"
            assert not json or path.name == "finite.py", f"{path}:{node.lineno}: use to_json"


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys\nfrom longva.cli import app\n"
        "heavy = {'torch', 'transformers', 'av', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
