"""In-model ablation: what the heads lose when salient neurons fall silent, against random ones.

    options = AblationOptions(top=50)
    report = ablate(RunConfig.load("run.toml"), options=options)     # `salient ablate run.toml`

``ablate`` runs the backbone over a split's texts with the salient neurons of a run silenced, and
with equally many random ones of the same layers, and compares the metric of (a) the chosen head
and (b) the conventional head on the final hidden state, fitted on the same rows as (a). (a) reads
the silenced neurons itself, which alone makes it lose; (b) shows whether the model's own later
layers use them. The report is kept in the run folder's ``ablation.json``.

After Bau et al. 2019 (arXiv 1811.01157), who erase a translation model's ranked neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone import (
    Backbone,
    Neurons,
    check_silenced,
    encode,
    load_recorded,
    refuse_shared,
    silenced,
)
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, HeadError, ProbeError
from pipeline.events import Tally, stage
from pipeline.extraction import Activations, Extractor, RoutedLayers
from pipeline.heads import Head, text_activations, wanted_tasks
from pipeline.locking import one_at_a_time
from pipeline.measures import LEAST_ROWS, METRICS, Resamples, as_judged, score
from pipeline.neurons.arms import random_neurons, salient_neurons, token_means
from pipeline.neurons.tables import ABLATIONS_VERSION, read_ablations
from pipeline.probes import Probe, load_final_probe, read_importance
from pipeline.progress import Say, silent
from pipeline.runfolder import RunFolder, open_snapshot, what_was_lost
from pipeline.texts import Rows, Split, Target, load_target, sample_texts
from store import ActivationStore
from store.layout import Source
from store.tables import write_json

Array = NDArray[Any]
DEFAULT_TOP = 50
LEVEL = 0.95
BLOCK_BYTES = 256 * 2**20
"""Pooled activations held at a time."""
MIN_BLOCK = 64
TOKENISED = 4096
"""Texts tokenised at a time."""
HEADS = ("chosen", "hidden")
FINAL_STATE = "baseline_final"
"""Folder of the conventional head among a task's heads."""
FILLS = {
    "zero": "zero",
    "mean": "their mean over the training texts' tokens (stored means weighted by token counts)",
}


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """What to silence, and on which texts.

    Attributes:
        top: so many of the most important neurons of each layer; 50 if no share is given.
        share: instead, the smallest set with this share of the layer's squared importance.
        layers: where to silence; none: the layers whose neurons the chosen head reads, or all up to
            its depth if it reads none.
        fill: "zero", or "mean": each neuron's mean over the tokens of the task's training texts,
            from the stored text means (:func:`~pipeline.neurons.arms.token_means`).
        draws: seeded draws of random neurons: as many of each layer, from all its neurons.
        split: whose texts. The test split stays untouched unless it is named.
        limit: at most so many texts, drawn with the run's seed.

    Raises:
        ConfigError: a value out of range.
    """

    top: int | None = None
    share: float | None = None
    layers: tuple[int, ...] = ()
    fill: str = "zero"
    draws: int = 5
    split: str = "val"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.share is not None:
            raise ConfigError(f"--top {self.top} and --share {self.share}: give one of them")
        if self.share is None and self.top is None:
            object.__setattr__(self, "top", DEFAULT_TOP)
        for option, value, good, rule in (
            ("--top", self.top, self.top is None or self.top >= 0, "must not be negative"),
            (
                "--share",
                self.share,
                self.share is None or 0 < self.share <= 1,
                "must lie in (0, 1]",
            ),
            ("--with", self.fill, self.fill in FILLS, "choose zero or mean"),
            ("--split", self.split, self.split in get_args(Split), "choose train, val or test"),
            ("--draws", self.draws, self.draws >= 1, "must be at least 1"),
            ("--limit", self.limit, self.limit is None or self.limit >= 2, "must be at least 2"),
        ):
            if not good:
                raise ConfigError(f"{option} {value}: {rule}")


