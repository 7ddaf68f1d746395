"""Find, summaries, films together, the library and downloads, in Chromium."""

import json
import socket
import zipfile

import pytest

from longva.demo.server import running
from longva.media.subtitles import read_subtitles
from longva.model.random_model import random_longva
from longva.watching.assistant import LongVA
from tests.demo.conftest import PATIENCE
from tests.demo.test_browser import ask, upload, wait_for_time
from tests.hard_videos import numbers_of, write_video

pytestmark = [pytest.mark.slow, pytest.mark.whole]  # nine minutes of Chromium


def downloaded(page, link, folder):
    """Click on a link and return the file that comes."""
    with page.expect_download() as download:
        page.click(link)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def find(page, query):
    page.fill("#lv-query textarea, #lv-query input", query)
    page.click("#lv-find")
    page.wait_for_selector("#lv-found .lv-done")
    page.wait_for_selector("#lv-find", state="visible")


def test_what_is_found_has_pictures_jumps_there_and_can_be_taken_along(open_page, tmp_path):
    page, numbered = open_page(), write_video(tmp_path / "film.mp4", 150)
    upload(page, numbered)
    find(page, "the cat")
    first = page.locator(".lv-range").first
    assert first.locator("img").count() == 1
    assert "found in 6 frames" in page.inner_text("#lv-found .lv-facts")
    seconds = float(first.get_attribute("data-seconds"))
    first.click()
    wait_for_time(page, seconds)
    ranges = json.loads(downloaded(page, "#lv-found a:has-text('JSON')", tmp_path).read_text())
    assert ranges["ranges"][0]["start"] == seconds and ranges["ranges"][0]["file"] == "film.mp4"
    cues = read_subtitles(downloaded(page, "#lv-found a:has-text('SRT')", tmp_path))
    assert {cue.start for cue in cues} == {one["start"] for one in ranges["ranges"]}
    page.click("#lv-found button:has-text('Clips')")
    clips = zipfile.ZipFile(downloaded(page, "#lv-found .lv-ready", tmp_path))
    clips.extract(clips.namelist()[0], tmp_path)
    one = ranges["ranges"][0]
    got = numbers_of(tmp_path / clips.namelist()[0])
    assert got == list(range(round(25 * one["start"]), min(150, round(25 * one["end"]))))
    page.fill("#lv-query textarea, #lv-query input", " ")
    page.click("#lv-find")
    page.wait_for_selector("text=the question is empty")


def test_a_summary_shows_chapters_while_they_come_and_can_be_stopped(
    open_page, demo, film, tmp_path
):
    page = open_page()
    upload(page, film)
    page.get_by_text("Settings").click()
    page.get_by_label("Longest answer, tokens").first.fill("16")
    page.get_by_text("Settings").click()
    demo.hold(after=3)
    page.click("#lv-summarize")
    page.wait_for_selector("#lv-found progress")
    page.click("#lv-end-job")
    page.wait_for_selector("#lv-found .lv-stopped")
    page.wait_for_selector("#lv-summarize", state="visible")
    demo.release()
    page.get_by_role("textbox", name="From").fill("2")
    page.wait_for_selector(".lv-estimate:not(.lv-too-much)")
    page.click("#lv-summarize")
    page.wait_for_selector("#lv-found .lv-done")
    chapter = page.locator(".lv-chapter").first
    assert chapter.get_attribute("data-seconds") == "2.000"
    chapter.click()
    wait_for_time(page, 2)
    told = json.loads(downloaded(page, "#lv-found a:has-text('JSON')", tmp_path).read_text())
    assert told["film"] == "film.mp4" and told["chapters"][0]["start"] == 2
    assert len(read_subtitles(downloaded(page, "#lv-found a:has-text('SRT')", tmp_path))) == 1
    page_text = downloaded(page, "#lv-found a:has-text('Markdown')", tmp_path).read_text()
    assert page_text.startswith("# film.mp4\n")


