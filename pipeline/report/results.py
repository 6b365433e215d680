"""A run opened for a notebook: importance and probe weights as xarray, tables as pandas.

    run = open_results("runs/sentiment")
    run.importance["sentiment"].ffn.sel(layer=7, pooling="max")     # (neuron,)
    run.weights["sentiment"].ffn.sel(output="positive")             # (layer, pooling, neuron)
    run.sweep["sentiment"], run.metrics["sentiment"], run.chosen["sentiment"]

Axes and labels are those of the store's Dataset, so that the two align. What a layer's probe says
of stored texts is::

    w, x = run.weights["sentiment"], store.open_dataset("activations").ffn
    z = ((x - w.ffn_mean) / w.ffn_scale).clip(-w.ffn_bound, w.ffn_bound)
    outputs = xr.dot(z, w.ffn, dim=["pooling", "neuron"]) + w.ffn_intercept

Numbers are read from the probes' files when they are asked for, a layer at a time. Neither the
store nor a model is needed, but for ``doubted_labels``.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from pipeline.config import RunConfig
from pipeline.errors import ConfigError, ProbeError, did_you_mean
from pipeline.heads import Head
from pipeline.probes import Probe, feature_importance
from pipeline.report.digits import blocks_read, span, three
from pipeline.report.labelnoise import read_label_doubts
from pipeline.report.scores import interval_of, num_layers_of
from pipeline.runfolder import (
    RunFolder,
    finished_metrics,
    read_card,
    read_sweep,
    run_config,
)
from store import StoreSchema
from store.layout import (
    AXIS_OF,
    NAMED_AXES,
    SITES,
    ArrayLayout,
    Source,
    axis_coordinates,
    coordinate_attributes,
)
from store.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
T = TypeVar("T")
PROBE_FIRST = "run `salient probe` first"
HIDDEN = "hidden"
"""Stem of the final state's probe in runs of the first version, which probed no other."""


@dataclass(frozen=True)
class _Part:
    """What a variable takes from the probe of a layer.

    Attributes:
        by_unit, by_output: whether it has axes of poolings and units, and of outputs; with both,
            ``of`` gives ``(features, outputs)``.
        of: the numbers, of a probe.
        long_name: what they are.
    """

    by_unit: bool
    by_output: bool
    of: Callable[[Probe], Any]
    long_name: str


WEIGHTS = {
    "": _Part(True, True, lambda p: p.weights.T, "probe weights on standardised activations"),
    "_intercept": _Part(False, True, lambda p: p.bias, "probe intercept"),
    "_mean": _Part(True, False, lambda p: p.standardiser.mean, "mean activation"),
    "_scale": _Part(True, False, lambda p: p.standardiser.scale, "scale of activations"),
    "_bound": _Part(
        False,
        False,
        lambda p: p.standardiser.bound,
        "largest standardised activation; others are clipped",
    ),
}
IMPORTANCE = {
    "": _Part(
        True,
        False,
        lambda p: feature_importance(p.weights),
        "importance: L2 norm of the probe weights over the outputs",
    ),
    "_by_output": _Part(
        True,
        True,
        lambda p: np.abs(p.weights).T,
        "importance for one output: absolute probe weight",
    ),
}
PARTS = {"weights": WEIGHTS, "importance": IMPORTANCE}
"""Dataset -> what follows the site in a variable's name -> what that is."""


