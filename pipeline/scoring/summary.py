"""What became of every row that a scoring run read; nothing is unaccounted for.

``Counts`` add up over blocks and files. At any moment ``read = scored + already_scored + repeated +
filtered + quarantined``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Counts = Counter[str]
"""Name -> rows; reasons after a slash: ``filtered/language``, ``quarantined/not JSON``."""
OUTCOMES = ("scored", "already_scored", "repeated", "filtered", "quarantined")
"""What can become of a row: scored now; its id scored by an earlier run; its id scored before in
this run; left out by a filter or no tweet; unreadable, or another text under an id scored before.
"""
_NOTES = ("empty", "truncated", "retweets", "recovered", "long", "cut", "computed")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_MAX_KIND_CHARS = 60


def reason_kind(reason: str) -> str:
    """The kind of a reason for quarantine, without what is particular to the line."""
    return _QUOTED.sub("…", reason).partition(":")[0][:_MAX_KIND_CHARS]


def total(counts: Mapping[str, int], name: str) -> int:
    """The rows counted under a name, whatever the reason."""
    return sum(n for key, n in counts.items() if key.partition("/")[0] == name)


def by_reason(counts: Mapping[str, int], name: str) -> dict[str, int]:
    """Reason -> rows, the most frequent first."""
    found = {key.partition("/")[2]: n for key, n in counts.items() if key.startswith(f"{name}/")}
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


@dataclass
class InputReport:
    """One input file: its counts, and whether it was read."""

    name: str
    state: str = "reading"
    """``read``, ``unchanged`` (read to its end by an earlier run; the counts are that run's) or
    ``failed``."""
    content: str | None = None
    """sha256 of its bytes."""
    kind: str | None = None
    problem: str | None = None
    counts: Counts = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "counts": dict(self.counts)}


@dataclass
class ScoreReport:
    """What a run did; ``problem`` says why it failed."""

    output: str
    fingerprint: str
    dry_run: bool = False
    inputs: list[InputReport] = field(default_factory=list)
    files_written: int = 0
    elapsed_s: float = 0.0
    problem: str | None = None
    warnings: list[str] = field(default_factory=list)
    """Such as texts unlike those that the heads were validated on."""
    details: dict[str, Any] = field(default_factory=dict)
    """Facts for the record: filters, versions, times."""

    def counts(self, *, state: str | None = None) -> Counts:
        """Of the rows that this run read, or of the files in a state."""
        chosen = [
            one
            for one in self.inputs
            if (one.state == state if state else one.state != "unchanged")
        ]
        return sum((one.counts for one in chosen), Counter())

    @property
    def read(self) -> int:
        """Rows that this run read."""
        return sum(one.counts["read"] for one in self.inputs if one.state != "unchanged")

    @property
    def scored(self) -> int:
        """Rows that this run scored, or would have."""
        return sum(one.counts["scored"] for one in self.inputs if one.state != "unchanged")

    @property
    def error_share(self) -> float:
        """Share of quarantined rows, those of unchanged files included: a rerun judges alike."""
        everything = self.counts() + self.counts(state="unchanged")
        return total(everything, "quarantined") / max(everything["read"], 1)

    def to_dict(self) -> dict[str, Any]:
        """The operator's summary, as JSON on one line."""
        counts = self.counts()
        states = Counter(one.state for one in self.inputs)
        return {
            "status": "failed" if self.problem else "dry run" if self.dry_run else "done",
            "output": self.output,
            "fingerprint": self.fingerprint,
            "read": counts["read"],
            **{name: total(counts, name) for name in OUTCOMES},
            "filtered_by": by_reason(counts, "filtered"),
            "quarantined_by": by_reason(counts, "quarantined"),
            **{name: counts[name] for name in _NOTES},
            "inputs": {
                "named": len(self.inputs),
                **{state: states[state] for state in ("read", "unchanged", "failed")},
            },
            "unchanged_rows": self.counts(state="unchanged")["read"],
            "files_written": self.files_written,
            "elapsed_s": round(self.elapsed_s, 1),
            "problem": self.problem,
            "warnings": self.warnings,
        }

    def record(self, *, keep_text: bool = True) -> dict[str, Any]:
        """The summary with the facts of every input, for ``_runs/``.

        Args:
            keep_text: why files failed may quote them; False leaves that out.
        """
        found = {
            "format_version": 1,
            **self.to_dict(),
            **self.details,
            "input_files": [one.to_dict() for one in self.inputs],
        }
        for facts in () if keep_text else (found, *found["input_files"]):
            if facts["problem"] is not None:
                facts["problem"] = "said when it ran; not kept, for it may quote a text"
        return found

    def summary(self) -> str:
        """One line for a person."""
        counts = self.counts()
        what = "to score" if self.dry_run else f"scored in {self.files_written} files"
        parts = [f"{counts['read']} rows read", f"{counts['scored']} {what}"]
        parts += [f"{count} {words}" for count, words in self._rest(counts) if count]
        unchanged = [one for one in self.inputs if one.state == "unchanged"]
        if unchanged:
            rows = self.counts(state="unchanged")["read"]
            parts.append(f"{len(unchanged)} files ({rows} rows) unchanged since an earlier run")
        return ", ".join(parts)

    @staticmethod
    def _rest(counts: Counts) -> Iterator[tuple[int, str]]:
        yield counts["already_scored"], "scored by an earlier run"
        yield counts["repeated"], "repeating an id of this run"
        for reason, count in by_reason(counts, "filtered").items():
            yield count, f"left out ({reason})"
        for reason, count in by_reason(counts, "quarantined").items():
            yield count, f"quarantined ({reason})"
        yield counts["empty"], "without text (null predictions)"
        yield counts["truncated"], "cut to the context"
