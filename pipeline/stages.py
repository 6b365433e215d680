"""The stages of a run, each one function of a configuration: extract, probe, consolidate, run.

Every stage skips what an earlier call completed, so running again after a crash, or after adding
texts, does only what is missing. ``learn`` is all of them over texts in memory.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.backbone import Backbone, check_named, engine_of
from pipeline.cluster import Needs, at_most, map_tasks, shares_no_folder, workers_for
from pipeline.config import RunConfig, TaskConfig
from pipeline.errors import ConfigError, CorpusError, RunInputError
from pipeline.events import Tally, stage
from pipeline.extraction import (
    SET_ASIDE_SCHEMA,
    ExtractReport,
    extract_here,
    extract_on_workers,
    write_set_aside,
)
from pipeline.heads import (
    HeadResult,
    check_heads,
    consolidate_target,
    consolidate_task,
    evaluate_task,
)
from pipeline.locking import one_at_a_time
from pipeline.measures import doubt_of_rows
from pipeline.neurons import rank
from pipeline.probes import (
    ProbeResult,
    fit_layer,
    fit_targets,
    gram_part,
    groups_are_known,
    lacking,
    load_targets,
    plan_layers,
    probe_fingerprints,
    task_rows,
    write_importance,
)
from pipeline.progress import Say, counted, silent
from pipeline.runfolder import (
    RunFolder,
    content_of,
    loads_whole,
    open_run,
    read_metrics,
    write_card,
)
from pipeline.texts import (
    Corpus,
    Target,
    check_counts,
    corpus_of,
    describe_corpus,
    doubts,
    memory_target,
)
from store import ActivationStore
from store.disk import ObjectLocation, check_conditions, locate
from store.errors import SalientError
from store.layout import Source, final_hidden, stored_sources
from store.tables import write_json

GRAM_PARTS = 16
"""Shares in which a cluster makes the Gram matrix of a layer too large for a worker's memory."""


def prepare(config: RunConfig, *, say: Say = silent) -> Corpus:
    """Read the corpus, tell what is in it (of each task the rows of every class in every split),
    and check all that would stop a run later. No model is loaded, and nothing is written.

    Returns:
        The corpus; its report has ``label_counts`` and ``warnings``.

    Raises:
        CorpusError, ConfigError, BackboneError: what cannot be used of texts, labels, settings,
            or the model's folder.
    """
    if config.cluster.kind == "local":  # elsewhere the workers load it
        check_named(config.backbone.model, revision=config.backbone.revision)
    corpus = corpus_of(config)
    say(describe_corpus(corpus))
    for task in config.tasks:
        counts = corpus.report.label_counts[task.name]
        check_counts(task, counts, by_folds=config.head.by_folds)
    _check_early(config, corpus)
    warnings = tuple(_doubts(config, corpus))
    for warning in warnings:
        say(f"warning: {warning}")
    return replace(corpus, report=replace(corpus.report, warnings=warnings))


def _doubts(config: RunConfig, corpus: Corpus) -> Iterator[str]:
    """What is odd about the tasks' labels, in sentences."""
    by_folds = config.head.by_folds
    for task in config.tasks:
        counts = corpus.report.label_counts[task.name]
        rows = {split: own["rows"] for split, own in counts.items()}
        judging = sum(rows[split] for split in ("train", "val")[not by_folds :])
        judged = "training and validation rows" if by_folds else "validation rows"
        for number, what, use in (
            (judging, judged, "heads are judged"),
            (rows["test"], "test rows", "scores are reported"),
        ):
            if (doubt := doubt_of_rows(number)) is not None:
                yield f"task {task.name!r}: {number} {what}, by which {use}: {doubt}"
        yield from doubts(task, counts, by_folds=by_folds)


def extract(config: RunConfig, *, say: Say = silent) -> ExtractReport:
    """Read the corpus, compute what the store lacks, put the labels beside it.

    Raises:
        SalientError: a bad source, model or store; what the store had stays as it was.
    """
    with stage("extract", config.run_dir):
        return _extract(config, say)


