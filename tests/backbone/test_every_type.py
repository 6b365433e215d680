"""Every model type of the installed transformers: right, or refused with the way on.

A sample runs always; the whole list, some minutes, is slow. By hand, with counts and a table:

    python -m tests.builders.zoo [TYPE …]
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import stages
from pipeline.backbone.loading import load_backbone
from pipeline.config import RunConfig
from pipeline.extraction.extractor import Extractor
from pipeline.heads.model import Head
from pipeline.runfolder import RunFolder
from pipeline.scoring.scorer import Scorer
from store import ActivationStore, text_hash
from store.layout import ffn
from tests.builders.heads import make_head
from tests.builders.runs import write_mood_run
from tests.builders.shrinking import FFN_WIDTH, LAYERS, first_of_each_kind, shrink
from tests.builders.zoo import TEXTS, judge, make_zoo_model, model_types, sweep, table

SAMPLE = {
    # encoders: of the table, of its kin, padded alike, shared blocks, of equal lengths only
    "bert": "right",
    "albert": "right",
    "data2vec-text": "right",
    "fnet": "right",
    "longformer": "right",
    # decoders: plain, windows, rotary limits, linear attention, depth that others derive from
    "arcee": "right",
    "minicpm3": "right",
    "rwkv": "right",
    "phi3:longrope": "right",
    # FFNs in some blocks or in none, experts
    "zamba2": "right",
    "mamba": "right",
    "mixtral": "right",
    # encoder-decoders, and their encoders alone
    "marian": "right",
    "t5:encoder": "right",
    # text towers of mixed models
    "gemma3": "right",
    "qwen2_5_vl": "right",
    # what is no vector for each token, or reads no texts
    "funnel": "refused",
    "vit": "unbuildable",
}
"""One type of each kind -> what is to become of it."""
SCORED = ("bert", "arcee", "marian", "gemma3", "zamba2")
GOAL = 120
"""Types that are right, at least."""


@pytest.mark.parametrize("name", SAMPLE)
def test_a_type_is_right_or_refused(name: str, tmp_path: Path) -> None:
    verdict = judge(name, tmp_path)
    assert verdict.verdict == SAMPLE[name], verdict.detail
    assert verdict.facts.get("load", "refused") == "refused", verdict.facts


@pytest.mark.parametrize("name", SCORED)
def test_what_is_scored_is_what_was_stored(name: str, tmp_path: Path) -> None:
    path = make_zoo_model(name, tmp_path)
    backbone = load_backbone(path, engine="torch")
    draw = np.random.default_rng(0)
    layer = backbone.ffn_layers[1]
    chosen = draw.choice(2 * backbone.neuron_size, 20, replace=False)
    head = make_head(backbone, {ffn(layer): chosen}, classes=())
    stored = Extractor(backbone)(TEXTS).ffn[1].reshape(-1, len(TEXTS)).T
    stored = stored.astype(np.float16).astype(np.float32)
    expected = head.outputs_full({ffn(layer): stored})[:, 0]
    texts = pa.table(
        {
            "id": [str(i) for i in range(len(TEXTS))],
            "text": list(TEXTS),
            "text_hash": [text_hash(text) for text in TEXTS],
            "created_at": pa.array([None] * len(TEXTS), pa.int64()),
            "source_file": ["in.jsonl"] * len(TEXTS),
        }
    )
    found = Scorer([head]).score_table(texts).table["made"].to_pylist()
    for value, right in zip(found, expected, strict=True):
        assert value is None or abs(value - right) <= 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arcee", "convbert", "marian", "qwen2_5_vl", "mixtral", "zamba2"])
def test_a_whole_run_scores_what_it_stored(name: str, tmp_path: Path) -> None:
    path = make_zoo_model(name, tmp_path)
    config = RunConfig.load(write_mood_run(tmp_path / "run", path, num_rows=60))
    stages.run(config)
    folder = RunFolder(Path(config.run_dir))
    heads = [Head.load(folder.head(task.name)) for task in config.tasks]
    worst = Scorer(heads).check_parity(ActivationStore.open(config.store.path), 40)
    assert worst is not None and worst < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_no_type_is_silently_wrong() -> None:
    verdicts = list(sweep(model_types(), workers=2, timeout_s=120))
    print(table(verdicts))
    counts = Counter(verdict.verdict for verdict in verdicts)
    bad = [v for v in verdicts if v.verdict in ("wrong", "traceback", "timeout")]
    bad += [v for v in verdicts if v.facts.get("load", "refused") != "refused"]
    assert not bad, table(bad)
    assert counts["right"] >= GOAL


def test_configs_are_shrunk_by_the_names_of_their_keys() -> None:
    big = {
        "hidden_size": 4096,
        "num_hidden_layers": 6,
        "intermediate_size": 11_008,
        "layer_types": ["local"] * 5 + ["global"],
        "vision_config": {"model_type": "clip", "depth": 24, "intermediate_size": 4096},
        "pad_token_id": None,
        "image_token_id": 128_000,
    }
    small = shrink(big)
    assert small["num_hidden_layers"] == LAYERS and small["intermediate_size"] == FFN_WIDTH
    assert small["layer_types"] == ["local", "local", "local", "global"]
    assert small["vision_config"]["intermediate_size"] != FFN_WIDTH
    assert small["pad_token_id"] is None and 300 <= small["image_token_id"] < 320


def test_a_cut_list_keeps_every_kind() -> None:
    assert first_of_each_kind(["a", "a", "a", "b", "c"], 3) == ["a", "c", "b"]
    assert first_of_each_kind(["a", "b", "a", "b"], 4) == ["a", "b", "a", "b"]
