"""Commands that learn: from `salient init` to `salient ablate`, and the demo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pipeline.commands.arguments import config_at
from pipeline.commands.options import RUN, AllowCode, AsJson, ConfigFile, Quiet, RunOrConfig
from pipeline.commands.printing import out, print_json, show_metrics, terminal
from pipeline.commands.starting import packaged, starter, with_store
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import RunConfig

app = typer.Typer()


def _size(num_bytes: float) -> str:
    """In the decimal unit that leaves few digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes / 1e3:,.1f} kB"


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:,.1f} {unit}"
    return f"about {max(1, round(seconds))} s"


Column = Annotated[str | None, typer.Option(help="Its column; default by its usual names.")]


@app.command(rich_help_panel=RUN)
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("run.toml"),
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labelled texts (CSV, TSV, JSON lines, Parquet …): fill in its columns and tasks.",
        ),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="COLUMN",
            help="With --csv: a label column, or TASK=COLUMN. May be repeated, a task each.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The backbone: a folder, package:NAME, or a hub name (NAME@COMMIT)."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="The store: a folder, or s3://BUCKET/FOLDER (gs://, az://)."
        ),
    ] = None,
    text: Column = None,
    id: Column = None,
    time: Column = None,
    encoding: Annotated[str | None, typer.Option(help="Of the file; default UTF-8.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a configuration to begin with: a commented one, or one that fits a labelled file."""
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another name or give --force")
    options = {"text": text, "id": id, "time": time, "encoding": encoding}
    given = {name: value for name, value in options.items() if value is not None}
    if csv is None:
        odd = ["label"] if labels else ["model"] if model else list(given)
        if odd:
            raise ConfigError(f"--{odd[0]} goes with --csv FILE, the labelled texts")
        written = packaged("starter.toml")
    else:
        written = _fitting(path, csv, labels or [], model, given)
    if store is not None:
        written = with_store(path, written, store)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    then = "look it over, then" if csv else "edit it, then"
    out.print(f"wrote {escape(str(path))}; {then}: salient run {escape(str(path))}")


def _fitting(
    path: Path, csv: Path, labels: list[str], model: str | None, given: dict[str, str]
) -> str:
    """The configuration for a labelled file, checked; what was found in it is printed."""
    import tomllib

    from pipeline.config import RunConfig
    from pipeline.texts import Layout, glance

    encoding = given.pop("encoding", None)
    found = glance(csv, labels, given=given, layout=Layout(encoding))
    layout = {"encoding": encoding} if encoding else {}
    written = starter(path, found, model=model, layout=layout)
    RunConfig.from_dict(tomllib.loads(written), origin=path)
    uses = ", ".join(f"{use} = {column}" for use, column in found.columns.items())
    out.print(escape(f"{csv}: {found.num_rows:,} rows; {uses}"))
    for note in found.notes:
        out.print(escape(f"  {note}"))
    for task in found.tasks:
        out.print(escape(f"task {task.name}: {task.type}, {task.why}"))
    return written


@app.command(rich_help_panel=RUN)
def run(
    config: ConfigFile,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what it would read, compute and take."),
    ] = False,
    trust: AllowCode = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Extract, probe and consolidate; print the result tables. Run again to resume."""
    from pipeline import stages

    settings = config_at(config, allow_code=trust, folder=False)
    if dry_run:
        _foresee(settings, quiet=quiet, as_json=as_json)
        return
    metrics = stages.run(settings, say=terminal(quiet))
    show_metrics(Path(settings.run_dir), metrics, as_json=as_json)


def _foresee(settings: RunConfig, *, quiet: bool, as_json: bool) -> None:
    from pipeline import stages
    from pipeline.extraction import foresee

    lines: list[str] = []
    corpus = stages.prepare(settings, say=lines.append)
    if not as_json:
        for line in lines:
            out.print(escape(line))
    facts = foresee(settings, corpus.samples, say=terminal(quiet))
    if as_json:
        print_json({"corpus": corpus.report.to_dict(), "extraction": facts})
        return
    for line in _foreseen(facts):
        out.print(escape(line))
    out.print("nothing was written (--dry-run)")


def _foreseen(facts: Mapping[str, Any]) -> Iterator[str]:
    """What an extraction would take, in lines."""
    stored = facts["stored"]
    known = f", {stored:,} of them in the store already" if stored else ""
    yield f"texts: {facts['texts']:,}{known}; {facts['new']:,} to compute"
    if "unknown" in facts:
        yield f"disk, memory, time: cannot be told: {facts['unknown']}"
    if "disk" in facts:
        disk, memory, time = facts["disk"], facts["memory"], facts["time"]
        where = "the store" if disk["free"] is not None else "the store, its last shard as a whole"
        size = f"{_size(disk['bytes'])} for {where}, {_size(disk['bytes_per_text'])} a text"
        if disk["free"] is None:
            yield f"bucket: {size}"
        else:
            yield f"disk: {size}; {_size(disk['free'])} are free"
        if "requests" in facts:
            asked = facts["requests"]
            yield (
                f"requests: about {asked['put']:,} PUT, {asked['get']:,} GET and {asked['list']:,}"
                f" LIST to write it; {asked['get_all']:,} GET each time that all of it is read"
            )
        yield (
            f"memory: {_size(memory['model'])} for the model,"
            f" {_size(memory['block'])} for the texts under way"
        )
        yield (
            f"time: {_span(time['seconds'])} to compute, at {time['texts_per_s']:,.0f} texts a"
            f" second on {time['device']}, measured here on {time['measured']:,} of these texts"
        )
    yield (
        "probes and heads come on top, and are not measured beforehand; with a small model they"
        " take longer than the activations"
    )


@app.command(rich_help_panel=RUN)
def extract(
    config: ConfigFile, trust: AllowCode = False, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """Compute the activations that the store lacks, and keep the labels beside them."""
    from pipeline import stages

    settings = config_at(config, allow_code=trust, folder=False)
    report = stages.extract(settings, say=terminal(quiet))
    if as_json:
        print_json(report.to_dict())
    else:
        out.print(escape(str(report)))


@app.command(rich_help_panel=RUN)
def probe(config: RunOrConfig, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Phase 1: fit one single-layer network per layer and task; write importance tables."""
    from pipeline import stages
    from pipeline.runfolder import check_stage

    say = terminal(quiet)
    settings = config_at(config, say=say)
    check_stage(settings.run_dir, config, "extract")
    results = stages.probe(settings, say=say)
    if as_json:
        print_json([vars(result) | {"source": result.source.name} for result in results])
        return
    for result in results:
        out.print(f"{result.task}\t{result.source.label}\tvalidation {result.val_score:.4f}")


@app.command(rich_help_panel=RUN)
def rank(
    config: RunOrConfig,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="This task only; may be repeated.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="Features of a layer in the sets compared; default a twentieth of them."),
    ] = None,
    replicates: Annotated[
        int,
        typer.Option(
            "--stability", min=0, help="Bootstrap replicates of every ranking, at least 2; 0: none."
        ),
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
    from pipeline.runfolder import RunFolder, check_stage

    say = terminal(quiet)
    settings = config_at(config, say=say)
    check_stage(settings.run_dir, config, "probe")
    options = neurons.RankOptions(
        top=top,
        replicates=replicates,
        shuffles=neurons.SHUFFLES if selectivity else 0,
    )
    found = neurons.rank(settings, tasks=tasks or (), options=options, say=say)
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
def consolidate(config: RunOrConfig, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Phase 2: train cross-layer heads, choose one by rows held out, report the test."""
    from pipeline import stages
    from pipeline.runfolder import check_stage

    say = terminal(quiet)
    settings = config_at(config, say=say)
    check_stage(settings.run_dir, config, "probe")
    _check_rankings(settings, config)
    metrics = stages.consolidate(settings, say=say)
    show_metrics(Path(settings.run_dir), metrics, as_json=as_json)


@app.command(rich_help_panel=RUN)
def ablate(
    config: RunOrConfig,
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
    from pipeline.runfolder import RunFolder, check_stage

    say = terminal(quiet)
    settings = config_at(config, allow_code=trust, say=say)
    check_stage(settings.run_dir, config, "consolidate")
    options = neurons.AblationOptions(
        top=top,
        share=share,
        layers=tuple(layers or ()),
        fill=fill,
        draws=draws,
        split=split,
        limit=limit,
    )
    found = neurons.ablate(settings, tasks=tasks or (), options=options, say=say)
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

    text, config = packaged("demo_run.toml"), folder / "run.toml"
    if config.exists() and config.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{config}: is not the demo's own; give `salient demo` another folder")
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")
    write_demo_tweets(folder / "tweets.csv")
    settings = config_at(config)
    metrics = stages.run(settings, say=terminal(quiet))
    show_metrics(Path(settings.run_dir), metrics, as_json=False)
    run_dir, store = escape(str(folder / "run")), escape(str(folder / "activations"))
    out.print(
        f"the run is in {run_dir}, its store in {store}, its configuration {escape(str(config))}"
    )
    out.print(f"look closer: salient report {run_dir}")
    out.print(f"             salient explore {store} --run {run_dir} --open")


def _check_rankings(settings: RunConfig, given: Path) -> None:
    """Refuse heads by a ranking that is not made yet, before others are trained."""
    from pipeline.runfolder import RunFolder

    folder, wanted = RunFolder(Path(settings.run_dir)), settings.head.ranking
    lacking = [
        one.name for one in settings.tasks if not folder.ranking("rankings", one.name).is_file()
    ]
    if wanted != "weight" and lacking and "frozen" in settings.head.kinds:
        raise ConfigError(
            f"{given}: head.ranking = {wanted!r} needs the rankings of task {lacking[0]!r}:"
            f" `salient rank {given}` first"
        )
