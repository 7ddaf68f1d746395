"""Take the pictures of the documentation: docs/images/demo*.png.

python -m tests.demo.take_screenshots            (needs Chromium and playwright; model: nano)
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from longva.demo.server import running
from longva.watching.assistant import LongVA
from tests.demo.conftest import CHROMIUM, FLAGS, PATIENCE

IMAGES = Path(__file__).parents[2] / "docs" / "images"
FILM = 1
"""The example that is shown."""


def open_page(browser: Browser, address: str, *, width: int, height: int, dark: bool) -> Page:
    """Open the demo in a window of its own."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1.5
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.wait_for_selector(".lv-card")
    return page


def ask(page: Page) -> None:
    """Ask the example's question, and once more about another side of the same object."""
    page.click(f".lv-card >> nth={FILM}")
    page.wait_for_selector("#lv-player")
    question = page.input_value("#lv-question textarea")
    asked_object = question.split()[-1]
    for number, words in enumerate((question, f"what number is with the {asked_object}")):
        page.fill("#lv-question textarea", words)
        page.click("#lv-go")
        page.wait_for_selector(f".lv-done >> nth={number}")
        page.wait_for_selector("#lv-go", state="visible")
    page.locator(".lv-chip").last.hover()
    page.locator(".lv-turn").last.locator(".lv-chip").first.click()
    page.mouse.move(0, 0)
    page.wait_for_timeout(4000)  # the player's controls fade


def main() -> None:
    """Write every picture."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp())
    demo = running(LongVA.from_pretrained(), port=0, feedback=folder / "feedback.jsonl")
    with demo as address, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, width, height, dark in (
            ("demo", 1280, 800, False),
            ("demo_dark", 1280, 800, True),
            ("demo_phone", 390, 844, False),
        ):
            page = open_page(browser, address, width=width, height=height, dark=dark)
            ask(page)
            page.screenshot(path=IMAGES / f"{name}.png", full_page=width < 600)
            if name == "demo":
                page.get_by_role("tab", name="Needles").click()
                page.get_by_role("button", name="Measure").click()
                page.wait_for_selector(".lv-map caption:has-text('by chance')")
                page.screenshot(path=IMAGES / "demo_needles.png")
            page.context.close()
            sys.stdout.write(f"{IMAGES / name}.png\n")
        browser.close()


if __name__ == "__main__":
    main()
