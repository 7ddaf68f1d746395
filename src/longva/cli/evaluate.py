"""`longva eval`: benchmarks through lmms-eval, and the paper's tables."""

from pathlib import Path
from typing import Annotated

import typer

from longva.cli.console import app, err, out, progress_bar
from longva.cli.options import (
    Device,
    Dtype,
    Fit,
    Fps,
    Kv,
    MaxFrames,
    Model,
    Overrides,
    Recipe,
    Weights,
)
from longva.errors import LongVAError


@app.command("eval")
def evaluate(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(help="Tasks of lmms-eval, table6, 8, 9 or 10, or paper for all of these."),
    ] = None,
    model: Model = "nano",
    frames: Annotated[
        list[int] | None, typer.Option(help="Frames of a video; repeat the option for a sweep.")
    ] = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    fit: Fit = "crop",
    data: Annotated[
        Path | None, typer.Option(help="Folder with questions and videos; else downloaded.")
    ] = None,
    output: Annotated[Path, typer.Option("--out", help="Folder for answers and scores.")] = Path(
        "runs/eval"
    ),
    limit: Annotated[int | None, typer.Option(help="Only so many samples of each task.")] = None,
    processes: Annotated[int, typer.Option(help="GPUs, each with a copy of the model.")] = 1,
    reuse: Annotated[bool, typer.Option(help="Watch a video once for all its questions.")] = True,
    report: Annotated[
        bool, typer.Option("--report", help="Write the paper's tables beside these results.")
    ] = False,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Grade open answers: an address such as https://api.openai.com/v1, or local."
        ),
    ] = None,
    judge_model: Annotated[str, typer.Option(help="The judge's name there.")] = "",
    judge_price: Annotated[
        str | None, typer.Option(help="IN,OUT: cost of a million tokens, for the estimate.")
    ] = None,
    judge_rpm: Annotated[float | None, typer.Option(help="Requests a minute at most.")] = None,
    judge_at_once: Annotated[int, typer.Option(help="Requests at a time.")] = 8,
    judge_reasoning: Annotated[
        bool, typer.Option("--judge-reasoning", help="The judge thinks before it grades.")
    ] = False,
    image_sizes: Annotated[
        list[str] | None,
        typer.Option(help="Draw figure 5 of a folder, Parquet or JSON file of images; repeat."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    weights: Weights = "model",
    kv: Kv = "model",
) -> None:
    """Run benchmarks and compare with the paper.

    Each question's answer is kept as it comes: a killed run goes on.

    longva eval videomme --model ./longva-7b --frames 32 --frames 128 --report
    """
    if not tasks and not (report or judge or image_sizes):
        raise LongVAError(
            "nothing to do. Name tasks, such as videomme or table6; or give --judge or --report "
            "for answers that are there, or --image-sizes."
        )
    if image_sizes:
        from longva.evaluate.image_sizes import draw_image_sizes

        for dataset in draw_image_sizes(image_sizes, output / "image_sizes.png"):
            out.print(str(dataset))
    from longva.checkpoints.published import EMBEDDED_MODEL, NOTICE
    from longva.evaluate.benchmarks import expand
    from longva.evaluate.judged_samples import find_samples
    from longva.evaluate.runner import Evaluation, check, run

    folder = Path(model).expanduser()
    settings = {
        "model": str(folder.absolute()) if folder.exists() else model,
        "fps": fps,
        "max_frames": max_frames,
        "frame_fit": None if fit == "crop" else fit,
        "device": device,
        "dtype": dtype,
        "weights": None if weights == "model" else weights,
        "kv": None if kv == "model" else kv,
        "reuse": None if reuse else False,
    }
    runs = [
        Evaluation(
            tasks=expand(tasks or []),
            output=output,
            model={**settings, "frames": number},
            data=data,
            limit=limit,
            processes=processes,
        )
        for number in (frames or [None] if tasks else [])
    ]
    for evaluation in runs:
        check(evaluation)
    if runs and model == EMBEDDED_MODEL:
        err.print(f"Note: {NOTICE}.")
    if limit is not None:
        err.print(f"Note: only {limit} samples of each task; the scores are no results.")
    for evaluation in runs:
        for path in run(evaluation):
            out.print(f"Wrote {path}")
    if judge is not None and tasks and not find_samples(output):
        err.print("Note: no answer of these tasks needs a judge.")
    elif judge is not None:
        grade(output, judge, judge_model, judge_price, judge_rpm, judge_at_once, judge_reasoning)
    if report:
        from longva.evaluate.report import write_report

        for path in write_report(output, output / "report"):
            out.print(f"Wrote {path}")


def grade(
    folder: Path,
    address: str,
    model: str,
    price: str | None,
    requests_per_minute: float | None,
    at_once: int,
    reasoning: bool,
) -> None:
    """Grade the open answers in a folder, saying first what it takes."""
    from longva.chat_endpoint import ChatEndpoint
    from longva.evaluate.judge import Judge
    from longva.evaluate.judged_samples import describe_judgements, estimate_results, judge_results
    from longva.evaluate.local_judge import LocalJudge

    if address == "local":
        endpoint = LocalJudge()
    elif model:
        endpoint = ChatEndpoint(
            address=address, model=model, requests_per_minute=requests_per_minute
        )
    else:
        raise LongVAError("--judge needs --judge-model: the model's name at that address.")
    judge = Judge(
        endpoint=endpoint,
        cache=folder / "judge_cache.jsonl",
        concurrency=at_once,
        price=prices(price),
        reasoning=reasoning,
    )
    out.print(str(estimate_results(folder, judge)))
    with progress_bar() as progress:
        written = judge_results(folder, judge, progress)
    for path in written:
        for line in describe_judgements(path):
            out.print(line)


def prices(text: str | None) -> tuple[float, float] | None:
    """Read "IN,OUT", the cost of a million tokens.

    >>> prices("2.5,10")
    (2.5, 10.0)
    """
    if text is None:
        return None
    try:
        read, written = map(float, text.split(","))
    except ValueError:
        raise LongVAError(f"--judge-price needs IN,OUT such as 2.5,10, got {text!r}.") from None
    return read, written


@app.command("vniah-export")
def vniah_export(
    recipe: Recipe,
    data: Annotated[Path, typer.Argument(help="Folder for `longva eval --data`.")],
    overrides: Overrides = None,
) -> None:
    """Write V-NIAH as videos and questions for lmms-eval.

    The cells of a V-NIAH recipe, for any model that lmms-eval knows.

    longva vniah-export niah_visual data --set grid.lengths=[100,200]
    """
    from longva.evaluate.vniah_export import export
    from longva.nano.own_world import own_pictures
    from longva.niah.visual import VisualRecipe
    from longva.recipes import load_recipe

    config = load_recipe(VisualRecipe, recipe, overrides or [])
    with progress_bar() as progress:
        folder = export(
            config,
            data,
            progress,
            **own_pictures(config),
        )
    out.print(
        f"Wrote {folder}. Next: longva eval longva_vniah --data {data} --model {config.model}"
    )
