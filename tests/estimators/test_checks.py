"""scikit-learn's own checks of estimators, as far as texts allow.

They make arrays of numbers; here a row becomes a text, with two words for each number, rounded
twice. What of an array is refused before that is scikit-learn's doing.
`pipeline.estimators.checks.LEFT_OUT` names the checks that do not apply, and why.
"""

from __future__ import annotations

import warnings
import zlib
from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.validation import validate_data

from pipeline.estimators import SalientClassifier, SalientRegressor
from pipeline.estimators.checks import LEFT_OUT


def _word(column: int, level: int) -> str:
    """A word of four letters."""
    number = zlib.crc32(f"{column} {level}".encode())
    return "".join(chr(ord("a") + number // 26**place % 26) for place in range(4))


class _Rows:
    """Makes texts of arrays, and does the rest as the estimator that it stands before."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        tags.input_tags.string = False
        return tags

    def _texts(self, X: Any, *, reset: bool = False) -> list[str]:
        X = validate_data(self, X, reset=reset)
        levels = np.rint(np.concatenate([2 * X, 16 * X], axis=1)).astype(int)
        return [" ".join(_word(*pair) for pair in enumerate(row)) for row in levels.tolist()]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return super().fit(self._texts(X, reset=True), y, sample_weight)  # type: ignore[misc]

    def _outputs(self, X: Any) -> Any:
        estimator_checks.check_is_fitted(self)
        return super()._outputs(self._texts(X))  # type: ignore[misc]

    def transform(self, X: Any) -> Any:
        estimator_checks.check_is_fitted(self)
        return super().transform(self._texts(X))  # type: ignore[misc]


class ClassifierOfRows(_Rows, SalientClassifier):
    """See `_Rows`."""


class RegressorOfRows(_Rows, SalientRegressor):
    """See `_Rows`."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # of a random model on words without meaning
        return tags


def _name(check: Any) -> str:
    return str(check.func.__name__ if isinstance(check, partial) else check.__name__)


def _checks() -> list[Any]:
    """Each estimator with each check, those that are not left out; few in the always-run tests."""
    found = []
    for kind in (ClassifierOfRows, RegressorOfRows):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pairs = estimator_checks.estimator_checks_generator(kind())
            checks = [check for _, check in pairs]
        for number, check in enumerate(checks):
            name = _name(check)
            if name in LEFT_OUT:
                continue
            quick = name in QUICK
            marks = [] if quick else [pytest.mark.slow]
            found.append(
                pytest.param(kind, check, id=f"{kind.__name__}-{name}-{number}", marks=marks)
            )
    return found


QUICK = {
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_fit_score_takes_y",
    "check_estimators_unfitted",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_requires_y_none",
    "check_classifiers_regression_target",
    "check_all_zero_sample_weights_error",
    "check_supervised_y_no_nan",
    "check_classifiers_one_label",
}


@pytest.mark.parametrize(("kind", "check"), _checks())
def test_check(kind: Any, check: Any, quick: dict[str, Any]) -> None:
    own = quick | {"kinds": ["dense"]}
    own["config"] = own["config"] | {"head": {"folds": 2, "calibrate": False}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(kind(**own))


def test_what_is_left_out_is_there_and_has_reasons() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = {
            _name(check)
            for kind in (ClassifierOfRows, RegressorOfRows)
            for _, check in estimator_checks.estimator_checks_generator(kind())
        }
    assert set(LEFT_OUT) | QUICK <= known
    assert all(LEFT_OUT.values())
