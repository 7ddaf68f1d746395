import tomllib
from importlib.metadata import requires
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


def test_nothing_is_installed_under_the_name_of_longva():
    assert requires("longva")
    assert not any("longva" in install_command(extra) for extra in EXTRAS)