class ByTask(Mapping[str, T], Generic[T]):
    """Task -> what is made of it when it is asked for, once.

    Args:
        tasks: their names.
        make: makes a task's entry.
    """

    def __init__(self, tasks: Sequence[str], make: Callable[[str], T]) -> None:
        self._tasks, self._make = tuple(tasks), make
        self._made: dict[str, T] = {}

    def __getitem__(self, task: str) -> T:
        if task not in self._tasks:
            raise KeyError(
                f"no task {task!r}: the run has {', '.join(self._tasks)}."
                f" {did_you_mean(str(task), self._tasks)}".rstrip()
            )
        if task not in self._made:
            self._made[task] = self._make(task)
        return self._made[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"one for each task: {', '.join(self._tasks)}"


@dataclass(frozen=True)
class RunResults:
    """What a run found; see :func:`open_results`.

    Attributes:
        path: its folder.
        config: its configuration.
        tasks: names of its tasks.
        importance: task -> Dataset of each site's importance ``(layer, pooling, neuron)``, the L2
            norm of the probe's weights over the outputs, and ``SITE_by_output`` with ``output``,
            the absolute weights.
        weights: task -> Dataset of each site's probe weights ``(layer, pooling, neuron, output)``
            on standardised activations, with ``SITE_intercept`` ``(layer, output)``, ``SITE_mean``
            and ``SITE_scale`` ``(layer, pooling, neuron)`` and ``SITE_bound`` ``(layer,)``; of two
            classes there is one output, the second class's.
        sweep: task -> table of every head that was tried.
        metrics: task -> its entry of ``metrics.json``.
        chosen: task -> the chosen head's card, a dict.
        doubted_labels: task -> table of the labels that the chosen head most doubts out of fold;
            see :mod:`pipeline.report.labelnoise`.
    """

    path: Path
    config: RunConfig
    tasks: tuple[str, ...]
    importance: Mapping[str, xr.Dataset]
    weights: Mapping[str, xr.Dataset]
    sweep: Mapping[str, pd.DataFrame]
    metrics: Mapping[str, Mapping[str, Any]]
    chosen: Mapping[str, Mapping[str, Any]]
    doubted_labels: Mapping[str, pd.DataFrame]

    @property
    def finished(self) -> bool:
        """Whether heads were chosen and the test split was looked at."""
        return RunFolder(self.path).metrics.is_file()

    def __repr__(self) -> str:
        lines = [f"<salient run {self.config.name!r}: {self.path}>"]
        lines.append(f"backbone: {self.config.backbone.model}")
        for row in self._rows:
            lines.append("  ".join(cell for cell in row if cell))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
            for row in self._rows
        )
        heads = ("task", "chosen head", "blocks", "features", "test", "95 % interval")
        first = "".join(f"<th>{head}</th>" for head in heads)
        return (
            f"<p>Salient run <b>{html.escape(self.config.name)}</b>, backbone"
            f" {html.escape(self.config.backbone.model)}</p><table><thead><tr>{first}</tr></thead>"
            f"<tbody>{cells}</tbody></table>"
        )

    @cached_property
    def _rows(self) -> tuple[tuple[str, ...], ...]:
        return tuple(self._row(task) for task in self.tasks)

    def _row(self, task: str) -> tuple[str, ...]:
        if not self.finished:
            return task, "not finished", "", "", "", ""
        found, card = self.metrics[task], self.metrics[task]["chosen"]
        name, test = found["metric"], card["test"]
        value, ends = test.get(name), interval_of(card, name)
        return (
            task,
            card["kind"],
            blocks_read(card["depth"] + 1, num_layers_of(found)),
            f"{card['num_features']:,} features",
            f"{name} {three(value)}",
            span(*ends),
        )


def open_results(path: str | Path) -> RunResults:
    """Open a run, finished or with its probes only; nothing large is read.

    Args:
        path: the run's folder or its TOML file.

    Raises:
        SalientError: no run there, or a damaged one.
    """
    path = Path(path)
    if not (path.is_dir() or path.suffix == ".toml"):
        raise ConfigError(f"{path}: not a run; name a run's folder or its TOML file")
    config = run_config(path)
    folder = RunFolder(Path(config.run_dir))
    card = read_card(folder)
    tasks = tuple(task.name for task in config.tasks)
    heads = ByTask(tasks, lambda task: Head.load(folder.head(task)))
    probes = ByTask(tasks, lambda task: _TaskProbes.of(folder, config, card, task))
    metrics = ByTask(tasks, lambda task: finished_metrics(folder)["tasks"][task])
    return RunResults(
        folder.path,
        config,
        tasks,
        importance=ByTask(tasks, lambda task: probes[task].dataset("importance")),
        weights=ByTask(tasks, lambda task: probes[task].dataset("weights")),
        sweep=ByTask(tasks, lambda task: read_sweep(folder, task).to_pandas()),
        metrics=metrics,
        chosen=ByTask(tasks, lambda task: dict(vars(heads[task].card))),
        doubted_labels=ByTask(
            tasks, lambda task: read_label_doubts(path, [task])[task].table.to_pandas()
        ),
    )


