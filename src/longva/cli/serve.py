"""`longva serve`: the assistant behind an OpenAI-compatible API."""

import os
from pathlib import Path
from typing import Annotated

import typer

from longva.cli.console import app, err
from longva.cli.options import AskedOptions, grouped, session_bytes
from longva.errors import LongVAError
from longva.planning.devices import GIB
from longva.serve.limits import Limits


@app.command()
@grouped
def serve(
    loading: AskedOptions,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; default: its last part.")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help="Repeat for several; or LONGVA_API_KEY, which `ps` does not show."),
    ] = None,
    media_folder: Annotated[
        list[Path] | None, typer.Option(help="Files here may be named as file:// addresses.")
    ] = None,
    allow_private_hosts: Annotated[
        bool, typer.Option("--allow-private-hosts", help="Fetch media from any address: tests.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Host names to answer to; default: any, or loopback.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Web pages that may call the API; default: none.")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address of a proxy to believe about who asks (X-Forwarded-For)."),
    ] = None,
    session_memory: Annotated[
        float, typer.Option(help="GiB for keys and values of watched media.")
    ] = 4.0,
    max_frames: Annotated[
        int | None, typer.Option(help="Frames that one conversation may watch; default: as fit.")
    ] = None,
    max_media_mb: Annotated[int, typer.Option(help="Size of one medium, in MB.")] = (
        Limits.media_bytes // 10**6
    ),
    max_body_mb: Annotated[int, typer.Option(help="Size of one request, in MB.")] = (
        Limits.body_bytes // 10**6
    ),
    max_seconds: Annotated[float, typer.Option(help="Length of one video.")] = Limits.media_seconds,
    max_decode_seconds: Annotated[
        float, typer.Option(help="Time that decoding for one question may take.")
    ] = Limits.decode_seconds,
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest answer, in tokens.")
    ] = Limits.new_tokens,
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait.")] = Limits.waiting,
    max_together: Annotated[
        int, typer.Option(help="Questions about one film answered together; 1: none.")
    ] = Limits.together,
    keep_media: Annotated[
        float, typer.Option(help="GiB of downloaded media kept for the next question; 0: none.")
    ] = Limits.kept_bytes / GIB,
    spool: Annotated[
        Path | None, typer.Option(help="Folder for media, while they are watched and kept.")
    ] = None,
) -> None:
    """Serve the assistant by an OpenAI-compatible API.

    /v1/chat/completions, streamed or not.

    longva serve --model lmms-lab/LongVA-7B-DPO --kv int8 --session-memory 40

    Then: OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any").
    """
    from longva.media.network import LOOPBACK
    from longva.serve.launch import run

    keys = list(api_key or [])
    if os.environ.get("LONGVA_API_KEY"):
        keys.append(os.environ["LONGVA_API_KEY"])
    if not all(keys) or not all(key.isascii() and key.isprintable() for key in keys):
        raise LongVAError("an API key needs printable ASCII characters, and at least one.")
    if allowed_host is None and host in LOOPBACK and not keys:
        allowed_host = list(LOOPBACK)  # a web page must not reach this server by renaming it
    if host not in LOOPBACK and not keys:
        err.print("Note: no API key: everybody who reaches this port may use the server.")
    limits = Limits(
        frames=max_frames,
        media_bytes=max_media_mb * 10**6,
        kept_bytes=int(keep_media * GIB),
        body_bytes=max_body_mb * 10**6,
        media_seconds=max_seconds,
        decode_seconds=max_decode_seconds,
        new_tokens=max_new_tokens,
        waiting=max_waiting,
        waiting_per_client=max(1, max_waiting // 2),
        together=max_together,
    )
    run(
        loading.load,
        limits,
        host=host,
        port=port,
        model_name=name or Path(loading.model).name,
        keys=keys,
        folders=media_folder or [],
        allow_private=allow_private_hosts,
        hosts=allowed_host,
        cors_origins=cors_origin or [],
        session_bytes=session_bytes(session_memory),
        spool=spool,
        trusted_proxies=trusted_proxy or [],
    )
