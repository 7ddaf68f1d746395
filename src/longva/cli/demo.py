"""`longva demo`: watch and ask in the browser."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from longva.cli.console import app, err, out
from longva.cli.options import AskedOptions, grouped, session_bytes
from longva.errors import install_command, needing


@app.command()
@grouped
def demo(
    loading: AskedOptions,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for everyone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="Also a public address, through Gradio's servers.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Further host names to answer to: a proxy's.")
    ] = None,
    max_upload_mb: Annotated[
        int, typer.Option(min=1, help="Largest file that may be uploaded, in MB.")
    ] = 2048,
    max_uploads_mb: Annotated[int, typer.Option(min=1, help="All uploads together, in MB.")] = 8192,
    session_memory: Annotated[
        float | None,
        typer.Option(help="GiB for keys and values of watched media; default: what is free."),
    ] = None,
    feedback: Annotated[
        Path, typer.Option(help="File to which likes and dislikes are appended.")
    ] = Path("longva_feedback.jsonl"),
) -> None:
    """Watch and ask in the browser: timeline, evidence, heatmap.

    Ctrl-C ends it and deletes all uploads.

    longva demo --model lmms-lab/LongVA-7B-DPO
    """
    with needing("the demo", install_command("demo")):
        from longva.demo.server import running

    room = None if session_memory is None else session_bytes(session_memory)
    served = running(
        loading.load(),
        host=host,
        port=port,
        share=share,
        allowed_hosts=allowed_host or [],
        max_upload_mb=max_upload_mb,
        max_uploads_mb=max_uploads_mb,
        session_bytes=room,
        feedback=feedback,
    )
    try:
        with served as address:
            out.print(f"LongVA listens at {address}   (Ctrl-C ends)")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        err.print("Ended; uploads are deleted.")
        sys.stdout.flush()
        os._exit(0)  # Python would wait for threads that decode, and tidy up for seconds
