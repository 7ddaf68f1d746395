"""The examples of docs/training.md that train with TRL, on a small model."""

import math
import re
from pathlib import Path

import pytest
from PIL import Image

from longva.model.random_model import random_longva

pytest.importorskip("trl")
pytestmark = pytest.mark.slow  # TRL takes ten seconds to import

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
QUICK = "use_cpu=True, bf16=False, report_to=[], max_steps=1, save_strategy='no', "


@pytest.fixture(scope="module")
def trainers(tmp_path_factory):
    """The trainer of each example, which has made its one step."""
    folder = tmp_path_factory.mktemp("trl")
    model, processor = random_longva()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    Image.new("RGB", (90, 60), "red").save(folder / "cat.jpg")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names, trainers = {}, []
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for text in blocks:
            if "from trl import" in text:
                text = text.replace('"./longva-7b"', '"model"')
                text = re.sub(r"(SFT|DPO)Config\(", rf"\g<0>{QUICK}", text)
                exec(compile(text, PAGE.name, "exec"), names)
                trainers.append(names["trainer"])
        yield trainers  # their data sets read the picture when they are asked


def targets(trainer) -> list[str]:
    """The text of each run of targets in the first sample."""
    batch = next(iter(trainer.get_train_dataloader()))
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    kept = [token if label != -100 else -1 for token, label in zip(ids, labels, strict=True)]
    runs = "".join("|" if token == -1 else chr(0xE000 + token) for token in kept).split("|")
    decode = trainer.processing_class.decode
    return [decode([ord(letter) - 0xE000 for letter in run]) for run in runs if run]


def test_only_what_the_assistant_says_is_a_target(trainers):
    sft, completion, _ = trainers
    assert targets(sft) == ["A cat.<|im_end|>", "Red.<|im_end|>"]
    assert targets(completion) == ["A cat.<|im_end|>\n"]


def test_each_example_trains(trainers):
    assert len(trainers) == 3
    losses = [trainer.state.log_history[-1]["train_loss"] for trainer in trainers]
    assert all(0 < loss < 20 for loss in losses)
    # Before its first step the policy is the reference: -log(sigmoid(0)).
    assert losses[2] == pytest.approx(math.log(2), rel=1e-5)
