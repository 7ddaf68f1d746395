"""The tables of what_fits.md are computed by the planner when the site is built."""

from functools import cache

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from longva.checkpoints import Precision
from longva.checkpoints.published import load_config
from longva.model.configuration_longva import LongVAConfig
from longva.planning.devices import DEVICES, GIB, UTILISATION, usable_bytes
from longva.planning.planner import Plan, plan

CARDS = {
    "8 GB": (7.6, None),
    "16 GB": (15.6, None),
    "24 GB": DEVICES["rtx4090"],
    "48 GB": DEVICES["l40s"],
    "80 GB": DEVICES["h100"],
    "141 GB": DEVICES["h200"],
}
"""GiB that torch finds, and the rate where the planner knows one. Of 8 and 16 GB: the least of the
totals in out-of-memory messages that people report (7.60 to 7.98; an RTX A4000 15.61)."""

SETTINGS: tuple[tuple[Precision, Precision], ...] = (
    ("model", "model"),
    ("model", "int8"),
    ("int8", "int8"),
    ("int4", "int8"),
    ("int4", "int4"),
)
"""Precision of the weights and of the KV cache."""

NAMES = {"model": "bfloat16"}
FRAMES = 1500
"""Of the film that is planned: 25 minutes at a frame a second, which the context still holds."""


@cache
def config() -> LongVAConfig:
    """Return LongVA-7B's, which is known without the weights."""
    return load_config("longva-7b")


@cache
def weight_bytes(weights: Precision) -> int:
    """Bytes of its weights."""
    return planned(None, None, weights, "model", frames=1).weights


def planned(
    gib: float | None, rate: float | None, weights: Precision, kv: Precision, *, frames: int
) -> Plan:
    """Plan LongVA-7B on a card."""
    return plan(
        config(),
        frames=frames,
        weights=weights,
        kv=kv,
        weight_bytes=None if gib is None else weight_bytes(weights),
        device_memory=gib and usable_bytes(gib),
        flops_per_second=rate and rate * UTILISATION,
    )


def most_frames(gib: float, rate: float | None, weights: Precision, kv: Precision) -> int:
    """Frames that fit a card, 0 if the model alone does not."""
    return planned(gib, rate, weights, kv, frames=1).max_frames


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def named(setting: tuple[Precision, Precision]) -> str:
    """Name a setting in a table."""
    return " / ".join(NAMES.get(value, value) for value in setting)


def frames_table() -> str:
    """Frames that fit, by card and precision."""
    head = [
        "card",
        "GiB found",
        *(f"{NAMES.get(w, w)} / {NAMES.get(kv, kv)}" for w, kv in SETTINGS),
    ]
    rows = []
    for name, (gib, rate) in CARDS.items():
        most = [most_frames(gib, rate, *setting) for setting in SETTINGS]
        rows.append([name, str(gib), *(f"{frames:,}" if frames else "-" for frames in most)])
    return table(head, rows)


def film_table() -> str:
    """What 1,500 frames take on each card, with the most precise setting that holds them."""
    head = ["card", "weights / cache", "peak GiB", "to watch", "options"]
    rows = []
    for name, (gib, rate) in CARDS.items():
        fitting = (s for s in SETTINGS if most_frames(gib, rate, *s) >= FRAMES)
        if (setting := next(fitting, None)) is None:
            most = max(most_frames(gib, rate, *s) for s in SETTINGS)
            rows.append([name, "-", "-", "-", f"does not fit: at most {most:,} frames"])
            continue
        made = planned(gib, rate, *setting, frames=FRAMES)
        options = [
            f"`--{flag} {value}`"
            for flag, value in zip(("weights", "kv"), setting, strict=True)
            if value != "model"
        ]
        watch = "rate not known" if made.seconds is None else f"{made.seconds:.0f} s"
        rows.append(
            [name, named(setting), f"{made.peak / GIB:.1f}", watch, " ".join(options) or "none"]
        )
    return table(head, rows)


TABLES = {"frames": frames_table, "film": film_table}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the tables in the place of their marks."""
    if page.file.src_uri != "what_fits.md":
        return markdown
    for name, make in TABLES.items():
        markdown = markdown.replace(f"<!-- table: {name} -->", make())
    return markdown
