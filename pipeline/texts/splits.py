"""Which split each labelled row belongs to: pure, seeded, independent of the order of the rows.

Drawn splits are drawn for groups of near-duplicate texts, not rows, over all tasks at once, so that
no group is in two drawn splits of any task. They are stratified by the labels of every task
(regression: by decile, label sets: by the rarest label) through the order in which groups are
dealt out.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "val", "test")
Label = str | float | tuple[str, ...]
"""A class, a number, or a label set."""
_NUM_BINS = 10
_GOLDEN = 0.6180339887498949
"""1 / φ: the fractional parts of its multiples leave no wide gap, however many there are."""
_MAX_PART, _FEW = 0.25, 3
"""Most of a drawn split that one group may be, unless it has few texts."""


@dataclass(frozen=True)
class Row:
    """What the choice of a split needs to know of one row.

    ``text`` and ``group`` name its text and the near-duplicates that this belongs to, whatever the
    order of the rows; ``split`` is the one given for it, if any; ``draw`` are the splits that may
    be drawn for it instead of training (of none for a row that stays where it is). Of each task
    there is a class, a number or a label set, its rarest label first.
    """

    text: str
    group: str
    split: str | None
    draw: frozenset[str]
    labels: tuple[Label | None, ...]


@dataclass(frozen=True)
class Group:
    """Texts to be dealt out together.

    ``stratum`` has a key per task; ``size`` is the number of texts; ``classes`` are the (task,
    class) that they are labelled with.
    """

    stratum: tuple[str, ...]
    size: int = 1
    classes: frozenset[tuple[int, str]] = frozenset()


def rarest_first(labels: Sequence[Label | None]) -> list[Label | None]:
    """A task's labels of some rows, as :class:`Row` has them: sets in order of rarity."""
    counts = Counter(one for own in labels if isinstance(own, tuple) for one in own)
    return [
        tuple(sorted(own, key=lambda one: (counts[one], one))) if isinstance(own, tuple) else own
        for own in labels
    ]


def assign_splits(rows: Sequence[Row], *, fractions: Mapping[str, float], seed: int) -> list[str]:
    """The split of every row; rows of drawn splits in the same group get the same one.

    A group that is given a split somewhere takes its rows without one along: to test rather than
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
            drawable[row.group].append(row)
        elif row.split is not None:
            given[row.group] = later(row.split, given.get(row.group))
    bins = _bin_edges(rows)
    drawn: dict[str, str] = {}
    pools: dict[frozenset[str], dict[str, Group]] = defaultdict(dict)
    for name, members in drawable.items():
        if name not in given:
            pool = frozenset.intersection(*(row.draw for row in members))
            pools[pool][name] = _group(members, bins)
    for pool, groups in sorted(pools.items(), key=lambda item: sorted(item[0])):
        shares = {str(split): fractions[split] for split in ("test", "val") if split in pool}
        drawn.update(deal(groups, shares=shares, seed=seed))
    out = []
    for row in rows:
        if row.draw:
            # A given training row keeps its split, and its task drops it if its very text is in a
            # later one: a given test split must not grow.
            out.append(row.split or given[row.group] if row.group in given else drawn[row.group])
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


def deal(groups: Mapping[str, Group], *, shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Deal groups of texts out to the splits of ``shares``, the rest to ``train``.

    Groups are put in order by stratum and size, in random order within each, and take consecutive
    terms of the golden-ratio sequence, which spreads evenly over every stretch: each stratum, and
    each run of neighbouring strata, is divided in the ratio of the shares to within a text or two.
    Ten draws from a start of 0, with a share of 0.2 for test and for val::

        point  .00   .62    .24  .85    .47    .09   .71    .33  .94    .56
        split  test  train  val  train  train  test  train  val  train  train

    Groups of more than three texts that would be more than a quarter of a split are trained on: a
    test on many versions of one text would say little. Every class then gets a group for training.

    Source: the additive recurrence of the golden ratio (Knuth, The Art of Computer Programming 3,
    section 6.4, theorem S; the three-distance theorem of Steinhaus, proved by Sós 1958).
    """
    num_texts = sum(group.size for group in groups.values())
    most = max(_FEW, _MAX_PART * num_texts * min(shares.values(), default=1.0))
    drawn = {name: "train" for name, group in groups.items() if group.size > most}
    order = sorted(
        groups.keys() - drawn.keys(),
        key=lambda name: (groups[name].stratum, groups[name].size, _rank(name, seed)),
    )
    start = _rank("", seed) / (1 << 64)
    for place, name in enumerate(order):
        point = (start + place * _GOLDEN) % 1.0
        for split, share in shares.items():
            if point < share:
                drawn[name] = split
                break
            point -= share
        else:
            drawn[name] = "train"
    trained: set[tuple[int, str]] = set()
    for name, group in groups.items():
        if drawn[name] == "train":
            trained |= group.classes
    for name in order:
        if not groups[name].classes <= trained:
            drawn[name] = "train"
            trained |= groups[name].classes
    return drawn


def _group(members: Collection[Row], bins: Sequence[np.ndarray | None]) -> Group:
    classes = frozenset(
        (task, one)
        for row in members
        for task, edges in enumerate(bins)
        if edges is None
        for one in _names(row.labels[task])
    )
    return Group(_stratum(members, bins), len({row.text for row in members}), classes)


def _stratum(members: Collection[Row], bins: Sequence[np.ndarray | None]) -> tuple[str, ...]:
    """One key per task: its class, or the decile of its mean number; empty without a label."""
    out = []
    for task, edges in enumerate(bins):
        labels = [row.labels[task] for row in members if row.labels[task] is not None]
        if not labels:
            out.append("")
        elif edges is not None:
            mean = np.mean(sorted(label for label in labels if isinstance(label, float)))
            out.append(f"{int(np.searchsorted(edges, mean)):02d}")
        else:
            counts = Counter(next(_names(label), "") for label in labels)
            out.append(min(counts, key=lambda label: (-counts[label], label)))
    return tuple(out)


def _names(label: Label | None) -> Iterator[str]:
    """The classes or labels of a row."""
    if isinstance(label, tuple):
        yield from label
    elif label is not None:
        yield str(label)


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
