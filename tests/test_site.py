"""What checks the built site finds what is wrong with one. `make docs` builds the real one."""

import runpy
from pathlib import Path

import pytest

CHECK = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "site" / "check_links.py"))


def site(folder: Path, body: str) -> Path:
    (folder / "a.html").write_text(f"<html><body>{body}</body></html>")
    (folder / "b.html").write_text('<h1 id="top">b</h1><a href="a.html">a</a>')
    (folder / "style.css").write_text("a { background: url(dot.png) }")
    return folder


@pytest.mark.parametrize(
    "body",
    [
        '<a href="b.html#top">b</a> <a href="https://example.com/x">elsewhere</a>',
        '<h2 id="here"></h2><a href="#here">here</a>',
        '<img src="data:image/png;base64,AAAA">',
    ],
)
def test_a_whole_site_has_no_problem(tmp_path, body):
    assert CHECK["problems"](site(tmp_path, body)) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="c.html">c</a>', "a.html: c.html is not there"),
        ('<img src="pictures/x.png">', "a.html: pictures/x.png is not there"),
        ('<a href="b.html#bottom">b</a>', "a.html: b.html#bottom: no anchor"),
        ('<a href="#gone">gone</a>', "a.html: #gone: no anchor"),
        (
            '<script src="https://example.com/x.js"></script>',
            "a.html: <script> loads https://example.com/x.js",
        ),
        ('<img src="//example.com/x.png">', "a.html: <img> loads //example.com/x.png"),
    ],
)
def test_a_problem_is_told_with_its_page(tmp_path, body, problem):
    assert CHECK["problems"](site(tmp_path, body)) == [problem]


def test_a_style_that_loads_from_elsewhere_is_told(tmp_path):
    site(tmp_path, "")
    (tmp_path / "style.css").write_text('@import "https://example.com/font.css";')
    found = CHECK["problems"](tmp_path)
    assert found == ["style.css: a style loads https://example.com/font.css"]


def test_an_empty_folder_is_no_site(tmp_path):
    assert CHECK["problems"](tmp_path) == [f"{tmp_path} holds no page"]
    with pytest.raises(SystemExit, match="holds no page"):
        CHECK["main"](str(tmp_path))
