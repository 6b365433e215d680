"""Removing from a bucket what no kept snapshot names: the end of a compaction, and `gc`.

    sweep = plan_sweep(location, keep=…, grace_s=…)     looks
    do_sweep(location, sweep)                           objects, then records of older snapshots

There is no lock, so whether an object may still be named is told by its name and the order in which
things are looked at: first all objects are listed, then the newest snapshot is read.

    made upon snapshot b      its writer can commit number b + 1 and no other; if that number is
                              taken and does not name it, it has lost and makes its objects anew
    written for a plan        which had been committed before; if the newest snapshot has another
                              plan under way or none, what it does not name was not taken
    of neither kind           what a probe left, and leases: they go by their age

So `gc` commits a snapshot first, a fence, and what was made upon an older one is done with. What
only snapshots named that are not kept is done with too. Both go once they are older than a grace
period, for readers that are at it; those of a compaction go at once. Records that are not kept are
emptied, and stay, so that their numbers are not taken again.

Everything here can die anywhere and be done again, by several at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from store.commits import made_upon, parse_manifest, plan_tables
from store.disk import Meta, ObjectLocation
from store.layout import ARRAYS
from store.records import (
    INDEX,
    LABELS,
    PLANS,
    Snapshot,
    empty_record,
    kept_snapshots,
    parse_record,
    snapshot_path,
)

_TAG = r"[0-9a-f]{12}-[0-9a-f]{8}"
_SHARD = re.compile(rf"(?:{'|'.join(ARRAYS)})/c/[0-9]+/0/0/(0|[1-9][0-9]*)\.({_TAG})", re.ASCII)
_TABLE = re.compile(rf"(?:{re.escape(INDEX)}|{re.escape(LABELS)})/[^/]+\.parquet", re.ASCII)
_MADE_FOR = re.compile(rf"({_TAG})(?:-[0-9]+)?\.parquet", re.ASCII)
_PLAN = re.compile(rf"{re.escape(PLANS)}/([0-9a-f]{{12}})/.+", re.ASCII)
_PROBE = re.compile(r"\.salient-probe-[0-9a-f]{16}", re.ASCII)
"""What a probe of conditions leaves that dies: see `store.disk.check_conditions`."""
PROBE_S = 3600.0
"""How long a probe may be at work, and a lease be there before its plan, whatever the grace."""
_LEASE = "/lease.json"


def record_id(path: str) -> str | None:
    """The snapshot whose record an object is; None of others."""
    found = parse_record(path)
    return found.id if found and not found.is_copy else None


def shard_slot(path: str) -> int | None:
    """The slot whose shard an object is; None of others."""
    found = _SHARD.fullmatch(path)
    return int(found[1]) if found else None


def is_probe(path: str) -> bool:
    """Whether an object is what a probe of conditions left that died."""
    return _PROBE.fullmatch(path) is not None


def is_ours(path: str) -> bool:
    """Whether an object's name is one that a store on a bucket gives."""
    if record_id(path) or parse_manifest(path) or is_probe(path):
        return True
    kinds = (_SHARD.fullmatch(path), _TABLE.fullmatch(path), _PLAN.fullmatch(path))
    return any(kind is not None for kind in kinds)


def _is_passing(path: str) -> bool:
    """Whether an object may be there for a while although no commit says so."""
    return is_probe(path) or path.endswith(_LEASE)


class NamedObjects:
    """The objects that some snapshots show: `path in named`.

    Shards have their names from manifests, so that what belongs to a manifest is told without
    reading it.
    """

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._paths = set().union(*(snapshot.files() for snapshot in snapshots))
        found = (parse_manifest(path) for path in self._paths)
        self._attempts = {(name.slot, f"{name.plan}-{name.attempt}") for name in found if name}

    def __contains__(self, path: str) -> bool:
        if path in self._paths:
            return True
        shard = _SHARD.fullmatch(path)
        return shard is not None and (int(shard[1]), shard[2]) in self._attempts

    def add(self, paths: Iterable[str]) -> None:
        """Name some more."""
        self._paths.update(paths)


def _may_be_named(path: str, head: Snapshot) -> bool:
    """Whether a writer at work may still commit an object that the newest snapshot lacks."""
    base = made_upon(path)
    if base is not None:
        return base >= int(head.id)
    under_way = None if head.plan is None else head.plan.id
    return under_way is not None and plan_of(path) == under_way


def plan_of(path: str) -> str | None:
    """The plan that an object was written for; None if it was not."""
    if found := _PLAN.fullmatch(path):
        return found[1]
    if named := parse_manifest(path):
        return named.plan
    tags = (_SHARD.fullmatch(path), 2), (_made_for(path), 1)
    tag = next((found[at] for found, at in tags if found), None)
    return None if tag is None else tag.partition("-")[0]


def _made_for(path: str) -> re.Match[str] | None:
    """The end of a table's name that says which attempt at a plan made it."""
    ends = ("-".join(path.rsplit("-", parts)[1:]) for parts in (2, 3))
    return next(filter(None, map(_MADE_FOR.fullmatch, ends)), None)


@dataclass(frozen=True)
class Sweep:
    """What a sweep removes, or would.

    Attributes:
        objects: in the order in which they go.
        records: of older snapshots, which are emptied.
        num_young: objects that no kept snapshot names, younger than the grace period.
    """

    objects: tuple[Meta, ...]
    records: tuple[Meta, ...]
    num_young: int

    @property
    def num_bytes(self) -> int:
        """Of all of it."""
        return sum(meta.size for meta in (*self.objects, *self.records))


def plan_sweep(
    location: ObjectLocation,
    choose: Callable[[list[Snapshot]], Sequence[Snapshot]] = list,
    *,
    grace_s: float = 0,
    now: float | None = None,
) -> Sweep:
    """Choose what goes.

    Args:
        location: of the store.
        choose: which of the snapshots that may be opened are kept: the newest and some before it.
        grace_s: what no kept snapshot names goes only if it is so many seconds old.
        now: seconds since 1970; default the time of the last commit, by the server's clock.
    """
    metas = list(location.list())
    kept = choose(kept_snapshots(location))  # after the listing: see the module's docstring
    head, oldest = kept[-1], int(kept[0].id)
    if now is None:
        now = location.head(snapshot_path(head.id)).modified
    records = [m for m in metas if m.size and int(record_id(m.path) or oldest) < oldest]
    needed = NamedObjects(kept)
    needed.add(plan_tables(head))
    objects, num_young = [], 0
    for meta in metas:
        path = meta.path
        if record_id(path) or not is_ours(path) or path in needed or _may_be_named(path, head):
            continue
        if grace_s and meta.modified > now - grace_s:
            num_young += 1
        elif not _is_passing(path) or meta.modified <= now - PROBE_S:
            objects.append(meta)
    return Sweep(tuple(objects), tuple(records), num_young)


def do_sweep(location: ObjectLocation, sweep: Sweep) -> None:
    """Remove it: objects, then the records that named some of them."""
    location.delete([meta.path for meta in sweep.objects])
    for meta in sweep.records:
        empty_record(location, record_id(meta.path) or "")
