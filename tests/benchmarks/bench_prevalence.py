"""How far are shares of classes off, counted and corrected, on days whose shares have moved?

    python tests/benchmarks/bench_prevalence.py                 both tasks, 400 days each
    python tests/benchmarks/bench_prevalence.py --quick         1,000 training texts, 40 days
    python tests/benchmarks/bench_prevalence.py --tasks emotion --store runs/real

A head is trained on a task of TweetEval (``tests/real``): all its training and validation texts
with their splits as given, MiniLM, everything by default. A *day* is 500 tweets whose classes'
shares are drawn anew, all shares alike probable (Dirichlet). The truth is the shares among the
day's tweets.

Two kinds of days:

- ``test``: drawn from the task's test texts, with repetition; the head's errors are those that it
  keeps, out of fold. How near this comes to the assumption, is the data's matter: offensive's test
  texts were not collected as its training texts were.
- ``held_out``: the assumption holds. Of the training texts' held-out outputs four tenths, drawn
  anew for each day, say what the head gets wrong, and the day is drawn from the others without
  repetition (fewer than 500 where a class has too few).

For each method:

- ``error``: the mean absolute error of a class's share, in points, over classes and days
  (``argmax`` counts the most probable class; ``counted`` the decided one, by thresholds).
- ``coverage``: how often a 95 % interval holds the class's share, and its mean ``width`` in points.
- ``flagged``: on how many days the texts' own fit speaks against the corrections (p < 0.01).

With --json the last line is one JSON object.
"""

from __future__ import annotations

import os

# Before torch loads OpenMP: threads that spin while they wait starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests/benchmarks"))

from bench_heads import configured, load_pool  # noqa: E402

from pipeline import stages  # noqa: E402
from pipeline.heads.activations import read_held_out, stored_outputs  # noqa: E402
from pipeline.heads.corrections import read_errors  # noqa: E402
from pipeline.heads.model import Head  # noqa: E402
from pipeline.measures import (  # noqa: E402
    SHARE_METHODS,
    Confusion,
    Shares,
    class_shares,
    misfit,
)
from pipeline.runfolder import RunFolder  # noqa: E402
from pipeline.texts import load_target  # noqa: E402
from store import ActivationStore  # noqa: E402

TASKS = ("emotion", "offensive")
NUM_DAYS, DAY = 400, 500
QUICK_DAYS, QUICK_SIZE = 40, 1000
KNOWN = 0.4
"""Of the held-out rows, what says the errors."""
SURE = 0.01
METHODS = ("argmax", *SHARE_METHODS)
Array = np.ndarray
Result = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """Texts with their probabilities ``(n, k)`` and true classes ``(n,)``."""

    probability: Array
    targets: Array


@dataclass(frozen=True)
class Trained:
    """A head with what it says of rows that it was not fitted on."""

    head: Head
    held_out: Rows
    test: Rows

    def confusion(self, rows: Rows, seed: int) -> Confusion:
        """Of some rows."""
        decided = self.head.decide(rows.probability)
        return Confusion.of(rows.probability, decided, rows.targets, seed=seed)


def train(name: str, size: int | None, folder: Path, stores: Path) -> Trained:
    """A task's head, from a run of all its texts or of some of them."""
    pool = load_pool(name)
    config = configured(pool, name, pool.draw(size, 0), folder, stores, seed=0)
    report = stages.extract(config)
    print(f"{name}: {report.num_new} texts extracted, {report.num_known} known", flush=True)
    stages.probe(config)
    stages.consolidate(config)
    path = RunFolder(Path(config.run_dir)).head(name)
    head, store = Head.load(path), ActivationStore.open(config.store.path)
    print(f"{name}: {head}", flush=True)
    target = load_target(store, config.tasks[0])
    train, val, test = (target.rows(split) for split in ("train", "val", "test"))
    held = read_held_out(path, head)
    known = dict(
        zip(
            np.concatenate([train.positions, val.positions]).tolist(),
            np.concatenate([train.targets, val.targets]).tolist(),
            strict=True,
        )
    )
    targets = np.array([known[position] for position in held["positions"].tolist()])
    outputs = stored_outputs(head, store, test.positions)
    return Trained(
        head,
        Rows(head.probabilities(held["outputs"]), targets),
        Rows(head.probabilities(outputs), test.targets),
    )


Day = tuple[Rows, Confusion]


