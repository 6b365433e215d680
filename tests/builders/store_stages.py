"""What changes a store, as stages that can be killed, and a model of what must be there afterwards.

A world is `{id: text number}`. The activations of a sample depend on its text only.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from store import ActivationStore, StoreError
from store.commits.plans import active_plan_id
from store.upkeep.compaction import compact
from store.upkeep.export import export_archive, export_parquet
from store.upkeep.garbage import gc
from store.upkeep.inspection import verify
from tests.builders import store_world
from tests.builders.store_world import (
    SCHEMA,
    content,
    files_with,
    fingerprint,
    number_of,
    text_of,
    values,
    write_blocks,
)

World = dict[str, int]
NEW_STATES = (0, 1)


def samples(world: Mapping[str, int]) -> pa.Table:
    """As `plan_append` takes them; every third is by the author `odd`."""
    authors = ["odd" if number % 3 == 1 else "even" for number in world.values()]
    return store_world.samples(world, authors)


# --- what is done to a store --------------------------------------------------------------------

BASE: World = {f"a{i}": i for i in range(1, 21)} | {"b1": 1, "b2": 2}
GONE = ("a5", "a19")
BATCH: World = {f"c{i}": 30 + i for i in range(14)} | {"c20": 3, "c21": 17, "c22": 35, "a1": 1}
"""14 new texts, further ids of two that are stored and of one that is new, and a known one."""
CHANGED: World = {"a2": 72, "a3": 17, "a4": 73, "a1": 1}
"""Other texts of known ids: new ones, one that another id has, and one that has not changed."""
OTHER: World = {"d1": 81, "d2": 82, "d3": 33, "d4": 17}
DOOMED = ("a3", "a17", "a9", "c3", "c13", "a2", "b1")
"""Targets of aliases, texts of the batch, and one id of two."""
SLOT = tuple(f"a{i}" for i in range(9, 17))


def make(root: Path) -> None:
    if not ActivationStore.exists(root):
        ActivationStore.create(root, SCHEMA)


def append(root: Path, world: World, changed: str = "error") -> None:
    """Append in one process, with commits between the blocks."""
    store = ActivationStore.open(root)
    plan = store.plan_append(samples(world), changed=changed)
    for number, block in enumerate(plan.blocks):
        write_blocks(store, plan, [block])
        if number != 1:
            store.commit()
    store.commit()


def leave(root: Path, world: World, committed: int, written: int) -> None:
    """Begin an append and leave it, with some blocks committed and some more written."""
    store = ActivationStore.open(root)
    plan = store.plan_append(samples(world))
    blocks = plan.blocks
    write_blocks(store, plan, blocks[:committed])
    if committed:
        store.commit()
    write_blocks(store, plan, blocks[committed:written])
    store.release()


def finish(root: Path) -> None:
    """Write what is left of an append under way, if there is one, as its workers do; commit."""
    store = ActivationStore.open(root)
    if plan_id := active_plan_id(root):
        plan = store.open_plan(plan_id)
        write_blocks(store, plan, plan.blocks)
    store.commit()


def write_for_another(root: Path) -> None:
    """Plan, have the blocks written by writers that open the plan, last ones first, commit."""
    store = ActivationStore.open(root)
    plan = store.plan_append(samples(BATCH))
    if plan.blocks:
        writer = ActivationStore.open(root)
        theirs = writer.open_plan(plan.id)
        for block in reversed(theirs.blocks):
            write_blocks(writer, theirs, [block])
            store.commit()
    store.commit()


def backfill(root: Path, blocks: int | None = None) -> None:
    store = ActivationStore.open(root)
    plan = store.plan_backfill(hidden_layers=NEW_STATES)
    write_blocks(store, plan, plan.blocks[:blocks])
    if blocks is None:
        store.commit()
    else:
        store.release()


def delete(root: Path, ids: Sequence[str]) -> None:
    ActivationStore.open(root).delete(ids)


def delete_author(root: Path) -> None:
    ActivationStore.open(root).delete(author_ids=["odd"])


def delete_and_commit(root: Path, ids: Sequence[str]) -> None:
    """Delete, also of an append that is written, and commit what is left of that."""
    delete(root, ids)
    ActivationStore.open(root).commit()


def turn(root: Path) -> None:
    """A second id comes, goes and comes again; then its first goes. A text becomes another."""
    append(root, {"b6": 6})
    delete(root, ["b6"])
    append(root, {"b6": 6})
    delete(root, ["a6"])
    append(root, {"a7": 57}, "replace")


def compact_store(root: Path) -> None:
    compact(ActivationStore.open(root))


def delete_and_compact(root: Path, ids: Sequence[str]) -> None:
    """The latter is refused while an append is not finished, with what to do about it."""
    delete(root, ids)
    try:
        compact_store(root)
    except StoreError as error:
        assert "run it again to finish it" in str(error), error


def collect(root: Path) -> None:
    gc(ActivationStore.open(root), keep=1)


def label(root: Path) -> None:
    ActivationStore.open(root).put_labels("mood", labels(1), spec={"round": 1})


def labels(round_: int) -> pa.Table:
    ids = ["a1", "a18", "a20", "c1"]
    return pa.table({"id": ids, "split": ["train"] * 4, "label": [f"of {round_}"] * 4})


def export(root: Path) -> None:
    """Write an archive and a table, those that are not there."""
    store = ActivationStore.open(root)
    if not root.with_name("archive").exists():
        export_archive(store, root.with_name("archive"))
    if not root.with_name("table.parquet").exists():
        export_parquet(store, root.with_name("table.parquet"), layer=1, units=[2])


def prepare(root: Path) -> None:
    """20 texts in three slots, two of them under two ids, two deleted, one task's labels."""
    ActivationStore.create(root, SCHEMA)
    append(root, BASE)
    delete(root, GONE)
    ActivationStore.open(root).put_labels("mood", labels(0), spec={"round": 0})


