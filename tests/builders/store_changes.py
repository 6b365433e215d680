"""A store of forty texts and what is done to it: appends that are left, deletes, compactions.

Its activations are those of `store_processes`; what is killed stands in `store_stages`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from store import ActivationStore, AppendPlan, Block
from store.commits.plans import active_plan_id
from store.upkeep.compaction import compact
from tests.builders import store_world
from tests.builders.store_processes import SCHEMA, values_of
from tests.builders.store_world import number_of


def texts(numbers: Any, *, ids: Any = None, authors: Any = None) -> pa.Table:
    """Samples `id<n>` of `text <n>.` by `author<n % 5>`; or under other ids, by others."""
    numbers = list(numbers)
    return pa.table(
        {
            "id": [f"id{n}" for n in numbers] if ids is None else list(ids),
            "text": [f"text {n}." for n in numbers],
            "author_id": [f"author{n % 5}" for n in numbers] if authors is None else list(authors),
        }
    )


def write(
    store: ActivationStore, samples: pa.Table, *, changed: str = "error", upto: float = 1.0
) -> AppendPlan:
    """Plan samples and write a part of their blocks; the caller commits."""
    plan = store.plan_append(samples, changed=changed)
    write_blocks(store, plan, plan.blocks[: round(upto * len(plan.blocks))])
    return plan


def write_blocks(store: ActivationStore, plan: AppendPlan, blocks: Sequence[Block]) -> None:
    """Compute and stage some blocks of an append."""
    for block in blocks:
        numbers = [number_of(text) for text in plan.samples(block)["text"].to_pylist()]
        arrays = values_of(store.schema, [f"id{n}" for n in numbers])
        store.write_block(plan, block, arrays, n_tokens=np.array(numbers, np.int32) % 7)


def append(root: Path, samples: pa.Table, *, changed: str = "error") -> None:
    """Append samples in one process, as one would: plan, write, commit."""
    store = ActivationStore.open(root)
    try:
        write(store, samples, changed=changed)
        store.commit()
    finally:
        store.release()


def leave(root: Path, samples: pa.Table, *, changed: str = "error", upto: float = 1.0) -> None:
    """Begin an append and leave it, as a process that dies does."""
    store = ActivationStore.open(root)
    write(store, samples, changed=changed, upto=upto)
    store.release()


def forty(root: Path) -> None:
    """Forty texts in three slots, a few under two ids, labels of a task."""
    ActivationStore.create(root, SCHEMA)
    append(root, texts(range(20)))
    append(root, texts(range(18, 40)))
    append(root, texts([3, 17, 30], ids=["copy3", "copy17", "copy30"], authors=["b", "b", "b"]))
    label(root)


def label(root: Path, shift: int = 0) -> None:
    """Put labels of a task."""
    ids = [f"id{n}" for n in range(0, 40, 3)]
    table = pa.table(
        {"id": ids, "split": ["train"] * len(ids), "label": [float(n + shift) for n in range(14)]}
    )
    ActivationStore.open(root).put_labels("task", table, spec={"shift": shift})


GONE = ["id1", "id3", "id21", "id30", "copy30", *(f"id{n}" for n in range(32, 40))]
"""A shared text's first id, one under both its ids, and all of slot 2."""


def delete_gone(root: Path) -> None:
    """Delete some, single ones and a slot."""
    ActivationStore.open(root).delete(GONE)


MIXED = pa.concat_tables(
    [
        texts(range(40, 70)),
        texts([1, 3, 50, 51, 51], ids=["a1", "a3", "a50", "a51", "b51"], authors=["b"] * 5),
        texts([80], ids=["id9"]),
    ]
)
"""New texts, further ids of stored and of new ones, a known id with another text."""
MIXED_GONE = ["id1", "id45", "id50", "id51", "a51", "id9"]


def finish(root: Path) -> None:
    """Write what is left of the plan under way, as its workers would, and commit."""
    store = ActivationStore.open(root)
    plan = store.open_plan(active_plan_id(root) or "")
    write_blocks(store, plan, plan.blocks)
    store.commit()


def append_mixed(root: Path) -> None:
    """Finish the append of MIXED."""
    append(root, MIXED, changed="replace")


def mixed_begun(root: Path) -> None:
    """Forty texts and an append that was left with its first block written."""
    forty(root)
    leave(root, MIXED, changed="replace", upto=0.5)


def mixed_half(root: Path) -> None:
    """Forty texts and an append that was left with its first block committed."""
    mixed_begun(root)
    ActivationStore.open(root).commit()
    leave(root, MIXED, changed="replace")


def delete_from_mixed(root: Path) -> None:
    """Delete what is stored, what is planned, and an author."""
    ActivationStore.open(root).delete(MIXED_GONE, author_ids=["author2"])


def compact_all(root: Path) -> None:
    """Compact, of which a kill before may have done a part."""
    compact(ActivationStore.open(root))


def read_until(root: Path, stop: Path, seed: int) -> None:
    """Open, read and go on reading, whatever happens to the store, until a file is there."""
    rng = random.Random(seed)
    stores: list[ActivationStore] = []
    while not stop.exists():
        store = ActivationStore.open(root, check=rng.choice(["first", "always"]))
        stores = [*stores[-3:], store]
        for seen in stores:
            read_some(seen, rng)
        for snapshot in rng.sample(store.snapshots(), 1):
            assert snapshot.num_samples >= 0


def read_some(store: ActivationStore, rng: random.Random) -> None:
    """Read of a snapshot: what it knew as living is as it was, or was deleted since."""
    rows = store.samples()
    numbers = [number_of(text) if text else None for text in rows["text"].to_pylist()]
    places = rows["position"].to_pylist()
    array = rng.choice(sorted(store.schema.arrays))
    layout = store.schema.arrays[array]
    layer = layout.layers[0]
    want = values_of(SCHEMA, [f"id{n or 0}" for n in numbers])[array][0]
    want = want.reshape(layout.rows, len(numbers)).T
    if rng.random() < 0.5:
        got = store.read_matrix(array, layer=layer)[places]
    else:
        chosen = sorted(rng.sample(range(layout.rows), 2))
        got = store.read_features(array, layer=layer, features=chosen)[places]
        want = want[:, chosen]
    for number, values, wanted in zip(numbers, got, want, strict=True):
        # Without text it was deleted since, and may or may not be compacted.
        assert number is None or np.isnan(values).all() or (values == wanted).all(), number
    if rng.random() < 0.2:
        dataset = store.to_xarray()
        assert len(dataset["sample"]) <= len(rows)
        assert dataset[array][0, 0, 0].values.shape == (len(dataset["sample"]),)
    assert store.moments(array, layer=layer)[0] <= len(rows)
    for task in store.tasks():
        store.labels(task)


def content(root: Path) -> dict[str, Any]:
    """What a reader finds, once its numbers are compared."""
    store = ActivationStore.open(root, check="always")
    dead = store.reader.dead
    for array, layout in store.schema.arrays.items():
        ids = [f"id{number_of(text)}" for text in store.samples()["text"].to_pylist()]
        for index, layer in enumerate(layout.layers):
            values = store.read_matrix(array, layer=layer)
            assert np.isnan(values[dead]).all()
            want = values_of(SCHEMA, ids)[array][index].reshape(layout.rows, len(ids)).T
            np.testing.assert_array_equal(values[~dead], want)
            assert store.moments(array, layer=layer)[0] == len(ids)
    return store_world.content(root)
