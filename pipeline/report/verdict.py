"""What the choice of a head gave away, in a sentence whose subject is the chosen head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.digits import plus_minus

JSON = Mapping[str, Any]
SURE = 2.0
"""Standard errors."""


def choice_sentence(
    choice: JSON, *, depth: int, num_features: int, num_layers: int, regression: bool
) -> str:
    """Where blocks were kept back, what all of them would bring; else how close to the best it is.

    Args:
        choice: ``choice`` of the chosen head in ``metrics.json``: differences of losses, the chosen
            head's less the other's, with their standard errors.
        depth: the last block that the chosen head needs.
        num_features: features that it reads.
        num_layers: blocks of the whole model.
        regression: whether the loss is the squared error; else it is the log loss.
    """
    loss = "squared error" if regression else "log loss"
    allowed = choice["deepest"] + 1
    if allowed < num_layers:
        found = f"at most {allowed} of {num_layers} blocks: {_against_full(choice, loss)}"
    else:
        found = _against_best(choice, loss, depth, num_features)
    conventional = choice["conventional"]
    if conventional["difference"] > SURE * conventional["standard_error"]:
        behind = plus_minus(
            conventional["difference"], conventional["standard_error"], signed=False
        )
        found += f"; the final hidden state is better here (by {behind})"
    constant = choice.get("constant")  # older runs do not say
    if constant and constant["difference"] + SURE * constant["standard_error"] > 0:
        figures = plus_minus(constant["difference"], constant["standard_error"])
        found += f"; not surely better than a constant ({loss} {figures})"
    return found


def _against_full(choice: JSON, loss: str) -> str:
    full = choice["full_depth"]
    apart, error = full["difference"], full["standard_error"]
    figures = f"{loss} {plus_minus(apart, error)}"
    if apart > error:
        return f"{figures} against all blocks"
    if apart < -error:
        return f"no loss against all features of all blocks ({figures})"
    return f"no loss against all features of all blocks within one standard error ({figures})"


def _against_best(choice: JSON, loss: str, depth: int, num_features: int) -> str:
    best = choice["best"]
    apart, error = best["difference"], best["standard_error"]
    if (depth, num_features) == (best["depth"], best["num_features"]) and not apart:
        return "the best of all heads tried"
    with_less = []
    if depth < best["depth"]:
        blocks = f"{depth + 1} block{'s' * (depth > 0)}"
        with_less.append(f"{blocks} instead of {best['depth'] + 1}")
    if num_features < best["num_features"]:
        with_less.append(f"{num_features:,} features instead of {best['num_features']:,}")
    less = f", with {' and '.join(with_less)}" if with_less else ""
    figures = f"{loss} {plus_minus(apart, error)}"
    if apart > error:
        return f"{figures} against the best head tried{less}"
    return f"as good as the best head tried within one standard error ({figures}){less}"
