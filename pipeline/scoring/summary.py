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

from pipeline.events import ScoreFinished, TaskDrift
from pipeline.progress import counted
from pipeline.texts import TWEETS

Counts = Counter[str]
"""Name -> rows; reasons after a slash: ``filtered/language``, ``quarantined/not JSON``."""
OUTCOMES = ("scored", "already_scored", "repeated", "filtered", "quarantined")
"""What can become of a row: scored now; its id scored by an earlier run; its id scored before in
this run; left out by a filter or no tweet; unreadable, or another text under an id scored before.
"""
STATES = ("read", "unchanged", "stopped", "failed")
"""What can become of a file, see :class:`InputReport`."""
CLASHES = "scored before with another text"
"""The kind of reason of rows whose id was there with another text."""
UNKNOWN = {
    "language unknown": ("language", "time unknown", "too early", "too late"),
    "time unknown": ("too early", "too late"),
}
"""Reason of a row whose language or time is not known -> those of rows where it is."""
REMEDIES = {
    "language unknown": (
        "name the column that has it with --lang-column (or `lang` under [score])",
        "let it be detected with --detect-language, or leave --lang out",
    ),
    "time unknown": (
        "name the column that has it with --time (or `time` under [score])",
        "leave --since and --until out",
    ),
}
"""Reason -> what helps with files that have columns, and what with tweets too."""
LARGE_SHARE = 0.5
"""Of rows left out since something is not known, or none let through, from which a run warns."""
_NOTES = ("empty", "truncated", "retweets", "recovered", "long", "cut", "computed")
_ASKED = {f"filtered/{one}" for one in ("language", *UNKNOWN, *UNKNOWN["time unknown"])}
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


def only_unknown(counts: Mapping[str, int]) -> str | None:
    """Why no row could be told from those that are left out; None where one could, or none came."""
    passed = [*OUTCOMES[:3], f"quarantined/{CLASHES}"]
    if any(counts.get(name, 0) for name in passed):
        return None
    for reason, others in UNKNOWN.items():
        known = sum(counts.get(f"filtered/{other}", 0) for other in others)
        if counts.get(f"filtered/{reason}", 0) and not known:
            return reason
    return None


def outcomes(counts: Counts) -> Iterator[tuple[int, str]]:
    """What became of rows that were not scored, and what else is to be known, in words."""
    yield counts["already_scored"], "scored by an earlier run"
    yield counts["repeated"], "repeating an id of this run"
    for reason, count in by_reason(counts, "filtered").items():
        yield count, f"left out ({reason})"
    for reason, count in by_reason(counts, "quarantined").items():
        yield count, f"quarantined ({reason})"
    yield counts["empty"], "without text (null predictions)"
    yield counts["truncated"], "cut to the context"


@dataclass(frozen=True)
class Finished:
    """An input that was read to its end: its name, and the counts of what was in it."""

    name: str
    counts: Mapping[str, int]


@dataclass
class InputReport:
    """One input file: its counts, and whether it was read."""

    name: str
    state: str = "reading"
    """``read``, ``unchanged`` (read to its end by an earlier run; the counts are that run's),
    ``stopped`` (the run was told to stop before its end or its begin; the next one goes on) or
    ``failed``."""
    content: str | None = None
    """sha256 of its bytes."""
    kind: str | None = None
    framing: str | None = None
    container: str | None = None
    encoding: str | None = None
    """What was recognised of it, in words."""
    problem: str | None = None
    counts: Counts = field(default_factory=Counter)
    is_unreached: bool = False
    """It failed since it cannot be reached now, as after a ``TryAgain``; kept in no record."""

    @property
    def shapes(self) -> dict[str, int]:
        """Shape of a dump's records -> how many have it, the most frequent first."""
        return by_reason(self.counts, "shape")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        found = {**vars(self), "shapes": self.shapes, "counts": dict(self.counts)}
        del found["is_unreached"]
        return found

    def told(self) -> str:
        """One line for a person: what was recognised, and what would become of the rows."""
        shapes = ", ".join(f"{name} {number:,}" for name, number in self.shapes.items())
        kind = f"{self.kind or 'not recognised'}{f' ({shapes})' * bool(shapes)}"
        facts = [kind, *filter(None, (self.framing, self.container, self.encoding))]
        said = f"{self.name}: {'; '.join(facts)}"
        if self.counts["read"] or self.problem is None:
            counts = self.counts
            parts = [f"{counted(counts['read'], 'row')} read", f"{counts['scored']:,} to score"]
            parts += [f"{count:,} {words}" for count, words in outcomes(counts) if count]
            earlier = "unchanged since an earlier run, which had " * (self.state == "unchanged")
            said += f": {earlier}{', '.join(parts)}"
        return said if self.problem is None else f"{said}: failed: {self.problem}"


