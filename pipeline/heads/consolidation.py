"""Phase 2 over a store: a task's heads trained and judged, one chosen, head folders written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.cluster import free_memory
from pipeline.config import HeadConfig, RunConfig, TaskConfig
from pipeline.errors import HeadError
from pipeline.extraction import GOLDEN_TEXTS, read_golden, read_outputs, write_outputs
from pipeline.heads.activations import (
    near,
    read_held_out,
    read_source,
    unit_rows,
    write_held_out,
)
from pipeline.heads.candidates import Candidates, num_judging_folds
from pipeline.heads.choice import Candidate, Judge, Scores, best_of, candidate_rows, standard_error
from pipeline.heads.corrections import known_errors
from pipeline.heads.drift import (
    MAX_FEATURES,
    REFERENCE_FILE,
    SITE_NAMES,
    Reference,
    important_features,
)
from pipeline.heads.features import Features
from pipeline.heads.frozen import FrozenHeads
from pipeline.heads.joint import Joint, joint_bytes
from pipeline.heads.model import Head, HeadCard
from pipeline.heads.modes import Mode
from pipeline.heads.ngrams import NGRAMS_FILE, ngram_table
from pipeline.heads.ranked import ranked_shares
from pipeline.linear import BlockThreads, Standardiser, StoreDesign
from pipeline.measures import (
    METRICS,
    Calibration,
    calibrate,
    calibrate_labels,
    finite,
    metric_names,
    score,
)
from pipeline.probes import Probe, Problem, TaskRows, load_probe, problem_of, row_weights, task_rows
from pipeline.runfolder import RunFolder, loads_whole, read_sweep
from pipeline.texts import Lexicon, Target, load_target, sample_texts
from store import ActivationStore
from store.errors import SalientError
from store.layout import NGRAMS, Source, ffn, final_hidden, stored_sources
from store.tables import write_arrays, write_table

Array = NDArray[Any]
BASELINE = "baseline_"
"""Before the names of head folders that are only compared with."""


@dataclass(frozen=True)
class HeadResult:
    """The heads of one task, chosen by their out-of-fold loss."""

    task: str
    chosen: Head
    num_tried: int
    by_size: tuple[Mapping[str, Any], ...] = ()
    """Salient against as many random features at every size, as ``metrics.json`` has it."""


def consolidate_task(config: RunConfig, snapshot: str, task: TaskConfig) -> HeadResult:
    """Train the heads of one task; write the chosen one, the best of each kind, the choice at each
    depth, and what they are compared with.

    Raises:
        HeadError: no candidate is small enough, or the ranking is not there.
    """
    store = ActivationStore.open(config.store.path, snapshot=snapshot)
    return consolidate_target(config, store, load_target(store, task))


def consolidate_target(
    config: RunConfig,
    store: ActivationStore,
    target: Target,
    *,
    every: bool = True,
    probed: bool = True,
) -> HeadResult:
    """The same for a target over a store; see :func:`consolidate_task`.

    Args:
        config: the configuration.
        store: the activations.
        target: the task over them.
        every: write the heads of all kinds and depths, not only the chosen one and the baselines.
        probed: Phase 1 has left its probes; frozen heads need them.
    """
    folder, store = RunFolder(Path(config.run_dir)), near(store)
    with BlockThreads() as threads, threads.single_threaded_blas():
        case = _Case.of(
            config, store, target, threads, _standardisers(config, store, target, probed)
        )
        return _consolidated(config, store.snapshot_id, case, folder, every=every)


def _consolidated(
    config: RunConfig, snapshot: str, case: _Case, folder: RunFolder, *, every: bool
) -> HeadResult:
    store, task = case.store, case.target.task
    tried = Candidates(
        joint=case.joint,
        frozen=case.frozen(),
        judge=case.judge,
        sources=case.sources,
        num_layers=store.schema.num_layers,
        deepest=deepest_layer(store.schema.num_layers, config.head.max_depth),
        config=config.head,
        seed=config.seed,
    )
    heads = list(tried.heads())
    if not heads:
        raise _no_heads(task.name, config.head)
    rows = candidate_rows(heads, case.judge.targets, case.problem, seed=config.seed)
    write_table(folder.sweep(task.name), pa.Table.from_pylist(rows))
    chosen = tried.choose(heads)
    named = {"chosen": chosen}
    for kind in dict.fromkeys(head.kind for head in heads if every):
        named[kind] = best_of(heads, kind=kind)
    for depth in sorted({head.depth for head in heads if every}):
        here = [head for head in heads if head.depth == depth]
        own = chosen if chosen.depth == depth else tried.choose(here)
        named[f"depth_{depth:03d}"] = own
    compared = tried.baselines(chosen, heads)
    named |= {f"{BASELINE}{name}": candidate for name, candidate in compared.items()}
    scores = Scores(case.judge, config.seed)
    facts: dict[str, dict[str, Any]] = {
        name: {"score_interval": scores.bounds(head)} for name, head in named.items()
    }
    facts["chosen"]["choice"] = _facts(case, chosen, heads, tried)
    for name, candidate in compared.items():
        facts[f"{BASELINE}{name}"]["score_gain"] = scores.gain(chosen, candidate)
    writer = _HeadWriter(config, snapshot, case)
    shutil.rmtree(folder.head(task.name).parent, ignore_errors=True)
    written = {
        name: writer.write(candidate, folder.head(task.name, name), facts[name])
        for name, candidate in named.items()
    }
    sizes = scores.by_size(tried.by_size(heads)) if every else ()
    return HeadResult(task.name, written["chosen"], len(heads), tuple(sizes))


SIZES = {"share": "eta", "top_k": "top_k", "budget": "budget"}
"""Rule of selection -> key of its sizes."""


def _no_heads(task: str, head: HeadConfig) -> HeadError:
    """What else would leave nothing to try is refused with the configuration."""
    reasons = []
    if "dense" in head.kinds:
        reasons.append(
            f"nothing that is stored comes from within head.max_depth = {head.max_depth:g} of the"
            " model (raise it)"
        )
    if "sparse" in head.kinds:
        reasons.append(
            f"every salient set is larger than head.max_features = {head.max_features} (raise it,"
            f" or lower head.{SIZES[head.select]})"
        )
    if "states" in head.kinds:
        reasons.append(
            f"no hidden states within head.max_depth = {head.max_depth:g} are stored (`salient"
            " store add STORE --hidden all` adds them)"
        )
    return HeadError(
        f"task {task!r}: none of head.kinds = {list(head.kinds)} can be made:"
        f" {', and '.join(reasons) or 'no FFN activations are stored'}"
        + ("" if "dense" in head.kinds else "; or add 'dense' to the kinds")
    )


def deepest_layer(num_layers: int, max_depth: float) -> int:
    """Index of the deepest layer that a head may use: not beyond the share, but at least 0."""
    return max(1, int(num_layers * max_depth + 1e-9)) - 1


@dataclass(frozen=True)
class _Case:
    """One task over one store, ready to be fitted."""

    config: RunConfig
    store: ActivationStore
    target: Target
    problem: Problem
    rows: TaskRows
    weight: Array | None
    joint: Joint
    judge: Judge
    sources: tuple[Source, ...]
    lexicon: Lexicon | None

    @classmethod
    def of(
        cls,
        config: RunConfig,
        store: ActivationStore,
        target: Target,
        threads: BlockThreads,
        standardisers: Mapping[Source, Standardiser],
    ) -> _Case:
        problem, rows = problem_of(target), task_rows(config, store, target)
        weight = row_weights(rows.targets, problem, config.probe)
        if rows.weights is not None:
            weight = rows.weights if weight is None else weight * rows.weights
        sources = stored_sources(store.schema)
        lexicon, others = _others(config, store, rows, target.texts)
        features = Features(store, rows.positions, standardisers, others)
        head = config.head
        joint = Joint(
            features,
            rows,
            problem,
            weight,
            head.by_folds,
            config.seed,
            head.block_rows,
            threads,
        )
        _check_memory(store, joint, len(sources))
        judged = joint.judged
        judge = Judge(problem, rows.targets[judged], rows.groups[judged], judged >= rows.num_train)
        if config.head.lexical and NGRAMS in others:
            sources = (*sources, NGRAMS)
        return cls(config, store, target, problem, rows, weight, joint, judge, sources, lexicon)

    def frozen(self) -> FrozenHeads:
        """What trains the paper's heads; it has no probes where none are tried."""
        config, name = self.config, self.target.task.name
        folder, mode = RunFolder(Path(config.run_dir)), Mode.of(config.head)
        tried = "frozen" in config.head.kinds and not self.problem.multilabel
        layers = sorted(self.store.schema.layers or ()) if tried else []
        probes: dict[int, Probe] = {
            layer: mode.probe(load_probe(folder, name, ffn(layer), self.store.schema))
            for layer in layers
        }
        shares = None
        if config.head.ranking != "weight" and tried:
            poolings = self.store.schema.poolings
            shares = ranked_shares(folder, name, config.head.ranking, probes, poolings)
        return FrozenHeads(
            self.store,
            self.rows,
            probes,
            shares,
            self.judge,
            self.weight,
            config.head,
            config.seed,
        )


