"""Fetch transformers' own test mixins: they are in its source archive, not in its wheel.

    python -m tests.model.mixins.fetch FOLDER

The archive of the installed version is asked of the package index and unpacked as the package
`transformers_tests`. It has the files of `tests/` itself and none of its subfolders, so what the
mixins import from there is stood in for: by an empty mixin, an empty table, a local file.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import transformers

STAND_INS = {
    "src/transformers/__init__.py": "",
    "transformers_tests/__init__.py": "",
    "transformers_tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "transformers_tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "transformers_tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "fetch_hub_objects_for_ci.py": (
        "from tests.model.mixins.media import local_file as url_to_local_path\n"
    ),
}


def fetch(folder: Path) -> None:
    """Put the package `transformers_tests` into a folder."""
    with tempfile.TemporaryDirectory() as downloads:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-binary", "transformers", "--dest", downloads),
                f"transformers=={transformers.__version__}",
            ],
            check=True,
        )
        (archive,) = Path(downloads).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            for member in tar:
                inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
                if inside.parent == PurePosixPath("tests") and inside.suffix == ".py":
                    content = tar.extractfile(member)
                    assert content is not None
                    target = folder / "transformers_tests" / inside.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content.read())
    for name, text in STAND_INS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
