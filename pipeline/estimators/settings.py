"""An estimator's parameters as a run's configuration: the same keys, defaults and errors.

    config = configured({"max_depth": 0.5, "config": {"head": {"lexical": True}}}, task, …)

A parameter is the key of the configuration that ``PARAMETERS`` names; ``config`` holds any other
key by its section. What a fit decides by itself is in neither.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from pipeline.config import RunConfig, TaskConfig
from pipeline.errors import ConfigError
from pipeline.estimators.inputs import SettingError
from pipeline.extraction import model_section

PARAMETERS = {
    "model": ("backbone", "model"),
    "kinds": ("head", "kinds"),
    "max_depth": ("head", "max_depth"),
    "class_weight": ("probe", "class_weight"),
}
"""Parameter -> section and key; None as a value is the key's default."""
SECTIONS = ("backbone", "normalise", "splits", "store", "probe", "head")
"""Those of the configuration that ``config`` may hold."""
OWN = {
    "store": ("path", "keep_text", "peaks"),
    "splits": ("test",),
    "head": ("folds_by",),
}
"""Section -> keys that a fit decides by itself, or has no use for."""
QUICK = ("dense", "states", "sparse", "stack", "final")
"""Heads that are tried where nobody says which: those that need no probes of single layers, which
take longer than all else."""
_KEY = re.compile(rf"(?<![\w./\"])({'|'.join(SECTIONS)})\.([a-zA-Z_]+)\b(?!/)")
"""A key in a message, with its section."""
VAL_TEXTS = 8
"""Least texts, of small sets, to choose penalties on; never more than ``MOST_VAL`` of all."""
MOST_VAL = 0.4


def configured(
    parameters: Mapping[str, Any],
    task: TaskConfig,
    *,
    name: str,
    num_texts: int,
) -> RunConfig:
    """The configuration of a fit.

    Args:
        parameters: of the estimator.
        task: what is learnt.
        name: of the estimator, for errors.
        num_texts: that are learnt from.

    Raises:
        SettingError: naming the key, its value and the valid ones.
    """
    _check_share(parameters.get("max_depth"))
    data = _sections(parameters.get("config"), name)
    for parameter, (section, key) in PARAMETERS.items():
        value = _plain(parameters.get(parameter))
        if value is None:
            continue
        if key in data[section]:
            raise SettingError(
                f"{name}: {section}.{key} is the parameter {parameter}; leave it out of config"
            )
        data[section][key] = value
    data["head"].setdefault("kinds", QUICK)
    data["splits"].setdefault("val", max(0.15, min(MOST_VAL, VAL_TEXTS / max(num_texts, 1))))
    data["store"] |= {"path": "store", "keep_text": False}
    data["store"].setdefault("samples_per_shard", 2048)
    whole = {
        **data,
        "name": task.name,
        "seed": seed_of(parameters.get("random_state")),
        "run_dir": "run",
        "corpus": [{"path": "memory", "labels": {task.name: "y"}}],
        "tasks": [task.model_dump()],
        "cluster": {"device": parameters.get("device", "auto")},
    }
    backbone = data["backbone"]
    try:
        if isinstance(backbone.get("model"), str) and "revision" not in backbone:
            backbone |= model_section(backbone["model"])
        return RunConfig.from_dict(whole, origin=Path(name))
    except ConfigError as error:
        raise SettingError(in_own_words(str(error))) from None


def in_own_words(message: str) -> str:
    """A message about keys of a configuration as one about an estimator's parameters: those of
    ``PARAMETERS`` by their names, ``head.folds`` as ``config["head"]["folds"]``."""

    def own(match: re.Match[str]) -> str:
        section, key = match.groups()
        named = {place: name for name, place in PARAMETERS.items()}
        return named.get((section, key), f'config["{section}"]["{key}"]')

    return _KEY.sub(own, message)


def _check_share(value: Any) -> None:
    """Blocks are asked for as a share of the model's: 4 is no share.

    Raises:
        SettingError: not within 0 and 1.
    """
    value = _plain(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 < value <= 1):
        raise SettingError(
            f"max_depth: {value!r} is no share of the model's blocks; give a number above 0 and up"
            " to 1: 1.0 allows all blocks, 0.5 the first half of them"
        )


def task_of(kind: str, name: str, classes: tuple[str, ...], metric: str | None) -> TaskConfig:
    """The task of some labels.

    Raises:
        SettingError: a metric that does not fit them.
    """
    from pydantic import ValidationError

    from pipeline.config import first_problem

    data = {"name": name, "type": kind, "labels": classes or None, "metric": metric}
    try:
        return TaskConfig.model_validate(data)
    except ValidationError as error:
        raise SettingError(first_problem(error, TaskConfig)) from None


def cache_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Where activations are kept, and how many bytes of them.

    Raises:
        SettingError: no folder, or no number.
    """
    cache, most = parameters.get("cache"), _plain(parameters.get("cache_bytes"))
    if not isinstance(cache, str | os.PathLike | bool | None) or cache == "":
        raise SettingError(
            f"cache: {cache!r} is no folder; give a path, None for the user's cache folder, or"
            " False to keep nothing"
        )
    if isinstance(most, bool) or not isinstance(most, int | float) or not 0 <= most < float("inf"):
        raise SettingError(
            f"cache_bytes: {most!r} is no number of bytes; give one from 0, such as 20e9"
        )
    return {"cache": cache, "most_bytes": int(most)}


def seed_of(random_state: Any) -> int:
    """The run's seed: the number itself, 0 for None, or a number drawn from a generator.

    Raises:
        SettingError: something else, or a negative number.
    """
    if random_state is None:
        return 0
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    try:
        check_random_state(random_state)
        return int(random_state)
    except (TypeError, ValueError):
        raise SettingError(
            f"random_state: {random_state!r} is no seed; give a whole number from 0, or None"
        ) from None


def _sections(config: Any, name: str) -> dict[str, dict[str, Any]]:
    """The sections of ``config``, each there, none with a key that is not the user's."""
    if not isinstance(config, Mapping | None):
        raise SettingError(
            f"{name}: config is {config!r}; give a dict of sections, such as"
            ' {"head": {"lexical": True}}'
        )
    data: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, keys in (config or {}).items():
        if section not in SECTIONS or not isinstance(keys, Mapping):
            raise SettingError(
                f"{name}: config[{section!r}] is no section with keys; valid sections:"
                f" {', '.join(SECTIONS)}"
            )
        if odd := [key for key in keys if key in OWN.get(section, ())]:
            raise SettingError(
                f"{name}: {section}.{odd[0]} is decided by fit; leave it out of config"
            )
        data[section] = {key: _plain(value) for key, value in keys.items()}
    return data


def _plain(value: Any) -> Any:
    """Numbers of numpy, as grids have them, as Python's; paths as texts."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(one) for one in value]
    return value
