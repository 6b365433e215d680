"""The run folder: where a run's probes, tables, heads and figures lie, and which of them are done.

::

    run.json                        configuration, fingerprints, versions, seeds, snapshot
    golden.safetensors              what the golden texts activate
    probes/TASK/layer_003.*         Phase-1 probe: .safetensors, and .json when it is complete
    probes/TASK/hidden_004.*        the same on hidden state 4; the last is the conventional head
    groups/TASK.safetensors         which of the task's texts are near-duplicates
    grams/TASK/layer_003.*          Gram matrix of the layer, for tasks that share texts with TASK
    importance/TASK.parquet         importance per (layer, pooling, neuron)
    importance_experts/TASK.parquet  the same per (layer, pooling, expert, neuron)
    rankings/TASK.parquet           other rankings of the neurons (`salient rank`), and with them
    overlaps/TASK.parquet           how far each two of them agree
    stability/TASK.parquet          how far each agrees with itself over bootstrap replicates
    selectivity/TASK.parquet        the probes' scores against those with shuffled labels
    sweep/TASK.parquet              every Phase-2 head tried, with its loss and score held out
    heads/TASK/chosen/              the chosen head; dense/, sparse/ …: the best of each kind;
                                    depth_003/: the best that runs blocks 0..3; baseline_NAME/:
                                    what the chosen one is compared with; ngrams.parquet in
                                    each that reads n-grams: their importance
    metrics.json                    validation and test metrics with their intervals
    plan.json                       what scoring costs at every depth (`salient plan`)
    cascade.json                    when a text may leave early (`salient plan --cascade`)
    ablation.json                   what the heads lose with neurons silenced (`salient ablate`)
    report.html                     the page of `salient report`
    figures/                        plots
    set_aside.parquet               texts that killed the workers of a cluster, if any
    .lock                           held while a stage writes here
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import Metrics, RunConfig, RunRecord, checked, is_address, read_columns
from pipeline.errors import (
    ConfigError,
    ExtractError,
    ExtractInputError,
    ProbeError,
    RunInputError,
    again,
)
from pipeline.progress import Say, silent
from store import ActivationStore, StoreBusy, StoreError
from store.layout import own_version
from store.tables import read_json, table_digest, write_json

FORMAT_VERSION = 1
EXTRACT_AGAIN = again("extract")
CONSOLIDATE_AGAIN = again("consolidate")
VERSIONED = (
    "torch",
    "transformers",
    "zarr",
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
)


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def card(self) -> Path:
        """Provenance of the run."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """Metrics of all tasks."""
        return self.path / "metrics.json"

    @property
    def plan(self) -> Path:
        """Costs and scores by depth."""
        return self.path / "plan.json"

    @property
    def cascade(self) -> Path:
        """Depth and thresholds of the early exit."""
        return self.path / "cascade.json"

    @property
    def ablation(self) -> Path:
        """What the heads lose with neurons silenced, by task."""
        return self.path / "ablation.json"

    @property
    def golden(self) -> Path:
        """What the golden texts activate, as recorded at extraction."""
        return self.path / "golden.safetensors"

    @property
    def figures(self) -> Path:
        """Folder of plots."""
        return self.path / "figures"

    def groups(self, task: str) -> Path:
        """Near-duplicates among a task's rows."""
        return self.path / "groups" / f"{task}.safetensors"

    def probe(self, task: str, source: str) -> Path:
        """Stem of a probe's files; ``source`` is the name of what it reads."""
        return self.path / "probes" / task / source

    def gram(self, task: str, source: str) -> Path:
        """Gram matrix of a source's training rows; ``task`` is the first of those that share it."""
        return self.path / "grams" / task / f"{source}.safetensors"

    def importance(self, task: str, site: str = "ffn") -> Path:
        """Importance table of a task, of the FFN's neurons or of the experts'."""
        folder = "importance" if site == "ffn" else f"importance_{site}"
        return self.path / folder / f"{task}.parquet"

    def ranking(self, kind: str, task: str) -> Path:
        """Table of a task by `salient rank`, such as that of ``"rankings"`` or ``"overlaps"``."""
        return self.path / kind / f"{task}.parquet"

    def sweep(self, task: str) -> Path:
        """Sweep table of a task."""
        return self.path / "sweep" / f"{task}.parquet"

    def head(self, task: str, name: str = "chosen") -> Path:
        """Folder of the chosen head of a task, or of another one by name."""
        return self.path / "heads" / task / name