@dataclass(frozen=True)
class _Probes:
    """The probes of one task; a copy in another process reads them there.

    Attributes:
        folder, task: the run's and the task's.
        stems: source -> stem of its probe's files.
        poolings: of the store that they were fitted on.
        kept: the probes that were read, without their folds.
    """

    folder: RunFolder
    task: str
    stems: Mapping[Source, str]
    poolings: tuple[str, ...]
    kept: dict[Source, Probe] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "kept": {}}

    def read(self, source: Source) -> Probe:
        """The probe of a source, from its file once."""
        if source not in self.kept:
            path = self.folder.probe(self.task, self.stems[source])
            probe = Probe.read(path.with_suffix(".safetensors"))
            none = np.empty((0, *probe.weights.shape), np.float32)
            self.kept[source] = replace(probe, fold_weights=none, fold_bias=none[..., 0])
        return self.kept[source]

    @cached_property
    def schema(self) -> StoreSchema:
        """As that of the store that they were fitted on, made of what the run keeps."""
        return _schema(self.folder, self.task, list(self.stems), self.poolings, self.read)


@dataclass(frozen=True)
class _TaskProbes:
    """The probes of one task with what their Datasets say.

    Attributes:
        probes: all of them.
        outputs: their names.
        attrs: of the Datasets.
    """

    probes: _Probes
    outputs: tuple[str, ...]
    attrs: Mapping[str, str]

    @classmethod
    def of(
        cls, folder: RunFolder, config: RunConfig, card: Mapping[str, Any], task: str
    ) -> _TaskProbes:
        stems = sorted(path.stem for path in folder.probe(task, "x").parent.glob("*.json"))
        finished = (folder.head(task) / "head.json").is_file()
        head = Head.load(folder.head(task)).card if finished else None
        named = {_source(stem, 0 if head is None else head.num_layers): stem for stem in stems}
        if not named:
            raise ProbeError(f"{folder.path}: no probes of task {task!r}; {PROBE_FIRST}")
        poolings = config.store.poolings if head is None else head.poolings
        probes = _Probes(folder, task, named, tuple(poolings))
        num_outputs = len(probes.read(next(iter(named))).bias)
        classes = _classes_so_far(folder, config, task) if head is None else head.classes
        said = {
            "title": "Probes on the activations inside a frozen language model",
            "run": str(card.get("name", config.name)),
            "task": task,
            "type": config.task(task).type,
            "backbone": config.backbone.model,
            "backbone_revision": config.backbone.revision or "",
            "fingerprint": str(card.get("extraction_fingerprint", "")),
        }
        attrs = {name: value for name, value in said.items() if value}
        return cls(probes, _output_names(num_outputs, classes, task), attrs)

    def dataset(self, kind: str) -> xr.Dataset:
        """``weights`` or ``importance``; see :class:`RunResults`."""
        schema = self.probes.schema
        coords = {
            name: xr.Variable(
                (AXIS_OF.get(name, name),),
                np.asarray(values, object if name in NAMED_AXES else np.int64),
                coordinate_attributes(name),
            )
            for name, (values, _) in axis_coordinates(schema).items()
        }
        outputs = np.array(self.outputs, object)
        said = {"long_name": "class, label or value that the output speaks for"}
        coords["output"] = xr.Variable(("output",), outputs, said)
        variables: dict[str, xr.Variable] = {}
        for site, layout in schema.arrays.items():
            layer, *units = layout.dims[:3]
            for ending, part in PARTS[kind].items():
                dims = (layer, *units * part.by_unit, *["output"] * part.by_output)
                shape = (layout.num_poolings, layout.width) * part.by_unit
                shape += (len(outputs),) * part.by_output
                array = _LayerArray(self.probes, layout, (kind, ending), shape)
                lazy = indexing.LazilyIndexedArray(array)
                cached = indexing.MemoryCachedArray(lazy)  # type: ignore[no-untyped-call]
                attrs = {"long_name": part.long_name, "units": "1"}
                variables[f"{site}{ending}"] = xr.Variable(dims, cached, attrs)
        return xr.Dataset(variables, coords, attrs=dict(self.attrs))


