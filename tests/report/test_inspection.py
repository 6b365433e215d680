"""What `salient inspect` says of a head."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import RunConfig
from pipeline.heads.model import Head
from pipeline.report.inspection import describe, inspect, sources_read
from pipeline.runfolder import RunFolder
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
