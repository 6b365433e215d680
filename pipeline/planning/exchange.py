"""Make other heads of a run its chosen ones, those that scoring takes.

    apply(plan)                         # those of plan.picked

The test split is not read for it: a head that the run has evaluated keeps its test scores, any
other has none until the run is evaluated anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import HeadError
from pipeline.heads import KINDS, Head
from pipeline.locking import one_at_a_time
from pipeline.planning.depth import Plan
from pipeline.progress import Say, silent
from pipeline.runfolder import read_metrics
from store.disk import sync_directory, write_files
from store.tables import write_json

_FACTS = ("kind", "depth", "selection", "num_features", "val", "score")
_OF_CHOSEN = ("chosen", "gain", "gain_calibrated", "labels")


def apply(plan: Plan, *, say: Say = silent) -> Plan:
    """Make the picked heads of a plan the chosen ones of their tasks; each is exchanged as a whole.

    Returns:
        The plan with them as its chosen ones.

    Raises:
        SalientError: a head that is not there any more, or damaged metrics.
    """
    for task in plan.tasks:
        wanted = plan.picked.heads[task.name]
        folder = task.run.head(task.name, wanted.name)
        with one_at_a_time(task.run.path, say):
            recover(task.run.head(task.name))
            head = Head.load(folder)
            if head.fingerprint != wanted.fingerprint:
                raise HeadError(f"{folder}: is another head by now; plan again")
            # As it is now: another plan may have been applied while this one was measured.
            if head.fingerprint != Head.load(task.run.head(task.name)).fingerprint:
                _exchange(folder)
            metrics = read_metrics(task.run)
            metrics["tasks"][task.name] = entry_for(metrics["tasks"][task.name], head)
            write_json(task.run.metrics, metrics)
    return replace(plan, chosen=plan.picked)


def _exchange(folder: Path) -> None:
    """Put a copy of a head folder in the place of the chosen one."""
    chosen = folder.with_name("chosen")
    fresh, old = chosen.with_name(".chosen.new"), chosen.with_name(".chosen.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write_files({fresh / path.name: [path.read_bytes()] for path in folder.iterdir()})
    chosen.rename(old)  # killed after this: `recover` puts it back
    fresh.rename(chosen)
    sync_directory(chosen.parent)
    shutil.rmtree(old, ignore_errors=True)


def entry_for(entry: Mapping[str, Any], head: Head) -> dict[str, Any]:
    """A task's entry of ``metrics.json`` with another chosen head, without reading the test split.

    ``evaluated`` keeps what the run found for the head that it chose itself.
    """
    card = head.card
    facts = {
        "kind": card.kind,
        "depth": card.depth,
        "selection": card.selection,
        "num_features": card.num_features,
        "val": card.val_score,
        "score": card.metrics.get("score"),
    }

    def same(other: Mapping[str, Any]) -> bool:
        return all(other.get(name) == facts[name] for name in _FACTS)

    if same(entry["chosen"]):
        return dict(entry)
    own = entry.get("evaluated") or {k: entry[k] for k in _OF_CHOSEN if k in entry}
    rest = {k: v for k, v in entry.items() if k not in (*_OF_CHOSEN, "evaluated")}
    if same(own["chosen"]):
        return rest | own
    known = next((rest[kind] for kind in KINDS if same(rest.get(kind, {}))), None)
    names = ("loss", "judged_on", "calibration")  # those of older runs lack some
    more = {name: card.metrics[name] for name in names if name in card.metrics}
    note = "it was chosen by `salient plan` after the test split was read"
    chosen = known or facts | more | {"test": {}, "test_interval": {}}
    return rest | {"chosen": chosen | {"note": note}, "gain": {}, "evaluated": own}


def recover(chosen: Path) -> None:
    """Put a chosen head back that was moved away by an exchange that was killed, if there is one.

    The caller holds the run's lock.
    """
    old = chosen.with_name(".chosen.old")
    if not chosen.exists() and old.is_dir():
        old.rename(chosen)
        sync_directory(chosen.parent)