def test_days(trained: Trained, count: int) -> Iterator[Day]:
    """Days of test texts, and what the head keeps of its errors."""
    card = trained.head.card
    errors = read_errors(card.metrics["errors"], card.type, len(card.classes))
    assert isinstance(errors, tuple)
    draw = np.random.default_rng(0)
    places = [np.flatnonzero(trained.test.targets == i) for i in range(len(card.classes))]
    for _ in range(count):
        amounts = draw.multinomial(DAY, draw.dirichlet(np.ones(len(places))))
        rows = [draw.choice(own, some) for own, some in zip(places, amounts, strict=True)]
        yield _rows(trained.test, np.concatenate(rows)), errors[0]


def held_out_days(trained: Trained, count: int) -> Iterator[Day]:
    """Days of held-out rows, and errors of others of these."""
    rows, size = trained.held_out, len(trained.head.card.classes)
    draw = np.random.default_rng(0)
    for seed in range(count):
        order = draw.permutation(len(rows.targets))
        split = int(KNOWN * len(order))
        rest = order[split:]
        places = [rest[rows.targets[rest] == i] for i in range(size)]
        shares = draw.dirichlet(np.ones(size))
        most = min(len(own) / share for own, share in zip(places, shares, strict=True))
        amounts = draw.multinomial(int(min(DAY, most)), shares)
        here = [
            draw.choice(own, min(some, len(own)), replace=False)
            for own, some in zip(places, amounts, strict=True)
        ]
        known = trained.confusion(_rows(rows, order[:split]), seed)
        yield _rows(rows, np.concatenate(here)), known


def _rows(rows: Rows, index: Array) -> Rows:
    return Rows(rows.probability[index], rows.targets[index])


KINDS: dict[str, Callable[[Trained, int], Iterator[Day]]] = {
    "test": test_days,
    "held_out": held_out_days,
}


def judged(trained: Trained, days: Iterator[Day]) -> Result:
    """Errors and coverage over days."""
    size = len(trained.head.card.classes)
    off: dict[str, list[Array]] = {name: [] for name in METHODS}
    held: dict[str, list[Array]] = {name: [] for name in SHARE_METHODS}
    width: dict[str, list[Array]] = {name: [] for name in SHARE_METHODS}
    flagged, times = [], []
    for seed, (rows, confusion) in enumerate(days):
        decided = trained.head.decide(rows.probability)
        truth = np.bincount(rows.targets, minlength=size) / len(rows.targets)
        counts = np.bincount(decided, minlength=size)
        start = time.perf_counter()
        shares: dict[str, Shares] = class_shares(rows.probability, counts, confusion, seed=seed)
        times.append(time.perf_counter() - start)
        most = np.bincount(rows.probability.argmax(axis=1), minlength=size)
        off["argmax"].append(np.abs(most / most.sum() - truth))
        for name, own in shares.items():
            off[name].append(np.abs(own.value - truth))
            held[name].append((own.low <= truth + 1e-9) & (truth <= own.high + 1e-9))
            width[name].append(own.high - own.low)
        flagged.append(misfit(confusion.cells(rows.probability, decided), confusion) <= SURE)
    return {
        "error": {name: 100 * float(np.mean(own)) for name, own in off.items()},
        "coverage": {name: float(np.mean(own)) for name, own in held.items()},
        "width": {name: 100 * float(np.mean(own)) for name, own in width.items()},
        "flagged": float(np.mean(flagged)),
        "seconds_a_day": float(np.median(times)),
    }


def print_table(name: str, results: Result) -> None:
    """One task, a line for each kind of days and method."""
    print(f"\n{name}: error in points, coverage and width of 95 % intervals")
    for kind, found in results.items():
        print(
            f"  {kind} days; flagged {found['flagged']:.0%}; {found['seconds_a_day']:.2f} s a day"
        )
        for method in METHODS:
            line = f"    {method:9} {found['error'][method]:5.1f}"
            if method in found["coverage"]:
                held, width = found["coverage"][method], found["width"][method]
                line += f"   {held:4.0%} of days, {width:4.1f} points wide"
            print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--days", type=int, default=NUM_DAYS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--store", type=Path, help="folder of stores, kept")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    days = min(given.days, QUICK_DAYS) if given.quick else given.days
    found: Result = {}
    with tempfile.TemporaryDirectory(prefix="salient-") as folder:
        stores = given.store or Path(folder)
        for name in given.tasks:
            size = QUICK_SIZE if given.quick else None
            trained = train(name, size, Path(folder), stores)
            found[name] = {
                kind: judged(trained, draw(trained, days)) for kind, draw in KINDS.items()
            }
            print_table(name, found[name])
    if given.json:
        print(json.dumps({"days": days, "tweets_a_day": DAY, "tasks": found}))


if __name__ == "__main__":
    main()
