"""`longva doctor`: what this machine has, and what will run on it."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from typing import Any

import typer

from longva import __version__
from longva.cli.console import app, out
from longva.cli.options import Json
from longva.errors import install_command
from longva.finite import to_json
from longva.planning.devices import GIB, free_host_memory, usable_memory

DECODERS = ("h264", "hevc", "av1", "vp9", "prores", "mpeg2video")

MODELS = ("nano", "longva-7b")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, which devices and decoders there are, and what will run.

    Exit code 1: something that every question needs is missing.

    longva doctor
    """
    found = examine()
    if as_json:
        typer.echo(to_json(found, indent=2))
    else:
        for heading, lines in found.items():
            out.print(heading)
            for name, value in lines.items():
                said = ("no", "yes")[value] if isinstance(value, bool) else value
                out.print(f"  {name:<22} {said}")
    if not found["decoders"]["h264"] or not found["frames that fit"]["nano"]:
        raise typer.Exit(1)


def examine() -> dict[str, dict[str, Any]]:
    """Return what there is, by heading and name."""
    import av
    import torch

    from longva.checkpoints.published import load_config
    from longva.parallel.ranks import default_dtype, own_device
    from longva.planning.planner import plan

    memory = free_host_memory()
    free = "unknown" if memory is None else f"{memory / GIB:.1f} GiB free"
    devices = {"cpu": f"{platform.machine()}, {torch.get_num_threads()} threads, {free}"}
    for number in range(torch.cuda.device_count()):
        left, total = (size / GIB for size in torch.cuda.mem_get_info(number))
        name = torch.cuda.get_device_name(number)
        devices[f"cuda:{number}"] = f"{name}, {left:.1f} of {total:.1f} GiB free"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple's GPU, by --device mps"

    device = own_device()
    dtype = default_dtype(device)
    fit: dict[str, Any] = {"on": f"{device}, {str(dtype).removeprefix('torch.')}"}
    for model in MODELS:
        config = load_config(model)
        asked = {"dtype": dtype, "device_memory": usable_memory(device)}
        for kv in ("model", "int8"):
            name = model if kv == "model" else f"{model} --kv {kv}"
            fit[name] = plan(config, frames=1, kv=kv, **asked).max_frames
    return {
        "versions": {
            "longva": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "av")},
            "ffmpeg": av.ffmpeg_version_info,
            "system": platform.platform(),
        },
        "devices": devices,
        "decoders": {
            **{name: name in av.codecs_available for name in DECODERS},
            "heic pictures": find_spec("pillow_heif") is not None,
        },
        "extras": {
            name: missing(name) for name in metadata("longva").get_all("Provides-Extra", [])
        },
        "frames that fit": fit,
        "hub": {"offline": os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")},
    }


def missing(extra: str) -> str:
    """Say whether an extra is there, or what to type for it."""
    marker = f'extra == "{extra}"'
    try:
        for line in requires("longva") or []:
            if line.endswith(marker):
                version(re.match(r"[\w.-]+", line)[0])  # pyright: ignore[reportOptionalSubscript]
    except PackageNotFoundError:
        return install_command(extra)
    return "installed"