def _standardisers(
    config: RunConfig, store: ActivationStore, target: Target, probed: bool
) -> dict[Source, Standardiser]:
    """Those of the training rows, as Phase 1 found them, or finds them without fits."""
    sources = stored_sources(store.schema)
    if probed:
        folder, name = RunFolder(Path(config.run_dir)), target.task.name
        return {s: load_probe(folder, name, s, store.schema).standardiser for s in sources}
    train = target.rows("train").positions
    return {s: StoreDesign(store, s, train, memory_bytes=0).standardiser for s in sources}


def _check_memory(store: ActivationStore, joint: Joint, num_sources: int) -> None:
    widest = max(layout.rows for layout in store.schema.arrays.values())
    need = joint_bytes(
        joint,
        num_sources=num_sources,
        widest=widest,
        num_folds=num_judging_folds(joint),
        num_threads=joint.threads.num_threads,
    )
    if need > (free := free_memory()):
        raise HeadError(
            f"the fits on {num_sources} layers and hidden states over {len(joint.rows)} rows take"
            f" {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; lower head.block_rows (now"
            f" {joint.block_rows})"
        )


def _others(
    config: RunConfig, store: ActivationStore, rows: TaskRows, known: Mapping[str, str] | None
) -> tuple[Lexicon | None, dict[Source, Any]]:
    """Features that are not stored: n-grams of the texts, and the final state at length 1.

    Raises:
        SalientError: heads are to read n-grams, and the texts are not there.
    """
    final = final_hidden(store.schema)
    found: dict[Source, Any] = {}
    if "mean" in store.schema.poolings:
        unit = Source("unit", final.layer)
        found[unit] = unit_rows(store, unit, rows.positions)
    try:
        texts = sample_texts(store, rows.positions, config, known)
    except SalientError:
        if config.head.lexical:
            raise
        return None, found  # only a comparison less
    read = texts if config.head.by_folds else texts[: rows.num_train]
    lexicon = Lexicon.fit(read)
    if len(lexicon.terms):
        found[NGRAMS] = lexicon.features(texts)
    return lexicon, found


