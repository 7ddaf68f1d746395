"""The demo as people use it, in Chromium."""

import json
import re

import pytest

pytestmark = pytest.mark.slow  # Chromium alone takes half a minute of CPU


def upload(page, path):
    page.set_input_files("#lv-drop input[type=file]", str(path))
    page.wait_for_selector("#lv-player")


def ask(page, question):
    """Ask, and wait for the answer."""
    before = page.locator(".lv-turn").count()
    page.fill("#lv-question textarea", question)
    page.click("#lv-go")
    page.wait_for_selector(f".lv-done >> nth={before}")
    page.wait_for_selector("#lv-go", state="visible")


def player_time(page) -> float:
    return page.evaluate("document.getElementById('lv-player').currentTime")


def wait_for_time(page, seconds: float):
    page.wait_for_function(
        "s => Math.abs(document.getElementById('lv-player').currentTime - s) < 0.05", arg=seconds
    )


def test_upload_ask_follow_up_and_jump_to_the_evidence(open_page, demo, film):
    page = open_page()
    upload(page, film)
    assert "48 frames" in page.inner_text("#lv-about")

    before = demo.frames_encoded
    ask(page, "what is shown?")
    assert demo.frames_encoded - before == 6  # one a second
    assert page.inner_text(".lv-watched").startswith("Watched 6 frames in ")
    assert page.locator(".lv-lit").count() == 3
    assert page.locator(".lv-curve path").count() == 1

    ask(page, "and then?")
    assert demo.frames_encoded - before == 6
    assert page.locator(".lv-watched").count() == 1
    assert "nothing watched again" in page.inner_text(".lv-turn >> nth=1")

    rest = "e => e.scrollHeight - e.clientHeight - e.scrollTop"
    assert page.eval_on_selector("#lv-talk", rest) < 2  # scrolled to its end, nothing spills out
    assert page.eval_on_selector("#lv-talk", "e => getComputedStyle(e).overflowY") == "auto"
    chip = page.locator(".lv-turn >> nth=1").locator(".lv-chip").first
    seconds = float(chip.get_attribute("data-seconds"))
    chip.click()
    wait_for_time(page, seconds)
    last = page.locator(".lv-frame").last
    last.click()
    wait_for_time(page, float(last.get_attribute("data-seconds")))
    assert player_time(page) >= 5

    page.get_by_role("button", name="Good answer").first.click()
    page.wait_for_selector('.lv-vote[aria-pressed="true"]')
    vote = json.loads(demo.feedback.read_text().splitlines()[-1])
    assert (vote["liked"], vote["question"], vote["media"]) == (True, "what is shown?", film.name)

    page.get_by_role("tab", name="API").click()
    page.wait_for_selector("#lv-call .cm-line:has-text('video_url')")
    shown = page.inner_text("#lv-call")
    assert "what is shown?" in shown  # the follow-up's request carries what came before
    assert "and then?" in shown

    strangers = [u for u in page.requested if not u.startswith((demo.address, "data:", "blob:"))]
    assert strangers == []


def test_two_visitors_of_one_example_encode_it_once(open_page, demo):
    before = demo.frames_encoded
    for number, page in enumerate((open_page(), open_page())):
        page.click(".lv-card >> nth=0")
        page.wait_for_selector("#lv-player")
        page.click("#lv-go")
        page.wait_for_selector(".lv-done")
        assert page.locator(".lv-watched").count() == 1 - number
    assert demo.frames_encoded - before == 12  # one a second
    assert page.locator(".lv-turn").count() == 1


