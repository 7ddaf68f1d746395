"""Make the embedded checkpoint from a seed of `longva reproduce nano --study honest`.

    python -m longva.nano.reproduction.ship runs/honest/seed_0 src/longva/nano/checkpoint

The model is extended and aligned with UniRes, as that of panel (i), in bfloat16. Its context is
several times what its language half was trained on, so two things are changed without training,
both as YaRN does for the same reason (arXiv 2309.00071): attention is sharper, because a softmax
over more tokens needs a larger gap between the right one and the rest, and the RoPE base is larger.
What is shipped is then measured anew; that is what its card says.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jinja2 import Template

from longva import __version__
from longva.attention.rotary import set_rope_theta
from longva.checkpoints.checkpoint import load_pretrained
from longva.errors import CheckpointError, LongVAError
from longva.files.writing import read_json, whole_folder
from longva.finite import to_json
from longva.nano.language_model import sharpen
from longva.nano.reproduction.budget import Budget, budget_of
from longva.nano.reproduction.calibration import fit_confidence, fit_head, fit_reach
from longva.nano.reproduction.measures import BOOK, NEEDLES, printed, text_recipe, visual_recipe
from longva.nano.vision_tower import GRID_SIZE
from longva.nano.world import OBJECTS
from longva.niah.text import run_text
from longva.niah.visual import run_visual
from longva.watching.assistant import LongVA

SHARPEN = 1.5
"""Factor on attention logits, for a context four times that of training."""

LOOK_AGAIN = 128
"""Frames that are read again for each answer."""

VISION_BATCH = 256
"""Frames encoded at a time: 48 pixels a side are small."""


def ship(seed_folder: Path, destination: Path, *, context: int) -> Path:
    """Write the checkpoint and its model card, replacing what is there.

    Its measurements go to `seed_folder`/shipped.

    Args:
        seed_folder: of a finished seed.
        destination: a folder.
        context: tokens that the model declares to read.

    Raises:
        CheckpointError: the seed is not finished.
    """
    state_path = seed_folder / "stages.json"
    state = read_json(state_path) if state_path.is_file() else {}
    is_honest = state.get("study") == "honest"
    if not is_honest or len(state["stages"]) < len(state["names"]):
        raise CheckpointError(
            f"{seed_folder} is no finished seed of the nano that ships. Run: longva reproduce nano "
            "--study honest, and give a seed_N folder of its output"
        )
    model: Any
    model, processor = load_pretrained(str(seed_folder / "unires" / "model"))
    config = model.config.text_config
    trained = config.max_position_embeddings
    sharpen(model.model.language_model, SHARPEN)
    set_rope_theta(model, config.rope_parameters["rope_theta"] * context / trained)
    config.max_position_embeddings = context
    model = model.to(torch.bfloat16)  # what ships is what is calibrated
    model.config.vision_batch_size = VISION_BATCH
    processor.tokenizer.model_max_length = context
    model.config.names_media = False
    longva = LongVA(model.float(), processor, name="nano")
    fit_head(longva)
    model.config.look_again = longva.look_again = LOOK_AGAIN
    fit_reach(longva)
    fit_confidence(longva)
    model = model.to(torch.bfloat16)
    with whole_folder(destination) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        measure(partial, seed_folder, budget_of(state["budget"]))
        scores = summaries(seed_folder / "shipped") | {
            name: to_json({name: getattr(model.config, name)}) for name in ("look_up", "confidence")
        }
        card = model_card(state, scores, trained=trained, context=context)
        (partial / "README.md").write_text(card, encoding="utf-8")
        for path in partial.iterdir():
            path.chmod(0o644)  # safetensors writes for the owner alone
    return destination


def measure(model: Path, seed_folder: Path, budget: Budget) -> None:
    """Measure a model as its seed's panel (i) and text needles were measured."""
    shipped, needles = seed_folder / "shipped", seed_folder / NEEDLES
    recipe = visual_recipe(needles, str(model), shipped / "needles", budget.frame_grid)
    run_visual(recipe, progress=printed("needles"))
    for distractors in (0, 3):
        output = shipped / f"text_{distractors}"
        text = text_recipe(seed_folder / BOOK, str(model), output, budget, distractors)
        run_text(text, progress=printed(f"text, {distractors} distractors"))


def summaries(folder: Path) -> dict[str, Any]:
    """Read what `measure` found."""
    return {
        f"{name}_{kind}": read_json(folder / name / f"{kind}.json")
        for name in ("needles", "text_0", "text_3")
        for kind in ("summary", "details")
    }


def model_card(state: dict[str, Any], found: dict[str, Any], *, trained: int, context: int) -> str:
    """Write the card: what it is, how it was made, what it scores, what it cannot do."""
    measuring = ("needles_", "text_", "perplexity_")
    training = [s for s in state["stages"] if not s["name"].startswith(measuring)]
    template = (Path(__file__).with_name("model_card.md.jinja")).read_text(encoding="utf-8")
    return Template(template, trim_blocks=True).render(
        version=__version__,
        state=state,
        training=training,
        training_minutes=sum(s["seconds"] for s in training) / 60,
        minutes=sum(s["seconds"] for s in state["stages"]) / 60,
        trained=trained,
        context=context,
        sharpen=SHARPEN,
        objects=len(OBJECTS),
        grid_size=GRID_SIZE,
        **found,
    )


def main(
    seed_folder: Path,
    destination: Path,
    context: Annotated[int, typer.Option(help="Tokens that the model declares.")] = 16_384,
) -> None:
    """Write the embedded checkpoint."""
    try:
        typer.echo(f"Wrote {ship(seed_folder, destination, context=context)}")
    except LongVAError as error:
        raise typer.BadParameter(str(error)) from None


if __name__ == "__main__":
    typer.run(main)
