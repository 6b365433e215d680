"""A store's life in any order, with processes that are killed, against a dict of ids and texts.

What a killed process had begun may be there or not, of each id one or the other; what was finished
is there; what was deleted is not, and after a compaction in no file.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from store import ActivationStore, StoreError, StoreInputError, StoreSchema
from store.commits.plans import active_plan_id
from store.records import PLANS
from store.upkeep.compaction import compact
from store.upkeep.garbage import gc
from store.upkeep.inspection import verify
from tests.builders import store_life
from tests.builders.forking import start
from tests.builders.mortal import stop_at
from tests.builders.store_life import check_numbers, opened
from tests.builders.store_world import NOBODYS, files_with, text_of

NUMBERS = range(16)
IDS = st.builds("{}/{}".format, st.sampled_from(NUMBERS), st.integers(0, 2))
"""`<text>/<author>`; a few come with another text."""
BATCHES = st.lists(st.tuples(IDS, st.none() | st.sampled_from(NUMBERS)), max_size=12).map(
    lambda pairs: {name: int(name.split("/")[0]) if t is None else t for name, t in pairs}
)
KILLS = st.none() | st.integers(0, 250)
"""The step at which the process dies, if it does."""


class StoreLife(RuleBasedStateMachine):
    """A store beside what must be in it, and what may."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.root = self.directory / "s"
        self.certain: dict[str, int] = {}
        self.begun: dict[str, set[int]] = defaultdict(set)
        self.labels: dict[str, float] = {}
        self.seen: dict[str, dict[str, int]] = {}
        self.sizes: dict[str, int] = {}
        self.places: dict[tuple[str, int], int] = {}
        self.readers: list[ActivationStore] = []

    def teardown(self) -> None:
        if ActivationStore.exists(self.root):
            self.store.release()
        shutil.rmtree(self.directory)

    @initialize(
        num_layers=st.integers(1, 2),
        width=st.integers(1, 3),
        poolings=st.sampled_from([("mean",), ("mean", "max")]),
        size=st.sampled_from([1, 3, 4, 8]),
        dtype=st.sampled_from(["float16", "float32"]),
        hidden=st.sampled_from([None, 2, 2]),
    )
    def create(
        self,
        num_layers: int,
        width: int,
        poolings: tuple[str, ...],
        size: int,
        dtype: str,
        hidden: int | None,
    ) -> None:
        self.schema = StoreSchema(
            num_layers=num_layers,
            neuron_size=width,
            poolings=poolings,
            samples_per_shard=size,
            dtype=dtype,
            hidden_size=hidden,
        )
        self.store = ActivationStore.create(self.root, self.schema)

    def happen(self, kill: int | None, function: Any, *args: Any) -> bool:
        """Let something happen here, or in a process that may be killed; whether it ended."""
        if kill is None:
            function(self.store, *args)
            return True
        self.store.release()
        process = start(stop_at, kill, signal.SIGKILL, self.root, None, function, self.root, *args)
        process.join()
        log = self.root.with_name("s.log").read_text(encoding="utf-8", errors="replace")
        assert process.exitcode in (0, -signal.SIGKILL), log
        return process.exitcode == 0

    @rule()
    def reopen(self) -> None:
        self.store.release()
        self.store = ActivationStore.open(self.root, check="always")

    @rule(
        batch=BATCHES,
        kill=KILLS,
        again=st.integers(0, 2),
        stop=st.sampled_from([0.0, 0.5, 1.0, 1.0]),
        seed=st.integers(0, 99),
    )
    def append(
        self, batch: dict[str, int], kill: int | None, again: int, stop: float, seed: int
    ) -> None:
        alone = not self.begun and active_plan_id(self.root) is None
        known, before = dict(self.certain), ActivationStore.open(self.root).num_samples
        done = self.happen(kill, store_life.append, batch, again, stop, 2, seed)
        if done and stop == 1.0:
            if alone and all(known.get(name, text) == text for name, text in batch.items()):
                new = {*batch.values()} - {*known.values()}  # each is computed once
                assert ActivationStore.open(self.root).num_samples == before + len(new)
            self.certain.update(batch)
            for name in batch:
                self.begun.pop(name, None)
            self.look()  # what was begun before came with it or never comes
            self.begun.clear()
            return
        for name, text in batch.items():
            self.begun[name].add(text)

    @rule(ids=st.sets(IDS, max_size=4), author=st.none() | st.integers(0, 2), kill=KILLS)
    def delete(self, ids: set[str], author: int | None, kill: int | None) -> None:
        authors = None if author is None else [str(author)]
        done = self.happen(kill, _delete, sorted(ids), authors)
        names = {*self.certain, *self.begun}
        doomed = {n for n in names if n in ids or (authors and n.split("/")[1] in authors)}
        for name in doomed:
            self.labels.pop(name, None)
            if done:
                self.certain.pop(name, None)
                self.begun.pop(name, None)
        if not done:  # each is there or not, as it may have been before
            found = check_numbers(ActivationStore.open(self.root))
            for name in doomed - set(found):
                self.certain.pop(name, None)
        elif doomed:
            gone = [text_of(n) for n in NUMBERS if n not in self.possible()]
            assert files_with(self.root / PLANS, gone) == []

    def possible(self) -> set[int]:
        """Texts that may still come or be there."""
        return {*self.certain.values(), *(t for texts in self.begun.values() for t in texts)}

    @rule(kill=KILLS)
    def compact(self, kill: int | None) -> None:
        if kill is not None:
            self.happen(kill, _compact)
            return
        try:
            _compact(self.store, patient=False)
        except StoreError as error:
            assert "append is not finished" in str(error)
            return
        self.look()
        gone = [text_of(n) for n in NUMBERS if n not in self.certain.values()]
        assert files_with(self.root, gone) == []

    @rule(kill=KILLS, keep=st.integers(1, 3))
    def collect(self, kill: int | None, keep: int) -> None:
        self.happen(kill, _collect, keep)

    @precondition(lambda self: self.schema.hidden_size is not None)
    @rule(
        layer=st.integers(0, 1),
        kill=KILLS,
        stop=st.sampled_from([0.5, 1.0]),
        seed=st.integers(0, 99),
    )
    def backfill(self, layer: int, kill: int | None, stop: float, seed: int) -> None:
        self.happen(kill, store_life.backfill, [layer], stop, seed)

    @rule(ids=st.sets(IDS, max_size=4), value=st.integers(0, 9), kill=KILLS)
    def label(self, ids: set[str], value: int, kill: int | None) -> None:
        if self.happen(kill, _label, sorted(ids), float(value)):
            self.labels = {name: float(value) for name in ids if name in self.certain}
        else:
            self.labels = {}

    @rule()
    def open_reader(self) -> None:
        self.readers = [*self.readers[-2:], ActivationStore.open(self.root)]

    @rule(data=st.data())
    def read_older(self, data: Any) -> None:
        names = [snapshot.id for snapshot in ActivationStore.open(self.root).snapshots()]
        name = data.draw(st.sampled_from(names))
        store = ActivationStore.open(self.root, snapshot=name, check="always")
        found = check_numbers(store)
        if name in self.seen:
            assert store.num_samples == self.sizes[name]
            for one, text in found.items():
                assert text in (NOBODYS, self.seen[name][one])

    @invariant()
    def look(self) -> None:
        if not ActivationStore.exists(self.root):
            return
        store = ActivationStore.open(self.root, check="always")
        found = check_numbers(store)
        for name in {*found, *self.certain}:
            may = {self.certain.get(name), *self.begun.get(name, ())}
            assert found.get(name) in may, (name, found.get(name), may)
        self.certain = found
        self.seen[store.snapshot_id] = dict(found)
        self.sizes[store.snapshot_id] = store.num_samples
        places = zip(found.items(), store.positions(list(found)).tolist(), strict=True)
        now = dict(places)
        moved = [one for one, place in now.items() if self.places.get(one, place) != place]
        assert not moved  # whoever stays, stays where it is
        self.places = now
        report = verify(store)
        assert report.sound, str(report)
        if self.labels:
            table = store.labels("task").to_pylist()
            have = {row["id"]: row["label"] for row in table}
            for name, value in self.labels.items():
                assert have[name] == value
        for reader in self.readers:
            check_numbers(reader)


def _delete(where: Path | ActivationStore, ids: list[str], authors: list[str] | None) -> None:
    store = opened(where)
    try:
        store.delete(ids, author_ids=authors)
    except StoreInputError as error:  # nobody here has an author: there are ids to delete alone
        assert "keeps no authors" in str(error)
        store.delete(ids)


def _compact(where: Path | ActivationStore, *, patient: bool = True) -> None:
    store = opened(where)
    try:
        compact(store)
    except StoreError:
        if not patient or active_plan_id(store.location.root) is None:
            raise


def _collect(where: Path | ActivationStore, keep: int) -> None:
    gc(opened(where), keep=keep)


def _label(where: Path | ActivationStore, ids: list[str], value: float) -> None:
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "split": pa.array(["train"] * len(ids), pa.string()),
            "label": pa.array([value] * len(ids), pa.float64()),
        }
    )
    opened(where).put_labels("task", table)


def live(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        StoreLife,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=[Phase.generate],  # each step of a failing life is printed
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_life_with_kills() -> None:
    live(examples=8, steps=12)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_many_lives_with_kills() -> None:
    live(examples=150, steps=30)