def test_a_search_survives_a_reload_and_a_reload_in_its_middle_follows_it(open_page, demo, film):
    page = open_page()
    upload(page, film)
    demo.hold(after=2)
    page.fill("#lv-query textarea, #lv-query input", "the cat")
    page.click("#lv-find")
    page.wait_for_selector("#lv-found .lv-job")
    page.reload()
    page.wait_for_selector("#lv-found .lv-job")
    page.wait_for_selector("#lv-end-job", state="visible")
    demo.release()
    page.wait_for_selector("#lv-found .lv-done")
    found = page.inner_text("#lv-found .lv-job")
    page.reload()
    page.wait_for_selector("#lv-found .lv-done")
    assert page.inner_text("#lv-found .lv-job") == found


@pytest.mark.parametrize("width", [1280, 390])
def test_several_films_in_one_question(open_page, tmp_path, width):
    page = open_page(width=width)
    counts = (50, 75) if width > 400 else (75, 50)  # films that nobody has watched before
    for name, count in zip(("first.mp4", "second.mp4"), counts, strict=True):
        upload(page, write_video(tmp_path / name, count))
        if name == "first.mp4":
            page.click("#lv-add")
            page.wait_for_selector("#lv-drop", state="visible")
    page.wait_for_selector(".lv-choose >> nth=1")
    ask(page, "what is shown?")
    assert page.inner_text(".lv-watched").startswith("Watched 5 frames")  # one a second of each
    page.click(".lv-choose:has-text('first.mp4')")
    assert (
        page.locator(".lv-stage:visible").count()
        == 1
        == page.locator(".lv-timeline:visible").count()
    )
    for chip in page.locator(".lv-turn .lv-chip").all():
        chip.click()
        medium = chip.get_attribute("data-medium")
        shown = page.locator(".lv-stage:visible")
        assert shown.get_attribute("data-medium") == medium
        name = ("first.mp4", "second.mp4")[int(medium)]
        assert chip.inner_text().startswith(name)
        pressed = page.locator(".lv-choose[aria-pressed=true]")
        assert pressed.inner_text() == name
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.reload()
    page.wait_for_selector(".lv-choose >> nth=1")
    page.wait_for_selector(".lv-done")
    page.click("#lv-about .lv-delete >> nth=0")
    page.wait_for_selector(".lv-choose", state="detached")
    assert "second.mp4" in page.inner_text("#lv-about") and page.locator(".lv-turn").count() == 0


