import re
import tomllib
from pathlib import Path

import pytest

from longva.errors import install_command

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_installed_by_the_names_of_its_packages(extra):
    named = install_command(extra).removeprefix("pip install ").split('" "')
    assert {name.strip('"') for name in named} == {name.replace(" ", "") for name in EXTRAS[extra]}


def test_no_message_recipe_or_page_installs_longva_by_a_name_that_is_not_ours():
    root = Path(__file__).parents[1]
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *root.glob("recipes/**/*.yaml")]
    pages += (root / "src").rglob("*.py")
    for page in pages:
        assert not re.search(r"pip install ['\"]?longva\b", page.read_text()), page