def _facts(
    case: _Case, chosen: Candidate, heads: Sequence[Candidate], tried: Candidates
) -> dict[str, Any]:
    """How the chosen head's loss compares, on the rows that judge, with what else there was: the
    difference and its standard error."""
    judge = case.judge

    def apart(losses: Array) -> dict[str, float]:
        difference = chosen.losses - losses
        error = standard_error(difference, judge.groups)
        return {
            "loss": float(losses.mean()),
            "difference": float(difference.mean()),
            "standard_error": error,
        }

    def behind(other: Candidate) -> dict[str, Any]:
        size = {"kind": other.kind, "depth": other.depth, "num_features": other.num_features}
        return size | apart(other.losses)

    full = tried.dense[max(tried.dense)]
    return {
        "why": tried.why(chosen, heads),
        "loss": chosen.loss,
        "best": behind(min(heads, key=lambda head: head.loss)),
        "conventional": behind(tried.conventional),
        "full_depth": behind(full),
        "constant": apart(judge.constant_losses),
        "deepest": tried.deepest,
        "standard_errors": case.config.head.standard_errors,
    }


@dataclass(frozen=True)
class _HeadWriter:
    """Makes heads of candidates, and their folders."""

    config: RunConfig
    snapshot: str
    case: _Case
    _found: dict[int, Calibration] = field(default_factory=dict)
    """Number of a candidate, all of which outlive this, -> its calibration."""

    def write(self, candidate: Candidate, path: Path, facts: Mapping[str, Any]) -> Head:
        """Write a candidate as a head folder, with what scoring checks it by."""
        head, outputs = self.head(candidate, facts)
        case = self.case
        positions = case.rows.positions[case.joint.judged]
        important = important_features(head, MAX_FEATURES)
        columns = _columns_of(case.store, important, positions)
        folds = case.rows.folds[0][case.joint.judged]
        reference = Reference.of(head, important, columns, outputs, folds)
        write_arrays(path / REFERENCE_FILE, reference.arrays())
        write_held_out(path, positions, outputs)
        golden = self._golden()
        if golden is not None and case.lexicon is not None:
            golden = golden | {NGRAMS: case.lexicon.features(GOLDEN_TEXTS)}
        if golden is not None and set(head.features) <= set(golden):
            outputs_of_golden = head.outputs_full(golden)
            write_outputs(path, outputs_of_golden, features=head.features, activations=golden)
        if (ngrams := ngram_table(head)) is not None:
            write_table(path / NGRAMS_FILE, ngrams)
        head.save(path)  # last: it makes the folder a head
        return head

    def _golden(self) -> dict[Source, Array] | None:
        """What the golden texts activate, as the run's extraction recorded it."""
        path, schema = RunFolder(Path(self.config.run_dir)).golden, self.case.store.schema
        golden = read_golden(path)
        if golden is None:
            return None
        for source in stored_sources(schema):
            size = schema.array(source.site).rows
            if source in golden and golden[source].shape[1] != size:
                raise HeadError(
                    f"{path}: {source.label} has {golden[source].shape[1]} features there, and"
                    f" {size} in the store; delete it and run `salient extract` again"
                )
        return golden

    def head(self, candidate: Candidate, facts: Mapping[str, Any]) -> tuple[Head, Array]:
        """The calibrated head of a candidate with its card, and its outputs on the judged rows."""
        config, case = self.config, self.case
        task, schema, problem, judge = case.target.task, case.store.schema, case.problem, case.judge
        parts, thresholds, outputs = candidate.parts, None, candidate.outputs
        calibrated = outputs
        metrics: dict[str, Any] = {
            "judged_on": "cross_validation" if config.head.by_folds else "validation",
            "num_judged": len(judge.targets),
            "loss": candidate.loss,
            "score": candidate.score,
            **facts,
        }
        if problem.num_classes is not None and config.head.calibrate:
            found = self._calibration(candidate)
            parts = tuple(part.rescaled(found.scale, found.shift) for part in parts)
            calibrated = np.asarray(outputs * found.scale + found.shift, np.float32)
            thresholds, outputs = found.thresholds, found.decision_outputs(outputs)
            metrics["calibration"] = found.facts
        targets, options = judge.targets[judge.val], {"positive": problem.positive}
        metrics["validation"] = {
            name: finite(score(name, targets, own[judge.val], **options))
            for name in metric_names(problem.type)
            for own in [outputs if METRICS[name].of_decisions else calibrated]
        }
        card = HeadCard(
            task=task.name,
            type=task.type,
            kind=candidate.kind,
            classes=case.target.classes,
            metric=task.selection_metric,
            positive=task.positive,
            depth=candidate.depth,
            num_layers=schema.num_layers,
            num_features=candidate.num_features,
            selection=candidate.selection,
            val_score=candidate.val_score,
            poolings=schema.poolings,
            stored_dtype=schema.dtype,
            extraction=self._extraction(),
            extraction_fingerprint=schema.fingerprint,
            licence=config.head.licence,
            metrics=metrics,
            provenance=self._provenance(),
        )
        reads = {edges.source for part in parts for edges in part.edges}
        lexicon = case.lexicon if NGRAMS in reads else None
        head = Head(card, parts, thresholds, lexicon)
        how: dict[str, Any] = {"groups": judge.groups, "seed": config.seed}
        metrics["errors"] = known_errors(head, calibrated, judge.targets, **how)
        return head, calibrated

    def _calibration(self, candidate: Candidate) -> Calibration:
        """Of a candidate; found once for one that goes by several names."""
        if id(candidate) not in self._found:
            problem, judge = self.case.problem, self.case.judge
            how: dict[str, Any] = {"metric": problem.metric, "seed": self.config.seed}
            if not problem.multilabel:
                how["positive"] = problem.positive
            function = calibrate_labels if problem.multilabel else calibrate
            found = function(candidate.outputs, judge.targets, **how)
            self._found[id(candidate)] = found
        return self._found[id(candidate)]

    def _extraction(self) -> dict[str, Any]:
        """The store's provenance, with what this run found out about its model."""
        found = dict(self.case.store.schema.provenance)
        if "backbone" in found and loads_whole(RunFolder(Path(self.config.run_dir))):
            found["backbone"] = {**found["backbone"], "whole": True}
        return found

    def _provenance(self) -> dict[str, Any]:
        config, rows = self.config, self.case.rows
        return {
            "run": config.name,
            "config_fingerprint": config.fingerprint,
            "snapshot": self.snapshot,
            "training": config.head.training,
            "num_train": rows.num_train,
            "num_val": len(rows) - rows.num_train,
            "num_groups": len(np.unique(rows.groups)),
        }


