"""`longva models`: which models there are, where they are, and what they need."""

import typer
from rich.table import Table

from longva.cli.console import app, out
from longva.cli.options import Json
from longva.finite import to_json
from longva.planning.devices import GIB


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that have a short name, what each needs, and whether it is here.

    longva models
    """
    import torch
    from huggingface_hub import try_to_load_from_cache

    from longva.checkpoints.names import EMBEDDED_MODEL, HUB_IDS, locate_model
    from longva.checkpoints.published import load_config
    from longva.planning.planner import plan

    rows = []
    for name in (EMBEDDED_MODEL, *HUB_IDS):
        needs = plan(load_config(name), frames=1, dtype=torch.bfloat16)
        place = str(locate_model(name))
        if name in HUB_IDS:
            cached = try_to_load_from_cache(place, "config.json")
            place = str(cached) if isinstance(cached, str) else f"not here: hf download {place}"
        row = {"model": name, "weights_gib": round(needs.weights / GIB, 3)}
        rows.append({**row, "most_frames": needs.max_frames, "where": place})
    if as_json:
        typer.echo(to_json(rows, indent=2))
        return
    table = Table("model", "GiB", "frames", "where", box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    out.print(table)