def _extract(config: RunConfig, say: Say) -> ExtractReport:
    corpus = prepare(config, say=say)
    folder = RunFolder(Path(config.run_dir))
    _check_writable(folder)
    _check_bucket(config.store.path)  # before a model is loaded for nothing
    with workers_for(config, say) as session:
        if session is None:
            report = extract_here(config, corpus.samples, say)
            aside = SET_ASIDE_SCHEMA.empty_table()
        else:
            report, aside = extract_on_workers(config, corpus.samples, session, say=say)
    write_set_aside(folder.path, aside)
    store = ActivationStore.open(config.store.path)
    _say_what_differs(config, store, say)
    for task in config.tasks:
        spec = {"type": task.type, "classes": list(corpus.classes.get(task.name, ()))}
        table = corpus.labels[task.name]
        table = table.filter(pc.invert(pc.is_in(table["id"], value_set=aside["id"])))
        if (
            task.name not in store.tasks()
            or dict(store.label_spec(task.name)) != spec
            or not store.labels(task.name).equals(table)
        ):
            store.put_labels(task.name, table, spec=spec)
    _write_run(folder, config, store, corpus, report)
    return report


def _check_bucket(path: str) -> None:
    """Refuse a bucket that is missing, or that a store cannot be written to.

    Raises:
        StoreInputError: naming it, and why.
    """
    place = locate(path)
    if isinstance(place, ObjectLocation) and not ActivationStore.exists(path):
        check_conditions(place)


def _write_run(
    folder: RunFolder,
    config: RunConfig,
    store: ActivationStore,
    corpus: Corpus,
    report: ExtractReport,
) -> None:
    write_card(
        folder,
        config,
        snapshot=store.snapshot_id,
        content=content_of(store),
        extraction_fingerprint=store.schema.fingerprint,
        engine=report.engine or engine_of(store.schema.provenance),
        corpus=corpus.report.to_dict(),
        extraction=report.to_dict(),
    )


def _say_what_differs(config: RunConfig, store: ActivationStore, say: Say) -> None:
    """A store with less than new ones have, or more than asked for, serves as it is."""
    schema = store.schema
    if config.store.sites == ("ffn",) and len(schema.hidden_layers) > 1:
        say(
            f"{config.store.path}: holds more hidden states than store.sites = ['ffn'] asks for,"
            " and heads read these too; for heads on FFN neurons alone name another store.path"
        )
    if config.store.sites is None and len(schema.hidden_layers) <= schema.num_layers:
        say(
            f"{config.store.path}: of the hidden states it holds {list(schema.hidden_layers)} only;"
            f" `salient store add {config.store.path} --hidden all` adds the others"
        )