class _LayerArray(BackendArray):
    """An array with a file for each layer, behind xarray's lazy indexing.

    Args:
        probes: where the numbers are.
        layout: of the site's array; its layers are the first axis.
        name: Dataset and ending of the variable, in ``PARTS``.
        shape: of the other axes.
    """

    def __init__(
        self, probes: _Probes, layout: ArrayLayout, name: tuple[str, str], shape: tuple[int, ...]
    ) -> None:
        self.probes, self.layout, self.name = probes, layout, name
        self.shape, self.dtype = (len(layout.layers), *shape), np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Array:
        return indexing.explicit_indexing_adapter(  # type: ignore[no-any-return]
            key, self.shape, indexing.IndexingSupport.BASIC, self._part
        )

    def _part(self, key: tuple[Any, ...]) -> Array:
        first, rest = key[0], key[1:]
        if not isinstance(first, slice):
            return np.asarray(self._of(self.layout.layers[first])[rest])
        parts = [self._of(layer)[rest] for layer in self.layout.layers[first]]
        if not parts:
            return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *rest)]
        return np.stack(parts)

    def _of(self, layer: int) -> Array:
        kind, ending = self.name
        found = PARTS[kind][ending].of(self.probes.read(Source(self.layout.name, layer)))
        return np.asarray(found, self.dtype).reshape(self.shape[1:])


def _source(stem: str, num_layers: int) -> Source:
    return Source("hidden", num_layers) if stem == HIDDEN else Source.of(stem)


def _classes_so_far(folder: RunFolder, config: RunConfig, task: str) -> Sequence[str] | None:
    """Of a run without heads: those of the importance table, or of the configuration."""
    path, first = folder.importance(task), "importance_"
    names = read_table(path).column_names if path.is_file() else []
    return [name.removeprefix(first) for name in names if name.startswith(first)] or (
        config.task(task).labels
    )


def _output_names(num_outputs: int, classes: Sequence[str] | None, task: str) -> tuple[str, ...]:
    """Classes or labels; of two classes with one output the second, if it is known; of values the
    task's name."""
    known = tuple(classes or ())[-num_outputs:]
    if len(known) < num_outputs:
        return (task,) if num_outputs == 1 else tuple(map(str, range(num_outputs)))
    return known


def _schema(
    folder: RunFolder,
    task: str,
    sources: Sequence[Source],
    poolings: tuple[str, ...],
    read: Callable[[Source], Probe],
) -> StoreSchema:
    """Axes of the store that probes were fitted on, told by the probes' shapes."""
    layers: dict[str, tuple[int, ...]] = {}
    widths: dict[str, int] = {}
    for site in SITES:
        if own := sorted(source.layer for source in sources if source.site == site):
            num_features = read(Source(site, own[0])).weights.shape[1]
            if num_features % len(poolings):
                raise ProbeError(
                    f"{folder.path}: the probes of task {task!r} read {num_features} features of"
                    f" {Source(site, own[0]).label}, which are none of {len(poolings)} poolings;"
                    " run `salient probe` again"
                )
            layers[site], widths[site] = tuple(own), num_features // len(poolings)
    experts: list[int] = []
    if "experts" in layers:
        table = read_table(folder.importance(task, "experts"))
        experts = list(dict.fromkeys(table["expert"].to_pylist()))
    deepest = max(source.depth for source in sources)
    return StoreSchema(
        num_layers=max(1, deepest + 1),
        neuron_size=widths.get("ffn", 0),
        poolings=poolings,
        hidden_size=widths.get("hidden"),
        hidden_layers=layers.get("hidden", ()),
        layers=layers.get("ffn", ()),
        router_size=widths.get("router"),
        router_layers=layers.get("router", ()),
        expert_size=widths["experts"] // max(1, len(experts)) if experts else None,
        experts=tuple(experts),
        experts_layers=layers.get("experts", ()),
    )
