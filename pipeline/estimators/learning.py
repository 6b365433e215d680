"""What a fit does: the stages of `salient run` over texts in memory, and what is kept of them.

The run folder is temporary; of it the chosen head's folder stays, as bytes. Activations go to a
store in the cache (:mod:`pipeline.estimators.kept`) and are computed for new texts only.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import stages
from pipeline.backbone import Backbone
from pipeline.config import RunConfig
from pipeline.errors import CorpusError, HeadError, ProbeError
from pipeline.estimators.inputs import Array, InputError
from pipeline.estimators.kept import Place, entry_key, kept_activations, remove
from pipeline.estimators.labels import Labels, check_classes
from pipeline.estimators.settings import cache_of, configured, in_own_words, task_of
from pipeline.estimators.summary import Summary
from pipeline.events import Event, Listener, Progressed
from pipeline.extraction import StoreOptions, kept_model, schema_of
from pipeline.heads import Head
from pipeline.progress import Say, counted, showing
from pipeline.runfolder import RunFolder
from pipeline.texts import Corpus, memory_corpus, normalised
from store import StoreError

ALONE = threading.RLock()
"""One fit or prediction of a process at a time: fits set the number of threads of all of it."""
SHOW_AFTER_S = 2.0
"""Work that takes less is not shown."""


@dataclass(frozen=True)
class Learned:
    """What stays of a fit.

    Attributes:
        labels: those that were learnt from.
        weights: ``(n,)`` of their rows in fits; None for all alike.
        head: the chosen one.
        files: name -> bytes of its folder.
        summary: what was tried, and what it is compared with.
        widths: site -> neurons of a layer.
        backbone: which is loaded.
        trusted: the model's own code may run.
    """

    labels: Labels
    weights: Array | None
    head: Head
    files: dict[str, bytes]
    summary: Summary
    widths: dict[str, int]
    backbone: Backbone
    trusted: bool


def learn(
    texts: list[str],
    labels: Labels,
    parameters: Mapping[str, Any],
    *,
    name: str,
    task: str,
    weights: Array | None,
) -> Learned:
    """Fit heads to texts and choose one.

    Args:
        texts: as they are; blank ones are left out with a warning.
        labels: of each.
        parameters: of the estimator.
        name: of the estimator, for errors.
        task: name of the task.
        weights: ``(n,)`` of the texts in fits; None for all alike. Those of weight 0 are left out.

    Raises:
        InputError, SettingError: of what the user gave.
        SalientError: a model or a store that cannot be used.
    """

    def configuration() -> RunConfig:
        one = task_of(labels.kind, task, labels.names, parameters.get("metric"))
        return configured(parameters, one, name=name, num_texts=len(texts))

    check_classes(labels)
    config = configuration()
    texts = normalised(texts, config.normalise)
    used = _used(texts, weights)
    if len(used) < len(texts):
        texts, labels = [texts[row] for row in used], labels.taken(used)
        weights = None if weights is None else weights[used]
        check_classes(labels)
        config = configuration()
    how: dict[str, Any] = {"val": config.splits.val, "seed": config.seed}
    if weights is not None:
        how["weights"] = (weights / weights.mean()).tolist()
    try:
        corpus = memory_corpus(texts, labels.rows, config.tasks[0], **how)
        with ALONE, showing(parameters.get("progress"), LongWork) as tell:
            return _learn(config, labels, weights, corpus, parameters, tell)
    except (CorpusError, ProbeError, HeadError) as error:
        if isinstance(error, ValueError):
            raise
        raise InputError(in_own_words(str(error))) from None


def _used(texts: list[str], weights: Array | None) -> Array:
    """``(m,)`` rows that are learnt from."""
    blank = np.asarray([not text for text in texts])
    if blank.any():
        rows = ", ".join(map(str, np.flatnonzero(blank)[:5].tolist()))
        more = " …" if blank.sum() > 5 else ""
        warnings.warn(
            f"{counted(int(blank.sum()), 'text')} of X blank (row {rows}{more}): left out of the"
            " fit, as there is nothing to read",
            stacklevel=4,
        )
    used = ~blank if weights is None else ~blank & (weights > 0)
    if used.sum() < 2:
        raise InputError(
            f"n_samples = {used.sum()} of texts that are not blank and weigh more than 0: too few"
            " to learn from"
        )
    return np.flatnonzero(used)


def _learn(
    config: RunConfig,
    labels: Labels,
    weights: Array | None,
    corpus: Corpus,
    parameters: Mapping[str, Any],
    tell: Say,
) -> Learned:
    (task,) = config.tasks
    cache = cache_of(parameters)
    backbone = kept_model(config.backbone, device=config.cluster.device)
    options = StoreOptions.of(config)
    ids = corpus.samples["id"].to_pylist()
    schema = schema_of(options.extractor(backbone), options, len(ids))
    key = entry_key(config, schema, backbone)

    def attempt() -> Learned:
        with (
            kept_activations(key=key, schema=schema, ids=ids, say=tell, **cache) as place,
            tempfile.TemporaryDirectory(prefix="salient-") as folder,
        ):
            own = config.model_copy(
                update={
                    "run_dir": str(Path(folder) / "run"),
                    "store": config.store.model_copy(update={"path": str(place.store)}),
                }
            )
            run = RunFolder(Path(own.run_dir))
            _copy(place.golden, run.golden)
            try:
                (result,) = stages.learn(own, corpus, backbone=backbone, tell=tell)
            except StoreError as error:
                raise _Unusable(place, error) from error
            if not place.golden.exists():
                _copy(run.golden, place.golden)
            files = {path.name: path.read_bytes() for path in sorted(run.head(task.name).iterdir())}
            return Learned(
                labels,
                weights,
                result.chosen,
                files,
                Summary.read(run, task.name),
                {site: layout.width for site, layout in schema.arrays.items()},
                backbone,
                config.backbone.trust_remote_code,
            )

    try:
        return attempt()
    except _Unusable as trouble:
        place = trouble.place
        if not place.kept or not remove(place.store.parent.parent, key):
            raise trouble.error from None
        tell(f"{place.store}: damaged ({trouble.error}); made again")
    try:
        return attempt()
    except _Unusable as trouble:
        raise trouble.error from None


class _Unusable(Exception):
    def __init__(self, place: Place, error: StoreError) -> None:
        super().__init__(str(error))
        self.place, self.error = place, error


def _copy(source: Path, target: Path) -> None:
    """Copy a file, if it is there, so that nobody sees half of it."""
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        part = Path(file.name)
    shutil.copyfile(source, part)
    part.replace(target)


class LongWork:
    """Shows how far work is that takes a while.

    Args:
        hear: what shows it.
    """

    def __init__(self, hear: Listener) -> None:
        self._hear = hear
        self._began: dict[tuple[str, int], float] = {}

    def __call__(self, event: Event) -> None:
        """Pass an event on if its work has taken long enough."""
        if isinstance(event, Progressed):
            began = self._began.setdefault((event.what, event.total), time.monotonic())
            if time.monotonic() - began >= SHOW_AFTER_S:
                self._hear(event)