def _check_writable(folder: RunFolder) -> None:
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.path):
            pass
    except OSError as error:
        raise ConfigError(
            f"run_dir {folder.path}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def _check_early(config: RunConfig, corpus: Corpus) -> None:
    """Find before the long work what would stop the run after it."""
    needed = max(2, config.head.num_folds)
    for task in config.tasks:
        classes = corpus.classes.get(task.name, ())
        if task.positive is not None and task.positive not in classes:
            raise ConfigError(
                f"task {task.name!r}: positive {task.positive!r} is not one of {list(classes)}"
            )
        if odd := [name for name in classes if not name.isprintable()]:
            raise CorpusError(
                f"task {task.name!r}: class name {odd[0]!r} has control characters; class names"
                " become column names: clean the label column"
            )
        table = corpus.labels[task.name]
        train = table.filter(pc.equal(table["split"], "train"))
        if (found := pc.count_distinct(train["id"]).as_py()) < needed:
            raise CorpusError(
                f"task {task.name!r}: {found} different training texts, but at least {needed} are"
                " needed (head.folds); add rows or lower head.folds"
            )
    _check_folds_by(config, corpus)


def _check_folds_by(config: RunConfig, corpus: Corpus) -> None:
    by = config.head.folds_by
    if by is None:
        return
    column = {"time": "created_at", "author": "author_id"}[by]
    values = corpus.samples[column]
    lacking, wanted = corpus.samples["id"].filter(pc.is_null(values)), set[str]()
    for name, table in corpus.labels.items():
        table = table.filter(pc.not_equal(table["split"], "test"))
        wanted |= set(table["id"].to_pylist())
        found = pc.unique(table["id"].filter(pc.is_in(table["id"], value_set=lacking))).to_pylist()
        if found:
            total, first = pc.count_distinct(table["id"]).as_py(), ", ".join(map(repr, found[:3]))
            raise CorpusError(
                f"task {name!r}: head.folds_by = {by!r} needs the {by} of every training and"
                f" validation text, but {len(found)} of {total} lack it (ids {first}"
                f"{' …' if len(found) > 3 else ''}); fill in the column that `{by}` names in each"
                " [[corpus]] entry, leave these rows out, or leave folds_by out"
            )
    if not ActivationStore.exists(config.store.path):
        return
    store = ActivationStore.open(config.store.path)
    samples: Any = store.samples()
    known = store.positions(sorted(wanted))
    rows = np.searchsorted(samples["position"].to_numpy(), known[known >= 0])
    if number := samples[column].take(rows).null_count:
        raise CorpusError(
            f"{config.store.path}: head.folds_by = {by!r} needs the {by} of every text, but"
            f" {counted(number, 'text')} of this corpus lack it there: what is stored does not"
            " change; name another store.path, or take them out with `salient store delete"
            f" {config.store.path} --ids-file FILE` and extract again"
        )


def probe(config: RunConfig, *, say: Say = silent) -> list[ProbeResult]:
    """Phase 1: a probe per task and layer, the conventional head, and the importance tables.

    Raises:
        ProbeError: nothing extracted yet, or a task that cannot be fitted.
    """
    with stage("probe", config.run_dir), workers_for(config, say):
        return _probe(config, say)


def _probe(config: RunConfig, say: Say) -> list[ProbeResult]:
    snapshot, store = open_run(config)
    targets = load_targets(config, store)
    sources = _widest_first(store)
    announce = _announcer(config, store, say)
    folder = RunFolder(Path(config.run_dir))
    with one_at_a_time(folder.path, say):
        _find_groups(config, store, targets, say)
        plan = plan_layers(config, store, targets, len(sources), say)
        cluster = at_most(config.cluster, plan.at_a_time)
        # The parts would have to travel, each as large as the whole.
        if plan.streams and config.cluster.kind != "local" and not shares_no_folder(config):
            shares = [(source, part) for source in sources for part in range(GRAM_PARTS)]
            tasks = [(config, snapshot, source, part, GRAM_PARTS) for source, part in shares]
            map_tasks(gram_part, tasks, config.cluster)
        layers = [(config, snapshot, source, plan.raw_bytes) for source in sources]
        results = map_tasks(fit_layer, layers, cluster, on_done=announce, needs=_of_layer)
        for target in targets:
            write_importance(
                folder,
                target.task.name,
                store.schema,
                classes=target.classes,
            )
    by_task = {task.name: i for i, task in enumerate(config.tasks)}
    return sorted((r for layer in results for r in layer), key=lambda r: by_task[r.task])


def _of_layer(_: RunConfig, _snapshot: str, source: Source, *_rest: Any) -> Needs:
    """What fitting a layer has to do with the run's folder."""
    return Needs(reads=("groups/*", f"probes/*/{source.name}.*"))


def _of_heads(_: RunConfig, _snapshot: str, task: TaskConfig) -> Needs:
    """What training a task's heads has to do with the run's folder."""
    own = ("probes", "rankings", "groups")
    reads = ("run.json", "golden.safetensors", *(f"{name}/{task.name}*" for name in own))
    return Needs((*reads, f"probes/{task.name}/*"), replaces=(f"heads/{task.name}",))


def _of_test(_: RunConfig, _snapshot: str, task: TaskConfig) -> Needs:
    """What reading the test split has to do with the run's folder."""
    return Needs((f"probes/{task.name}/*", f"heads/{task.name}/**/*"))


def _widest_first(store: ActivationStore) -> list[Source]:
    return sorted(stored_sources(store.schema), key=lambda s: -store.schema.array(s.site).rows)


def _announcer(
    config: RunConfig, store: ActivationStore, say: Say
) -> Callable[[list[ProbeResult]], None]:
    """Tells of the probes of each layer in turn."""
    num_done, tally = 0, Tally("probed", len(stored_sources(store.schema)), "layers")

    def announce(results: list[ProbeResult]) -> None:
        nonlocal num_done
        for result in results:
            metric = config.task(result.task).selection_metric
            note = "" if result.converged else ", not converged"
            note += "" if result.computed else ", done before"
            say(
                f"probe {result.task}, {_name(store, result.source)}: validation {metric}"
                f" {result.val_score:.4f} at penalty {result.penalty:g}{note}"
            )
        num_done += 1
        tally(num_done, note="of all sites")

    return announce


def _find_groups(
    config: RunConfig, store: ActivationStore, targets: Sequence[Target], say: Say
) -> None:
    """Once, before the layers' fits, which find them in the run folder."""
    for target in targets:
        task_rows(config, store, target)
        if not groups_are_known(config, target):
            say(
                f"task {target.task.name!r}: its texts are neither in the store nor in the corpus"
                " files, so near-duplicates are in several folds, and scores out of fold are too"
                " good; restore the files and probe again"
            )


def consolidate(config: RunConfig, *, say: Say = silent) -> dict[str, Any]:
    """Phase 2: train heads, choose one by rows held out, then read the test split once.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ProbeError, StoreError: Phase 1 is not complete.
    """
    folder = Path(config.run_dir)
    with stage("consolidate", folder), workers_for(config, say), one_at_a_time(folder, say):
        return _consolidate(config, say)


def _consolidate(config: RunConfig, say: Say) -> dict[str, Any]:
    snapshot, store = open_run(config)
    folder = RunFolder(Path(config.run_dir))
    targets = load_targets(config, store)
    fingerprints = probe_fingerprints(config, store, targets)
    digest = hashlib.sha256(f"{config.fingerprint} {store.schema.fingerprint}".encode())
    if loads_whole(folder):  # the heads say so
        digest.update(b"whole")
    for target in targets:
        name = target.task.name
        digest.update(target.digest.encode())
        for source in stored_sources(store.schema):
            digest.update(source.name.encode())
            if why := lacking(config, store, target, source, fingerprints[name]):
                raise RunInputError(
                    f"{config.run_dir}: no probe of task {name!r} for"
                    f" {_name(store, source)} with this configuration; run `salient probe` first"
                    f" ({why})"
                )
    fingerprint = digest.hexdigest()[:16]
    if folder.metrics.is_file():
        done = read_metrics(folder)
        if done.get("fingerprint") == fingerprint:
            try:
                for task in config.tasks:
                    check_heads(folder, task.name)
            except SalientError as error:
                say(f"heads: made again ({error})")
            else:
                say("heads: done before")
                return done

    num_done, tally = 0, Tally("consolidated", len(config.tasks), "tasks")

    def announce(result: HeadResult) -> None:
        nonlocal num_done
        _say_head(result, say)
        num_done += 1
        tally(num_done)

    say("heads: trying kinds, and numbers of blocks")
    arguments = [(config, snapshot, task) for task in config.tasks]
    folder.metrics.unlink(missing_ok=True)  # of the heads that are now replaced
    where = config.cluster
    results = map_tasks(consolidate_task, arguments, where, on_done=announce, needs=_of_heads)
    reports = map_tasks(evaluate_task, arguments, where, needs=_of_test)
    sizes = {result.task: list(result.by_size) for result in results}
    metrics = {
        "format_version": 1,
        "fingerprint": fingerprint,
        "snapshot": snapshot,
        "tasks": {
            task.name: report | {"by_size": sizes[task.name]}
            for task, report in zip(config.tasks, reports, strict=True)
        },
    }
    write_json(folder.metrics, metrics)
    return metrics


def _say_head(result: HeadResult, say: Say) -> None:
    card = result.chosen.card
    say(
        f"head {result.task}: {card.kind} on {card.depth + 1} of {card.num_layers} blocks,"
        f" {counted(card.num_features, 'feature')}, {card.metric}"
        f" {card.metrics['score']:.4f} (of {counted(result.num_tried, 'head')} tried)"
    )
    say(f"  chosen because {card.metrics['choice']['why']}")


def run(config: RunConfig, *, say: Say = silent) -> dict[str, Any]:
    """Extract, probe and consolidate; returns the metrics.

    Where ``head.ranking`` is another than the probes' weights, neurons are ranked in between.
    """
    with stage("run", config.run_dir), workers_for(config, say):
        extract(config, say=say)
        probe(config, say=say)
        folder = RunFolder(Path(config.run_dir))
        names = [task.name for task in config.tasks]
        if config.head.ranking != "weight" and not all(
            folder.ranking("rankings", name).is_file() for name in names
        ):
            rank(config, say=say)
        return consolidate(config, say=say)


def learn(
    config: RunConfig,
    corpus: Corpus,
    *,
    backbone: Backbone | None = None,
    say: Say = silent,
    tell: Say | None = None,
) -> list[HeadResult]:
    """All stages over a corpus in memory, in this process, with no look at a test split.

    What heads are chosen and reported by are the rows themselves, out of fold (``head.judge``).
    The store takes no labels, and need not keep the texts; the run folder takes the rest.

    Args:
        config: ``corpus`` and ``cluster`` but for its device are not read.
        corpus: with the tasks of the configuration, from ``memory_corpus``.
        backbone: loaded already; default as the configuration says.
        say: called with lines.
        tell: called with those on the heads; default ``say``.

    Raises:
        SalientError: a bad setting, model or store, or a task that cannot be fitted.
    """
    with stage("learn", config.run_dir):
        return _learn(config, corpus, backbone, say, say if tell is None else tell)


def _learn(
    config: RunConfig, corpus: Corpus, backbone: Backbone | None, say: Say, tell: Say
) -> list[HeadResult]:
    folder = RunFolder(Path(config.run_dir))
    _check_early(config, corpus)
    _check_writable(folder)
    report = extract_here(config, corpus.samples, say, backbone)
    store = ActivationStore.open(config.store.path)
    _write_run(folder, config, store, corpus, report)
    targets = [memory_target(corpus, task, store) for task in config.tasks]
    _find_groups(config, store, targets, say)
    probed = "frozen" in config.head.kinds  # else nothing is made of the probes
    if probed:
        _probe_targets(config, store, targets, say)
    results = []
    for target in targets:
        texts = counted(len(corpus.samples), "text")
        tell(f"heads: trying kinds, and numbers of blocks, on {texts}; no model runs for this")
        results.append(consolidate_target(config, store, target, every=False, probed=probed))
        _say_head(results[-1], tell)
    return results


def _probe_targets(
    config: RunConfig, store: ActivationStore, targets: Sequence[Target], say: Say
) -> None:
    sources = _widest_first(store)
    plan = plan_layers(config, store, targets, len(sources), say)
    fit = partial(fit_targets, config, store, targets, raw_bytes=plan.raw_bytes)
    cluster = at_most(config.cluster, plan.at_a_time)
    announce = _announcer(config, store, say)
    map_tasks(fit, [(source,) for source in sources], cluster, on_done=announce)


def _name(store: ActivationStore, source: Source) -> str:
    """For messages."""
    return "final hidden state" if source == final_hidden(store.schema) else source.label
