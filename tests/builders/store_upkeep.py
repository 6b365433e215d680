"""What tests of upkeep run in processes of their own."""

from __future__ import annotations

import time

import pyarrow as pa

from store import ActivationStore
from store.disk import durable
from store.upkeep import compact
from tests.builders.store_processes import write_one


def append_slowly(address: str, batch: pa.Table, pause_s: float) -> None:
    """Append some samples, with a pause before the last block."""
    store = ActivationStore.open(address)
    plan = store.plan_append(batch)
    for index in range(len(plan.blocks)):
        if index + 1 == len(plan.blocks):
            time.sleep(pause_s)
        write_one(store, plan, index)
    store.commit()


def compact_slowly(address: str) -> None:
    """Compact, with a pause behind each change."""

    def pause(step: str) -> None:
        if step == "after put":
            time.sleep(0.2)

    durable.watch_steps(pause)
    compact(ActivationStore.open(address))