def write_card(folder: RunFolder, config: RunConfig, **facts: Any) -> dict[str, Any]:
    """Write ``run.json``: what this run depends on.

    Args:
        folder: the run's folder.
        config: the configuration.
        **facts: what else belongs to the record (snapshot, fingerprints, corpus counts).
    """
    card = {
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config.stated(),
        "config_fingerprint": config.fingerprint,
        "seed": config.seed,
        "python": platform.python_version(),
        "versions": {"salient": own_version(), **{name: _version(name) for name in VERSIONED}},
        "byte_order": sys.byteorder,
        **facts,
    }
    write_json(folder.card, card)
    return card


def read_card(folder: RunFolder) -> dict[str, Any]:
    """Read ``run.json``.

    Raises:
        ProbeError: not a run folder, or one of another format.
    """
    if not folder.card.is_file():
        raise RunInputError(
            f"{folder.path}: no run here (no run.json); name a folder written by `salient extract`"
            " or `salient run`"
        )
    _refuse_links(folder.path)
    card = read_json(folder.card, remedy=EXTRACT_AGAIN)
    if card.get("format_version") != FORMAT_VERSION:
        raise RunInputError(
            f"{folder.path}: run format {card.get('format_version')!r}, this version reads"
            f" {FORMAT_VERSION}; run again or install the matching version"
        )
    checked(RunRecord, card, where=folder.card, remedy=EXTRACT_AGAIN, error=ProbeError)
    return card


def _refuse_links(path: Path) -> None:
    """A run's folder may come from anybody, and is written to: nothing in it leads out of it."""
    facts = path.stat()
    _walk_once(path, path.resolve(), (facts.st_dev, facts.st_ino))


