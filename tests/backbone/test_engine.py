"""Which kernels a backbone runs on: by rule, as recorded, or others with a plain line."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pipeline.backbone import engine
from pipeline.backbone.engine import KernelError, choose
from pipeline.backbone.loading import engine_of, load_backbone, load_from_settings, load_recorded
from pipeline.config import BackboneConfig
from tests.builders.models import make_tiny_model, needs_onednn

LARGE, SMALL = 384 * 1536, 32 * 48


@pytest.mark.parametrize(
    ("largest", "dtype", "capability", "works", "expected"),
    [
        (LARGE, "float32", "AVX512", True, "onednn"),
        (LARGE, "float32", "AVX2", True, "onednn"),
        (256 * 256, "float32", "AVX2", True, "onednn"),
        (SMALL, "float32", "AVX512", True, "torch"),
        (SMALL, "bfloat16", "AVX512", True, "onednn"),
        (LARGE, "float32", "DEFAULT", True, "torch"),
        (LARGE, "float32", "SVE256", True, "torch"),
        (LARGE, "bfloat16", "SVE256", True, "torch"),
        (LARGE, "float32", "AVX512", False, "torch"),
    ],
)
def test_the_rule(largest: int, dtype: str, capability: str, works: bool, expected: str) -> None:
    found = choose(largest, dtype=getattr(torch, dtype), capability=capability, onednn_works=works)
    assert found == expected


@contextmanager
def busy_cores() -> Iterator[None]:
    """All cores at work, with one process more than there are."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_spin, daemon=True) for _ in range((os.cpu_count() or 1) + 1)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _spin() -> None:
    while True:
        pass


@needs_onednn
@pytest.mark.parametrize("loads", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_busy_machine_chooses_the_same(loads: int, tmp_path: Path) -> None:
    """Of a model that is as large as the rule asks for."""
    path = make_tiny_model(
        "bert", tmp_path, hidden_size=256, intermediate_size=1024, num_hidden_layers=1
    )
    quiet = load_backbone(path).engine
    with busy_cores():
        assert {load_backbone(path).engine for _ in range(loads)} == {quiet}


def record(path: Path, **made: str) -> dict[str, object]:
    """As a store's provenance is."""
    return {"backbone": BackboneConfig(model=str(path)).model_dump(), "extraction": made}


@needs_onednn
def test_what_was_recorded_is_used(tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_backbone(tiny_bert).engine == "torch", "it is small"
    for made in ("torch", "onednn"):
        found = load_recorded(
            record(tiny_bert, engine=made, device="cpu"), device="cpu", asked_by="a head"
        )
        assert found.engine == made
    assert not caplog.records


def test_records_that_name_no_engine_of_a_processor() -> None:
    assert engine_of({}) is None
    assert engine_of({"extraction": {"engine": "torch", "device": "cuda:0"}}) is None
    assert engine_of({"extraction": {"engine": "mkl"}}) is None
    assert engine_of({"extraction": {"engine": "onednn"}}) == "onednn"


@pytest.mark.parametrize("settled", [True, False])
def test_one_line_where_the_engine_is_not_to_be_had(
    settled: bool,
    tiny_bert: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pipeline.onednn.available", lambda dtype: False)
    if settled:
        found = load_recorded(
            record(tiny_bert, engine="onednn", device="cpu"), device="cpu", asked_by="a head"
        )
    else:
        found = load_from_settings(
            BackboneConfig(model=str(tiny_bert), engine="onednn"), device="cpu"
        )
    assert found.engine == "torch"
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]
    assert "'onednn'" in caplog.messages[0] and "agree to rounding" in caplog.messages[0]


def test_kernels_that_change_a_model_are_left_only_where_recorded(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise KernelError("changed")

    monkeypatch.setattr("pipeline.backbone.selfcheck.change_kernels", refuse)
    found = load_recorded(
        record(tiny_bert, engine="onednn", device="cpu"), device="cpu", asked_by="a head"
    )
    assert found.engine == "torch" and "agree to rounding" in caplog.text
    with pytest.raises(KernelError, match="changed"):
        load_from_settings(BackboneConfig(model=str(tiny_bert), engine="onednn"), device="cpu")


@needs_onednn
def test_activations_are_fused_where_that_is_faster(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fused(capability: str) -> bool:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        backbone = load_backbone(tiny_bert, engine="onednn")
        return any(
            isinstance(layer, engine.OneDnnLinear) and layer.activation != engine.NO_ACTIVATION
            for layer in backbone.network.modules()
        )

    assert fused("AVX512") and not fused("AVX2")
