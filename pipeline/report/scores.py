"""The rows of a task's table of scores, from its entry in ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.heads import KINDS, SITE_KEYS
from pipeline.measures import METRICS, utility
from pipeline.report.digits import NONE, four, three, with_span
from pipeline.report.verdict import choice_sentence
from store.layout import Source

JSON = Mapping[str, Any]
BASELINES = {
    "majority": "majority",
    "lexical": "TF-IDF",
    "final_mean": "final state (mean)",
    "final_unit": "final state (unit length)",
    "final": "final hidden state",
    "hidden": "hidden states, same blocks",
    "random": "random features",
    "layer": "the last block's FFN alone",
    "all": "all features, same blocks",
}
"""Baseline -> what people read, in the order of the table; "final" is the conventional head."""
COUNTED = ("random",)
"""Baselines of which the number of features is said where no column has it."""
BEST_OF = {
    "ffn": "single layer",
    "hidden": "hidden state",
    "router": "router",
    "experts": "layer's experts",
}
"""Site -> what the best single one is called."""
WIDTH_OF = {"ffn": "layer", "hidden": "final"}
"""Site -> the baseline that reads one whole layer of it."""


@dataclass(frozen=True)
class ScoreRow:
    """A model's line in a table of scores.

    Attributes:
        group: "baselines", "layers", "kinds" or "chosen".
        model: its name.
        blocks: those that must run, of all.
        features: those that it reads; a dash where an older run does not say.
        loss: out of fold, or on validation; empty where there is none.
        score: the same of the selection metric.
        test: with its interval.
        gain: of the chosen head over it on the test rows, with its interval.
        numbers: the same unrounded, by the names of a table's columns.
    """

    group: str
    model: str
    blocks: str
    features: str
    loss: str
    score: str
    test: str
    gain: str = ""
    numbers: JSON = field(default_factory=dict)

    @property
    def chosen(self) -> bool:
        """Whether it is the chosen head."""
        return self.group == "chosen"


def probes_of(task: JSON, site: str) -> list[tuple[Source, JSON]]:
    """What the probes of single layers read, and their entries.

    Args:
        task: its entry in ``metrics.json``.
        site: a key of ``SITE_KEYS``.
    """
    return [(Source(site, entry["source"]), entry) for entry in task.get(SITE_KEYS[site], ())]


def num_layers_of(task: JSON) -> int:
    """Blocks of the whole model: the last hidden state is the one after all of them."""
    return 1 + max(source.depth for site in SITE_KEYS for source, _ in probes_of(task, site))


def judging(task: JSON, *, loss: bool = True) -> str:
    """What a task's heads were judged by: ``loss (log loss) and score out of fold``, or the score
    alone.

    Heads judged on validation have one value there and overall.
    """
    chosen = task["chosen"]
    measure = "squared error" if task["type"] == "regression" else "log loss"
    what = f"loss ({measure}) and score" if loss and "loss" in chosen else "score"
    return f"{what} {judged_where(task)}"


def judged_where(task: JSON) -> str:
    """``out of fold``, or ``on validation``: the rows that a task's heads were judged by."""
    return "on validation" if _validated(task) else "out of fold"


def _validated(task: JSON) -> bool:
    chosen = task["chosen"]
    if "judged_on" in chosen:
        return bool(chosen["judged_on"] == "validation")
    return chosen.get("score") in (None, chosen["val"])  # of older runs


def score_rows(task: JSON) -> Iterator[ScoreRow]:
    """The baselines, the best single layers, the best head of each kind and the chosen head.

    Args:
        task: its entry in ``metrics.json``; those of older runs have one baseline and no losses.
    """
    row = _Rows(task, num_layers_of(task), _validated(task))
    known = task.get("baselines", {"final": task["hidden"] | {"gain": task.get("gain") or {}}})
    for name in (*BASELINES, *sorted(known.keys() - BASELINES.keys())):
        if name in known:
            yield row.baseline(name, known[name])
    for site in SITE_KEYS:
        if probes := probes_of(task, site):
            source, entry = max(probes, key=lambda own: utility(task["metric"], own[1]["val"]))
            width = known.get(WIDTH_OF.get(site, ""), {}).get("num_features")
            yield row.of("layers", f"best {BEST_OF[site]}", source.depth + 1, width, entry)
    for kind in KINDS:
        if kind in task and kind not in known:  # "final" is among the baselines already
            yield row.head("kinds", f"best {kind} head", task[kind])
    chosen = task["chosen"]
    yield row.head("chosen", f"chosen: {chosen['kind']}", chosen)