def _nothing(world: World) -> None:
    """Of stages that change no sample."""


def _without(ids: Iterable[str]) -> Callable[[World], None]:
    def change(world: World) -> None:
        for name in ids:
            world.pop(name, None)

    return change


def _with(others: World) -> Callable[[World], None]:
    return lambda world: world.update(others)


def _turned(world: World) -> None:
    del world["a6"]
    world.update({"b6": 6, "a7": 57})


def _without_author(world: World) -> None:
    # The odd ones, by the text under which the id came; aliases keep their own author.
    for name in [name for name, number in world.items() if number % 3 == 1]:
        del world[name]


@dataclass(frozen=True)
class Deed:
    """Something done to a store.

    Attributes:
        call: does it; with `root` and `args`.
        expected: does the same to a world.
        args: further arguments.
    """

    call: Callable[..., None]
    expected: Callable[[World], None] = _nothing
    args: tuple[Any, ...] = ()

    def __call__(self, root: Path) -> None:
        self.call(root, *self.args)


@dataclass(frozen=True)
class Stage:
    """A deed that is killed and done again.

    Attributes:
        change: what is killed.
        before: what the store went through before.
        after: what comes when it was done again, before all is compared.
        atomic: readers see the store as it was before or as it is after it, nothing else.
        optional: ids that may or may not be there in the end.
        states: the hidden states there must be in the end.
        empty: there is no store before.
        thens: what may come between the kill and the same call again, names in `THENS`.
    """

    change: Deed
    before: tuple[Deed, ...] = ()
    after: tuple[Deed, ...] = ()
    atomic: bool = True
    optional: frozenset[str] = frozenset()
    states: tuple[int, ...] = (2,)
    empty: bool = False
    thens: tuple[str, ...] = field(default=())


