"""What a scoring run did, in a file that node_exporter's textfile collector shows to Prometheus.

    with metrics_file(Path("/var/lib/node_exporter/salient.prom"), run="runs/mood", output=None):
        score_files(...)

The file is checked before anything else is done, and written whole each time that a run ends, also
where it fails: then the time of the last success stays. All are gauges of the last run, labelled
with the run's heads and its folder of scores. Names and units are by Prometheus' conventions
(https://prometheus.io/docs/practices/naming/): seconds, no milliseconds; what is counted stands in
the name. What a failed run does not know is left out; a time that never was is 0.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.events import Event, ScoreFinished, watch
from store import StoreError
from store.disk import fill_file, is_url

SUFFIX = ".prom"
"""node_exporter reads files of no other ending."""
MODE = 0o644
"""Whoever runs node_exporter is somebody else."""
LAST_SUCCESS = "salient_score_last_success_timestamp_seconds"

Labelled = Mapping[tuple[str, ...], float]
"""Values of a metric's own label -> number; of one without it the key is ()."""


def check_metrics(path: Path | str) -> None:
    """Refuse a place where no metrics can be written: before anything else is done.

    Raises:
        ConfigError: another ending than .prom, a URL, or no folder that can be written to.
    """
    if is_url(path):
        raise ConfigError(
            f"--metrics {path}: node_exporter reads files of this machine; name one, as"
            f" /var/lib/node_exporter/salient{SUFFIX} (its --collector.textfile.directory)"
        )
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ConfigError(
            f"--metrics {path}: node_exporter reads files that end in {SUFFIX} only; give it a name"
            f" such as {path.with_suffix(SUFFIX).name or 'salient.prom'}"
        )
    if path.is_dir():
        raise ConfigError(f"--metrics {path}: is a folder; name a file in it, as salient{SUFFIX}")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ConfigError(
            f"--metrics {path}: there is no folder {folder}; give the one that node_exporter reads"
            " (its --collector.textfile.directory)"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--metrics {path}: nothing can be written to {folder} ({error.strerror}); let this"
            " user write there, or choose another folder"
        ) from None


@contextmanager
def metrics_file(path: Path | str | None, *, run: str, output: Path | str | None) -> Iterator[None]:
    """Write the metrics of what is scored within, in this thread, whenever it ends or fails.

    Args:
        path: the file; None to write none.
        run: what scores: the run, or the folders of its heads.
        output: the folder of scores, if the caller names it.

    Raises:
        ConfigError: of :func:`check_metrics`, before the body is begun.
    """
    if path is None:
        yield
        return
    check_metrics(path)
    path = Path(path)
    begin, failed = time.monotonic(), False

    def hear(event: Event) -> None:
        nonlocal begin, failed
        if isinstance(event, ScoreFinished) and event.status != "dry run":
            failed = event.status == "failed"
            _keep(path, run, event.output, event, event.elapsed_s)
            begin = time.monotonic()

    with watch(hear, here=True):
        try:
            yield
        except BaseException:
            if not failed:  # it did not even come to its end
                _keep(path, run, output, None, time.monotonic() - begin)
            raise


def _keep(
    path: Path, run: str, output: Path | str | None, end: ScoreFinished | None, elapsed_s: float
) -> None:
    """Write the metrics; what prevents it is said, and stops nothing."""
    try:
        write_metrics(
            path, end, run=run, output=None if output is None else str(output), elapsed_s=elapsed_s
        )
    except (OSError, StoreError) as error:
        logging.getLogger(__name__).warning("--metrics %s: not written (%s)", path, error)


def write_metrics(
    path: Path,
    end: ScoreFinished | None,
    *,
    run: str,
    output: str | None,
    elapsed_s: float,
    now: float | None = None,
) -> None:
    """Write the file of metrics: all of it or nothing, whoever else writes it at the same time.

    Args:
        path: the file.
        end: how the run ended; None: it failed before it could say more.
        run: label ``run``.
        output: label ``output``; None: that of the same run in the file as it is.
        elapsed_s: seconds that the run took.
        now: when it ended, seconds since 1970; default now.

    Raises:
        StoreError: it cannot be written.
    """
    from prometheus_client import generate_latest
    from prometheus_client.core import GaugeMetricFamily

    now = time.time() if now is None else now
    run = _valid(run)
    before = _successes(path)
    if output is None:
        output = next((found for of, found in before if of == run), "")
    output = _valid(output)
    success = end is not None and end.status == "done"
    last = now if success else before.get((run, output), 0.0)
    families = []
    for name, what, values, *own in _facts(end, success, last, elapsed_s, now):
        family = GaugeMetricFamily(name, what, labels=["run", "output", *own])
        for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
            family.add_metric([run, output, *map(_valid, key)], value)
        families.append(family)
    # Not the package's own gauges: these go elsewhere if PROMETHEUS_MULTIPROC_DIR is set.
    registry: Any = SimpleNamespace(collect=lambda: families)
    content = generate_latest(registry)

    def fill(temporary: Path) -> None:
        temporary.write_bytes(content)
        temporary.chmod(MODE)

    fill_file(path.resolve(), fill, shared=True)


def _successes(path: Path) -> dict[tuple[str, str], float]:
    """(run, output) -> time of the last success, as the file says; {} where it says nothing."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        text = path.read_bytes().decode()
        return {
            (sample.labels["run"], sample.labels.get("output", "")): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == LAST_SUCCESS
        }
    except (OSError, ValueError, KeyError):  # none yet, or not ours
        return {}


def _facts(
    end: ScoreFinished | None, success: bool, last_success: float, elapsed_s: float, now: float
) -> Iterator[tuple[str, str, Labelled | float, *tuple[str, ...]]]:
    """Name, help, values and own label of each metric."""
    name = "salient_score"
    yield f"{name}_last_run_timestamp_seconds", "When the last run ended.", now
    yield f"{name}_last_run_success", "Whether the last run was done: 1, else 0.", success
    yield LAST_SUCCESS, "When a run was last done; 0: never.", last_success
    yield f"{name}_duration_seconds", "How long the last run took.", elapsed_s
    if end is None:
        return
    rate = end.rows["scored"] / end.elapsed_s if end.elapsed_s else 0.0
    yield f"{name}_read_rows", "Rows read by the last run.", end.read
    yield f"{name}_rows", "Rows of the last run, by what became of them.", _by(end.rows), "outcome"
    yield f"{name}_filtered_rows", "Rows that filters left out.", _by(end.filtered), "reason"
    yield f"{name}_quarantined_rows", "Rows not usable.", _by(end.quarantined), "reason"
    yield f"{name}_empty_rows", "Rows scored without text: null predictions.", end.empty
    yield f"{name}_truncated_rows", "Rows scored whose text was cut.", end.truncated
    yield f"{name}_files", "Input files of the last run, by state.", _by(end.files), "state"
    yield f"{name}_rows_per_second", "Rows scored a second, loading included.", rate
    excess = {task: one.excess for task, one in end.drift.items()}
    yield f"{name}_drift_excess", "Largest drift index over chance.", _by(excess), "task"
    drifted = {task: one.drifted for task, one in end.drift.items()}
    yield f"{name}_drifted", "Whether the texts of a date drifted: 1, else 0.", _by(drifted), "task"


def _by(values: Mapping[str, float]) -> Labelled:
    return {(name,): value for name, value in values.items()}


def _valid(text: str) -> str:
    """As UTF-8 can hold it: half characters, and names of files in other encodings, escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