@cache
def _walk_once(path: Path, inside: Path, _folder: tuple[int, int]) -> None:
    """Once for a folder in a process: a store in it has many files. A refusal is not kept."""
    waiting = [str(path)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # gone since, or nobody's to enter
            continue
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
                raise ProbeError(
                    f"{entry.path}: is a link that leads out of the run's folder, and stages write"
                    " and delete there; put what it leads to in its place"
                )


def loads_whole(folder: RunFolder) -> bool:
    """Whether the run's extraction found that its heads must load all blocks of the model.

    A store does not say, for it may be older than the finding.
    """
    return bool(read_card(folder).get("extraction", {}).get("whole"))


def run_config(path: Path, *, store: str | None = None, say: Say = silent) -> RunConfig:
    """The configuration of a run, from its folder or its TOML file.

    A folder may come from elsewhere. Where work runs is therefore not taken from it: ``options`` of
    ``[cluster]`` reach Dask, which runs what its ``preload`` names, and an address would be handed
    the texts. The whole section is dropped unread; who names the TOML file has it. So is
    ``[storage]``, whose endpoint would be shown the user's credentials. Nor may a folder say where
    scores lie, or allow a model's own code (:meth:`RunConfig.handed_over`).

    Args:
        path: the run's folder or its TOML file.
        store: where the run's store is, if it moved.
        say: told what a folder says and is not done.

    Raises:
        SalientError: no run there, or a bad configuration.
    """
    config = _config_at(path, say)
    if store is None:
        return config
    return config.model_copy(update={"store": config.store.model_copy(update={"path": store})})


def _config_at(path: Path, say: Say) -> RunConfig:
    if path.is_dir():
        card = read_card(RunFolder(path))
        cluster = card["config"].pop("cluster", None)
        if card["config"].pop("storage", None):
            say(
                f"{path}: [storage] is not taken from a run's folder; name the run's TOML file"
                " instead, or set AWS_ENDPOINT_URL, AWS_REGION and the like"
            )
        config = RunConfig.from_dict(card["config"], origin=path / "run.json")
        kind = cluster.get("kind", "local") if isinstance(cluster, dict) else "local"
        if kind != "local":
            say(
                f"{path}: [cluster] is not taken from a run's folder, so this runs here and not on"
                f" kind = {str(kind)[:20]!r}; name the run's TOML file instead for that"
            )
        own = {
            "run_dir": str(path.resolve()),
            "score": config.score.model_copy(update={"output": None}),
        }
        return config.model_copy(update=own).handed_over()
    return RunConfig.load(path)


def read_metrics(folder: RunFolder) -> dict[str, Any]:
    """Read ``metrics.json``.

    Raises:
        ProbeError, StoreError: no finished run there, or a damaged file.
    """
    metrics = read_json(folder.metrics, remedy=CONSOLIDATE_AGAIN)
    where = folder.metrics
    checked(Metrics, metrics, where=where, remedy=CONSOLIDATE_AGAIN, error=ProbeError)
    return metrics


STAGES = {
    "extract": ("run.json", "not extracted"),
    "probe": ("probes", "not probed"),
    "consolidate": ("metrics.json", "not finished"),
}
"""Stage -> what it leaves in the run's folder, and what a run is without it."""


def check_stage(run_dir: str | Path, given: Path, stage: str) -> None:
    """Refuse a run that has not come as far as a stage, by the command that is to come next.

    Args:
        run_dir: its folder.
        given: what the user named.
        stage: a key of :data:`STAGES`.

    Raises:
        ConfigError: it has not.
    """
    for name, (sign, what) in STAGES.items():
        if not (Path(run_dir) / sign).exists():
            raise ConfigError(f"{given}: {what} yet: `salient {name} {given}` first")
        if name == stage:
            return


def finished_metrics(folder: RunFolder) -> dict[str, Any]:
    """As :func:`read_metrics`, of a run that may not be finished.

    Raises:
        ConfigError: it is not.
        ProbeError, StoreError: a damaged file.
    """
    if not folder.metrics.is_file():
        raise ConfigError(
            f"{folder.path}: the run is not finished; run `salient consolidate` first"
        )
    return read_metrics(folder)


def read_sweep(folder: RunFolder, task: str) -> pa.Table:
    """Every Phase-2 head that was tried for a task, a row each.

    Raises:
        ProbeError, StoreError: none there, or a damaged one.
    """
    path = folder.sweep(task)
    columns = {"kind": "text", "depth": "whole", "num_features": "whole", "val_score": "number"}
    columns |= {"low": "number", "high": "number"}
    table = read_columns(path, columns, remedy=CONSOLIDATE_AGAIN, error=ProbeError)
    if not len(table):
        raise ProbeError(f"{path}: has no rows; {CONSOLIDATE_AGAIN}")
    return table


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def content_of(store: ActivationStore) -> str:
    """Digest of the samples that a snapshot shows; a store put in its place has another."""
    return table_digest(store.samples().select(["id", "text_hash"]))[:16]


def open_run(config: RunConfig) -> tuple[str, ActivationStore]:
    """The snapshot that this run's extraction recorded, and the store opened at it."""
    card = read_card(RunFolder(Path(config.run_dir)))
    snapshot = card.get("snapshot")
    if not ActivationStore.exists(config.store.path) or snapshot is None:
        raise ExtractInputError(
            f"{config.store.path}: no activation store here, where the run says that it is; run"
            " `salient extract` first, or, if it was moved, set path under [store]"
        )
    if card.get("config_fingerprint") != config.fingerprint:
        raise RunInputError(
            f"{config.run_dir}: was extracted with another configuration; run `salient extract`"
            " with this one (what is stored is not computed again), or use another run_dir"
        )
    store = open_snapshot(config, snapshot)
    if card.get("content") != content_of(store):
        raise ExtractInputError(
            f"{config.store.path}: does not hold the samples that {config.run_dir} was made from"
            " (another store, or samples deleted since); run `salient extract` again"
        )
    return snapshot, store


def open_snapshot(config: RunConfig, snapshot: str | None) -> ActivationStore:
    """The store of a run as it was at a snapshot, less what was deleted since.

    Raises:
        ExtractError: that snapshot is no longer kept.
        StoreError: no store there, or a damaged one.
    """
    path = config.store.path
    if not is_address(path) and not Path(path).exists():
        raise ExtractInputError(
            f"{path}: no such folder, and {config.run_dir} says that its store is there; if it was"
            " moved, name it: --store (salient inspect --labels), or path under [store] in the"
            " run's TOML file, with that file in place of the folder"
        )
    try:
        return ActivationStore.open(path, snapshot=snapshot)
    except StoreError:
        if snapshot in (None, *(one.id for one in ActivationStore.open(path).snapshots())):
            raise
        raise ExtractInputError(
            f"{path}: snapshot {snapshot!r}, which {config.run_dir} was made from, is not there any"
            " more (`salient store gc` removes old ones, or another store lies there); run `salient"
            " run` again: what is stored is not computed again"
        ) from None


def what_was_lost(config: RunConfig) -> str | None:
    """A line to say of a run whose store no longer holds all samples that it was made from."""
    card = read_card(RunFolder(Path(config.run_dir)))
    if card.get("content") is None:
        return None  # an old run
    try:
        if not ActivationStore.exists(config.store.path):
            return None  # where the store is needed, its opening says that it is not there
        if content_of(open_snapshot(config, card.get("snapshot"))) == card["content"]:
            return None
    except ExtractError as error:
        return str(error)
    except StoreBusy:
        raise
    except StoreError:
        return None  # damaged, or access is refused: whoever reads it says so
    return (
        f"{config.run_dir}: samples that this run was made from were deleted since, or"
        f" {config.store.path} is another store; `salient run` brings it up to date"
    )