THENS: dict[str, Deed] = {
    "delete": Deed(delete, _without(DOOMED), (DOOMED,)),
    "delete, compact": Deed(delete_and_compact, _without(DOOMED), (DOOMED,)),
    "append": Deed(append, _with(OTHER), (OTHER,)),
    "backfill": Deed(backfill),
    "gc": Deed(collect),
    "label": Deed(label),
}
ALL = tuple(THENS)
APPEND = Deed(append, _with(BATCH), (BATCH,))
REPLACE = Deed(append, _with(CHANGED), (CHANGED, "replace"))
TURN = Deed(turn, _turned)
EMPTY_SLOT = Deed(delete, _without(SLOT), (SLOT,))
BEGUN = Deed(leave, args=(BATCH, 0, 1))
HALF = Deed(leave, args=(BATCH, 1, 3))
UNFINISHED = frozenset({*BATCH} - {*BASE})
BESIDE = ("append", "backfill", "gc", "label")
STAGES: dict[str, Stage] = {
    "create": Stage(Deed(make), empty=True),
    "append": Stage(APPEND, atomic=False, thens=ALL),
    "append, by a driver and writers": Stage(
        Deed(write_for_another, _with(BATCH)), atomic=False, thens=ALL
    ),
    "append, replacing texts": Stage(REPLACE, atomic=False, thens=ALL),
    "append, resumed": Stage(
        APPEND, before=(Deed(leave, args=(BATCH, 1, 1)),), atomic=False, thens=ALL
    ),
    "append, of which all is written": Stage(APPEND, before=(HALF,), thens=ALL),
    "append, in place of another": Stage(
        Deed(append, _with(OTHER), (OTHER,)),
        before=(Deed(leave, args=(BATCH, 1, 2)),),
        atomic=False,
        optional=UNFINISHED,
        thens=("delete", "delete, compact", "backfill", "gc"),
    ),
    "backfill": Stage(Deed(backfill), states=(0, 1, 2), thens=ALL),
    "backfill, resumed": Stage(
        Deed(backfill), before=(Deed(backfill, args=(1,)),), states=(0, 1, 2), thens=ALL
    ),
    "backfill, after a compaction": Stage(
        Deed(backfill),
        before=(TURN, EMPTY_SLOT, Deed(compact_store)),
        states=(0, 1, 2),
        thens=ALL,
    ),
    "delete": Stage(Deed(delete, _without(SLOT + DOOMED), (SLOT + DOOMED,)), thens=ALL),
    "delete, by author": Stage(Deed(delete_author, _without_author), thens=("append", "gc")),
    "delete, beside an append": Stage(
        Deed(delete, _without(DOOMED), (DOOMED,)),
        before=(BEGUN,),
        after=(Deed(finish),),
        optional=UNFINISHED,
        thens=BESIDE,
    ),
    "delete, amid an append": Stage(
        Deed(delete_and_commit, _without(DOOMED), (DOOMED,)),
        before=(HALF,),
        atomic=False,
        optional=UNFINISHED,
        thens=BESIDE,
    ),
    "delete, beside a backfill": Stage(
        Deed(delete, _without(SLOT + DOOMED), (SLOT + DOOMED,)),
        before=(Deed(backfill, args=(1,)),),
        after=(Deed(backfill),),
        states=(0, 1, 2),
        thens=("append", "gc", "label"),
    ),
    "compact": Stage(Deed(compact_store), before=(TURN, EMPTY_SLOT), thens=ALL),
    "gc": Stage(Deed(collect), thens=ALL),
    "put_labels": Stage(Deed(label), before=(TURN,), thens=ALL),
    "export": Stage(Deed(export), before=(TURN,)),
}


def call_stage(name: str, folder: Path) -> None:
    """What is killed, by its name: a process is told no more."""
    STAGES[name].change(folder / "store")


# --- what must hold afterwards ------------------------------------------------------------------


