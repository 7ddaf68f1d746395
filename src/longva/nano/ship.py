"""Make the embedded checkpoint from a seed of `longva reproduce nano`.

    python -m longva.nano.ship runs/reproduce_nano/seed_0 src/longva/nano/checkpoint

The model is that of panel (i), extended and aligned with UniRes, in bfloat16. Its declared context
is how far it was measured to see, which may be more than it was trained on.
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jinja2 import Template

from longva import __version__
from longva.errors import CheckpointError
from longva.model.checkpoint import load_pretrained
from longva.nano.vision_tower import GRID_SIZE
from longva.nano.world import OBJECTS

VISION_BATCH = 256
"""Frames encoded at a time: 48 pixels a side are small."""


def ship(seed_folder: Path, destination: Path, *, context: int) -> Path:
    """Write the checkpoint of panel (i) and its model card, replacing what is there.

    Args:
        seed_folder: of a finished seed.
        destination: a folder.
        context: tokens that the model declares to read.

    Raises:
        CheckpointError: the seed is not finished.
    """
    state_path = seed_folder / "stages.json"
    state = json.loads(state_path.read_text(encoding="utf-8")) if state_path.is_file() else {}
    if not state or len(state["stages"]) < len(state["names"]):
        raise CheckpointError(
            f"{seed_folder} is no finished seed. Run: longva reproduce nano, and give a seed_N "
            "folder of its output"
        )
    model: Any
    model, processor = load_pretrained(str(seed_folder / "unires" / "model"))
    trained = model.config.text_config.max_position_embeddings
    model = model.to(torch.bfloat16)
    model.config.text_config.max_position_embeddings = context
    model.config.vision_batch_size = VISION_BATCH
    processor.tokenizer.model_max_length = context
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    card = model_card(state, summaries(seed_folder), trained=trained, context=context)
    (partial / "README.md").write_text(card, encoding="utf-8")
    for path in partial.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)
    return destination


def summaries(seed_folder: Path) -> dict[str, Any]:
    """Read the details of panel (i) and of the text needles."""
    names = {"needles": "needles/unires", "text_0": "text/extended_0", "text_3": "text/extended_3"}
    found = {}
    for name, folder in names.items():
        for kind in ("summary", "details"):
            path = seed_folder / folder / f"{kind}.json"
            found[f"{name}_{kind}"] = json.loads(path.read_text(encoding="utf-8"))
    return found


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
    typer.echo(f"Wrote {ship(seed_folder, destination, context=context)}")


if __name__ == "__main__":
    typer.run(main)