@dataclass
class ScoreReport:
    """What a run did; ``problem`` says why it failed."""

    output: str
    fingerprint: str
    dry_run: bool = False
    inputs: list[InputReport] = field(default_factory=list)
    files_written: int = 0
    dates: dict[str, int] = field(default_factory=dict)
    """Date -> rows that this run has written there."""
    elapsed_s: float = 0.0
    problem: str | None = None
    problem_of_rows: str | None = None
    """Why it failed by its rows, whatever became of its files."""
    nothing_known: bool = False
    """The problem is that every row was left out, since its language or time is not known."""
    warnings: list[str] = field(default_factory=list)
    """Such as texts unlike those that the heads were validated on."""
    details: dict[str, Any] = field(default_factory=dict)
    """Facts for the record: filters, versions, times."""
    estimate_s: float | None = None
    """In a dry run: how long the model takes, where `salient plan` has measured it."""

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

    def judge(self, max_errors: float) -> None:
        """Say why the run failed although it came to its end, if it did, and what to look at.

        Args:
            max_errors: share of unreadable rows that is no failure: of what this run read, or if it
                read nothing, of what earlier ones did, so that a rerun judges alike. A file most of
                whose rows are unreadable fails each run, however much else there is.
        """
        unknown = self.unknown_only()
        self.problem_of_rows = self._unreadable(max_errors) or unknown
        self.problem = self._failed_file() or self.problem_of_rows
        self.nothing_known = unknown is not None and self.problem == unknown
        self.warnings = list(self.left_out())

    def _failed_file(self) -> str | None:
        failed = [one for one in self.inputs if one.state == "failed"]
        more = f" (and {counted(len(failed) - 1, 'more file')})" if len(failed) > 1 else ""
        return f"{failed[0].problem}{more}" if failed else None

    def _unreadable(self, max_errors: float) -> str | None:
        counts = self.counts()
        counts = counts if counts["read"] else self.counts(state="unchanged")
        most = max(max_errors, LARGE_SHARE)
        parts = [("", counts, max_errors)]
        parts += [(f"{one.name}: ", one.counts, most) for one in self.inputs]
        for where, counts, share in parts:
            if total(counts, "quarantined") > share * counts["read"]:
                return f"{where}{self._said_of(counts, max_errors)}"
        return None

    def _said_of(self, counts: Counts, max_errors: float) -> str:
        clashes, rows = counts[f"quarantined/{CLASHES}"], counted(counts["read"], "row")
        bad = total(counts, "quarantined") - clashes
        said = [f"{bad:,} of {rows} were unreadable"] * (bad > 0)
        said += [f"{clashes:,} of {rows} have ids that were {CLASHES}"] * (clashes > 0)
        remedy = "; is --id the right column?" * (clashes > 0)
        return (
            f"{' and '.join(said)}, more than the allowed share {max_errors:g} (score.max_errors);"
            f" {self.output}/_quarantine says which and why{remedy}"
        )

    def unknown_only(self) -> str | None:
        """Why nothing could be scored, where every row was left out as unknown, those of unchanged
        files included: where one of these could be told, the question is no mistake."""
        counts = self.counts() + self.counts(state="unchanged")
        reason = only_unknown(counts)
        if reason is None:
            return None
        number = counted(counts[f"filtered/{reason}"], "row")
        return f"nothing was scored: {number} left out ({reason}); {self._remedy(reason)}"

    def _remedy(self, reason: str) -> str:
        own = [one for one in self.inputs if one.counts[f"filtered/{reason}"]]
        by_column, always = REMEDIES[reason]
        return always if all(one.kind == TWEETS for one in own) else f"{by_column}, or {always}"

    def left_out(self) -> Iterator[str]:
        """Warnings of large shares that the filters left out of what this run read."""
        counts = self.counts()
        asked = counts["read"] - sum(
            count
            for name, count in counts.items()
            if name.startswith(("filtered/", "quarantined/")) and name not in _ASKED
        )
        for reason in REMEDIES:
            number = counts[f"filtered/{reason}"]
            if number > LARGE_SHARE * asked:
                yield f"{number:,} of {asked:,} rows left out ({reason}); {self._remedy(reason)}"
        if counts["filtered/language"] == asked > 0:
            yield (
                f"all {asked:,} rows left out (language): none is of the languages asked for; are"
                " these the codes that the files use?"
            )

    @property
    def status(self) -> str:
        """``failed``, ``dry run``, ``stopped`` (before all files were read) or ``done``."""
        if self.problem is not None:
            return "failed"
        if self.dry_run:
            return "dry run"
        return "stopped" if any(one.state == "stopped" for one in self.inputs) else "done"

    def to_dict(self) -> dict[str, Any]:
        """The operator's summary, as JSON on one line."""
        counts = self.counts()
        states = Counter(one.state for one in self.inputs)
        return {
            "status": self.status,
            "output": self.output,
            "fingerprint": self.fingerprint,
            "read": counts["read"],
            **{name: total(counts, name) for name in OUTCOMES},
            "filtered_by": by_reason(counts, "filtered"),
            "quarantined_by": by_reason(counts, "quarantined"),
            **{name: counts[name] for name in _NOTES},
            "inputs": {
                "named": len(self.inputs),
                **{state: states[state] for state in STATES},
            },
            "input_files": [one.to_dict() for one in self.inputs if one.state != "unchanged"],
            "unchanged_rows": self.counts(state="unchanged")["read"],
            "files_written": self.files_written,
            "dates": [{"date": date, "rows": rows} for date, rows in sorted(self.dates.items())],
            "elapsed_s": round(self.elapsed_s, 1),
            **({} if self.estimate_s is None else {"estimate_s": round(self.estimate_s, 1)}),
            "problem": self.problem,
            "warnings": self.warnings,
        }

    def finished(self, drift: Mapping[str, TaskDrift] | None = None) -> ScoreFinished:
        """The event of its end.

        Args:
            drift: task -> its drift; None if there was nothing to measure.
        """
        counts, summary = self.counts(), self.to_dict()
        return ScoreFinished(
            output=self.output,
            status=self.status,
            problem=self.problem,
            elapsed_s=self.elapsed_s,
            read=counts["read"],
            rows={name: total(counts, name) for name in OUTCOMES},
            filtered=by_reason(counts, "filtered"),
            quarantined=by_reason(counts, "quarantined"),
            empty=counts["empty"],
            truncated=counts["truncated"],
            files={state: summary["inputs"][state] for state in STATES},
            files_written=self.files_written,
            drift=drift or {},
            summary=summary,
        )

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

    def files_told(self) -> list[str]:
        """A line for each input: what was recognised of it, and what becomes of its rows."""
        return [one.told() for one in self.inputs]

    def summary(self) -> str:
        """One line for a person."""
        counts = self.counts()
        files = counted(self.files_written, "file")
        what = "to score" if self.dry_run else f"scored in {files}"
        parts = [f"{counted(counts['read'], 'row')} read", f"{counts['scored']:,} {what}"]
        parts += [f"{count:,} {words}" for count, words in outcomes(counts) if count]
        unchanged = [one for one in self.inputs if one.state == "unchanged"]
        if unchanged:
            rows = counted(self.counts(state="unchanged")["read"], "row")
            parts.append(
                f"{counted(len(unchanged), 'file')} ({rows}) unchanged since an earlier run"
            )
        if self.estimate_s is not None:
            parts.append(f"about {max(self.estimate_s, 1):,.0f} s of computing")
        return ", ".join(parts)
