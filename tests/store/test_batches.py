"""A plan's files when a byte of them is flipped, cut off or missing: read right, or refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from store import ActivationStore, StoreError
from store.commits.batches import BatchFile, encode_batches
from store.commits.plans import active_plan_id
from store.disk import LocalLocation
from store.records import ACTIVE_PLAN, PLANS
from tests.builders import store_changes

SCHEMA = pa.schema([("id", pa.string()), ("position", pa.int64())])


def table(ids: list[str | None]) -> pa.Table:
    return pa.table({"id": ids, "position": range(len(ids))}, schema=SCHEMA)


def test_batches_come_back_and_hide_what_is_null(tmp_path: Path) -> None:
    ids = table(["a", "b", None, "d", "e"])
    masked = pa.array(["a", "b", "secret", "d", "e"]).buffers()
    validity = pa.array([1, 1, None, 1, 1]).buffers()[0]
    column = pa.Array.from_buffers(pa.string(), 5, [validity, *masked[1:]])
    hidden = ids.set_column(0, "id", column)
    content = encode_batches(hidden, [2, 2, 1])
    assert b"secret" not in content.to_pybytes()
    (tmp_path / "f").write_bytes(content)
    file = BatchFile(LocalLocation(tmp_path), "f", SCHEMA, remedy="")
    assert file.read_all().equals(ids)
    assert file.read(1, 2, 2).equals(ids.slice(2, 2))
    (tmp_path / "g").write_bytes(encode_batches(ids.slice(0, 0), []))
    assert len(BatchFile(LocalLocation(tmp_path), "g", SCHEMA, remedy="").read_all()) == 0


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    ids = table(["a", "b", "c"])
    with pa.ipc.new_file(str(tmp_path / "f"), SCHEMA) as writer:
        writer.write_table(ids)
    file = BatchFile(LocalLocation(tmp_path), "f", SCHEMA, remedy="")
    assert file.read_all().equals(ids) and file.read(1, 1, 2).equals(ids.slice(1))


def planned(root: Path) -> dict[str, Any]:
    """All that a plan says."""
    store = ActivationStore.open(root)
    plan = store.open_plan(active_plan_id(root) or "none")
    return {
        "record": plan.record,
        "blocks": [plan.samples(block).to_pylist() for block in plan.all_blocks],
        "aliases": plan.aliases().to_pylist(),
        "replaced": plan.replaced().to_pylist(),
    }


def flip(root: Path, num: int, seed: int) -> None:
    store_changes.mixed_begun(root)
    expected = planned(root)
    folder = root / PLANS / str(active_plan_id(root))
    files = [root / ACTIVE_PLAN, *(path for path in sorted(folder.iterdir()) if path.is_file())]
    files = [path for path in files if path.suffix in (".json", ".arrow")]
    rng = random.Random(seed)
    refused = 0
    for _ in range(num):
        path = rng.choice(files)
        before = path.read_bytes()
        content = bytearray(before)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            assert planned(root) == expected, path
        except StoreError as error:
            refused += 1
            assert str(root) in str(error), path
        path.write_bytes(before)
    assert refused > num / 3


def test_flipped_bytes_of_a_plan(tmp_path: Path) -> None:
    flip(tmp_path / "s", 150, 0)


@pytest.mark.slow
def test_many_flipped_bytes_of_a_plan(tmp_path: Path) -> None:
    flip(tmp_path / "s", 4000, 1)


def test_the_remedy_for_a_damaged_plan_works(tmp_path: Path) -> None:
    root = tmp_path / "s"
    store_changes.mixed_begun(root)
    folder = root / PLANS / str(active_plan_id(root))
    (folder / "samples.arrow").write_bytes(b"nothing")
    with pytest.raises(StoreError, match=rf"damaged.*`rm -r {folder}`"):
        store_changes.append_mixed(root)
    ActivationStore.open(root).release()
    shutil.rmtree(folder)
    store_changes.append_mixed(root)
    assert set(store_changes.MIXED["id"].to_pylist()) <= set(store_changes.content(root)["samples"])
