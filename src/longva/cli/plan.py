"""`longva plan`: will it fit, and how long will it take."""

import math
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from longva.checkpoints import Dtype
from longva.cli.console import app, out
from longva.cli.options import Json, Kv, PoolStride, Weights
from longva.errors import LongVAError
from longva.finite import to_json
from longva.planning.devices import DEVICES, GIB, UTILISATION, usable_bytes

PARTS = ("weights", "kv_cache", "vision_chunk", "prefill_chunk", "logits", "peak")


@app.command()
def plan(
    model: Annotated[
        str, typer.Argument(help="longva-7b, nano, a folder or a hub id.")
    ] = "longva-7b",
    frames: Annotated[int, typer.Option(help="Frames to watch.")] = 1000,
    device: Annotated[
        str | None, typer.Option(help="h200, h100, a100-80g, a100-40g, l40s, rtx4090.")
    ] = None,
    memory: Annotated[float | None, typer.Option(help="Device memory in GiB, instead.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and activations.")] = "bfloat16",
    weights: Weights = "model",
    kv: Kv = "model",
    chunk_tokens: Annotated[
        int | None, typer.Option(help="Tokens prefilled at a time; default: by the memory.")
    ] = None,
    look_again: Annotated[
        int | None, typer.Option(min=0, help="Frames read again; default: as the checkpoint says.")
    ] = None,
    pool_stride: PoolStride = None,
    as_json: Json = False,
) -> None:
    """Say what watching takes and how many frames fit.

    Nothing is loaded. Exit code 1: it does not fit.

    longva plan longva-7b --frames 1500 --device h200 --kv int8
    """
    import torch

    from longva.planning.planner import plan as make_plan

    if device is not None and device not in DEVICES:
        raise LongVAError(
            f"unknown device {device!r}. Choose one of {', '.join(DEVICES)}, or --memory"
        )
    if memory is not None and not 0 < memory < math.inf:
        raise LongVAError(f"--memory needs GiB greater than 0, got {memory}.")
    gib, rate = DEVICES[device] if device else (None, None)
    gib = memory or gib
    config, shape = model_of(model, pool_stride)
    result = make_plan(
        config,
        frames=frames,
        dtype=getattr(torch, dtype),
        weights=weights,
        kv=kv,
        chunk_tokens=chunk_tokens,
        device_memory=None if gib is None else usable_bytes(gib),
        flops_per_second=rate and rate * UTILISATION,
        look_again=getattr(config, "look_again", 0) if look_again is None else look_again,
        shape=shape,
    )
    if as_json:
        typer.echo(to_json({**asdict(result), "fits": result.fits}, indent=2))
    else:
        print_plan(model, result)
    if not result.fits:
        raise typer.Exit(1)


def model_of(model: str, pool_stride: int | None) -> tuple:
    """Return the config of LongVA or of another model, and what plans are made of it."""
    from longva.checkpoints.names import HUB_IDS
    from longva.checkpoints.published import load_config
    from longva.checkpoints.settings import OURS, find_checkpoint
    from longva.planning.planner import Shape
    from longva.watching.video_family import planned

    if model.lower() not in HUB_IDS:
        folder, values = find_checkpoint(model)
        if values.get("model_type") not in OURS:
            return planned(folder)
    config = load_config(model)
    config.set_pooling(pool_stride)
    return config, Shape


def print_plan(model: str, plan) -> None:
    """Print a plan as a table and its verdict as a sentence."""
    table = Table(title=f"{model}: {plan.frames:,} frames, {plan.prompt_tokens:,} tokens", box=None)
    table.add_column("part")
    table.add_column("GiB", justify="right")
    for part in PARTS:
        table.add_row(part.replace("_", " "), f"{getattr(plan, part) / GIB:.2f}")
    out.print(table)
    if plan.seconds is not None:
        out.print(f"About {plan.seconds:.0f} s to encode and prefill, at an assumed rate.")
    limit = "the context" if plan.device_memory is None else "memory and context"
    verdict = "It fits" if plan.fits else "It does NOT fit"
    out.print(f"{verdict}. At most {plan.max_frames:,} frames fit {limit}.")
