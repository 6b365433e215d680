"""What `salient plan` does: plan, exchange the chosen heads, find a cascade, and write it all.

    found = plan_runs([Path("runs/demo/run")], apply=True, loss=0.005)
    found.facts["picks"], found.written

``facts`` is what ``--json`` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.planning import exchange, thresholds
from pipeline.planning.costs import MeasureOptions
from pipeline.planning.planner import make_plan, read_tasks, write_plan
from pipeline.planning.requests import scoring_requests
from pipeline.progress import Say, silent
from pipeline.runfolder import RunFolder


@dataclass(frozen=True)
class Outcome:
    """What was found, and the files that say so.

    Attributes:
        facts: the content of ``plan.json``, under ``cascade`` that of ``cascade.json``, and under
            ``requests`` what :func:`pipeline.planning.requests.scoring_requests` tells.
        written: the files, in the order of their writing.
    """

    facts: Mapping[str, Any]
    written: tuple[Path, ...]


def plan_runs(
    runs: Sequence[Path],
    *,
    tasks: Sequence[str] = (),
    pick: str | None = None,
    tolerance: float | None = None,
    min_texts_per_s: float | None = None,
    apply: bool = False,
    loss: float | None = None,
    measuring: MeasureOptions | None = None,
    say: Say = silent,
    on_plan: Callable[[Mapping[str, Any], RunFolder], None] = lambda *_: None,
) -> Outcome:
    """Plan how deep to score, and do what is asked for with the plan.

    Args:
        runs, tasks, pick, tolerance, min_texts_per_s: see
        :func:`pipeline.planning.planner.make_plan`.
        apply: make the picked heads the chosen ones.
        loss: find a cascade in which no task loses more of its metric; None for no cascade.
        measuring: what to measure on, and how.
        say: called with progress lines.
        on_plan: called with the plan as JSON and the folder that it is written to, before the work
            on a cascade begins.

    Raises:
        ConfigError: wrong arguments, an unfinished run, or tasks that can have no cascade.
        SalientError: see ``make_plan`` and :func:`pipeline.planning.thresholds.build`.
    """
    if loss is not None:
        thresholds.check(read_tasks(runs, tasks))  # before the long work
    plan = make_plan(
        runs,
        tasks=tasks,
        pick=pick,
        tolerance=tolerance,
        min_texts_per_s=min_texts_per_s,
        measuring=measuring,
        say=say,
    )
    if apply:
        plan = exchange.apply(plan, say=say)
    facts, written = plan.to_dict(), [write_plan(plan)]
    if (requests := scoring_requests(plan.tasks[0].config)) is not None:
        facts |= {"requests": requests}
    run = plan.tasks[0].run
    on_plan(facts, run)
    if loss is not None:
        cascade, gained = thresholds.build(plan, loss=loss, measuring=measuring, say=say)
        written.append(cascade.save(run, gained))
        facts |= {"cascade": cascade.to_dict() | {"found": gained}}
    return Outcome(facts, tuple(written))