def _columns_of(store: ActivationStore, important: Array, positions: Array) -> list[Array]:
    """Activations ``(n,)`` of each important feature of a head, ``(f, 3)``."""
    found: dict[int, Array] = {}
    for site, layer in np.unique(important[:, :2], axis=0).tolist():
        here = np.flatnonzero((important[:, 0] == site) & (important[:, 1] == layer))
        source = Source(SITE_NAMES[site], layer)
        features = np.sort(important[here, 2])
        values = read_source(store, source, features, positions)
        for number in here.tolist():
            found[number] = values[:, np.searchsorted(features, important[number, 2])]
    return [found[number] for number in range(len(important))]


def check_heads(folder: RunFolder, task: str) -> None:
    """Read all heads that a finished run has of a task, with what lies beside them.

    Raises:
        SalientError: one is missing or damaged; the message names the file.
    """
    tried = read_sweep(folder, task)
    names = {"chosen", *tried["kind"].to_pylist()}
    names |= {f"depth_{depth:03d}" for depth in tried["depth"].to_pylist()}
    names |= {path.name for path in folder.head(task).parent.glob(f"{BASELINE}*")}
    for path in (folder.head(task, name) for name in sorted(names)):
        head = Head.load(path)
        Reference.read(path, head)
        read_held_out(path, head)
        read_outputs(path)
