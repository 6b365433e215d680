"""What the estimators share: a fit, what its head makes of texts, saving, and how it looks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from pipeline.backbone import Backbone
from pipeline.errors import HeadError
from pipeline.estimators.inputs import check_same_length, read_texts, read_weights
from pipeline.estimators.labels import Labels, task_name
from pipeline.estimators.learning import ALONE, Learned, LongWork, learn
from pipeline.estimators.summary import (
    Summary,
    feature_names,
    model_features,
    salient_neurons,
)
from pipeline.events import Tally
from pipeline.extraction import Golden, model_section, read_outputs
from pipeline.heads import Head, Sheet, backbone_facts, head_facts
from pipeline.prevalence import shares_of_outputs
from pipeline.progress import showing
from pipeline.scoring import Scorer, trained_normalisation
from pipeline.texts import normaliser

Array = NDArray[Any]


@dataclass
class _Engine:
    """What computes outputs, once there is need of it; and the fit's backbone until then.

    It stays in its process: a copy begins without.
    """

    backbone: Backbone | None = None
    scorer: Scorer | None = None


class TextEstimator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both estimators share; see :class:`SalientClassifier`."""

    head_: Head
    depth_: int
    loss_: float
    report_: Summary
    salient_neurons_: pd.DataFrame
    _engine: _Engine

    # ------------------------------------------------------------------ fit

    def _fit(self, texts: list[str], labels: Labels, y: Any, sample_weight: Any) -> Labels:
        """Learn; the labels that were learnt from."""
        check_same_length(texts, labels.rows, "y")
        weights = read_weights(sample_weight, texts)
        default = "value" if labels.kind == "regression" else "label"
        learned = learn(
            texts,
            labels,
            self.get_params(deep=False),
            name=type(self).__name__,
            task=task_name(y, default),
            weights=weights,
        )
        self._keep(learned)
        return learned.labels

    def _keep(self, learned: Learned) -> None:
        head = learned.head
        self.head_ = head
        self.depth_ = head.card.depth
        self.loss_ = float(head.card.metrics["loss"])
        self.report_ = learned.summary
        self.salient_neurons_ = salient_neurons(head, learned.widths)
        self._files = learned.files
        self._widths = learned.widths
        self._blank = _outputs_without_text(learned.labels, learned.weights)
        self._engine = _Engine(learned.backbone)
        self._model, self._trusted = str(self.model), learned.trusted
        self._made = str(super().__repr__())

    # ------------------------------------------------------------------ use

    def _outputs(self, X: Any) -> Array:
        """``(n, outputs)`` float32 of the head; of blank texts what it is without any text."""
        check_is_fitted(self)
        texts = self._read(X)
        task = self.head_.card.task
        rows = self._computed(texts, lambda scorer, some: scorer.outputs(some)[task])
        blank = np.asarray([not text.strip() for text in texts])
        return np.where(blank[:, None], self._blank, rows)

    def prevalence(self, X: Any) -> pd.DataFrame:
        """Shares of the classes among texts, corrected for what the head gets wrong.

            shares = clf.prevalence(texts)
            shares[shares.method == "em"]

        Args:
            X: ``n`` texts; blank ones are left out and counted.

        Returns:
            As of ``salient.prevalence``: a row for each class and method, with ``share``, its 95 %
            interval ``low`` to ``high``, and ``flag``. Of a regression the mean value.
        """
        check_is_fitted(self)
        given = self._read(X)
        texts = [text for text in given if text.strip()]
        outputs = self._outputs(texts) if texts else np.zeros((0, self.head_.num_outputs))
        found = shares_of_outputs(self.head_, outputs, num_empty=len(given) - len(texts))
        return pd.DataFrame(found.to_pandas())

    def transform(self, X: Any) -> Array:
        """The activations that the head reads: features for any other estimator.

        Args:
            X: ``n`` texts.

        Returns:
            ``(n, k)`` float32, raw; the columns are :meth:`get_feature_names_out`. A head reads
            every neuron up to its depth unless ``kinds=["sparse"]`` has it read salient ones only.
        """
        check_is_fitted(self)
        read = model_features(self.head_)

        def activations(scorer: Scorer, texts: list[str]) -> Array:
            found = scorer.activations(texts)
            empty = np.empty((len(texts), 0), np.float32)
            return np.concatenate([empty, *(found[source] for source in read)], axis=1)

        return self._computed(self._read(X), activations)

    def _read(self, X: Any) -> list[str]:
        """The texts as the model reads them."""
        clean = normaliser(trained_normalisation([self.head_]))
        return [clean(text) for text in read_texts(X)]

    def _computed(self, texts: list[str], compute: Callable[[Scorer, list[str]], Array]) -> Array:
        """``(n, k)`` of texts, computed together as `salient score` does: different ones, a block
        at a time."""
        known: dict[str, int] = {}
        found, done, tally = [], 0, Tally("computed", len(texts), "texts")
        with ALONE, showing(self.progress, LongWork):
            scorer = self._scoring()
            for block in scorer.blocks(texts):
                different = dict.fromkeys(text or "" for text in block)
                new = [text for text in different if text not in known]
                known |= {text: len(known) + place for place, text in enumerate(new)}
                if new:
                    found.append(compute(scorer, new))
                done += len(block)
                tally(done)
        return np.concatenate(found)[[known[text] for text in texts]]

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """``(k,)`` names of :meth:`transform`'s columns, such as ``layer_003_max_517``.

        Args:
            input_features: not used.
        """
        check_is_fitted(self)
        return np.asarray(feature_names(self.head_, self._widths), dtype=object)

    def save(self, path: str | Path) -> Path:
        """Write the head as a folder that ``salient score --heads`` and ``salient.load`` read.

        Args:
            path: a new or empty folder, or one with an earlier head, which is replaced.

        Returns:
            The folder.

        Raises:
            HeadError: something else is there; it stays as it is.
        """
        check_is_fitted(self)
        folder = Path(path).expanduser()
        if folder.exists() and not folder.is_dir():
            raise HeadError(f"{folder}: is a file; name a folder for the head")
        there = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
        if other := sorted(there - {*_HEAD_FILES, *self._files}):
            raise HeadError(
                f"{folder}: holds something else than a head, such as {other[0]}; name another"
                " folder"
            )
        whole = folder.resolve()
        whole.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{whole.name}-", dir=whole.parent) as beside:
            fresh = Path(beside) / "fresh"
            fresh.mkdir()
            for name, data in self._files.items():
                (fresh / name).write_bytes(data)
            if there:
                whole.rename(Path(beside) / "old")
            fresh.rename(whole)
        return folder

    def _scoring(self) -> Scorer:
        """What computes the head's outputs; on the backbone of the fit, in its process."""
        engine = self._engine
        if engine.scorer is None:
            golden = self._golden()
            model = str(self.model)
            engine.scorer = Scorer(
                [self.head_],
                model=None if model == self._model else model_section(model)["model"],
                device=self.device,
                backbone=engine.backbone,
                trust_remote_code=self._trusted,
                golden={} if golden is None else {self.head_.card.task: golden},
            )
            engine.backbone = None  # the scorer has what it needs of it
        return engine.scorer

    def _golden(self) -> Golden | None:
        """What the head gave for the golden texts when it was made."""
        with tempfile.TemporaryDirectory(prefix="salient-") as folder:
            for name, data in self._files.items():
                if name.startswith("golden"):
                    (Path(folder) / name).write_bytes(data)
            return read_outputs(Path(folder))

    # ------------------------------------------------------------------ what it is

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | ({"_engine": _Engine()} if "_engine" in state else {})

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "head_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _sheet(self) -> Sheet:
        """What a fitted one has to say of itself."""
        facts = backbone_facts([self.head_]) | {"parameters": self._made}
        return Sheet(type(self).__name__, facts, [head_facts(self.head_)])

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return str(self._sheet()) if self.__sklearn_is_fitted__() else super().__repr__(N_CHAR_MAX)

    def _repr_html_inner(self) -> str:
        if not self.__sklearn_is_fitted__():
            return str(super()._repr_html_inner())
        return self._sheet().html() + "<p>What was tried: <code>report_</code></p>"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_inner()}


_HEAD_FILES = (
    "head.json",
    "head.safetensors",
    "golden.json",
    "golden_activations.safetensors",
    "held_out.safetensors",
    "lexicon.json",
    "ngrams.parquet",
    "reference.safetensors",
)
"""What may lie in a head's folder."""


def _outputs_without_text(labels: Labels, weights: Array | None) -> Array:
    """``(1, outputs)`` float32 for a text that says nothing: the mean, or the frequencies, to which
    probabilities are calibrated whatever the weights."""
    if labels.kind == "regression":
        return np.full((1, 1), np.average(labels.rows, weights=weights), np.float32)
    share = np.clip(labels.shares(), 1e-6, 1 - 1e-6)
    if labels.kind == "multilabel":
        logits = np.log(share / (1 - share))
    elif len(share) == 2:
        logits = np.log(share[1:] / share[:1])
    else:
        logits = np.log(share)
    return np.asarray(logits[None], np.float32)
