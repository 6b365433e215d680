"""`salient report`: a finished run as one HTML page that needs no network, and files beside it.

    write_report(Path("runs/demo/run"))     # run/report.html, figures/TASK-by-layer.svg,
                                            # tables/TASK-scores.csv …

Whatever comes from the run's files, class names and texts above all, is escaped by the template;
scripts are Bokeh's own, inlined, and the page's policy forbids it to load anything. Figures and
tables link to their files where those were written.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.errors import ConfigError, missing
from pipeline.events import Tally
from pipeline.progress import Say, silent
from pipeline.report.charts import Entry, Figure, bokeh_model, legend_of, write_image
from pipeline.report.daily import SharesPart, shares_part
from pipeline.report.facts import RunFacts, TaskFacts, read_run
from pipeline.report.figures import task_figures
from pipeline.report.opening import opening, warnings_of
from pipeline.report.palette import css
from pipeline.report.tables import PageTable, csv_of, page_tables
from store.disk import write_file

try:
    from bokeh.embed import components
    from bokeh.resources import Resources
    from jinja2 import Environment
    from markupsafe import Markup, escape
except ImportError as error:
    raise missing(error.name, "the report", extra="report") from None

IMAGES = {"png": ("png",), "svg": ("svg",), "both": ("png", "svg"), "none": ()}
HEADS = "heads"
"""Stem of the table of every head tried, which the page does not show."""
SWATCHES = {
    "circle": "M12.5 7a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "square": "M13 3h8v8h-8z",
    "triangle": "M17 2l5 9h-10z",
    "diamond": "M17 1.5l5 5.5l-5 5.5l-5-5.5z",
    "inverted_triangle": "M17 12l5-9h-10z",
    "hex": "M14.5 2.7h5l2.5 4.3l-2.5 4.3h-5l-2.5-4.3z",
    "plus": "M15 2h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
    "star": "M17 0l2 4.6l5 .4l-3.8 3.3l1.2 4.9l-4.4-2.6l-4.4 2.6l1.2-4.9l-3.8-3.3l5-.4z",
}
"""Marks in a legend's 34 by 14 pixels."""


@dataclass(frozen=True)
class TaskView:
    """What the template shows of a task."""

    facts: TaskFacts
    opening: tuple[str, ...]
    figures: tuple[Figure, ...]
    legends: Mapping[str, Sequence[Entry]]
    """Of every figure, those of shares too, by its name."""
    tables: tuple[PageTable, ...]
    head: tuple[tuple[str, str], ...]
    shares: SharesPart | None = None

    @property
    def all_figures(self) -> tuple[Figure, ...]:
        """Those of shares last."""
        return self.figures + (() if self.shares is None else self.shares.figures)

    @property
    def all_tables(self) -> tuple[PageTable, ...]:
        """That of shares last."""
        return self.tables + (() if self.shares is None else (self.shares.table,))


def write_report(
    path: Path,
    output: Path | None = None,
    *,
    images: str = "both",
    scores: Path | str | None = None,
    say: Say = silent,
) -> list[Path]:
    """Write the page and the figures of a finished run.

    Args:
        path: a run folder, or the TOML file of a finished run.
        output: the page's file; default ``report.html`` in the run folder.
        images: a key of ``IMAGES``: the figures' files in ``figures/`` of the run folder, or in
            a folder ``FILE_figures`` beside ``output``. Tables are in ``tables/`` or
            ``FILE_tables`` as CSV.
        scores: a folder of scores, for their drift and the shares of classes; default the one that
            the run's configuration names.
        say: told of progress.

    Returns:
        What was written, the page first, then images, then tables.

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
    files = Beside(
        output.with_name(f"{output.stem}_figures") if output else run.path / "figures",
        output.with_name(f"{output.stem}_tables") if output else run.path / "tables",
        IMAGES[images],
    )
    views = [view_of(task, run.card) for task in run.tasks]
    page.parent.mkdir(parents=True, exist_ok=True)
    write_file(page, [render(run, views, files.linked_from(page.parent)).encode()])
    drawn, kept = [], []
    wanted = [
        (figure, view.facts.name, suffix)
        for view in views
        for figure in view.all_figures
        for suffix in files.suffixes
    ]
    tally = Tally("drawn", len(wanted), "figures")
    for figure, task, suffix in wanted:
        drawn.append(files.figures / f"{task}-{figure.name}.{suffix}")
        write_image(figure, drawn[-1], title=task)
        tally(len(drawn))
    files.tables.mkdir(parents=True, exist_ok=True)
    for view in views:
        tried = csv_of(view.facts.sweep.to_pydict())
        named = [(table.name, table.csv()) for table in view.all_tables]
        for name, content in (*named, (HEADS, tried)):
            kept.append(files.tables / f"{view.facts.name}-{name}.csv")
            write_file(kept[-1], [content])
    return [page, *drawn, *kept]


@dataclass(frozen=True)
class Beside:
    """Where the files beside a page are.

    Attributes:
        figures, tables: folders, or their addresses seen from the page.
        suffixes: of each figure's files.
    """

    figures: Path
    tables: Path
    suffixes: tuple[str, ...] = ()

    def linked_from(self, folder: Path) -> Beside:
        """The same, seen from a page in that folder."""
        figures, tables = (
            Path(os.path.relpath(own, folder)) for own in (self.figures, self.tables)
        )
        return Beside(figures, tables, self.suffixes)

    def image(self, task: str, figure: str, suffix: str) -> str:
        """The address of a figure's file."""
        return quote(f"{self.figures.as_posix()}/{task}-{figure}.{suffix}")

    def table(self, task: str, name: str) -> str:
        """The address of a table's file."""
        return quote(f"{self.tables.as_posix()}/{task}-{name}.csv")


def render(run: RunFacts, views: Sequence[TaskView], files: Beside | None = None) -> str:
    """The page; ``files`` as seen from it, which it links to."""
    models = {
        f"{number}-{figure.name}": bokeh_model(figure)
        for number, view in enumerate(views)
        for figure in view.all_figures
    }
    script, places = components(models)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = with_code
    template = environment.from_string(
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
        files=files,
        colours=Markup(css()),
        swatches=SWATCHES,
        warnings=warnings_of(run.card),
        explore=_explore(run),
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


def with_code(text: str) -> Markup:
    """Text, escaped, with what stands between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one is left alone
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )


def _explore(run: RunFacts) -> str:
    """The command that shows the neurons of this run."""
    return shlex.join(["salient", "explore", run.config.store.path, "--run", str(run.path)])


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


def view_of(task: TaskFacts, card: Mapping[str, Any]) -> TaskView:
    """A task's sentences, figures and tables; ``card`` is the run's."""
    figures = tuple(task_figures(task))
    shares = None if task.shares is None else shares_part(task.shares, task.name)
    return TaskView(
        task,
        opening(task),
        figures,
        {
            figure.name: tuple(legend_of(figure))
            for figure in (*figures, *(() if shares is None else shares.figures))
        },
        tuple(page_tables(task, card)),
        tuple((key.replace("_", " "), _plain(value)) for key, value in task.head.items()),
        shares,
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