def expected_world(stage: Stage, then: str | None) -> tuple[World, World]:
    """What the store holds in the end, and what was deleted and has not come back."""
    if stage.empty:
        return {}, {}
    world = dict(BASE)
    gone: World = {}
    changes = [Deed(delete, _without(GONE), (GONE,)), *stage.before, stage.change]
    if then is not None:
        changes += [THENS[then], stage.change]
    for change in changes:
        if change.call in (delete, delete_and_compact, delete_and_commit):
            gone |= {name: BATCH[name] for name in stage.optional.intersection(*change.args)}
        before = dict(world)
        change.expected(world)
        gone |= {name: number for name, number in before.items() if world.get(name) != number}
    return world, {name: number for name, number in gone.items() if world.get(name) != number}


def faults(root: Path, stage: Stage, then: str | None) -> list[str]:
    """What is wrong with a store, each beginning with `lost`, `doubled`, `revived` or `stuck`."""
    world, gone = expected_world(stage, then)
    try:
        found = [*_compare(root, world, {*gone} - {*world}, stage, then)]
        if stage.change.call is export:
            return [*found, *_exports(root)]
        if not found:
            compact(ActivationStore.open(root))
            found = [*_compare(root, world, {*gone} - {*world}, stage, then)]
            _read_earlier(root)
            found += _texts_left(root, {text_of(number) for number in gone.values()})
    except (StoreError, OSError, ValueError, KeyError) as error:
        return [f"stuck: {type(error).__name__}: {error}"]
    return found


def _exports(root: Path) -> Iterable[str]:
    """Whether there are a whole archive and a whole table, and nothing else beside the store."""
    beside = sorted(path.name for path in root.parent.iterdir())
    if beside != ["archive", "store", "table.parquet"]:
        yield f"stuck: {beside}"
    again = root.parent / "again"
    again.mkdir()
    shutil.copytree(root, again / "store")
    export(again / "store")
    for path in again.rglob("*"):
        name = path.relative_to(again)
        if path.is_file() and name.parts[0] != "store":
            other = root.parent / name
            if not other.exists() or other.read_bytes() != path.read_bytes():
                yield f"lost: {name}"


def _compare(
    root: Path, world: World, deleted: set[str], stage: Stage, then: str | None
) -> Iterable[str]:
    yield from _sound(root)
    store = ActivationStore.open(root)
    held = {name: number_of(text) for name, (text, *_) in content(root)["samples"].items()}
    for name, number in world.items():
        if held.get(name) != number:
            yield f"lost: {name} has text {held.get(name)}, not {number}"
    yield from (f"revived: {name}" for name in sorted(deleted & {*held}))
    odd = {*held} - {*world} - deleted - stage.optional
    yield from (f"revived: {name}, which nobody appended" for name in sorted(odd))
    if not {*stage.states} <= {*store.schema.hidden_layers}:
        yield f"lost: hidden states {stage.states}, there are {store.schema.hidden_layers}"
    if not stage.empty:
        relabelled = then == "label" or stage.change.call is label
        yield from _compare_labels(store, {*held}, relabelled=relabelled)


def _read_earlier(root: Path) -> None:
    """Read of all snapshots, which a compaction leaves readable."""
    for snapshot in ActivationStore.open(root).snapshots():
        earlier = ActivationStore.open(root, snapshot=snapshot.id)
        earlier.samples()
        if earlier.num_living:
            earlier.read_matrix(layer=1)


def _sound(root: Path) -> Iterable[str]:
    """What is wrong with a store whatever is in it."""
    store = ActivationStore.open(root, check="always")
    if damage := verify(store).damage:
        yield f"stuck: verify: {len(damage)} problems, the first: {damage[0].message}"
    rows = store.samples()
    text_at = dict(zip(rows["position"].to_pylist(), rows["text"].to_pylist(), strict=True))
    ids = store.index.records["id"].to_pylist()
    for what, counts in (("id", Counter(ids)), ("text", Counter(text_at.values()))):
        yield from (f"doubled: {what} {name}" for name, number in counts.items() if number > 1)
    if len(set(store.schema.hidden_layers)) < len(store.schema.hidden_layers):
        yield f"doubled: hidden states {store.schema.hidden_layers}"
    alive = np.asarray(sorted(text_at), np.int64)
    numbers = [number_of(text_at[position]) for position in alive.tolist()]
    for name, layout in store.schema.arrays.items() if len(rows) else ():
        for layer in layout.layers:
            got = store.read_matrix(name, layer=layer)
            want = np.full_like(got, np.nan)
            want[alive] = values(store.schema, name, [layer], numbers)[0].reshape(-1, len(alive)).T
            if not np.array_equal(got, want, equal_nan=True):
                yield f"lost: values of {name}, layer {layer}"
            if store.moments(name, layer=layer)[0] != len(alive):
                yield f"lost: moments of {name}, layer {layer}"


