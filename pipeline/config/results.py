"""What is relied on of the results that a run keeps as JSON: the members' names and types.

`metrics.json` is a :class:`Metrics`, `ablation.json` an :class:`Ablations`, `run.json` a
:class:`RunRecord`, a head's choice a :class:`Choice`, and `_drift/….json` of a folder of scores a
:class:`DriftReport`. Members that earlier versions did not
write have a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from pipeline.config.records import Line, Name, Record
from pipeline.config.sections import TYPE_METRICS

Interval = tuple[float, float]
METRIC = Field(pattern=f"^({'|'.join(sorted({m for own in TYPE_METRICS.values() for m in own}))})$")


class RunRecord(Record):
    """``run.json``."""

    class Extraction(Record):
        """What the extraction found."""

        whole: bool = False

    config: dict[str, Any]
    name: Line | None = None
    created_at: Line | None = None
    config_fingerprint: Line | None = None
    snapshot: Line | None = None
    content: Line | None = None
    seed: int | None = None
    versions: Mapping[Line, Line | None] = {}
    extraction: Extraction = Extraction()


class Apart(Record):
    """A difference of losses."""

    loss: float
    difference: float
    standard_error: float


class Behind(Apart):
    """The same to a head of some size."""

    depth: int
    num_features: int


class Choice(Record):
    """How a chosen head's loss compares with what else there was."""

    best: Behind
    conventional: Behind
    full_depth: Behind
    deepest: int
    constant: Apart | None = None
    why: Line | None = None
    """Why this head, and neither a smaller one nor that of the least loss."""


class Entry(Record):
    """What a model scores on the test split, and on the rows that heads were judged by."""

    test: Mapping[Line, float | None]
    test_interval: Mapping[Line, Interval | None] | None = None
    """Ends of 95 % bootstrap intervals; None of fewer than 20 rows."""
    val: float | None = None
    score: float | None = None
    score_interval: Interval | None = None
    """That of ``score``."""
    loss: float | None = None


class ProbeEntry(Entry):
    """A probe's."""

    source: int
    val: float


class Gain(Record):
    """How much better the chosen head is; empty where it was not compared."""

    model_config = ConfigDict(extra="forbid")

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _whole(self) -> Gain:
        if self.low is not None and None in (self.value, self.high):
            raise ValueError("has a lower end, and no value or no upper end")
        return self


class Compared(Entry):
    """What the chosen head is compared with; a head has ``depth`` and ``num_features``."""

    gain: Gain | None = None
    """Of the chosen head over this, on the test rows."""
    score_gain: Gain | None = None
    """The same on the rows that heads were judged by."""
    depth: int | None = None
    num_features: int | None = None

    @model_validator(mode="after")
    def _a_heads(self) -> Compared:
        if self.depth is not None and self.num_features is None:
            raise ValueError("has a depth, and no num_features")
        return self


class HeadEntry(Entry):
    """A head's."""

    kind: Line
    depth: int
    num_features: int
    val: float
    note: Line | None = None
    judged_on: Line | None = None
    choice: Choice | None = None


class LabelEntry(Record):
    """The chosen head's F1 of a label."""

    f1: float | None
    interval: Interval | None
    rows: int


class SizeEntry(Record):
    """Salient features against as many random ones, on the rows that heads were judged by."""

    class Features(Record):
        """A linear head on them; of random ones the middle one of some draws."""

        score: float | None
        score_interval: Interval | None = None
        loss: float
        draws: tuple[float | None, ...] = ()
        """Scores of all draws, ascending."""

    depth: int
    size: float | None = None
    num_features: int
    salient: Features
    random: Features
    gain: Gain | None = None
    """Of the salient ones over the random ones, rows resampled together."""


class TaskEntry(Record):
    """A task's results."""

    metric: str = METRIC
    type: Literal["classification", "regression", "multilabel"]
    classes: tuple[Line, ...]
    num_test: int
    num_judged: int | None = None
    """Rows that heads were judged by."""
    by_size: tuple[SizeEntry, ...] = ()
    layers: tuple[ProbeEntry, ...] = ()
    hidden_states: tuple[ProbeEntry, ...] = ()
    routers: tuple[ProbeEntry, ...] = ()
    experts: tuple[ProbeEntry, ...] = ()
    chosen: HeadEntry
    hidden: Compared
    baselines: Mapping[Line, Compared] | None = None
    gain: Gain | None = None
    labels: Mapping[Line, LabelEntry] = {}
    dense: HeadEntry | None = None
    states: HeadEntry | None = None
    sparse: HeadEntry | None = None
    frozen: HeadEntry | None = None
    ensemble: HeadEntry | None = None
    stack: HeadEntry | None = None
    final: HeadEntry | None = None
    evaluated: Mapping[str, Any] | None = None

    @model_validator(mode="after")
    def _has_probes(self) -> TaskEntry:
        if not (self.layers or self.hidden_states or self.routers or self.experts):
            raise ValueError("has no probes")
        return self


class Metrics(Record):
    """``metrics.json``."""

    fingerprint: Line | None = None
    snapshot: Line | None = None
    tasks: Mapping[Name, TaskEntry]


class Change(Record):
    """By how much a metric changed."""

    change: float
    interval: Interval | tuple[None, None]
    """No numbers of fewer than 20 texts."""
    value: float | None = None


class Draws(Change):
    """The same over random draws."""

    value: float
    values: tuple[float, ...] = Field(min_length=1)


class Silenced(Record):
    """A head with nothing, salient and random neurons silenced."""

    baseline: float
    salient: Change
    random: Draws
    difference: Change


class AblatedHead(Record):
    """The chosen head of an ablation."""

    kind: Line


class Ablation(Record):
    """A task's ablation."""

    metric: str = METRIC
    layers: tuple[int, ...] = Field(min_length=1)
    draws: int
    fill: Line
    split: Line
    level: float
    num_texts: int
    num_silenced: int
    num_neurons: int
    head: AblatedHead
    chosen: Silenced
    hidden: Silenced
    fitted: tuple[Literal["chosen", "hidden"], ...] = ()


class Ablations(Record):
    """``ablation.json``."""

    tasks: Mapping[Name, Ablation]


class DriftReport(Record):
    """A run's ``_drift/….json`` in a folder of scores."""

    class Task(Record):
        """Of one head."""

        class Date(Record):
            """Of one date; what was not watched is left out."""

            class Index(Record):
                """How far off, less what chance makes."""

                excess: float

            predictions: Index | None = None
            classes: Index | None = None
            activations: Index | None = None

        dates: Mapping[Line, Date]

    threshold: float
    tasks: Mapping[Name, Task]
