"""Entries of ``metrics.json``, made up."""

from __future__ import annotations

from typing import Any

GAIN = {"value": 0.07034, "low": -0.00256, "high": 0.09847}


def entry(depth: int, loss: float, **others: Any) -> dict[str, Any]:
    """A head's entry in ``metrics.json``."""
    return {
        "kind": "dense",
        "depth": depth,
        "num_features": 16128,
        "val": 0.7,
        "score": 0.72,
        "loss": loss,
        "test": {"pearson": 0.71},
        "test_interval": {"pearson": [0.679, 0.738]},
        **others,
    }


def made_up_task(**others: Any) -> dict[str, Any]:
    probe = {
        "val": 0.6,
        "test": {"pearson": 0.65},
        "test_interval": {"pearson": [0.61, 0.68]},
    }
    behind = {"kind": "dense", "difference": 0.0009, "standard_error": 0.0002, "loss": 0.0138}
    choice = {
        "loss": 0.0146,
        "deepest": 3,
        "best": behind | {"depth": 3, "num_features": 16128},
        "full_depth": behind | {"depth": 5, "num_features": 23808},
        "conventional": behind | {"depth": 5, "num_features": 768, "difference": -0.004},
    }
    baselines = {
        "all": entry(3, 0.01447, gain=GAIN),
        "final": entry(5, 0.01867, kind="final", gain=GAIN),
        "lexical": entry(0, 0.01899, kind="lexical", gain=GAIN),
        "majority": {"kind": "majority", "test": {"pearson": None}, "gain": {"low": None}},
    }
    return {
        "metric": "pearson",
        "type": "regression",
        "num_test": 1002,
        "layers": [probe | {"source": i, "val": 0.6 + 0.01 * i} for i in range(6)],
        "hidden_states": [probe | {"source": i, "val": 0.6 - 0.01 * i} for i in range(7)],
        "baselines": baselines,
        "hidden": baselines["final"],
        "gain": GAIN,
        "sparse": entry(3, 0.01621, kind="sparse", num_features=332),
        "chosen": entry(3, 0.0146, kind="ensemble", num_features=1643, choice=choice),
        **others,
    }
