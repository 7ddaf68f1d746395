"""The long description of the package: README.md less pictures and links that only a clone has."""

import re
from pathlib import Path

from setuptools import setup

readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
readme = re.sub(r"^!\[.*\]\((?!https:).*\n(.+\n)*\n", "", readme, flags=re.MULTILINE)
readme = re.sub(r"\[([^]\n]*)\]\((?!https:)[^)\n]*\)", r"\1", readme)
setup(long_description=readme, long_description_content_type="text/markdown")
