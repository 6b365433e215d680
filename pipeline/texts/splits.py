"""Which split each labelled row belongs to: pure, seeded, independent of the order of the rows.

A *text* is a group of rows with the same text. Drawn splits are drawn for texts, not rows, over all
tasks at once, so that no text is in two drawn splits of any task. They are stratified by the labels
of every task (regression: by decile) through the order in which texts are dealt out.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "val", "test")
_NUM_BINS = 10
_GOLDEN = 0.6180339887498949
"""1 / φ: the fractional parts of its multiples leave no wide gap, however many there are."""


@dataclass(frozen=True)
class Row:
    """What the choice of a split needs to know of one row.

    ``split`` is the one given for it, if any; ``draw`` are the splits that may be drawn for it
    instead of training (of none for a row that stays where it is).
    """

    text: str
    split: str | None
    draw: frozenset[str]
    labels: tuple[str | float | None, ...]


def assign_splits(rows: Sequence[Row], *, fractions: Mapping[str, float], seed: int) -> list[str]:
    """The split of every row; rows of drawn splits with the same text get the same one.

    A text that is given a split somewhere takes its rows without one along: to test rather than
    val, to val rather than train.

    Args:
        rows: one per labelled row.
        fractions: share of the drawable texts for ``val`` and for ``test``.
        seed: of the draw.
    """
    given: dict[str, str] = {}
    drawable: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.draw:
            drawable[row.text].append(row)
        elif row.split is not None:
            given[row.text] = later(row.split, given.get(row.text))
    bins = _bin_edges(rows)
    drawn: dict[str, str] = {}
    pools: dict[frozenset[str], dict[str, tuple[str, ...]]] = defaultdict(dict)
    for text, group in drawable.items():
        if text not in given:
            pool = frozenset.intersection(*(row.draw for row in group))
            pools[pool][text] = _stratum(group, bins)
    cover = [task for task, edges in enumerate(bins) if edges is None]
    for pool, strata in sorted(pools.items(), key=lambda item: sorted(item[0])):
        shares = {str(split): fractions[split] for split in ("test", "val") if split in pool}
        drawn.update(deal(strata, shares=shares, seed=seed, cover=cover))
    out = []
    for row in rows:
        if row.draw:
            # A given training row keeps its split, and its task drops it if that is a leak: a given
            # test split must not grow.
            out.append(row.split or given[row.text] if row.text in given else drawn[row.text])
        else:
            assert row.split is not None, "a row without a given split must be drawable"
            out.append(row.split)
    return out


def later(split: str, other: str | None) -> str:
    """Whichever of two splits comes later in train, val, test."""
    return split if other is None or SPLITS.index(split) >= SPLITS.index(other) else other


def later_split_only(rows: Iterable[tuple[str, str]]) -> list[bool]:
    """For (text, split) rows of one task: whether the row's split is the latest its text is in."""
    pairs = list(rows)
    latest: dict[str, str] = {}
    for text, split in pairs:
        latest[text] = later(split, latest.get(text))
    return [latest[text] == split for text, split in pairs]


def deal(
    strata: Mapping[str, tuple[str, ...]],
    *,
    shares: Mapping[str, float],
    seed: int,
    cover: Collection[int] = (),
) -> dict[str, str]:
    """Deal texts out to the splits of ``shares``, the rest to ``train``.

    Texts are put in order by stratum, in random order within each, and take consecutive terms of
    the golden-ratio sequence, which spreads evenly over every stretch: each stratum, and each group
    of neighbouring strata, is divided in the ratio of the shares to within a text or two. Ten draws
    from a start of 0, with a share of 0.2 for test and for val::

        point  .00   .62    .24  .85    .47    .09   .71    .33  .94    .56
        split  test  train  val  train  train  test  train  val  train  train

    Every class of the tasks in ``cover`` (places in a stratum) then gets a text for training.

    Source: the additive recurrence of the golden ratio (Knuth, The Art of Computer Programming 3,
    section 6.4, theorem S; the three-distance theorem of Steinhaus, proved by Sós 1958).
    """
    order = sorted(strata, key=lambda text: (strata[text], _rank(text, seed)))
    start = _rank("", seed) / (1 << 64)
    drawn: dict[str, str] = {}
    for place, text in enumerate(order):
        point = (start + place * _GOLDEN) % 1.0
        for split, share in shares.items():
            if point < share:
                drawn[text] = split
                break
            point -= share
        else:
            drawn[text] = "train"
    _train_on_every_class(order, strata, drawn, cover)
    return drawn


def _train_on_every_class(
    order: Sequence[str],
    strata: Mapping[str, tuple[str, ...]],
    drawn: dict[str, str],
    cover: Collection[int],
) -> None:
    def classes(text: str) -> set[tuple[int, str]]:
        return {(task, strata[text][task]) for task in cover if strata[text][task]}

    trained: set[tuple[int, str]] = set()
    for text in order:
        if drawn[text] == "train":
            trained |= classes(text)
    for text in order:
        if not classes(text) <= trained:
            drawn[text] = "train"
            trained |= classes(text)


def _stratum(group: Collection[Row], bins: Sequence[np.ndarray | None]) -> tuple[str, ...]:
    """One key per task: its class, or the decile of its mean number; empty without a label."""
    out = []
    for task, edges in enumerate(bins):
        labels = [row.labels[task] for row in group if row.labels[task] is not None]
        if not labels:
            out.append("")
        elif edges is not None:
            mean = np.mean(sorted(float(label) for label in labels if label is not None))
            out.append(f"{int(np.searchsorted(edges, mean)):02d}")
        else:
            out.append(min(str(label) for label in labels))
    return tuple(out)


def _bin_edges(rows: Sequence[Row]) -> list[np.ndarray | None]:
    num_tasks = len(rows[0].labels) if rows else 0
    out: list[np.ndarray | None] = []
    for task in range(num_tasks):
        values = [row.labels[task] for row in rows if row.draw and row.labels[task] is not None]
        numbers = sorted(value for value in values if isinstance(value, float))
        if len(numbers) < len(values) or not numbers:
            out.append(None)
        else:
            out.append(np.quantile(numbers, np.arange(1, _NUM_BINS) / _NUM_BINS))
    return out


def _rank(text: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
