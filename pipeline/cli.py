"""The command ``salient``: parse, load the configuration, call one function, print.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 failed, 2 wrong
usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from pipeline import storecli
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from store.errors import SalientError

app = typer.Typer(
    name="salient",
    help="Large-scale text analysis from the feed-forward activations inside language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(storecli.app, name="store")
INTERRUPTED = 130
out = Console(soft_wrap=True, highlight=False)

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The run's TOML file; `salient init` writes one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


def _say(quiet: bool) -> Any:
    start = time.monotonic()

    def say(line: str) -> None:
        if not quiet:
            print(f"[{time.monotonic() - start:7.1f} s] {line}", file=sys.stderr, flush=True)

    return say


def _print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False, allow_nan=False))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("run.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented starter configuration."""
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another name or give --force")
    try:
        path.write_text(_packaged("starter.toml"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    out.print(f"wrote {escape(str(path))}; edit it, then: salient run {escape(str(path))}")


@app.command()
def run(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Extract, probe and consolidate; print the result tables. Run again to resume."""
    from pipeline import jobs

    settings = RunConfig.load(config)
    metrics = jobs.run(settings, say=_say(quiet))
    _show_metrics(Path(settings.run_dir), metrics, as_json=as_json)


@app.command()
def extract(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Compute the activations that the store lacks, and keep the labels beside them."""
    from pipeline import jobs

    report = jobs.extract(RunConfig.load(config), say=_say(quiet))
    if as_json:
        _print_json(report.to_dict())
    else:
        out.print(escape(str(report)))


@app.command()
def probe(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Phase 1: fit one single-layer network per layer and task; write importance tables."""
    from pipeline import jobs

    results = jobs.probe(RunConfig.load(config), say=_say(quiet))
    if as_json:
        _print_json([vars(result) for result in results])
        return
    for result in results:
        out.print(f"{result.task}\t{result.source}\tvalidation {result.val_score:.4f}")


@app.command()
def rank(
    config: ConfigFile,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="This task only; may be repeated.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="Features of a layer in the sets compared; default a twentieth of them."),
    ] = None,
    replicates: Annotated[
        int, typer.Option("--stability", help="Bootstrap replicates of every ranking.")
    ] = 0,
    selectivity: Annotated[
        bool, typer.Option("--selectivity", help="Fit the probes to shuffled labels too.")
    ] = False,
    rows: Annotated[int, typer.Option(min=1, help="Neurons to print per task.")] = 10,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Rank a probed run's neurons in other ways than by weight; compare the rankings."""
    settings = RunConfig.load(config)
    from pipeline import ranktables
    from pipeline.runfolder import RunFolder

    options = ranktables.RankOptions(
        top=top,
        replicates=replicates,
        shuffles=ranktables.SHUFFLES if selectivity else 0,
    )
    found = ranktables.rank(settings, tasks=tasks or (), options=options, say=_say(quiet))
    if as_json:
        _print_json(ranktables.summary(found, rows=rows))
        return
    for name, tables in found.items():
        for table in ranktables.views(name, tables, rows=rows):
            out.print(table, "")
        for kind in tables:
            path = ranktables.table_path(RunFolder(Path(settings.run_dir)), kind, name)
            out.print(f"written: {escape(str(path))}")


@app.command()
def consolidate(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Phase 2: train cross-layer heads on salient slices, choose the depth, report the test."""
    from pipeline import jobs

    settings = RunConfig.load(config)
    metrics = jobs.consolidate(settings, say=_say(quiet))
    _show_metrics(Path(settings.run_dir), metrics, as_json=as_json)


@app.command()
def ablate(
    config: ConfigFile,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="This task only; may be repeated.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="So many most important neurons of each layer; default 50.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Instead: the fewest with this share of a layer's squared importance."),
    ] = None,
    layers: Annotated[
        list[int] | None,
        typer.Option("--layer", help="May be repeated; default the chosen head's layers."),
    ] = None,
    fill: Annotated[
        str, typer.Option("--with", help="zero, or mean: over the training texts' tokens.")
    ] = "zero",
    draws: Annotated[int, typer.Option(help="Draws of random neurons to compare with.")] = 5,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    limit: Annotated[int | None, typer.Option(help="At most so many texts.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Silence a finished run's salient neurons in the backbone, and random ones; compare heads."""
    settings = RunConfig.load(config)
    from pipeline import ablation, report

    options = ablation.AblationOptions(
        top=top,
        share=share,
        layers=tuple(layers or ()),
        fill=fill,
        draws=draws,
        split=split,
        limit=limit,
    )
    found = ablation.ablate(settings, tasks=tasks or (), options=options, say=_say(quiet))
    if as_json:
        _print_json(found)
        return
    for name, task in found["tasks"].items():
        out.print(report.ablation_table(name, task), "")
    out.print(f"written: {escape(str(Path(settings.run_dir) / 'ablation.json'))}")


@app.command()
def score(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Tweet dumps or files of texts.")
    ],
    run_path: Annotated[
        Path, typer.Option("--run", help="A run folder, or the TOML file of a finished run.")
    ],
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for date=…/*.parquet.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="Score this task only; may be repeated.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="auto, tweets, csv, tsv, jsonl, parquet or text.")
    ] = "auto",
    text: Annotated[
        str | None, typer.Option(help="Column of the text, in files of texts; default `text`.")
    ] = None,
    id: Annotated[
        str | None, typer.Option(help="Column of the id; default `id` if there is one.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The backbone's location on this machine, if it moved.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1 …; auto takes a GPU if any.")
    ] = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score texts or tweets with a run's heads into Parquet; run again to resume."""
    from pipeline import scoring

    report, folder = scoring.score_files(
        inputs,
        run_path,
        output,
        tasks=tasks or (),
        format=format,
        text=text,
        id=id,
        model=model,
        device=device,
        say=_say(quiet),
    )
    if as_json:
        _print_json({"output": str(folder), **report.to_dict()})
        return
    out.print(f"{escape(str(folder))}: {escape(report.summary())}")


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A store, run, head or score folder, a Parquet file or a config.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a file or folder holds."""
    from pipeline import inspection

    facts = inspection.inspect(path)
    if as_json:
        _print_json(facts)
    elif facts["kind"] == "run" and facts["metrics"] is not None:
        _show_metrics(path, facts["metrics"], as_json=False, plots=False)
    else:
        for line in inspection.describe(facts):
            out.print(escape(line))


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the example.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """Run everything on the embedded example: a real encoder, made-up tweets, no network."""
    from pipeline import jobs
    from pipeline.demo import write_demo_tweets

    text, config = _packaged("demo_run.toml"), folder / "run.toml"
    if config.exists() and config.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{config}: is not the demo's own; give `salient demo` another folder")
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")
    write_demo_tweets(folder / "tweets.csv")
    settings = RunConfig.load(config)
    metrics = jobs.run(settings, say=_say(quiet))
    _show_metrics(Path(settings.run_dir), metrics, as_json=False)


def _show_metrics(
    run_dir: Path, metrics: dict[str, Any], *, as_json: bool, plots: bool = True
) -> None:
    from pipeline import report
    from pipeline.runfolder import RunFolder
    from store.tables import read_table

    folder = RunFolder(run_dir)
    figures = []
    for name, task in metrics["tasks"].items():
        sweep = read_table(folder.sweep(name))
        if plots:
            try:
                report.plot_task(name, task, sweep, folder.figures / f"{name}.png")
                figures.append(folder.figures / f"{name}.png")
            except (ConfigError, OSError) as error:
                print(f"salient: no plot: {error}", file=sys.stderr)
        if not as_json:
            out.print(report.task_table(name, task), "")
            out.print(report.depth_table(name, task, sweep), "")
    if as_json:
        _print_json(metrics)
        return
    for figure in figures:
        out.print(f"figure: {escape(str(figure))}")
    out.print(f"run: {escape(str(run_dir))}")


def _packaged(name: str) -> str:
    return resources.files("pipeline").joinpath(name).read_text(encoding="utf-8")


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: the words after ``salient``; default those of this process.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="salient")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            return _interrupted()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ConfigError as error:
        print(f"salient: {error}", file=sys.stderr)
        return 2
    except SalientError as error:
        print(f"salient: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as error:
        if error.filename is None:
            raise
        print(f"salient: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _interrupted() -> int:
    print("salient: interrupted; run the same command again to go on", file=sys.stderr)
    return INTERRUPTED


def main() -> NoReturn:
    """Entry point of the command ``salient``."""
    sys.exit(run_command())
