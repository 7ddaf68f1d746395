"""The cookbook shows examples of other pages, with their output, without a copy of them.

    <!-- example: asking.md#when-is-it-shown 1 -->

is the first fenced block below that heading of that page, as it stands there now.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

MARK = re.compile(r"^<!-- example: (\S+)#(\S+) (\d+) -->$", re.MULTILINE)
BLOCK = re.compile(r"^```\w*\n.*?^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

slug = slugify(case="lower")


def section(text: str, anchor: str) -> str:
    """Return what follows the heading with an anchor, up to the next heading; "" without such."""
    prose = BLOCK.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    headings = list(HEADING.finditer(prose))
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if slug(heading[1].replace("`", ""), "-") == anchor:
            return text[heading.end() : following.start() if following else len(text)]
    return ""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the examples in the place of their marks.

    Raises:
        PluginError: a page no longer has the heading, or fewer blocks below it.
    """

    def example(match: re.Match[str]) -> str:
        text = (Path(config.docs_dir) / match[1]).read_text(encoding="utf-8")
        blocks = BLOCK.findall(section(text, match[2]))
        if len(blocks) < int(match[3]):
            raise PluginError(f"{page.file.src_uri}: {match[0]} names no block. Name another.")
        return blocks[int(match[3]) - 1]

    return MARK.sub(example, markdown)
