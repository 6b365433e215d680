"""What a store says of its origin is checked before it is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.errors import ExtractError
from pipeline.extraction.adding import _extractor
from pipeline.extraction.recorded import recorded_backbone
from store import ActivationStore


@pytest.mark.parametrize(
    ("backbone", "problem"),
    [
        ({"dtype": "float8"}, "dtype"),
        ({"max_length": "long"}, "max_length"),
        ({"hook": "os.system"}, "hook: unknown key"),
        ({"model": ["bert"]}, "model"),
    ],
)
def test_an_odd_store_gets_no_layers(
    finished_run: Path, backbone: dict[str, Any], problem: str
) -> None:
    path = RunConfig.load(finished_run).store.path
    schema = ActivationStore.open(path).schema
    made = schema.provenance | {"backbone": {**schema.provenance["backbone"], **backbone}}
    with pytest.raises(ExtractError, match=f"activations: .*{problem}"):
        _extractor(path, replace(schema, provenance=made), model=None, device="cpu")


def test_older_stores_keep_their_settings_elsewhere() -> None:
    made = {"source": "a/b", "dtype": "bfloat16", "max_length": 64, "normalisation": {}}
    found = recorded_backbone({"extraction": made}, asked_by="s")
    assert (found.model, found.dtype, found.max_length) == ("a/b", "bfloat16", 64)
    own = {"backbone": {"model": "a/b", "trust_remote_code": True}}
    assert not recorded_backbone(own, asked_by="s").trust_remote_code
    assert recorded_backbone({}, asked_by="s", model="c").model == ""
    for nothing in ({}, {"backbone": "none"}, {"extraction": {}}):
        with pytest.raises(ExtractError, match=r"s: does not say which model.*--model"):
            recorded_backbone(nothing, asked_by="s")
    with pytest.raises(ExtractError, match="extraction is no object"):
        recorded_backbone({**own, "extraction": ["odd"]}, asked_by="s")
