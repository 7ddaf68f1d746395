"""V-NIAH with video models of transformers: each row is that of a plain forward of its own."""

import pytest
import torch

from longva.niah.cells import Grid
from longva.niah.haystack import HaystackRecipe
from longva.niah.log import read_rows
from longva.niah.needles import NeedleRecipe
from longva.niah.video_tree_model import VideoTreeModel
from longva.niah.visual import VisualRecipe, ask, open_pictures, run_visual
from longva.watching.assistant import LongVA
from tests.watching import families


def recipe(folder, model="random") -> VisualRecipe:
    return VisualRecipe(
        model=str(model),
        output_dir=folder,
        grid=Grid(lengths=(4, 7), depths=(0.0, 0.5)),
        haystack=HaystackRecipe(),
        needles=NeedleRecipe(count=2),
        max_new_tokens=3,
    )


@pytest.mark.parametrize(
    "name",
    [
        "qwen3_vl",
        "llava_onevision",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("qwen2_5_vl", "internvl", "gemma3")),
    ],
)
def test_the_tree_gives_the_logprobs_of_a_plain_forward(name, tmp_path, undrawn):
    longva = LongVA(*families.make(name), name=name, chunk_tokens=29)
    model = VideoTreeModel(longva, longest=7, max_new_tokens=3)
    settings = recipe(tmp_path / "run")
    pictures, needles = open_pictures(settings)
    run_visual(settings, model=model)
    rows = read_rows(tmp_path / "run")
    probes = ask(settings, needles, num_pictures=len(pictures[0]))
    assert len(rows) == len(probes) == 8
    size = model.frame_size
    album = torch.cat([batch for one in pictures for batch in one.batches(size)])
    for probe in probes[::4]:
        pixels = album[probe.frames].repeat_interleave(longva.family.unit, 0)
        symbols = model._symbols(len(probe.frames), probe.row.question)
        (prompt,) = model.prompts([probe])
        logprob = 0.0
        for step, token in enumerate(prompt.answer):
            whole = torch.cat([symbols, torch.tensor(prompt.answer[:step], dtype=torch.long)])
            frames = model._frames(len(probe.frames))
            logits = longva.family.plain_logits(whole, pixels, frames)
            logprob += float(logits.log_softmax(-1)[0, token])
        assert rows[probe.row.key].logprob == pytest.approx(logprob, abs=2e-6)


def test_a_folder_is_measured_by_its_recipe(tmp_path, undrawn):
    model, processor = families.make("qwen3_vl", torch.float32)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    run_visual(recipe(tmp_path / "run", tmp_path / "model"))
    assert (tmp_path / "run" / "localisation.png").exists()
    for row in read_rows(tmp_path / "run").values():
        assert row.logprob < 0 and row.generated is not None and row.evidence_frame is not None
