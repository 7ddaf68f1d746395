"""What pytest leaves out: modules without an example, imported by every worker for nothing."""

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent

collect_ignore = [
    str(path.relative_to(ROOT))
    for path in ROOT.joinpath("src").rglob("*.py")
    if ">>>" not in path.read_text(encoding="utf-8")
    or (path.name == "lmms_eval_model.py" and not find_spec("lmms_eval"))
]