@dataclass(frozen=True)
class _Rows:
    """Makes rows of the entries of a task."""

    task: JSON
    num_layers: int
    validated: bool

    def of(
        self, group: str, model: str, blocks: int, features: int | None, entry: JSON
    ) -> ScoreRow:
        """A row of any entry."""
        metric = self.task["metric"]
        value = entry["test"].get(metric)
        known = entry.get("test_interval")
        low, high = interval_of(entry, metric)
        score = entry.get("score", entry.get("val") if self.validated else None)
        score_low, score_high = entry.get("score_interval") or (None, None)
        loss = entry.get("loss")
        test = three(value) if value is None or known is None else with_span(value, low, high)
        return ScoreRow(
            group,
            model,
            f"{blocks}/{self.num_layers}",
            NONE if features is None else f"{features:,}",
            "" if loss is None else four(loss),
            "" if score is None else three(score),
            test,
            numbers={
                "group": group,
                "model": model,
                "blocks": blocks,
                "all_blocks": self.num_layers,
                "features": features,
                "test": value,
                "test_low": low,
                "test_high": high,
                "score": score,
                "score_low": score_low,
                "score_high": score_high,
                "loss": loss,
            },
        )

    def head(self, group: str, model: str, entry: JSON) -> ScoreRow:
        """A row of a head's entry."""
        return self.of(group, model, entry["depth"] + 1, entry["num_features"], entry)

    def baseline(self, name: str, entry: JSON) -> ScoreRow:
        """A row of what the chosen head is compared with."""
        label = BASELINES.get(name, name.replace("_", " "))
        if name in ("majority", "lexical"):
            row = self.of("baselines", label, 0, entry.get("num_features", 0), entry)
        elif "depth" in entry:
            row = self.head("baselines", label, entry)
        else:
            row = self.of("baselines", label, self.num_layers, None, entry)
        gain = entry.get("gain") or {}
        # A head chosen after the test split was read has not been compared with anything.
        if gain.get("value", gain.get("low")) is None or "note" in self.task["chosen"]:
            return row
        ends = {"gain": gain["value"], "gain_low": gain["low"], "gain_high": gain["high"]}
        same = not any(ends.values()) and gain["low"] is not None
        text = "the same head" if same else with_span(**gain, signed=True)
        return replace(row, gain=text, numbers={**row.numbers, **ends})


def baseline_label(name: str, entry: JSON) -> str:
    """What people read of a baseline in a figure: ``3,464 random features``, ``TF-IDF``."""
    label, count = BASELINES.get(name, name.replace("_", " ")), entry.get("num_features")
    return f"{count:,} {label}" if name in COUNTED and count else label


def interval_of(entry: JSON, metric: str) -> tuple[float | None, float | None]:
    """Ends of the interval of an entry's test score; None where there is none."""
    low, high = (entry.get("test_interval") or {}).get(metric) or (None, None)
    return low, high


def label_rows(task: JSON) -> Iterator[tuple[str, str, str, str]]:
    """Label, its test rows, the chosen head's F1 of it and that of whoever gives it to every text,
    where the task is about label sets."""
    for name, entry in task.get("labels", {}).items():
        value, rows = entry["f1"], entry["rows"]
        ends = entry["interval"] or (None, None)
        f1 = NONE if value is None else with_span(value, *ends)
        yield name, f"{rows:,}", f1, three(2 * rows / (rows + task["num_test"]) if rows else None)


def remarks(task: JSON) -> list[str]:
    """Below the table: the gain over the conventional head, and what the choice gave away."""
    chosen = task["chosen"]
    found = [line for line in [gain_line(task)] if line is not None]
    if "choice" in chosen:
        sentence = choice_sentence(
            chosen["choice"],
            depth=chosen["depth"],
            num_features=chosen["num_features"],
            num_layers=num_layers_of(task),
            regression=task["type"] == "regression",
        )
        found.append(f"chosen head: {sentence}")
    return found


def gain_line(task: JSON) -> str | None:
    """The chosen head's gain over the conventional one with its interval, or why there is none."""
    gain = task.get("gain") or {}
    if gain.get("value") is None:
        note = task["chosen"].get("note")
        return f"chosen head: no gain evaluated, {note}" if note else None
    pair = ["chosen head", "final hidden state"]
    if not METRICS[task["metric"]].higher_is_better:
        pair.reverse()
    return f"{' less '.join(pair)}: {with_span(**gain, signed=True)}"


# -- the table of all heads tried ----------------------------------------------------------------


def judged(row: JSON) -> float:
    """What a head of the sweep was judged by: its ``score``, or in older runs ``val_score``."""
    score = row.get("score")
    return float(row["val_score"] if score is None else score)


def judge(rows: Sequence[JSON]) -> str:
    """Which rows heads were judged on, in a word."""
    same = all(judged(row) == row["val_score"] for row in rows)
    return "validation" if same else "out-of-fold"


def best_by_depth(rows: Sequence[JSON], metric: str) -> dict[tuple[str, int], JSON]:
    """(kind, depth) -> the sweep's row of least loss there; of best score where none has a loss."""
    sign = 1 if METRICS[metric].higher_is_better else -1

    def merit(row: JSON) -> float:
        loss = row.get("loss")
        return sign * judged(row) if loss is None else -float(loss)

    best: dict[tuple[str, int], JSON] = {}
    for row in rows:
        key = (row["kind"], row["depth"])
        if key not in best or merit(row) > merit(best[key]):
            best[key] = row
    return best
