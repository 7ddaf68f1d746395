"""The report is tested on folders as `longva niah` and `longva perplexity` leave them."""

import html
import json
import math
import re
from pathlib import Path

import pytest
from PIL import Image

from longva.errors import LongVAError
from longva.evaluate.perplexity import Point, write_csv
from longva.nano.reproduction.report import write_report
from longva.nano.reproduction.results import Measurement, located, read_results
from longva.nano.reproduction.verdict import percent
from longva.niah.cells import Grid, Row
from longva.niah.log import CellLog
from longva.niah.measure import write_report as write_measurement

ABOUT = {
    "budget": "laptop",
    "seeds": [0, 1],
    "training_length": 512,
    "base_length": 128,
    "tokens_per_frame": 4,
    "longest_alignment_frames": 49,
}
FRAMES = (16, 64, 128)
RIGHT = {  # of 6 answers, at each length
    "unires": (6, 6, 5),
    "anyres": (6, 5, 5),
    "not_extended": (6, 2, 0),
    "training_free": (6, 4, 2),
}
CHANCES = (1 / 90, 1 / 10, 1 / 16)


def measurement(folder: Path, right: tuple[int, ...], unit: str, lengths=FRAMES) -> None:
    """Rows of 2 depths x 3 needles at each length, the first ones right; evidence is always first.

    The best frame is the needle's wherever the answer is right, and 10 frames off elsewhere.
    """
    fingerprint = {"model": {}, "settings": {"unit": unit, "grid": "depth"}, "haystack": {}}
    rows = []
    for cell in Grid(lengths=lengths, depths=(0.0, 1.0)).cells(trials=3):
        number = 3 * round(cell.depth) + cell.trial
        correct = number < right[lengths.index(cell.length)]
        best = cell.position if correct else abs(cell.position - 10)
        seen = dict(frames=cell.length + 1, fps=1.0, targets=[cell.position])
        seen |= dict(evidence_frame=best, evidence_frames=[best])
        rows.append(
            Row(
                length=cell.length,
                depth=cell.depth,
                position=cell.position,
                trial=cell.trial,
                needle=f"needle {cell.trial}",
                answer="answer",
                chance=CHANCES[cell.trial] if unit == "frames" else 1e-7,
                is_greedy=correct,
                **(seen if unit == "frames" else {}),
            )
        )
    log = CellLog(folder, fingerprint)
    for row in rows:
        log.append(row)
    if folder.name == "unires":  # one folder with everything that `longva niah` writes
        write_measurement(log.merge(), fingerprint, folder, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    (run / "about.json").write_text(json.dumps(ABOUT))
    for seed in (0, 1):
        folder = run / f"seed_{seed}"
        for name, right in RIGHT.items():
            measurement(folder / "needles" / name, right, "frames")
        measurement(folder / "text" / "extended_0", (6, 6), "tokens", (64, 512))
        measurement(folder / "text" / "base_0", (6, 1), "tokens", (64, 512))
        for name, worst in (("extended", 4.0), ("base", 100.0 * 4**seed)):
            (folder / "perplexity" / name).mkdir(parents=True)
            points = [(64, 5.0), (512, worst)]
            write_csv(
                [Point(tokens=x, perplexity=y, scored_tokens=9) for x, y in points],
                folder / "perplexity" / name / "perplexity.csv",
            )
        stages = [{"name": "base", "seconds": 61.0 + seed, "device": "cpu", "command": "do it"}]
        stages[0]["metrics"] = {"step": 9, "loss": 0.25 + seed, "lr": 0.1}
        (folder / "stages.json").write_text(json.dumps({"stages": stages}))
    write_report(run)
    return run


def page_of(run: Path) -> str:
    return (run / "report" / "index.html").read_text()


def numbers_of(run: Path) -> dict:
    return json.loads((run / "report" / "report.json").read_text())


def words(page: str) -> str:
    page = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(page))


def test_the_page_holds_its_pictures_and_needs_no_network(run):
    page = page_of(run)
    assert page.count("data:image/png;base64,") == 4 + 2 + 1 + 1  # panels, texts, two plots
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    for file in numbers_of(run)["pictures"].values():
        with Image.open(run / "report" / file) as picture:
            assert min(picture.size) > 400


def test_means_are_of_all_seeds_and_trials_beside_the_papers(run):
    panels = numbers_of(run)["needles"]
    assert panels["unires"]["ours"]["mean"] == 17 / 18
    assert panels["unires"]["ours"]["trials"] == 36
    assert panels["unires"]["ours"]["by_seed"]["1"]["trials"] == 18
    assert panels["unires"]["ours"]["by_length"][2]["mean"] == 5 / 6
    assert panels["unires"]["ours"]["chance"] == pytest.approx(sum(CHANCES) / 3)
    assert [panel["paper"] and panel["paper"]["mean"] for panel in panels.values()] == [
        *(0.9089, None, 0.1467, 0.2844),
    ]
    text = words(page_of(run))
    assert "ours 94.4 % 64.4 to 99.9 % paper, LongVA-7B 90.9 % (ii)" in text
    assert "no number published" in text


