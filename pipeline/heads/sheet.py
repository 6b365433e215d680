"""Fact sheets: what a scorer or an estimator shows of itself, as text and in a notebook.

    sheet = Sheet("Scorer", {"backbone": "roberta-base"}, [head_facts(head) for head in heads])
    str(sheet), sheet.html()

Everything is escaped: names of classes and folders come from files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from pipeline.heads.model import Head
from pipeline.progress import counted
from store.layout import SITES

JSON = Mapping[str, Any]
MAX_CLASSES = 8
"""Names that are shown of more classes."""
UNITS = {
    "ffn": "neurons",
    "hidden": "hidden units",
    "router": "router probabilities",
    "experts": "experts' neurons",
}
"""Site -> what its features are called, where that is not its label."""


@dataclass(frozen=True)
class Sheet:
    """A title, a few facts and a table.

    Attributes:
        title: what it is.
        facts: name -> value.
        rows: of the table; the first one's keys are its columns.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Mapping[str, str]] = ()

    def __str__(self) -> str:
        """Lines: the title with the facts, then a row of the table each."""
        lines = [f"<{self.title}: {', '.join(f'{k} {v}' for k, v in self.facts.items())}"]
        for row in self.rows:
            first, *others = row.items()
            lines.append(f"  {first[1]}: {', '.join(f'{k} {v}' for k, v in others if v)}")
        return "\n".join(lines) + ">"

    def html(self) -> str:
        """The same as a table of HTML, which notebooks draw."""
        facts = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self.facts.items()
        )
        parts = [f"<strong>{escape(self.title)}</strong>", f"<table>{facts}</table>"]
        if self.rows:
            columns = list(self.rows[0])
            head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in columns)
            body = "".join(
                "<tr>"
                + "".join(
                    f"<td style='text-align:left'>{escape(row.get(name, ''))}</td>"
                    for name in columns
                )
                + "</tr>"
                for row in self.rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        return f"<div>{''.join(parts)}</div>"


def backbone_facts(heads: Sequence[Head]) -> dict[str, str]:
    """What heads read: the model, and how deep into it the deepest of them goes."""
    card = heads[0].card
    settings = card.extraction["backbone"]
    model = str(settings.get("model", "?"))
    shown = Path(model).name if model.startswith(("/", ".", "~")) else model
    if settings.get("revision"):
        shown += f"@{str(settings['revision'])[:8]}"
    deepest = max(head.card.depth for head in heads)
    return {"backbone": shown, "runs": _blocks(deepest, card.num_layers)}


def head_facts(head: Head, entry: JSON | None = None) -> dict[str, str]:
    """A head as a row of a sheet.

    Args:
        head: the head.
        entry: of its task in ``metrics.json``, for the test score with its interval; without one
            the score that the head was chosen by is shown, if its card has one.
    """
    card = head.card
    kind = card.type
    if card.classes:
        shown = ", ".join(card.classes[:MAX_CLASSES])
        more = len(card.classes) - MAX_CLASSES
        kind += f" ({shown}{f' and {more} more' if more > 0 else ''})"
    return {
        "task": card.task,
        "type": kind,
        "head": card.kind,
        "runs": _blocks(card.depth, card.num_layers),
        "features": features_by_site(head),
        "score": _score(head, entry),
    }


def features_by_site(head: Head) -> str:
    """How many features a head reads of each site: ``3,200 neurons, 264 hidden units``."""
    counts: dict[str, int] = {}
    for source, features in head.features.items():
        counts[source.site] = counts.get(source.site, 0) + len(features)
    return ", ".join(
        f"{number:,} {UNITS.get(site, SITES[site].label)}" for site, number in counts.items()
    )


def interval(value: float, ends: Sequence[float] | None) -> str:
    """A score, with its interval if it has one: ``0.826 (0.781 to 0.866)``."""
    return f"{value:.3f}" + ("" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})")


def _score(head: Head, entry: JSON | None) -> str:
    metric = head.card.metric
    if entry is not None:
        chosen = entry["chosen"]
        value = chosen["test"].get(metric)
        ends = (chosen.get("test_interval") or {}).get(metric)
        if value is not None:
            return f"{metric} {interval(value, ends)} on {counted(entry['num_test'], 'test text')}"
    value = head.card.metrics.get("score")
    judged = head.card.metrics.get("judged_on") or "held-out texts"
    judged = "out of fold" if judged == "cross_validation" else judged
    return "" if value is None else f"{metric} {interval(value, None)} ({judged})"


def _blocks(last: int, num_layers: int) -> str:
    return f"{last + 1} of {num_layers} blocks"
