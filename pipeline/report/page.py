"""`salient report`: a finished run as one HTML page that needs no network, and its figures.

    write_report(Path("runs/demo/run"))       # run/report.html, run/figures/TASK-by-layer.svg …

Whatever comes from the run's files, class names above all, is escaped by the template; scripts are
Bokeh's own, inlined, and the page's policy forbids it to load anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, missing
from pipeline.neurons import RankTables
from pipeline.progress import Say, advance, silent
from pipeline.report.charts import Figure, bokeh_model, write_image
from pipeline.report.facts import RunFacts, TaskFacts, read_run
from pipeline.report.figures import task_figures
from pipeline.report.labelnoise import twin_note
from pipeline.report.scores import ScoreRow, judging, label_rows, remarks, score_rows
from pipeline.report.terminal import AblationRow, ablation_rows, fitted_line
from store.disk import write_file

try:
    from bokeh.embed import components
    from bokeh.resources import Resources
    from jinja2 import Environment
except ImportError as error:
    raise missing(error.name, "the report", extra="report") from None

IMAGES = {"png": ("png",), "svg": ("svg",), "both": ("png", "svg"), "none": ()}
TOP_NEURONS = 12
TOP_NGRAMS = 12
TOP_PAIRS = 12
MOST_CHARACTERS = 400
"""Of a text that is shown."""


@dataclass(frozen=True)
class TaskView:
    """What the template shows of a task."""

    facts: TaskFacts
    figures: tuple[Figure, ...]
    scores: tuple[ScoreRow, ...]
    judging: str
    remarks: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    neurons: tuple[tuple[str, ...], ...]
    ngrams: tuple[tuple[str, ...], ...]
    ablation: tuple[AblationRow, ...]
    ablation_note: str | None
    head: tuple[tuple[str, str], ...]
    doubts: tuple[tuple[str, ...], ...]
    doubted_pairs: tuple[tuple[str, str, int, float], ...]
    """Given and likely label, rows, and per cent of the most frequent pair's rows."""


def write_report(
    path: Path,
    output: Path | None = None,
    *,
    images: str = "both",
    scores: Path | None = None,
    say: Say = silent,
) -> list[Path]:
    """Write the page and the figures of a finished run.

    Args:
        path: a run folder, or the TOML file of a finished run.
        output: the page's file; default ``report.html`` in the run folder.
        images: a key of ``IMAGES``: the figures' files in ``figures/`` of the run folder, or in
            a folder ``FILE_figures`` beside ``output``.
        scores: a folder of scores, for their drift; default the one that the run's configuration
            names.
        say: told of progress.

    Returns:
        What was written, the page first.

    Raises:
        ConfigError: an unknown choice of ``images``, an unfinished run.
        SalientError: no run there, or damaged files.
    """
    if images not in IMAGES:
        raise ConfigError(f"--images {images!r}: choose one of {', '.join(IMAGES)}")
    run = read_run(path, scores=scores)
    if run.lost:
        say(run.lost)
    if output is not None and (output.is_dir() or not output.name):
        inside = output / "report.html"
        raise ConfigError(f"--out {output}: is a folder; name the page in it, as {inside}")
    page = output or run.path / "report.html"
    folder = output.with_name(f"{output.stem}_figures") if output else run.path / "figures"
    views = [view_of(task) for task in run.tasks]
    page.parent.mkdir(parents=True, exist_ok=True)
    write_file(page, [render(run, views).encode()])
    written = [page]
    wanted = [
        (figure, view.facts.name, suffix)
        for view in views
        for figure in view.figures
        for suffix in IMAGES[images]
    ]
    for figure, task, suffix in wanted:
        image = folder / f"{task}-{figure.name}.{suffix}"
        write_image(figure, image, title=task)
        written.append(image)
        advance(say, "drawn", len(written) - 1, len(wanted), "figures")
    return written


