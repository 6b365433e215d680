"""The estimators: scikit-learn's contract over texts.

    clf = SalientClassifier().fit(texts, y)
    clf.predict(["what a day"]), clf.predict_proba(["what a day"])
    clf.report_, clf.salient_neurons_
    clf.save("heads/mood")                  # for `salient score --heads heads/mood`

A fit finds heads on the activations of a frozen model, of all kinds and depths that `salient run`
tries, judges them out of fold on all rows given, and fits the chosen one on all of them.
"""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from pipeline.estimators.inputs import InputError, check_same_length, read_texts, read_weights
from pipeline.estimators.labels import INDICATOR, LISTS, Labels
from pipeline.estimators.shared import TextEstimator
from pipeline.extraction import MODEL

Array = NDArray[Any]
CACHE_BYTES = 20_000_000_000


class SalientClassifier(ClassifierMixin, TextEstimator):  # type: ignore[misc]
    """Classes, or label sets, of texts from the activations of a frozen model.

        clf = SalientClassifier().fit(texts, y)
        clf.score(more_texts, more_y)

    Everything is chosen on the rows given, out of fold: the kind of head, its depth, penalties,
    calibration and thresholds; then the head is fitted on all of them. :meth:`predict` decides by
    the thresholds, for ``metric``; :meth:`predict_proba` is calibrated, so that its largest need
    not be the class predicted.

    Args:
        model: a folder, ``package:NAME`` of an installed model package, or ``user/name@COMMIT`` of
            the hub. Where a fitted one is unpickled on another machine: set it to where the same
            model lies there.
        kinds: heads to try, a list of "dense", "states", "sparse", "frozen", "ensemble", "stack"
            and "final"; default all but "frozen" and "ensemble", which need a probe of every layer
            and take longer than the rest. ``["sparse"]`` reads salient neurons only.
        max_depth: most blocks that a head may need, as a share of the model's, above 0 and up to
            1, never a number of blocks: of 6 blocks 0.5 allows 3, and 0.67 allows 4, which takes
            about two thirds of the time of predictions.
        metric: what thresholds and penalties are chosen for: "macro_f1" (default), "accuracy",
            "macro_recall", "f1" or "auc"; of label sets "macro_f1" (default), "micro_f1" or "lrap".
        class_weight: "balanced" weights rows so that all classes weigh the same in fits; None
            weights rows alike.
        config: other keys of a run's configuration by section: ``backbone, normalise, splits,
            store, probe, head``, such as ``{"head": {"lexical": True}}``.
        cache: folder of activations, so that the next fit on the same texts runs no model: default
            the user's cache folder. Hashes of texts are kept, no texts. With False they lie in
            a folder ``salient-…`` of the system's temporary one, which is removed after the fit;
            of a fit that is killed it stays there, and so does the run's, with ``y``.
        cache_bytes: most bytes in it, from 0, about: before a fit that brings more, what was not
            used for longest goes.
        device: torch device; "auto" takes a GPU if there is one.
        progress: show long work, what is tried and chosen, and where activations are kept: as a
            bar in a notebook or on a terminal, else in lines on standard error.
        random_state: seed, from 0, of folds, splits and initial weights; None is 0: fits are
            repeatable, to rounding: a text's activations depend in their last digits on the texts
            that they were computed with, which are others where the cache holds some already.

    Attributes:
        classes_: ``(k,)`` classes in order, or labels of label sets.
        depth_: the last block that predictions run, counted from 0: 3 runs four blocks.
        salient_neurons_: table ``site, layer, pooling, neuron, importance``, the largest weight
            first.
        report_: what was tried, and what the choice is compared with, held out.
        head_: the head, as ``salient run`` writes one.
        loss_: its mean log loss out of fold.
    """

    classes_: Array

    def __init__(
        self,
        model: str | os.PathLike[str] = MODEL,
        *,
        kinds: Any = None,
        max_depth: float = 1.0,
        metric: str | None = None,
        class_weight: str | None = None,
        config: Any = None,
        cache: Any = None,
        cache_bytes: int = CACHE_BYTES,
        device: str = "auto",
        progress: bool = True,
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.kinds = kinds
        self.max_depth = max_depth
        self.metric = metric
        self.class_weight = class_weight
        self.config = config
        self.cache = cache
        self.cache_bytes = cache_bytes
        self.device = device
        self.progress = progress
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from labelled texts.

        Args:
            X: ``n`` texts: a list, array, Series or column. The same text may come several times.
            y: ``n`` classes; or label sets, as an indicator ``(n, k)`` of 0 and 1 (a DataFrame's
                columns are the labels) or a list of labels for each text; scikit-learn's own
                splitters of classes take an indicator only: with lists give ``cv=KFold(2)``
                rather than ``cv=2``.
            sample_weight: ``(n,)`` how much each row counts in fits, relative to the others; 0
                leaves it out. The choice, calibration and report count all others alike.

        Raises:
            InputError: texts or labels that cannot be used; a ``ValueError``.
            SettingError: a parameter that cannot be used; a ``ValueError``.
            SalientError: a model or a cache that cannot be used.
        """
        labels = self._fit(read_texts(X), Labels.of(y), y, sample_weight)
        self.classes_ = labels.classes
        self._form = labels.form
        return self

    def predict(self, X: Any) -> Any:
        """Classes of texts.

        Args:
            X: ``n`` texts.

        Returns:
            ``(n,)`` classes; of label sets an indicator ``(n, k)`` int64, or a list of lists of
            labels where :meth:`fit` was given lists. A blank text has the frequencies of the
            classes for probabilities.
        """
        decided = self._decided(X)
        if not self.head_.multilabel:
            return np.asarray(self.classes_[decided])
        if self._form == LISTS:
            return [self.classes_[row].tolist() for row in decided]
        return np.asarray(decided, np.int64)

    def predict_proba(self, X: Any) -> Array:
        """Calibrated probabilities ``(n, k)`` float64 of the classes, or of each label.

        Args:
            X: ``n`` texts.
        """
        outputs = self._outputs(X)
        return self.head_.probabilities(outputs)

    def decision_function(self, X: Any) -> Array:
        """Logits, shifted by the thresholds so that their plain decisions are :meth:`predict`'s.

        Args:
            X: ``n`` texts.

        Returns:
            ``(n, k)`` float64; of two classes ``(n,)`` for the second.
        """
        outputs = self._outputs(X)
        found = np.asarray(self.head_.decision_outputs(outputs), np.float64)
        alone = found.shape[1] == 1 and not self.head_.multilabel
        return found[:, 0] if alone else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy; of label sets the share of texts with exactly the right ones.

        Args:
            X: ``n`` texts.
            y: as in :meth:`fit`: classes, an indicator or lists, whichever that was given.
            sample_weight: ``(n,)``; default all alike.

        Raises:
            InputError: labels of another form than in :meth:`fit`.
        """
        check_is_fitted(self)
        names = np.asarray(self.head_.card.classes)
        truth = Labels.of(y, self.classes_.tolist())
        if truth.form != self._form:
            raise InputError(f"y holds {truth.form}, where fit was given {self._form}; give those")
        if truth.form == INDICATOR and {*truth.names} != {*names}:
            raise InputError(
                f"y has the columns {', '.join(truth.names)}, where fit was given"
                f" {', '.join(names)}; give those"
            )
        decided = self._decided(X)
        check_same_length(decided, truth.rows, "y")
        if self.head_.multilabel:
            found = [set(names[row]) for row in decided]
            right = [one == set(own) for one, own in zip(found, truth.rows, strict=True)]
        else:
            right = names[decided] == truth.rows
        return float(np.average(right, weights=read_weights(sample_weight, decided)))

    def _decided(self, X: Any) -> Array:
        """Numbers ``(n,)`` of the classes, or a mask ``(n, k)`` of the labels."""
        outputs = self._outputs(X)
        return self.head_.decide(self.head_.probabilities(outputs))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        return tags


class SalientRegressor(RegressorMixin, TextEstimator):  # type: ignore[misc]
    """Numbers of texts from the activations of a frozen model.

        reg = SalientRegressor().fit(texts, y)
        reg.score(more_texts, more_y)           # R²

    Args:
        model, kinds, max_depth, config, cache, cache_bytes, device, progress, random_state: as of
            :class:`SalientClassifier`.
        metric: what penalties are chosen for: "pearson" (default), "spearman", "mae" or "r2".

    Attributes:
        depth_, salient_neurons_, report_, head_: as of :class:`SalientClassifier`.
        loss_: the head's mean squared error out of fold.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = MODEL,
        *,
        kinds: Any = None,
        max_depth: float = 1.0,
        metric: str | None = None,
        config: Any = None,
        cache: Any = None,
        cache_bytes: int = CACHE_BYTES,
        device: str = "auto",
        progress: bool = True,
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.kinds = kinds
        self.max_depth = max_depth
        self.metric = metric
        self.config = config
        self.cache = cache
        self.cache_bytes = cache_bytes
        self.device = device
        self.progress = progress
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from texts with numbers.

        Args:
            X: ``n`` texts.
            y: ``n`` finite numbers.
            sample_weight: ``(n,)``, as of :meth:`SalientClassifier.fit`.

        Raises:
            InputError, SettingError, SalientError: as of :meth:`SalientClassifier.fit`.
        """
        self._fit(read_texts(X), Labels.numbers(y), y, sample_weight)
        return self

    def predict(self, X: Any) -> Array:
        """Numbers ``(n,)`` float64 of texts; a blank text gets the mean, weighted as in the fit.

        Args:
            X: ``n`` texts.
        """
        return self._outputs(X)[:, 0].astype(np.float64)