def test_training_lengths_are_those_of_each_panels_model(run):
    numbers = numbers_of(run)
    lengths = [panel["ours"]["training_length"] for panel in numbers["needles"].values()]
    assert lengths == [128, 128, 32, 32]  # frames
    assert numbers["texts"]["base_0"]["ours"]["training_length"] == 128  # tokens
    assert numbers["texts"]["base_0"]["ours"]["within_training"]["mean"] == 1.0


def test_every_percentage_of_the_page_is_in_its_json(run):
    numbers = numbers_of(run)
    known = set()

    def collect(value):
        if isinstance(value, float | int):
            known.add(percent(value))
        elif isinstance(value, str):
            known.update(re.findall(r"[-\d.]+ %", value))
        else:
            for inner in value.values() if isinstance(value, dict) else value or ():
                collect(inner)

    collect(numbers)
    shown = set(re.findall(r"-?\d+\.\d %", words(page_of(run))))
    assert len(shown) > 20
    assert shown <= known


def test_localisation_is_judged_where_the_answer_is_right_and_beside_chance(run):
    found = numbers_of(run)["localisation"]["not_extended"]
    assert found["all"]["hit@1"]["mean"] == pytest.approx(8 / 18)
    assert found["right"]["trials"] == 16
    assert found["right"]["hit@1"]["mean"] == 1.0
    assert found["right"]["seconds"] == 0.0
    assert found["chance"]["hit@1"] == pytest.approx((1 / 17 + 1 / 65 + 1 / 129) / 3)
    assert located(Measurement(by_seed={}, fingerprint={})) is None


def test_questions_are_told_apart(run):
    kinds = numbers_of(run)["by_question"]["not_extended"]
    assert {kind: of["trials"] for kind, of in kinds.items()} == {
        "number": 12,
        "color": 12,
        "companion": 12,
    }
    assert [of["mean"] for of in kinds.values()] == [1 / 2, 1 / 2, 1 / 3]


def test_perplexity_is_of_the_mean_loss_over_seeds(run):
    base = numbers_of(run)["perplexity"]["base"]
    assert base[1]["perplexity"] == pytest.approx(math.sqrt(100 * 400))
    assert base[1]["by_seed"] == {"0": 100, "1": 400}


def test_stages_are_listed_by_seed_with_how_they_ended(run):
    text = words(page_of(run))
    assert "base 1 min 01 s 1 min 02 s step 9, 9; loss 0.25, 1.25 cpu" in text
    assert numbers_of(run)["commands"] == ["do it"]


def test_what_was_not_run_is_shown_as_not_run(run):
    numbers, text = numbers_of(run), words(page_of(run))
    assert numbers["texts"]["extended_3"]["ours"] is None
    assert "extended_3" not in numbers["pictures"]
    assert (
        "Extended, 3 distractors three more numbers, of other cities not run ours not run" in text
    )


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    (tmp_path / "about.json").write_text(json.dumps(ABOUT | {"budget": "smoke"}))
    page = write_report(tmp_path)
    assert page == tmp_path / "report" / "index.html"
    numbers, text = numbers_of(tmp_path), words(page.read_text())
    assert numbers["pictures"] == {}
    assert numbers["verdict"]["shown"] == "open"
    assert "Too little was measured" in text
    assert "Its scores say nothing about the method" in text


def test_a_seed_that_is_behind_counts_with_what_it_has(tmp_path):
    (tmp_path / "about.json").write_text(json.dumps(ABOUT))
    measurement(tmp_path / "seed_0/needles/anyres", (6, 6, 6), "frames")
    measurement(tmp_path / "seed_1/needles/anyres", (0,), "frames", (16,))
    panel = read_results(tmp_path).needles["anyres"]
    assert {seed: len(rows) for seed, rows in panel.by_seed.items()} == {0: 18, 1: 6}
    text = words(write_report(tmp_path).read_text())
    assert "ours 75.0 %" in text
    assert "Not run, or not for every seed: (i) Extended, UniRes" in text


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(LongVAError, match="holds no about.json.*longva reproduce nano"):
        write_report(tmp_path)
    (tmp_path / "about.json").write_text("{}")
    with pytest.raises(LongVAError, match="lacks training_length, base_length"):
        write_report(tmp_path)