class _Bench:
    """A task's two heads over the backbone, on some texts."""

    def __init__(
        self, backbone: Backbone, head: Head, hidden: Head | Probe, texts: Sequence[str]
    ) -> None:
        self.backbone, self.head, self.hidden = backbone, head, hidden
        self.texts = texts
        self.stored = np.dtype(head.card.stored_dtype)
        self.final = Source("hidden", head.card.num_layers)
        read = {*head.features, self.final}
        self.layers = sorted(source.layer for source in read if source.site == "ffn")
        self.states = sorted(source.layer for source in read if source.site == "hidden")
        self.routers = sorted(source.layer for source in read if source.site == "router")
        self.experts = sorted(source.layer for source in read if source.site == "experts")
        floats = sum(backbone.width(source.site) for source in read if source.array is not None)
        per_text = 4 * floats * len(head.card.poolings)
        self.block_size = max(MIN_BLOCK, BLOCK_BYTES // per_text)

    def extractor(self, backbone: Backbone) -> Extractor:
        """What the heads read, from a backbone."""
        return Extractor(
            backbone,
            poolings=self.head.card.poolings,
            special_tokens=self.head.card.extraction["backbone"]["special_tokens"],
            layers=self.layers,
            hidden=self.states,
            routed=RoutedLayers.recorded(
                self.head.card.extraction, router=self.routers, experts=self.experts
            ),
        )

    def outputs(self, what: str, neurons: Neurons, values: Neurons | None) -> dict[str, Array]:
        """Head -> outputs ``(n, outputs)`` with neurons silenced; ``what`` is for progress."""
        found: dict[str, list[Array]] = {name: [] for name in HEADS}
        extractor = self.extractor(silenced(self.backbone, neurons, values))
        tally = Tally(f"{what}:", len(self.texts), "texts")
        for start in range(0, len(self.texts), self.block_size):
            texts = self.texts[start : start + self.block_size]
            activations = extractor(texts)
            for layer, pooled in zip(self.layers, activations.ffn, strict=True):
                if layer in neurons:
                    fill = None if values is None else values[layer]
                    check_silenced(pooled, neurons[layer], fill)
            for name, part in self._judge(extractor.sources, activations, texts).items():
                found[name].append(part)
            if len(self.texts) > self.block_size:  # else the result's own line says it all
                tally(start + len(texts))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _judge(
        self, sources: Sequence[Source], activations: Activations, texts: Sequence[str]
    ) -> dict[str, Array]:
        """Outputs for texts; what the head reads of these themselves stays as it is."""
        found = zip(sources, activations.in_order, strict=True)
        rows = {source: self._as_stored(pooled) for source, pooled in found}
        own = {s: rows[s][:, index] for s, index in self.head.features.items() if s in rows}
        own |= text_activations(self.head, texts)
        metric, final = self.head.card.metric, rows[self.final]
        return {
            "chosen": self.head.outputs_for(metric, self.head.outputs(own)),
            "hidden": (
                self.hidden.outputs_for(metric, self.hidden.outputs_full({self.final: final}))
                if isinstance(self.hidden, Head)
                else self.hidden.outputs(final)
            ),
        }

    def _as_stored(self, pooled: Array) -> Array:
        """(pooling, feature, n) -> ``(n, features)`` float32, rounded as the heads' training rows.

        Values out of the stored type's range become infinite, which standardising clips.
        """
        with np.errstate(over="ignore"):
            rows = pooled.reshape(-1, pooled.shape[-1]).T.astype(self.stored)
        return np.ascontiguousarray(rows, np.float32)


def ablate(
    config: RunConfig,
    *,
    tasks: Sequence[str] = (),
    options: AblationOptions | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """Silence the salient neurons of a finished run, and random ones, and compare the heads.

    Args:
        config: the run's configuration.
        tasks: these only; default all of the run.
        options: what to silence; default the 50 most important neurons of each layer, to zero.
        say: called with progress lines.

    Returns:
        ``{"format_version": 1, "tasks": {task: report}}`` of these tasks; a report holds the
        settings, the silenced neurons, which heads were fitted on these very texts (``fitted``:
        their levels flatter, so compare the changes) and, per head (``chosen``, ``hidden``), the
        task's metric with all neurons (``baseline``), its value and change with the ``salient`` and
        the ``random`` neurons silenced (mean over the draws), and the ``difference`` of the two
        changes. Intervals: 95 %, percentile bootstrap over the texts, paired; the draws are not
        resampled.

    Raises:
        ConfigError: no such task or layer, or more neurons than a layer has.
        SalientError: the run is not finished, or its parts do not belong together.
    """
    options = options or AblationOptions()
    wanted = wanted_tasks(tasks, [task.name for task in config.tasks])
    folder = RunFolder(Path(config.run_dir))
    if not folder.metrics.is_file():
        raise HeadError(f"{folder.path}: no finished run here; run `salient run` first")
    with stage("ablate", folder.path), one_at_a_time(folder.path, say):
        kept = read_ablations(folder.ablation) if folder.ablation.is_file() else {}
        heads = {name: Head.load(folder.head(name)) for name in wanted}
        experiment = _Experiment.prepare(config, options, folder, tuple(heads.values()), say)
        reports = {name: experiment.report(head) for name, head in heads.items()}
        # Beside those of other tasks.
        content = {"format_version": ABLATIONS_VERSION, "tasks": {**kept, **reports}}
        write_json(folder.ablation, content)
    return {"format_version": ABLATIONS_VERSION, "tasks": reports}


@dataclass(frozen=True)
class _Experiment:
    """A run's store and backbone, with what to do to them."""

    config: RunConfig
    options: AblationOptions
    folder: RunFolder
    store: ActivationStore
    backbone: Backbone
    say: Say

    @classmethod
    def prepare(
        cls,
        config: RunConfig,
        options: AblationOptions,
        folder: RunFolder,
        heads: Sequence[Head],
        say: Say,
    ) -> _Experiment:
        """Open the store and load the backbone that the heads were trained on."""
        cards = [head.card for head in heads]
        if lost := what_was_lost(config):
            say(lost)
        store = open_snapshot(config, cards[0].provenance["snapshot"])
        if any(card.extraction_fingerprint != store.schema.fingerprint for card in cards):
            raise HeadError(
                f"{config.store.path}: not the store that the heads in {folder.path} were trained"
                " on; run `salient run` again"
            )
        if any(card.provenance["config_fingerprint"] != config.fingerprint for card in cards):
            say("the heads were trained with an earlier configuration of this run")
        backbone = load_recorded(
            cards[0].extraction,
            asked_by=heads[0].place,
            device=config.cluster.device,
            trust_remote_code=config.trusts(cards[0].extraction["backbone"]),
        )
        refuse_shared(backbone)
        if "ffn" not in store.schema.arrays:
            raise HeadError(
                f"{config.store.path}: holds no FFN activations, and it is the FFN's neurons that"
                " are silenced; experts' neurons cannot be"
            )
        return cls(config, options, folder, store, backbone, say)

    def report(self, head: Head) -> dict[str, Any]:
        """Run everything for one task."""
        options, task = self.options, self.config.task(head.card.task)
        target = load_target(self.store, task)
        rows = _limited(
            target.rows(cast(Split, options.split)), options.limit, seed=self.config.seed
        )
        if len(rows) < 2:
            raise ProbeError(f"task {task.name!r}: the {options.split} split has {len(rows)} texts")
        bench = self._bench(head, rows)
        # A head on hidden states only is hit through those.
        layers = (
            sorted(set(options.layers))
            or bench.layers
            or [layer for layer in self.backbone.ffn_layers if layer <= head.card.depth]
        )
        importance = read_importance(self.folder, task.name)
        salient = salient_neurons(importance, layers, top=options.top, share=options.share)
        means = self._means(layers, target) if options.fill == "mean" else None

        count = sum(map(len, salient.values()))
        arms: dict[str, Neurons] = {"nothing": {}, f"{count} salient neurons": salient}
        for draw in range(options.draws):
            arms[f"{count} random neurons, draw {draw + 1} of {options.draws}"] = random_neurons(
                salient, self.backbone.neuron_size, seed=self.config.seed, draw=draw
            )
        outputs: dict[str, list[Array]] = {name: [] for name in HEADS}
        values: dict[str, list[float]] = {name: [] for name in HEADS}
        metric = task.selection_metric
        for what, neurons in arms.items():
            line = f"ablate {task.name}: silencing {what}"
            fills = None if means is None else {at: means[at][neurons[at]] for at in neurons}
            for name, found in bench.outputs(line, neurons, fills).items():
                value = score(metric, rows.targets, found, positive=target.positive)
                if not np.isfinite(value):
                    raise ProbeError(
                        f"task {task.name!r}: metric {metric!r} is not defined on these"
                        f" {len(rows)} texts (too few, or a single class); use another split or a"
                        " larger --limit"
                    )
                outputs[name].append(found)
                values[name].append(value)
            self.say(f"{line}: {metric} " + ", ".join(f"{values[n][-1]:.4f} ({n})" for n in HEADS))
        resamples = Resamples(len(rows), seed=self.config.seed)
        samples = {
            name: _resampled(metric, rows.targets, outputs[name], target.positive, resamples)
            for name in HEADS
        }
        return {
            "metric": metric,
            **asdict(options),
            "fill": FILLS[options.fill],
            "layers": layers,
            "num_texts": len(rows),
            "num_silenced": count,
            "num_neurons": self.backbone.neuron_size * len(layers),
            "seed": self.config.seed,
            "num_resamples": resamples.replicates,
            "level": LEVEL,
            "snapshot": self.store.snapshot_id,
            "fitted": [
                name
                for name, own in (("chosen", head), ("hidden", bench.hidden))
                if options.split in _fitted_splits(own)
            ],
            "head": {
                "kind": head.card.kind,
                "depth": head.card.depth,
                "fingerprint": head.fingerprint,
            },
            "neurons": {str(layer): chosen.tolist() for layer, chosen in salient.items()},
            **{name: _compare(values[name], samples[name], len(rows)) for name in HEADS},
        }

    def _bench(self, head: Head, rows: Rows) -> _Bench:
        card = head.card
        hidden = _final_state(self.folder, card.task, self.store)
        texts = sample_texts(self.store, rows.positions, self.config)
        bench = _Bench(self.backbone, head, hidden, texts)
        intact, normalisation = bench.extractor(self.backbone), card.extraction["normalise"]
        if intact.compared(card.extraction_fingerprint, normalisation=normalisation) is None:
            raise HeadError(
                f"{self.backbone.source}: not the backbone that {self.folder.path} was made with;"
                " give the same model files and revision, or run `salient run` again"
            )
        return bench

    def _means(self, layers: Sequence[int], target: Target) -> dict[int, Array]:
        positions = target.rows("train").positions
        unpooled = self._unpooled(positions)
        return {
            layer: token_means(self.store, layer, positions, unpooled=unpooled) for layer in layers
        }

    def _unpooled(self, positions: Array) -> int | Array:
        """Tokens that mean pooling left out, of any text or ``(n,)`` of each."""
        backbone, special_tokens = self.backbone, self.config.backbone.special_tokens
        if not backbone.frame:
            return 0 if special_tokens else int(backbone.tokenizer.num_special_tokens_to_add())
        texts, found = sample_texts(self.store, positions, self.config), [np.zeros(0, np.int64)]
        for start in range(0, len(texts), TOKENISED):
            part = texts[start : start + TOKENISED]
            encoded = encode(
                backbone.tokenizer, part, max_length=backbone.max_length, frame=backbone.frame
            )
            own = encoded.own(np.arange(len(part)), special_tokens=special_tokens)[1]
            found.append(encoded.lengths - own)
        return np.concatenate(found)


def _final_state(folder: RunFolder, task: str, store: ActivationStore) -> Head | Probe:
    """The conventional head, fitted on the rows that the chosen one is; older runs have a probe."""
    path = folder.head(task, FINAL_STATE)
    return Head.load(path) if path.is_dir() else load_final_probe(folder, task, store.schema)


def _fitted_splits(model: Head | Probe) -> tuple[str, ...]:
    """Whose texts a model was fitted on; heads that folds judge are fitted on both parts."""
    if isinstance(model, Head) and model.card.metrics.get("judged_on") == "cross_validation":
        return "train", "val"
    return ("train",)


def _resampled(
    metric: str, targets: Array, models: Sequence[Array], positive: int, resamples: Resamples
) -> Array:
    """The metric of each model on the same resamples of the rows: ``(models, replicates)``."""
    row = METRICS[metric]
    found = np.empty((len(models), resamples.replicates))
    judged = [as_judged(row, targets, outputs, positive) for outputs in models]
    for part, counts in resamples.chunks():
        for values, one in zip(found, judged, strict=True):
            values[part] = row.of_counts(counts, targets, *one)
    return found


def _compare(values: Sequence[float], samples: Array, num_rows: int) -> dict[str, Any]:
    """Changes against the first arm, of the second (salient) and of the others (random)."""
    base, salient, *draws = values
    changes = samples - samples[0]
    random = changes[2:].mean(axis=0)
    mean = float(np.mean(draws))
    return {
        "baseline": base,
        "salient": {"value": salient, **_change(salient - base, changes[1], num_rows)},
        "random": {"value": mean, "values": draws, **_change(mean - base, random, num_rows)},
        "difference": _change(salient - mean, changes[1] - random, num_rows),
    }


def _change(value: float, samples: Array, num_rows: int) -> dict[str, Any]:
    """A change with its percentile interval, of enough rows; resamples without a metric are left
    out."""
    if num_rows < LEAST_ROWS:
        return {"change": value, "interval": [None, None]}
    edges = np.nanquantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"change": value, "interval": edges.tolist()}


def _limited(rows: Rows, limit: int | None, *, seed: int) -> Rows:
    if limit is None or limit >= len(rows):
        return rows
    picks = np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False))
    return Rows(rows.positions[picks], rows.targets[picks])
