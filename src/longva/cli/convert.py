"""`longva convert`: checkpoints from LLaVA's format to ours and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from longva.checkpoints import Dtype
from longva.cli.console import app, out
from longva.cli.options import grouped


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """The arguments of `convert_checkpoint`, as the command line spells them."""

    to: Annotated[Literal["longva", "llava"], typer.Option(help="Format to write.")] = "longva"
    rope_theta: Annotated[float | None, typer.Option(help="New RoPE base.")] = None
    max_position_embeddings: Annotated[
        int | None, typer.Option("--context", help="New context length in tokens.")
    ] = None
    max_grids: Annotated[int | None, typer.Option(help="New cap of grids an image.")] = None
    vision_tower: Annotated[
        str | None, typer.Option(help="Folder or hub id of the tower's config; default CLIP-L/336.")
    ] = None
    remote_code: Annotated[
        bool, typer.Option("--remote-code", help="Add the model's code, for people without longva.")
    ] = False
    dtype: Annotated[Dtype | None, typer.Option(help="Of the weights; default: as they are.")] = (
        None
    )
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False


@app.command()
@grouped
def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write.")],
    options: ConversionOptions,
) -> None:
    """Rewrite a LLaVA-format checkpoint as ours, or back.

    longva convert lmms-lab/LongVA-7B ./longva-7b

    longva convert ./longva-7b ./back --to llava
    """
    from longva.checkpoints.checkpoint import convert_checkpoint

    convert_checkpoint(source, destination, **vars(options))
    out.print(f"Wrote {destination}. Next: longva ask VIDEO QUESTION --model {destination}")
