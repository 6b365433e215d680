"""The sentence about a choice, and the numbers in it."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.report.digits import four, metric_words, plus_minus, span, two, with_span
from pipeline.report.verdict import choice_sentence


def sentence(
    *,
    deepest: int = 5,
    best: tuple[float, float] = (0.0, 0.0),
    full: tuple[float, float] = (0.0, 0.01),
    conventional: tuple[float, float] = (-0.1, 0.02),
    depth: int = 3,
    num_features: int = 1643,
    best_size: tuple[int, int] = (5, 23808),
    regression: bool = False,
    constant: tuple[float, float] | None = None,
) -> str:
    """The sentence for (difference, standard error) of the chosen head's loss less others'."""

    def behind(apart: tuple[float, float]) -> dict[str, Any]:
        return {"difference": apart[0], "standard_error": apart[1]}

    best_depth, best_features = best_size
    choice = {
        "deepest": deepest,
        "best": behind(best) | {"depth": best_depth, "num_features": best_features},
        "full_depth": behind(full),
        "conventional": behind(conventional),
    }
    if constant is not None:
        choice["constant"] = behind(constant)
    return choice_sentence(
        choice, depth=depth, num_features=num_features, num_layers=6, regression=regression
    )


def test_blocks_kept_back_are_compared_with_all() -> None:
    assert sentence(deepest=3, full=(0.0612, 0.0187)) == (
        "at most 4 of 6 blocks: log loss +0.06 ± 0.02 against all blocks"
    )
    assert sentence(deepest=3, full=(0.004, 0.0187)) == (
        "at most 4 of 6 blocks: no loss against all features of all blocks within one standard"
        " error (log loss +0.00 ± 0.02)"
    )
    assert sentence(deepest=3, full=(-0.0612, 0.0187), regression=True) == (
        "at most 4 of 6 blocks: no loss against all features of all blocks"
        " (squared error -0.06 ± 0.02)"
    )


def test_a_better_conventional_head_is_named() -> None:
    words = "; the final hidden state is better here (by 0.05 ± 0.01)"
    kept = {"deepest": 3, "full": (0.0612, 0.0187)}
    assert sentence(**kept, conventional=(0.0512, 0.0099)).endswith(f"all blocks{words}")
    assert sentence(conventional=(0.0512, 0.0099)).endswith(words)
    assert "is better here" not in sentence(**kept, conventional=(0.0192, 0.0099))


def test_where_nothing_was_learnt_it_is_said() -> None:
    assert sentence(best_size=(3, 1643), constant=(-0.0112, 0.0099)) == (
        "the best of all heads tried; not surely better than a constant (log loss -0.01 ± 0.01)"
    )
    assert sentence(best_size=(3, 1643), constant=(-0.0212, 0.0099)).endswith("heads tried")


def test_all_blocks_allowed_is_compared_with_the_best() -> None:
    assert sentence(best=(0.0031, 0.0042)) == (
        "as good as the best head tried within one standard error (log loss +0.003 ± 0.004),"
        " with 4 blocks instead of 6 and 1,643 features instead of 23,808"
    )
    assert sentence(best=(0.0031, 0.0042), best_size=(3, 9000)) == (
        "as good as the best head tried within one standard error (log loss +0.003 ± 0.004),"
        " with 1,643 features instead of 9,000"
    )
    # More standard errors may be allowed (`head.standard_errors`).
    assert sentence(best=(0.0061, 0.0042), best_size=(4, 900), regression=True) == (
        "squared error +0.006 ± 0.004 against the best head tried, with 4 blocks instead of 5"
    )
    assert sentence(best_size=(3, 1643)) == "the best of all heads tried"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0612, 0.0187, "+0.06 ± 0.02"),
        (-0.00087, 0.00021, "-0.0009 ± 0.0002"),
        (12.34, 3.21, "+12 ± 3"),
        (0.5, 0.0, "+0.500 ± 0.000"),
        (0.0, 0.0, "+0.000 ± 0.000"),
    ],
)
def test_a_difference_has_the_digits_of_its_error(value: float, error: float, text: str) -> None:
    assert plus_minus(value, error) == text
    assert plus_minus(value, error, signed=False) == text.removeprefix("+")


def test_numbers_of_tables() -> None:
    assert [four(x) for x in (0.72454, 0.0182, 1.5, 231.42, 20012.3, 0.0)] == [
        "0.7245", "0.01820", "1.500", "231.4", "20,012", "0.000",
    ]  # fmt: skip
    assert [two(x) for x in (0.09066, 0.3, 4.26, 231.42, 99.7)] == [
        "0.091",
        "0.3",
        "4.3",
        "231",
        "100",
    ]
    assert (span(0.6479, 1.0), span(-0.02, 0.5)) == ("[0.648, 1.000]", "[-0.020, 0.500]")
    assert with_span(0.07, -0.01, 0.2, signed=True) == "+0.070 [-0.010, 0.200]"
    assert with_span(10.5, 10.25, 11.0) == "10.500 [10.250, 11.000]"
    assert with_span(0.5, None, None) == "0.500 —" and span(None, 1.0) == "—"
    assert [metric_words(name) for name in ("macro_f1", "auc", "pearson")] == [
        "macro F1", "AUC", "Pearson's r",
    ]  # fmt: skip
