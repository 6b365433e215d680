"""What happens in a store's life, as functions of plain data, so that a process may die at one.

Each takes a store that was opened before, or the root of one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from store import ActivationStore, AppendPlan, text_hash
from tests.builders.store_world import NOBODYS, number_of, samples, text_of, values, write_blocks


def opened(where: Path | ActivationStore) -> ActivationStore:
    """The store, opened here if it is not yet."""
    return where if isinstance(where, ActivationStore) else ActivationStore.open(where)


def append(
    where: Path | ActivationStore,
    batch: Mapping[str, int],
    again: int,
    stop: float,
    commits: int,
    seed: int,
) -> None:
    """Append ids and numbers of texts, up to a part of the blocks.

    Args:
        where: the store.
        batch: id -> number of its text.
        again: so many of them come a second time.
        stop: which part of the blocks is written; all but 1.0 leaves it to whoever comes next.
        commits: after so many blocks it is committed.
        seed: of the order of the blocks.
    """
    store = opened(where)
    table = samples(batch, [name.split("/")[1] for name in batch])
    table = pa.concat_tables([table, table.slice(0, again)])
    write(store, store.plan_append(table, changed="replace"), stop, commits, seed)


def backfill(where: Path | ActivationStore, layers: Sequence[int], stop: float, seed: int) -> None:
    """Add hidden states."""
    store = opened(where)
    write(store, store.plan_backfill(hidden_layers=layers), stop, 2, seed)


def write(store: ActivationStore, plan: AppendPlan, stop: float, commits: int, seed: int) -> None:
    """Write a part of a plan's blocks, in any order."""
    blocks = list(plan.blocks)
    random.Random(seed).shuffle(blocks)
    for number, block in enumerate(blocks[: round(stop * len(blocks))], 1):
        write_blocks(store, plan, [block])
        if number % commits == 0:
            store.commit()
    if stop == 1.0:
        store.commit()
    store.release()


def check_numbers(store: ActivationStore) -> dict[str, int]:
    """Compare all that a snapshot shows; returns id -> number of its text."""
    rows = store.samples().select(["position", "text"]).to_pylist()
    texts = {row["position"]: number_of(row["text"]) for row in rows}
    places = sorted(texts)
    living = [text for text in texts.values() if text != NOBODYS]
    assert len(set(living)) == len(living)  # no text twice
    newest = store.snapshot_id == ActivationStore.open(store.location.root).snapshot_id
    for name, layout in store.schema.arrays.items():
        for layer in layout.layers:
            if newest:
                _check_layer(store, name, layer, texts)
                continue
            living_values = store.read_matrix(name, layer=layer)[places]
            numbers = [texts[place] for place in places]
            want = values(store.schema, name, [layer], numbers)[0].reshape(layout.rows, -1).T
            # An older snapshot may show what was deleted and compacted since.
            gone = np.isnan(living_values).all(axis=1) | (np.array(numbers, int) == NOBODYS)
            np.testing.assert_array_equal(living_values[~gone], want[~gone])
    records = store.index.records.select(["id", "position"]).to_pylist()
    found = {record["id"]: texts[record["position"]] for record in records}
    assert len(found) == len(records)  # no id twice
    if newest:
        assert store.num_living == len(places)
        at = {record["id"]: record["position"] for record in records}
        assert store.positions([*at, "nobody"]).tolist() == [*at.values(), -1]
        by_text = {text: place for place, text in texts.items()}
        hashes = [text_hash(text_of(number)) for number in range(26)]
        assert store.positions_by_hash(hashes).tolist() == [by_text.get(t, -1) for t in range(26)]
    return found


def _check_layer(store: ActivationStore, name: str, layer: int, texts: Mapping[int, int]) -> None:
    """Read a layer of the newest snapshot in every way."""
    layout, places = store.schema.arrays[name], sorted(texts)
    numbers = [texts[place] for place in places]
    alive = values(store.schema, name, [layer], numbers)[0].reshape(layout.rows, len(places)).T
    want = np.full((store.num_samples, layout.rows), np.nan, np.float32)
    want[places] = alive
    rng = random.Random(store.num_samples + layer)
    np.testing.assert_array_equal(store.read_matrix(name, layer=layer), want)
    ends = [rng.choice([None, rng.randint(-9, 9)]) for _ in range(2)]
    part = slice(*ends, rng.choice([None, 1, 2, -1, -3]))
    np.testing.assert_array_equal(
        store.read_matrix(name, layer=layer, samples=part, dtype="float64"), want[part]
    )
    some = rng.choices(places, k=rng.randrange(6)) if places else []
    features = rng.choices(range(layout.rows), k=rng.randrange(5))
    chosen = want[np.array(some, int)]
    np.testing.assert_array_equal(store.read_matrix(name, layer=layer, samples=some), chosen)
    np.testing.assert_array_equal(
        store.read_features(name, layer=layer, features=features, samples=some),
        chosen[:, np.array(features, int)],
    )
    count, mean, m2 = store.moments(name, layer=layer)
    assert count == len(places)
    if count:
        np.testing.assert_allclose(mean, alive.mean(0, dtype=np.float64), rtol=1e-6)
        np.testing.assert_allclose(m2, alive.var(0) * count, rtol=1e-4, atol=1e-5)