def faults_between(root: Path, stage: Stage, before: Any, after: Any) -> list[str]:
    """What is wrong with a store whose stage was killed and not yet done again."""
    found = content(root)
    faults = [*_sound(root)] if found else []
    if stage.atomic and found not in (before, after):
        faults.append("lost: neither as before nor as after")
    if not stage.atomic:
        had, has, comes = (one["samples"] for one in (before, found, after))
        odd = [n for n in {**had, **has} if has.get(n) not in (had.get(n), comes.get(n))]
        faults += [f"lost: {n} is neither as before nor as after" for n in odd]
    return faults


def _compare_labels(store: ActivationStore, held: set[str], *, relabelled: bool) -> Iterable[str]:
    """Labels of living ids are those of the last time that they were put."""
    round_ = int(relabelled)
    if store.label_spec("mood") != {"round": round_}:
        yield f"lost: labels: {store.label_spec('mood')}"
    wanted, found = labels(round_).to_pylist(), store.labels("mood").to_pylist()
    if lost := [row for row in wanted if row["id"] in held and row not in found]:
        yield f"lost: labels {lost}: {found}"


def _texts_left(root: Path, gone: set[str]) -> Iterable[str]:
    """Deleted texts that stand somewhere in a compacted store."""
    gone = gone - {*ActivationStore.open(root).samples()["text"].to_pylist()}
    for path, text in files_with(root, sorted(gone)):
        yield f"revived: {text} in {path.relative_to(root)}"


class _Stores:
    """The matrix of `tests.builders.killing`."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}
        self._after: dict[str, Any] = {}
        self._whole: dict[str, Any] = {}

    def names(self) -> list[str]:
        return [*STAGES]

    def prepare(self, stage: str, folder: Path) -> None:
        root = folder / "store"
        if not STAGES[stage].empty:
            prepare(root)
            for change in STAGES[stage].before:
                change(root)
        whole = folder.with_name("undisturbed")
        shutil.copytree(folder, whole)
        self._before[stage] = content(root)
        STAGES[stage].change(whole / "store")
        self._after[stage] = content(whole / "store")
        for change in STAGES[stage].after:
            change(whole / "store")
        self._whole[stage] = fingerprint(whole / "store")

    def thens(self, stage: str) -> Sequence[str]:
        return STAGES[stage].thens

    def call(self, stage: str) -> tuple[Callable[..., object], tuple[object, ...]]:
        return call_stage, (stage,)

    def between(self, stage: str, folder: Path) -> list[str]:
        return faults_between(
            folder / "store", STAGES[stage], self._before[stage], self._after[stage]
        )

    def go_on(self, stage: str, folder: Path, then: str | None) -> None:
        if then is not None:
            THENS[then](folder / "store")
        call_stage(stage, folder)

    def faults(self, stage: str, folder: Path, then: str | None) -> list[str]:
        root = folder / "store"
        for change in STAGES[stage].after:
            change(root)
        if then is None:
            found, wanted = fingerprint(root), self._whole[stage]
            odd = sorted(n for n in {**found, **wanted} if found.get(n) != wanted.get(n))
            if odd:
                return [f"lost: {odd} are not as if nobody had been killed"]
        return faults(root, STAGES[stage], then)


STORES = _Stores()
