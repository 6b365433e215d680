"""What a delete, a compaction and an append do to an append that is under way.

Each change killed at its steps is in `tests/kills`, and what each leaves in `store.commits`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from store import ActivationStore
from store.records import INDEX, PLANS
from store.upkeep.inspection import verify
from tests.builders import store_changes
from tests.builders.store_changes import content
from tests.builders.store_world import files_with


@pytest.mark.parametrize("prepare", [store_changes.mixed_begun, store_changes.mixed_half])
def test_deleted_texts_leave_plans_and_leftovers(tmp_path: Path, prepare: Any) -> None:
    root = tmp_path / "s"
    prepare(root)
    active = (root / ".salient/active.json").read_bytes()
    orphan = root / PLANS / "0123456789ab"
    orphan.mkdir()
    (orphan / "samples.arrow").write_bytes(b"text 45.")
    (root / INDEX / "rows-40-70-0123456789ab.parquet").write_bytes(b"text 45.")
    (root / INDEX / ".rows-40-70-0123456789ab.parquet.tmp").write_bytes(b"text 45.")
    (root / "text/c/.2.tmp").write_bytes(b"text 45.")
    store = ActivationStore.open(root)
    committed = store.num_samples
    # id45 is alone; id50 has an heir; a51 is a further id; author2 wrote id42, id47, id52 ...
    num = store.delete(["id45", "id50", "a51", "nobody"], author_ids=["author2"])
    assert num == 3 + len(range(2, 70, 5))
    gone = ["text 45.", "text 47.", "text 57."]
    for path, _ in files_with(root, gone):
        # Committed rows keep their text until the compaction, as ever.
        assert committed > 40 and path.parent == root / INDEX, path
    assert (root / ".salient/active.json").read_bytes() == active
    assert not orphan.exists()
    store_changes.finish(root)
    found = content(root)["samples"]
    assert not {"id45", "id50", "a51", "id47", "id57"} & set(found)
    assert found["a50"][0] == "text 50." and found["b51"][0] == "text 51."
    store_changes.compact_all(root)
    assert files_with(root, gone) == []
    assert content(root)["samples"] == found
    assert verify(ActivationStore.open(root)).sound


def test_a_writer_goes_on_after_a_delete(tmp_path: Path) -> None:
    root = tmp_path / "s"
    store_changes.forty(root)
    store = ActivationStore.open(root)
    plan = store.plan_append(store_changes.MIXED, changed="replace")
    plan.samples(plan.blocks[0])  # read before, like a worker amid its block
    elsewhere = ActivationStore.open(root)
    assert elsewhere.delete(["id40", "id60"]) == 2
    later = elsewhere.open_plan(plan.id)
    rows = later.samples(later.blocks[0])
    assert (rows["id"][0].as_py(), rows["text"][0].as_py()) == ("", "")
    store_changes.write_blocks(store, plan, plan.blocks)
    store.commit()
    store.release()
    found = content(root)["samples"]
    assert not {"id40", "id60"} & set(found) and "id41" in found
    assert verify(ActivationStore.open(root)).sound


def test_an_alias_outlives_the_row_that_it_was_planned_for(tmp_path: Path) -> None:
    root = tmp_path / "s"
    store_changes.forty(root)
    store_changes.leave(root, store_changes.texts([1, 33], ids=["a1", "a33"], authors=["b", "b"]))
    store_changes.delete_gone(root)  # id1 and all of slot 2, to which the aliases point
    store = ActivationStore.open(root)
    assert store.positions(["id1", "a1"]).tolist() == [-1, -1]
    store_changes.compact_all(root)  # commits what is finished before
    found = content(root)["samples"]
    assert found["a1"][0] == "text 1." and found["a33"][0] == "text 33."
    assert not {"id1", "id33", "id34"} & set(found)
    assert verify(ActivationStore.open(root)).sound
    assert files_with(root, ["text 34."]) == []
    store_changes.append(root, store_changes.texts([1, 33], ids=["a1", "a33"], authors=["b", "b"]))
    assert content(root)["samples"] == found


def test_an_append_after_a_delete_brings_back_what_it_holds(tmp_path: Path) -> None:
    root = tmp_path / "s"
    store_changes.mixed_half(root)  # left all but committed
    store_changes.delete_from_mixed(root)
    ActivationStore.open(root).delete(["id18"])
    store_changes.append_mixed(root)  # the same samples, asked for after the delete
    found = content(root)["samples"]
    assert set(store_changes.MIXED["id"].to_pylist()) <= set(found)
    assert found["id45"][0] == "text 45." and "id18" not in found
    assert verify(ActivationStore.open(root)).sound