def test_an_answer_is_copied_asked_again_edited_and_taken_along(open_page, film, tmp_path):
    page = open_page()
    upload(page, film)
    ask(page, "what is shown?")
    said = page.inner_text(".lv-answer")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click(".lv-turn button:has-text('Copy')")
    page.wait_for_selector(".lv-turn button:has-text('Copied')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.eval_on_selector(".lv-answer", "e => e.textContent")
    ask(page, "and then?")
    page.eval_on_selector(".lv-turn:last-child", "turn => { turn.dataset.old = '1' }")
    page.click(".lv-turn >> nth=1 >> button:has-text('Retry')")
    page.wait_for_selector(".lv-turn:last-child:not([data-old])")  # drawn anew, not yet answered
    page.wait_for_selector(".lv-turn:last-child.lv-done")
    page.wait_for_selector("#lv-go", state="visible")
    assert page.locator(".lv-turn").count() == 2
    told = json.loads(
        downloaded(page, ".lv-turn >> nth=0 >> a:has-text('JSON')", tmp_path).read_text()
    )
    assert (told["question"], told["media"]) == ("what is shown?", film.name)
    page.click(".lv-turn >> nth=0 >> button:has-text('Clips')")
    path = downloaded(page, ".lv-turn >> nth=0 >> .lv-ready", tmp_path)
    assert (
        len(zipfile.ZipFile(path).namelist())
        == page.locator(".lv-turn >> nth=0 >> .lv-chip").count()
    )
    page.click(".lv-turn >> nth=0 >> button:has-text('Edit')")
    page.wait_for_selector("#lv-talk .lv-empty")
    assert page.input_value("#lv-question textarea") == "what is shown?"
    page.click("#lv-go")
    page.wait_for_selector(".lv-done")
    assert page.inner_text(".lv-answer") == said


def test_the_library_survives_a_reload_and_a_restart_with_a_cache(browser, film, tmp_path):
    longva = LongVA(*random_longva(), name="nano", cache_dir=tmp_path / "cache")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    how = {"port": port, "feedback": tmp_path / "votes"}
    context = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        with running(longva, **how) as address:
            page.goto(address)
            page.wait_for_selector(".lv-card")
            assert page.locator(".lv-kept").count() == 0
            upload(page, film)
            ask(page, "what is shown?")
            page.click("#lv-change")
            kept = page.locator(".lv-kept")
            kept.wait_for()
            assert "film.mp4" in kept.inner_text() and "encoded" in kept.inner_text()
            assert "in memory" in kept.inner_text()
            page.reload()
            kept.wait_for()
        page.wait_for_selector("text=The demo has ended")
        with running(longva, **how) as address:  # uploads are gone
            page.goto(address)
            kept.wait_for()
            assert kept.locator("img").get_attribute("src").startswith("data:image/jpeg")
            assert "in memory" not in kept.inner_text()
            kept.click()
            page.wait_for_selector("#lv-player")
            page.wait_for_function("document.getElementById('lv-player').duration > 5")
            ask(page, "what is shown?")
            other = browser.new_context()
            stranger = other.new_page()
            stranger.goto(address)
            stranger.wait_for_selector(".lv-card")
            assert stranger.locator(".lv-kept").count() == 0  # it is this browser's own
            other.close()
            page.click("#lv-change")
            page.click("#lv-shelf .lv-delete")
            kept.wait_for(state="detached")
            assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
            page.reload()
            page.wait_for_selector(".lv-card")
            assert page.locator(".lv-kept").count() == 0
    finally:
        context.close()


@pytest.fixture(scope="module")
def nano_address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano")
    with running(LongVA.from_pretrained("nano"), port=0, feedback=folder / "votes") as address:
        yield address


@pytest.fixture
def nano_page(browser, nano_address):
    context = browser.new_context(viewport={"width": 1280, "height": 844})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(nano_address)
    page.wait_for_selector(".lv-card")
    yield page
    context.close()


def test_the_embedded_model_says_what_it_knows_and_refuses_a_real_film(nano_page, tmp_path):
    page = nano_page
    assert "Drawn films, the only world that this model knows" in page.inner_text("#lv-examples")
    assert "knows the small drawn world" in page.inner_text(".lv-notice")
    page.click(".lv-card >> nth=1")
    page.wait_for_selector("#lv-player")
    page.wait_for_function("document.querySelector('#lv-question textarea').value")
    page.click("#lv-go")
    page.wait_for_selector(".lv-done")
    assert page.locator(".lv-refusal").count() == 0  # it is drawn
    page.click("#lv-change")
    page.wait_for_selector("#lv-drop", state="visible")
    upload(page, write_video(tmp_path / "real.mp4", 60))
    ask(page, "Who arrives?")
    refusal = page.inner_text(".lv-refusal")
    assert refusal.startswith("Nothing that I know seems to be shown here, so I could only guess.")
    assert "name a checkpoint" in refusal and page.locator(".lv-guess p:visible").count() == 0
    page.click(".lv-guess summary")
    assert page.inner_text(".lv-guess p")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious_and_all_fits_the_width(
    browser, nano_address, tmp_path, width, scheme
):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")

    def check(where):
        page.wait_for_timeout(300)  # colours fade in
        found = axe.Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        told = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in serious]
        assert told == [], where
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{where} is {wide} wide"

    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    try:
        page.goto(nano_address)
        page.wait_for_selector(".lv-card")
        check("the welcome")
        upload(page, write_video(tmp_path / "real.mp4", 60))
        ask(page, "Who arrives?")
        check("a refusal")
        page.click("#lv-add")
        page.wait_for_selector(".lv-kept")
        check("the library")
        page.click(".lv-card >> nth=1")
        page.wait_for_selector(".lv-choose >> nth=1")
        ask(page, "what color is behind the clover?")
        find(page, "the clover")
        check("two films, an answer and what was found")
        page.get_by_text("Settings").click()
        check("settings")
        page.click("#lv-about .lv-delete >> nth=0")
        page.wait_for_selector("#lv-summarize", state="visible")
        page.click("#lv-summarize")
        page.wait_for_selector("#lv-found .lv-done")
        check("a summary")
        for tab in ("Needles", "API"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_selector({"Needles": "#lv-map-settings", "API": "#lv-call"}[tab])
            check(tab)
    finally:
        context.close()
