"""`longva prepare-text`, `extend`, `align` and `dpo`: data and the stages of training."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from longva.cli.console import app, out, progress_bar
from longva.cli.options import Json, RecipeOptions, Shard, grouped, read_shard
from longva.errors import LongVAError, NonFiniteError, RecipeError
from longva.finite import to_json

BAD_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """The fields of `CorpusConfig`, as the command line spells them."""

    source: Annotated[str, typer.Argument(help="File, folder, or hub:owner/name.")]
    output_dir: Annotated[Path, typer.Option("--out", help="Folder of the packed set.")]
    tokenizer: Annotated[str, typer.Option(help="Of the model: a folder or a hub id.")]
    text_field: Annotated[str, typer.Option(help="Field of the text in a record.")] = "text"
    domain_field: Annotated[str | None, typer.Option(help="Field of the domain: a.b.")] = None
    subset: Annotated[str | None, typer.Option(help="Of a hub data set.")] = None
    split: Annotated[str, typer.Option(help="Of a hub data set.")] = "train"
    long_tokens: Annotated[int, typer.Option(help="Longer documents are all kept.")] = 4096
    keep_short: Annotated[float, typer.Option(help="Share of the others that is kept.")] = 0.1
    budget: Annotated[int | None, typer.Option(help="Tokens of the packed set.")] = None
    mixture: Annotated[
        list[str] | None, typer.Option(help="Share of a domain, NAME=SHARE; repeat.")
    ] = None
    separator: Annotated[str | None, typer.Option(help="Token before each document.")] = None
    special_tokens: Annotated[
        bool, typer.Option(help="Read <|im_end|> in a text as that token: for chats you wrote.")
    ] = False
    seed: Annotated[int, typer.Option(help="Of what is drawn, and of the order.")] = 0
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a CPU.")] = None


@app.command()
@grouped
def prepare_text(corpus: CorpusOptions, shard: Shard = None, as_json: Json = False) -> None:
    """Pack documents to train on, long ones up-sampled.

    The shares of the sources stay as they are. Run again to go on after a kill; the result has the
    same bytes.

    longva prepare-text corpus/ --out data/long --tokenizer Qwen/Qwen2-7B

    Over several machines: the same with --shard 1/8 to --shard 8/8, then once without.
    """
    from longva.data.text.prepare import CorpusConfig, prepare_text, tokenise_shard

    config = CorpusConfig(**{**vars(corpus), "mixture": _shares(corpus.mixture)})
    part = read_shard(shard)
    with progress_bar(show=not as_json) as progress:
        if part is not None:
            done = tokenise_shard(config, part, progress)
            out.print(f"Shard {shard}: {done:,} parts are tokenised. To pack: without --shard.")
            return
        report = prepare_text(config, progress)
    values = report.to_json()
    if as_json:
        typer.echo(to_json(values, indent=2))
        return
    before, after = values["before"]["all"], values["after"]["all"]
    out.print(
        f"Packed {values['packed_tokens']:,} tokens into {corpus.output_dir}. Long documents hold "
        f"{before['long_share']:.1%} of the tokens before, {after['long_share']:.1%} after "
        f"({corpus.output_dir}/lengths.png)."
    )


def _shares(mixture: list[str] | None) -> dict[str, float] | None:
    shares = {}
    for part in mixture or []:
        name, _, share = part.rpartition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            name = ""
        if not name:
            raise RecipeError(f"--mixture needs NAME=SHARE such as books=0.04, got {part!r}.")
    return shares or None


@dataclass(frozen=True, kw_only=True)
class StageOptions(RecipeOptions):
    """A stage's recipe, to be run or only planned."""

    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved recipe, memory and time; do nothing."),
    ] = False
    gpus: Annotated[int | None, typer.Option(help="Of a dry run: plan for so many GPUs.")] = None

    def run(self, stage: Any, kind: type) -> None:
        """Read the recipe and run the stage, or say what it would take."""
        from longva.parallel.heartbeat import LostRankError

        config = self.read(kind)
        if self.dry_run:
            out.print(stage.dry_run(config, self.gpus))
            return
        try:
            saved = stage.run(config)
        except LongVAError as error:
            if Path(self.recipe).is_file() or isinstance(error, LostRankError | NonFiniteError):
                raise
            # Such as data or a model that another recipe makes.
            show = f"longva recipes show {self.recipe}"
            head = f"What {self.recipe} needs first, its head says: {show}"
            error.message += f"\n{head}"
            raise
        if os.environ.get("RANK", "0") != "0":  # under torchrun one process speaks for all
            return
        if saved is None:
            out.print("Stopped and saved. The same command goes on.")
        else:
            out.print(f"Saved {saved}")


@app.command()
@grouped
def extend(options: StageOptions) -> None:
    """Lengthen a language model's context on text.

    Continued pre-training, paper section 3.1.

    longva extend toy/extend

    torchrun --nproc-per-node 8 -m longva extend extend_qwen2_7b_224k
    """
    from longva.train import extend as stage

    options.run(stage, stage.ExtendConfig)


@app.command()
@grouped
def align(options: StageOptions) -> None:
    """Align vision with language, in two stages.

    The projector first, then all of the model, paper section 3.2.

    torchrun --nproc-per-node 8 -m longva align align_stage1_projector
    """
    from longva.train import align as stage

    options.run(stage, stage.AlignConfig)


@app.command()
@grouped
def check_data(
    options: RecipeOptions,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="For what is found; default: OUTPUT_DIR/data.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a CPU.")] = None,
    as_json: Json = False,
) -> None:
    """Read all images, videos and texts of a recipe, and name what is broken.

    Run again to go on after a kill. Exit code 1: there are samples that cannot be read, or rows of
    text; bad.jsonl lists them, for `skip` in the recipe.

    longva check-data align_stage2_full
    """
    from longva.train.align import AlignConfig
    from longva.train.data_check import check_data
    from longva.train.dpo import DPOConfig
    from longva.train.extend import ExtendConfig

    config = _read_any(options, (AlignConfig, DPOConfig, ExtendConfig))
    folder = out_folder or config.output_dir / "data"
    with progress_bar(show=not as_json) as progress:
        found = check_data(config, folder, workers or os.cpu_count() or 1, progress)
    if as_json:
        typer.echo(to_json(found.to_json(), indent=2))
    else:
        for key, report in found.reports.items():
            out.print(f"{key}: {report} ({folder / key / 'lengths.png'})")
            for row in report.bad[:BAD_SHOWN]:
                out.print(f"  {row['sample']}: {row['problem']}")
        if found.bad_samples:
            skips = " ".join(f"--set {remedy}" for remedy in found.remedies())
            out.print(f"All of them: {found.bad}. To leave them out: {skips}")
    if found.bad_samples:
        raise typer.Exit(1)


def _read_any(options: RecipeOptions, kinds: tuple[type, ...]) -> Any:
    """Read a recipe of any of these kinds; it is told what is wrong with it as the likeliest one.

    That is the kind with the fewest problems, the first of several.
    """
    refused = []
    for kind in kinds:
        try:
            return options.read(kind)
        except RecipeError as error:
            refused.append(error)
    raise min(refused, key=lambda error: len(str(error).splitlines())) from None


@app.command()
@grouped
def dpo(options: StageOptions) -> None:
    """Train on preferences about images or videos.

    torchrun --nproc-per-node 8 -m longva dpo dpo
    """
    from longva.train import dpo as stage

    options.run(stage, stage.DPOConfig)
