from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import stages
from pipeline.config import RunConfig
from pipeline.errors import CorpusError, ExtractError
from pipeline.texts.duplicates import near_duplicates
from pipeline.texts.lookup import sample_groups, sample_texts
from store import ActivationStore
from tests.builders.runs import write_mood_run


def test_samples_have_the_groups_of_their_texts(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    positions = np.array([9, 2, 9, 5])
    groups = sample_groups(store, positions, config)
    assert groups.dtype == np.int64 and len(set(groups)) == 3 and groups[0] == groups[2]


def test_near_duplicates_of_a_store_without_texts(tmp_path: Path, tiny_bert: Path) -> None:
    """The corpus tells them."""
    path = write_mood_run(tmp_path, tiny_bert, num_rows=80)
    rows = (tmp_path / "tweets.csv").read_text(encoding="utf-8").splitlines()
    fields = rows[1].split(",")
    fields[0], fields[1] = "77", f"RT @anna: {fields[1].upper()}!"
    (tmp_path / "tweets.csv").write_text("\n".join([*rows, ",".join(fields)]), encoding="utf-8")
    toml = path.read_text(encoding="utf-8")
    path.write_text(toml.replace("[store]", "[store]\nkeep_text = false"), encoding="utf-8")
    config = RunConfig.load(path)
    stages.extract(config)
    store = ActivationStore.open(config.store.path)
    positions = store.positions([str(10**18), str(10**18 + 1), "77"])
    assert sample_groups(store, positions, config)[[0, 2]].tolist() == [0, 0]
    every = store.samples()["position"].to_numpy()
    groups = sample_groups(store, every, config)
    assert (groups == near_duplicates(sample_texts(store, every, config))).all()
    (tmp_path / "tweets.csv").write_text("\n".join(rows[:70]), encoding="utf-8")
    with pytest.raises(ExtractError, match="1 of 3 are not in the corpus files any more"):
        sample_groups(store, positions, config)
    (tmp_path / "tweets.csv").unlink()
    with pytest.raises(CorpusError, match=r"tweets\.csv"):
        sample_groups(store, positions, config)
