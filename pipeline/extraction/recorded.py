"""What a store says of how it was made, as settings that can be used.

    settings = recorded_backbone(schema.provenance, asked_by="runs/mood/activations")
    normalise = recorded_section(NormaliseConfig, schema.provenance.get("normalise"), asked_by=…)

A store may come from anybody: what it says is checked, and none of its model's code is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.config import BackboneConfig, first_problem
from pipeline.errors import ExtractError, ExtractInputError

Section = TypeVar("Section", bound=BaseModel)
OLDER = ("dtype", "max_length", "special_tokens", "prefix", "template")
"""Settings that older stores keep beside what the extraction found."""


def recorded_backbone(
    provenance: Mapping[str, Any], *, asked_by: str | Path, model: str | None = None
) -> BackboneConfig:
    """How a store's activations were extracted, less that code of the model may run.

    Args:
        provenance: of the store's schema.
        asked_by: the store, for errors.
        model: the backbone's location, if it moved.

    Raises:
        ExtractError: it does not say which model it was made with, or what no version wrote.
    """
    made, said = provenance.get("extraction") or {}, provenance.get("backbone")
    if not isinstance(made, Mapping):
        raise ExtractError(f"{asked_by}: its record of the extraction is no object, but {made!r}")
    settings = dict(said) if isinstance(said, Mapping) else {}
    if not settings:
        settings = {name: made[name] for name in OLDER if name in made}
        settings["model"] = made.get("source")
    if not (model or settings.get("model")):
        raise ExtractInputError(
            f"{asked_by}: does not say which model its activations come from; give --model"
        )
    settings["model"] = settings.get("model") or ""
    settings["trust_remote_code"] = False
    return recorded_section(BackboneConfig, settings, asked_by=asked_by)


def recorded_section(kind: type[Section], settings: Any, *, asked_by: str | Path) -> Section:
    """A section of the configuration, as a store keeps it.

    Raises:
        ExtractError: it is no such section; naming the key, the value and the valid ones.
    """
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise ExtractError(
            f"{asked_by}: what it says of how it was made cannot be used"
            f" ({first_problem(error, kind)}); copy the store again, or extract its texts again"
        ) from None
