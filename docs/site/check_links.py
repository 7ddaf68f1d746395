"""Check a built site: every link, picture and anchor is there, and nothing comes from elsewhere.

    python docs/site/check_links.py out/site

mkdocs checks the links of Markdown; this reads what browsers get: navigation, the API's
cross-references, outputs of notebooks. Links to other sites are left alone, but what a page would
load from one (scripts, styles, fonts, pictures) is an error, since the site works offline.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Elements for which a browser loads something by itself, and where from."""

LOADED_BY_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^)\"']+)")


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep ids, names and addresses."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        for key in ("href", "src"):
            if key in values:
                self.links.append((tag if LOADED.get(tag) == key else "", values[key]))


def problems(site: Path) -> list[str]:
    """Return what is wrong, a line each."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links begin at the root of a server
        for loaded_by, link in page.links:
            parts, where = urlsplit(link), path.relative_to(site.resolve())
            if parts.scheme or parts.netloc:
                if loaded_by and parts.scheme != "data":
                    found.append(f"{where}: <{loaded_by}> loads {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{where}: {link} is not there")
            elif parts.fragment and target in pages:
                anchors = pages[target].anchors
                found += (
                    [] if unquote(parts.fragment) in anchors else [f"{where}: {link}: no anchor"]
                )
    for path in sorted(site.rglob("*.css")):
        named = LOADED_BY_STYLE.findall(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site)}: a style loads {address}" for address in named]
    if not pages:
        found.append(f"{site} holds no page")
    return found


def main(site: str) -> None:
    """Exit with 1 and a line a problem, if there are any."""
    if found := problems(Path(site)):
        sys.exit("\n".join(found))
    sys.stdout.write(f"{site}: every link leads somewhere.\n")


if __name__ == "__main__":
    main(sys.argv[1])
