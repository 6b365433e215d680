"""Commands that learn: from `salient init` to `salient ablate`, and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.commands.options import RUN, AllowCode, AsJson, ConfigFile, Quiet
from pipeline.commands.printing import load_config, out, print_json, show_metrics, terminal
from pipeline.errors import ConfigError

app = typer.Typer()


@app.command(rich_help_panel=RUN)
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


@app.command(rich_help_panel=RUN)
def run(
    config: ConfigFile, trust: AllowCode = False, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """Extract, probe and consolidate; print the result tables. Run again to resume."""
    from pipeline import stages

    settings = load_config(config, allow_code=trust)
    metrics = stages.run(settings, say=terminal(quiet))
    show_metrics(Path(settings.run_dir), metrics, as_json=as_json)


@app.command(rich_help_panel=RUN)
def extract(
    config: ConfigFile, trust: AllowCode = False, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """Compute the activations that the store lacks, and keep the labels beside them."""
    from pipeline import stages

    report = stages.extract(load_config(config, allow_code=trust), say=terminal(quiet))
    if as_json:
        print_json(report.to_dict())
    else:
        out.print(escape(str(report)))


@app.command(rich_help_panel=RUN)
def probe(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Phase 1: fit one single-layer network per layer and task; write importance tables."""
    from pipeline import stages

    results = stages.probe(load_config(config), say=terminal(quiet))
    if as_json:
        print_json([vars(result) | {"source": result.source.name} for result in results])
        return
    for result in results:
        out.print(f"{result.task}\t{result.source.label}\tvalidation {result.val_score:.4f}")


@app.command(rich_help_panel=RUN)
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
    from pipeline import neurons, report
    from pipeline.runfolder import RunFolder

    settings = load_config(config)
    options = neurons.RankOptions(
        top=top,
        replicates=replicates,
        shuffles=neurons.SHUFFLES if selectivity else 0,
    )
    found = neurons.rank(settings, tasks=tasks or (), options=options, say=terminal(quiet))
    if as_json:
        print_json(report.ranking_summary(found, rows=rows))
        return
    for name, tables in found.items():
        for table in report.ranking_views(name, tables, rows=rows):
            out.print(table, "")
        for kind in tables:
            path = RunFolder(Path(settings.run_dir)).ranking(kind, name)
            out.print(f"written: {escape(str(path))}")


@app.command(rich_help_panel=RUN)
def consolidate(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Phase 2: train cross-layer heads, choose one by rows held out, report the test."""
    from pipeline import stages

    settings = load_config(config)
    metrics = stages.consolidate(settings, say=terminal(quiet))
    show_metrics(Path(settings.run_dir), metrics, as_json=as_json)


@app.command(rich_help_panel=RUN)
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
    trust: AllowCode = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Silence a finished run's salient neurons in the backbone, and random ones; compare heads."""
    from pipeline import neurons, report
    from pipeline.runfolder import RunFolder

    settings = load_config(config, allow_code=trust)
    options = neurons.AblationOptions(
        top=top,
        share=share,
        layers=tuple(layers or ()),
        fill=fill,
        draws=draws,
        split=split,
        limit=limit,
    )
    found = neurons.ablate(settings, tasks=tasks or (), options=options, say=terminal(quiet))
    if as_json:
        print_json(found)
        return
    for name, task in found["tasks"].items():
        out.print(report.ablation_table(name, task), "")
    out.print(f"written: {escape(str(RunFolder(Path(settings.run_dir)).ablation))}")


@app.command(rich_help_panel=RUN)
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the example.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """Run everything on the embedded example: a real encoder, made-up tweets, no network."""
    from pipeline import stages
    from pipeline.demo import write_demo_tweets

    text, config = _packaged("demo_run.toml"), folder / "run.toml"
    if config.exists() and config.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{config}: is not the demo's own; give `salient demo` another folder")
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")
    write_demo_tweets(folder / "tweets.csv")
    settings = load_config(config)
    metrics = stages.run(settings, say=terminal(quiet))
    show_metrics(Path(settings.run_dir), metrics, as_json=False)
    run_dir, store = escape(str(folder / "run")), escape(str(folder / "activations"))
    out.print(f"look closer: salient report {run_dir}")
    out.print(f"             salient explore {store} --run {run_dir} --open")


def _packaged(name: str) -> str:
    from importlib import resources

    return resources.files("pipeline").joinpath(name).read_text(encoding="utf-8")