def test_stop_ends_an_answer_and_the_next_question_is_answered(open_page, demo, video):
    page = open_page()
    upload(page, video)
    demo.hold(after=6)
    page.fill("#lv-question textarea", "what is shown?")
    page.click("#lv-go")
    page.wait_for_selector(".lv-answering .lv-answer")  # its first words
    page.click("#lv-stop")
    page.wait_for_selector(".lv-stopped")
    page.wait_for_selector("#lv-go", state="visible")
    page.fill("#lv-question textarea", "what is shown now?")
    page.click("#lv-go")  # while the model is still at a step of the first answer
    page.wait_for_selector(".lv-waiting")
    demo.release()
    page.wait_for_selector(".lv-done")
    assert page.locator(".lv-turn").count() == 2
    assert page.locator(".lv-stopped").count() == 1
    assert demo.steps < 6 + 2 + 257 + 2  # the first answer ended where it was stopped
    assert "nothing watched again" in page.inner_text(".lv-done")


def test_a_new_conversation_may_begin_while_an_answer_is_on_its_way(open_page, demo, video):
    page = open_page()
    upload(page, video)
    page.get_by_text("Settings").click()
    demo.hold(after=6)
    page.fill("#lv-question textarea", "what is shown?")
    page.click("#lv-go")
    page.wait_for_selector(".lv-answering .lv-answer")
    page.click("#lv-forget")
    page.wait_for_selector("#lv-go", state="visible")
    assert page.locator("#lv-talk .lv-empty").count() == 1
    page.fill("#lv-question textarea", "what is shown now?")
    page.click("#lv-go")
    page.wait_for_selector(".lv-waiting")
    assert page.locator("#lv-stop").is_visible()
    demo.release()  # the first one ends here, and says nothing about the second
    page.wait_for_selector(".lv-done")
    page.wait_for_selector("#lv-go", state="visible")
    assert page.locator(".lv-turn").count() == 1
    page.wait_for_selector(".lv-lit")


def test_a_second_visitor_waits_for_the_first(open_page, demo, video):
    first, second = open_page(), open_page()
    for page in (first, second):
        upload(page, video)
        page.fill("#lv-question textarea", "what is shown?")
    demo.hold(after=6)
    first.click("#lv-go")
    first.wait_for_selector(".lv-answering .lv-answer")
    second.click("#lv-go")
    second.wait_for_selector(".lv-waiting:has-text('Waiting for the model')")
    demo.release()
    for page in (first, second):
        page.wait_for_selector(".lv-done")


