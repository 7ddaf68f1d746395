"""Pages of the site for what stands outside of docs/ and is linked from it.

README, changelog, results of benchmarks and files of the source are read in the repository, where a
link such as ../benchmarks/results leads to them. In the site each of them becomes a page at the
same place below `repository/`: Markdown as it is, source as a block of code, a folder as a list.
Links are rewritten on all pages, so that the Markdown in the repository needs no second form.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?!\w+:|[#<])([^)#\s]+)(?=[)#])")
"""The address of a link or picture, without its anchor, where it is a path."""

FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
PICTURES = (".png", ".jpg", ".svg")
LANGUAGES = {".yaml": "yaml", ".py": "python", ".json": "json", "": "docker"}
ALWAYS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")

origins: dict[str, str] = {}
"""Of each page that was made here: the path in the repository. docs/ has its own by its name."""


def place(path: str, root: Path) -> str:
    """Where in the site a path of the repository is found."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/").replace(".ipynb", ".md")  # made by notebooks.py
    if path.endswith((".md", *PICTURES)):
        return f"repository/{path}"
    return f"repository/{path}/index.md" if (root / path).is_dir() else f"repository/{path}.md"


def links_in(text: str, origin: str) -> set[str]:
    """Paths in the repository that a page links to."""
    folder = posixpath.dirname(origin)
    prose = FENCE.sub("", text)
    return {posixpath.normpath(posixpath.join(folder, link)) for link in LINK.findall(prose)}


def page_text(path: Path, name: str) -> str:
    """Return the Markdown of a page about a file or folder of the repository."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    if path.is_dir():
        names = sorted(each.name for each in path.iterdir() if each.suffix == ".md")
        return "\n".join([f"# `{name}`\n", *(f"- [{each}]({path.name}/{each})" for each in names)])
    code = path.read_text(encoding="utf-8")
    return f"# `{name}`\n\n````{LANGUAGES.get(path.suffix, '')}\n{code}\n````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for everything outside of docs/ that a page links to, and that those link to."""
    root = Path(config.docs_dir).parent
    texts = {
        f"docs/{file.src_uri}": file.content_string
        for file in files.documentation_pages()
        if file.abs_src_path
    }
    waiting = {*ALWAYS, *(link for name, text in texts.items() for link in links_in(text, name))}
    while waiting:
        name = waiting.pop()
        target = place(name, root)
        if name.startswith(("docs/", "..")) or target in origins or not (root / name).exists():
            continue  # of the site already, or a dead link, which mkdocs reports
        origins[target] = name
        if name.endswith(PICTURES):
            files.append(File.generated(config, target, abs_src_path=str(root / name)))
            continue
        text = page_text(root / name, name)
        files.append(File.generated(config, target, content=text))
        # A folder's page stands below it, its links are written as from beside it.
        waiting |= links_in(text, name)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the site has what they name."""
    root = Path(config.docs_dir).parent
    here = page.file.src_uri
    origin = origins.get(here, f"docs/{here}")

    def moved(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[1]))
        if path.startswith(".."):
            return match[1]
        return posixpath.relpath(place(path, root), posixpath.dirname(here) or ".")

    pieces, last = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [LINK.sub(moved, markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*pieces, LINK.sub(moved, markdown[last:])])
