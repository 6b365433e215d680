"""What `salient inspect` says of a head."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.heads.model import Head
from pipeline.report.inspection import describe, inspect, sources_read
from pipeline.runfolder import RunFolder
from store import SalientError
from store.layout import NGRAMS, Source, ffn


def test_sources_are_named_site_by_site() -> None:
    hidden = [Source("hidden", layer) for layer in (0, 1, 2, 4)]
    assert sources_read([NGRAMS, *hidden, ffn(1), ffn(0)]) == [
        "FFN layers 0..1", "hidden states 0..2, 4", "n-grams",
    ]  # fmt: skip
    assert sources_read([ffn(3), Source("hidden", 6)]) == ["FFN layer 3", "hidden state 6"]


def test_a_head_is_described_by_what_it_reads_and_scores(finished_run: Path) -> None:
    folder = RunFolder(Path(RunConfig.load(finished_run).run_dir))
    path = folder.head("mood")
    card, facts = Head.load(path).card, inspect(path)
    assert (facts["kind"], facts["task"], facts["head_kind"]) == ("head", "mood", card.kind)
    assert facts["blocks"] == f"{card.depth + 1} of 3"
    assert (facts["features"], facts["loss"]) == (card.num_features, card.metrics["loss"])
    assert f"choice: {facts['choice']}" in list(describe(facts))
    words = inspect(folder.head("mood", "baseline_lexical"))
    assert (words["reads"], words["blocks"]) == (["n-grams"], "0 of 3")
    assert "choice" not in words
    old = Path(__file__).parents[1] / "formats" / "1" / "run" / "heads" / "mood" / "chosen"
    assert inspect(old)["reads"] == ["FFN layers 0..2"]


def test_a_store_without_its_newest_snapshot_is_a_store(finished_run: Path, tmp_path: Path) -> None:
    store = RunConfig.load(finished_run).store.path
    shutil.copytree(store, tmp_path / "store")
    records = (tmp_path / "store/.salient/snapshots").glob("*.json")
    newest = max((one for one in records if one.stem.isdigit()), key=lambda one: int(one.stem))
    newest.unlink()
    with pytest.raises(SalientError, match=f"{newest.name}: the record of the last commit"):
        inspect(tmp_path / "store")


def test_a_pipe_in_a_folder_of_scores_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "_salient.json")
    with pytest.raises(SalientError, match=r"_salient\.json: is a pipe"):
        inspect(tmp_path)