def test_fits_a_phone_and_an_example_answers(open_page):
    page = open_page(width=390, color_scheme="dark")

    def check_width(where: str):
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{where} is {width} wide"

    check_width("the welcome")
    page.click(".lv-card >> nth=2")
    page.wait_for_selector("#lv-picture")
    assert page.input_value("#lv-question textarea").startswith("what is beside the ")
    page.click("#lv-go")
    page.wait_for_selector(".lv-done")
    page.wait_for_selector(".lv-grids .lv-lit")
    check_width("an answer")
    for tab in ("Needles", "API"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector({"Needles": "#lv-map-settings", "API": "#lv-call"}[tab])
        check_width(tab)


def test_dark_follows_the_system_until_the_switch_is_pressed(open_page):
    page = open_page(color_scheme="dark")
    ground = "getComputedStyle(document.querySelector('.gradio-container')).backgroundColor"
    dark = page.evaluate(ground)
    page.hover("#lv-go")
    page.wait_for_function(  # light ground, dark words
        """() => {
          const style = getComputedStyle(document.getElementById("lv-go"));
          const [words, ground] = [style.color, style.backgroundColor].map(
            (colour) => Number(colour.match(/[0-9]+/)[0]));
          return ground > 200 && words < 60;
        }"""
    )
    page.click("#lv-theme")
    light = page.evaluate(ground)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150
    assert sum(map(int, re.findall(r"\d+", light))) > 600
    page.reload()
    page.wait_for_selector(".lv-card")
    page.wait_for_function(f"() => {ground} === '{light}'")


def tokens(text: str) -> str:
    return re.search(r"([\d,]+)\stokens", text)[1]


def test_the_estimate_is_what_the_answer_says_afterwards(open_page, film):
    page = open_page()
    upload(page, film)
    page.fill("#lv-question textarea", "what is shown?")
    few = page.inner_text(".lv-estimate")
    page.fill("#lv-frames input[type=number]", "20")
    page.press("#lv-frames input[type=number]", "Enter")
    page.wait_for_function(
        "few => document.querySelector('.lv-estimate').innerText !== few", arg=few
    )
    page.wait_for_timeout(1000)  # the last of the estimates under way
    told = tokens(page.inner_text(".lv-estimate"))
    ask(page, "what is shown?")
    assert page.inner_text(".lv-watched").startswith("Watched 20 frames")
    assert tokens(page.inner_text(".lv-facts")) == told


def test_a_part_of_a_film_is_watched_and_a_wrong_time_is_said(open_page, film):
    page = open_page()
    upload(page, film)
    page.get_by_role("textbox", name="From").fill("x")
    page.wait_for_selector(".lv-too-much")
    page.get_by_role("textbox", name="From").fill("2")
    page.get_by_role("textbox", name="To").fill("0:04")
    page.wait_for_selector(".lv-estimate:not(.lv-too-much)")
    ask(page, "what is shown?")
    assert page.inner_text(".lv-watched").startswith("Watched 2 frames")


def test_a_reload_keeps_the_conversation_and_another_tab_has_its_own(open_page, film):
    page, other = open_page(), open_page()
    upload(page, film)
    ask(page, "what is shown?")
    page.wait_for_function("() => document.getElementById('lv-live').textContent")
    said = page.inner_text(".lv-answer")
    read_out = page.eval_on_selector("#lv-live", "e => e.textContent")
    assert read_out == "Answer: " + page.eval_on_selector(".lv-answer", "e => e.textContent")
    page.reload()
    page.wait_for_selector(".lv-done")
    page.wait_for_selector("#lv-player")
    assert page.inner_text(".lv-answer") == said and page.locator(".lv-lit").count() == 3
    ask(page, "and then?")
    assert "nothing watched again" in page.inner_text(".lv-turn >> nth=1")
    other.reload()
    other.wait_for_selector(".lv-card")
    assert other.locator(".lv-turn").count() == 0


def test_a_reload_in_the_middle_of_an_answer_follows_it(open_page, demo, film):
    page = open_page()
    upload(page, film)
    demo.hold(after=6)
    page.fill("#lv-question textarea", "what is shown?")
    page.click("#lv-go")
    page.wait_for_selector(".lv-answering .lv-answer")
    page.reload()
    page.wait_for_selector(".lv-answering .lv-answer")
    demo.release()
    page.wait_for_selector(".lv-done")
    page.wait_for_selector("#lv-go", state="visible")


def test_what_cannot_be_shown_or_asked_is_said(open_page, film, tmp_path):
    page = open_page()
    page.fill("#lv-question textarea", "what is shown?")
    page.click("#lv-go")
    page.wait_for_selector("text=Choose a video or an image first.")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    page.set_input_files("#lv-drop input[type=file]", str(broken))
    problem = page.locator(".toast-body:has-text('broken.mp4')")
    problem.wait_for()
    assert "/" not in problem.inner_text()  # where it lies is nobody's business
    assert page.locator(".lv-turn").count() == 0
    upload(page, film)  # the field is free again


@pytest.mark.parametrize("stop", [False, True])
def test_the_heatmap_fills_in_and_can_be_stopped(open_page, demo, stop):
    page = open_page()
    page.get_by_role("tab", name="Needles").click()
    if stop:
        demo.hold(after=30)
    page.get_by_role("button", name="Measure").click()
    page.wait_for_selector(".lv-map td[title]")
    if stop:
        page.click("#lv-map-stop")
        page.wait_for_selector(".lv-map caption:has-text('Stopped')")
        assert page.locator(".lv-unknown").count() > 0
    else:
        page.wait_for_selector(".lv-map caption:has-text('by chance')")
        assert page.locator(".lv-map td[title]").count() == 25
    page.get_by_role("button", name="Measure").wait_for()