def render(run: RunFacts, views: list[TaskView]) -> str:
    """The page."""
    models = {
        f"{number}-{figure.name}": bokeh_model(figure)
        for number, view in enumerate(views)
        for figure in view.figures
    }
    script, places = components(models)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    )
    # The raw sources: the rendered ones name files of Panel's too, where that has been imported.
    library = Resources(mode="inline", components=["bokeh"], log_level="error").js_raw
    config = dict(run.card["config"])
    # Options of a cluster may hold tokens, and a report is passed on.
    config["cluster"] = {k: v for k, v in config.get("cluster", {}).items() if k != "options"}
    return template.render(
        run=run,
        views=views,
        # Bokeh's own markup; what it holds of the run's text is escaped by Bokeh.
        library=library,
        script=script,
        places=places,
        facts=list(_run_facts(run)),
        config=json.dumps(config, indent=2, ensure_ascii=False),
        provenance=json.dumps(
            {key: value for key, value in run.card.items() if key != "config"},
            indent=2,
            ensure_ascii=False,
        ),
    )


def _run_facts(run: RunFacts) -> Iterator[tuple[str, str]]:
    card, config = run.card, run.config
    yield "created", str(card.get("created_at", "unknown"))
    yield "backbone", config.backbone.model
    for key in ("prefix", "template"):
        if (words := getattr(config.backbone, key)) is not None:
            yield key, words
    yield "poolings", ", ".join(config.store.poolings)
    yield "store", config.store.path
    yield "snapshot", str(card.get("snapshot", "unknown"))
    yield "configuration", str(card.get("config_fingerprint", "unknown"))
    yield "seed", str(card.get("seed", "unknown"))
    versions = card.get("versions", {})
    yield "versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)


def view_of(task: TaskFacts) -> TaskView:
    """A task's figures and the rows of its tables."""
    return TaskView(
        task,
        tuple(task_figures(task)),
        tuple(score_rows(task.metrics)),
        judging(task.metrics),
        tuple(remarks(task.metrics)),
        tuple(label_rows(task.metrics)),
        tuple(_top_neurons(task)),
        tuple(_top_ngrams(task)),
        () if task.ablation is None else tuple(ablation_rows(task.ablation)),
        None if task.ablation is None else fitted_line(task.ablation),
        tuple((key.replace("_", " "), _plain(value)) for key, value in task.head.items()),
        tuple(_doubts(task)),
        tuple(_doubted_pairs(task)),
    )


def _top_neurons(task: TaskFacts) -> Iterator[tuple[str, ...]]:
    """Layer, pooling, neuron and share of the layer's squared importance, largest shares first."""
    if task.importance is None:
        return
    layers = task.importance.reshape(len(task.importance), -1)
    tables = RankTables({task.name: layers}, {})
    for layer, feature, share in tables.first(task.name, TOP_NEURONS):
        pooling, neuron = divmod(feature, task.importance.shape[2])
        yield str(layer), task.poolings[pooling], str(neuron), f"{share:.2%}"


def _top_ngrams(task: TaskFacts) -> Iterator[tuple[str, ...]]:
    """N-gram, what it speaks for and its share of all n-grams' squared importance."""
    if task.ngrams is not None:
        for row in task.ngrams.slice(0, TOP_NGRAMS).to_pylist():
            yield row["ngram"], row["towards"], f"{row['share']:.2%}"


def _doubts(task: TaskFacts) -> Iterator[tuple[str, ...]]:
    """Doubt, id, split, given and likely label, what near-duplicates say, and the text."""
    for row in [] if task.doubts is None else task.doubts.table.to_pylist():
        text = row["text"] or ""
        if len(text) > MOST_CHARACTERS:
            text = f"{text[:MOST_CHARACTERS]} …"
        cells = (row["id"], row["split"], row["given"], row["likely"], twin_note(row), text)
        yield f"{row['doubt']:.2f}", *cells


def _doubted_pairs(task: TaskFacts) -> Iterator[tuple[str, str, int, float]]:
    pairs = [] if task.doubts is None else task.doubts.pairs[:TOP_PAIRS]
    for pair in pairs:
        yield pair.given, pair.likely, pair.doubted, 100 * pair.doubted / pairs[0].doubted


def _plain(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
