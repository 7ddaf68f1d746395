"""`longva eval`: benchmarks through lmms-eval, and the paper's tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from longva.cli.console import app, err, out, progress_bar
from longva.cli.options import Fit, Fps, MaxFrames, ModelOptions, RecipeOptions, grouped
from longva.errors import LongVAError


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """Who grades open answers, and how."""

    judge: Annotated[
        str | None,
        typer.Option(
            help="Grade open answers: an address such as https://api.openai.com/v1, or local."
        ),
    ] = None
    judge_model: Annotated[str, typer.Option(help="The judge's name there.")] = ""
    judge_rpm: Annotated[float | None, typer.Option(help="Requests a minute at most.")] = None
    judge_at_once: Annotated[int, typer.Option(help="Requests at a time.")] = 8
    judge_reasoning: Annotated[
        bool, typer.Option("--judge-reasoning", help="The judge thinks before it grades.")
    ] = False

    def grade(self, folder: Path) -> None:
        """Grade the open answers in a folder, saying first what it takes."""
        from longva.chat_endpoint import ChatEndpoint
        from longva.evaluate.judge import Judge
        from longva.evaluate.judged_samples import (
            describe_judgements,
            estimate_results,
            judge_results,
        )
        from longva.evaluate.local_judge import LocalJudge

        if self.judge == "local":
            endpoint = LocalJudge()
        elif self.judge_model:
            endpoint = ChatEndpoint(
                address=self.judge or "", model=self.judge_model, requests_per_minute=self.judge_rpm
            )
        else:
            raise LongVAError("--judge needs --judge-model: the model's name at that address.")
        judge = Judge(
            endpoint=endpoint,
            cache=folder / "judge_cache.jsonl",
            concurrency=self.judge_at_once,
            reasoning=self.judge_reasoning,
        )
        out.print(str(estimate_results(folder, judge)))
        with progress_bar() as progress:
            written = judge_results(folder, judge, progress)
        for path in written:
            for line in describe_judgements(path):
                out.print(line)


def list_tasks(asked: bool) -> None:
    """Print groups and tasks with known data, and end."""
    if asked:
        from longva.evaluate.benchmarks import BENCHMARKS, GROUPS

        for name, tasks in GROUPS.items():
            typer.echo(f"{name}: {' '.join(tasks)}")
        in_groups = {task for tasks in GROUPS.values() for task in tasks}
        typer.echo(f"in no group: {' '.join(t for t in BENCHMARKS if t not in in_groups)}")
        raise typer.Exit


@app.command("eval")
@grouped
def evaluate(
    loading: ModelOptions,
    judging: JudgeOptions,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(help="Tasks of lmms-eval, table6, 8, 9 or 10, or paper for all of these."),
    ] = None,
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
    image_sizes: Annotated[
        list[str] | None,
        typer.Option(help="Draw figure 5 of a folder, Parquet or JSON file of images; repeat."),
    ] = None,
    listed: Annotated[
        bool,
        typer.Option(
            "--list",
            callback=list_tasks,
            is_eager=True,
            help="Print the groups of tasks and the tasks whose data folder is known.",
        ),
    ] = False,
) -> None:
    """Run benchmarks and compare with the paper.

    Each question's answer is kept as it comes: a killed run goes on.

    longva eval videomme --model ./longva-7b --frames 32 --frames 128 --report
    """
    if not tasks and not (report or judging.judge or image_sizes):
        raise LongVAError(
            "nothing to do. Name tasks, such as videomme or table6; or give --judge or --report "
            "for answers that are there, or --image-sizes."
        )
    if image_sizes:
        from longva.evaluate.image_sizes import draw_image_sizes

        for dataset in draw_image_sizes(image_sizes, output / "image_sizes.png"):
            out.print(str(dataset))
    from longva.checkpoints.names import EMBEDDED_MODEL, NOTICE
    from longva.evaluate.benchmarks import expand
    from longva.evaluate.judged_samples import find_samples
    from longva.evaluate.runner import Evaluation, check, run

    folder = Path(loading.model).expanduser()
    settings = {
        "model": str(folder.absolute()) if folder.exists() else loading.model,
        "fps": fps,
        "max_frames": max_frames,
        "frame_fit": None if fit == "crop" else fit,
        "device": loading.device,
        "dtype": loading.dtype,
        "weights": None if loading.weights == "model" else loading.weights,
        "kv": None if loading.kv == "model" else loading.kv,
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
    if runs and loading.model == EMBEDDED_MODEL:
        err.print(f"Note: {NOTICE}.")
    if limit is not None:
        err.print(f"Note: only {limit} samples of each task; the scores are no results.")
    for evaluation in runs:
        for path in run(evaluation):
            out.print(f"Wrote {path}")
    if judging.judge is not None:
        if tasks and not find_samples(output):
            err.print("Note: no answer of these tasks needs a judge.")
        else:
            judging.grade(output)
    if report:
        from longva.evaluate.report import write_report

        for path in write_report(output, output / "report"):
            out.print(f"Wrote {path}")


@app.command("vniah-export")
@grouped
def vniah_export(
    recipe: RecipeOptions,
    data: Annotated[Path, typer.Argument(help="Folder for `longva eval --data`.")],
) -> None:
    """Write V-NIAH as videos and questions for lmms-eval.

    The cells of a V-NIAH recipe, for any model that lmms-eval knows.

    longva vniah-export niah_visual data --set grid.lengths=[100,200]
    """
    from longva.evaluate.vniah_export import export
    from longva.nano.needles import own_pictures
    from longva.niah.visual import VisualRecipe

    config = recipe.read(VisualRecipe)
    with progress_bar() as progress:
        folder = export(config, data, progress, **own_pictures(config))
    out.print(
        f"Wrote {folder}. Next: longva eval longva_vniah --data {data} --model {config.model}"
    )
