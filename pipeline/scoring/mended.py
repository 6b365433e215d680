"""What a repair of a folder of scores tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.progress import counted

MISSING = "missing"
"""The reason of a part that a commit names and that is not there."""
SHOWN = 10
"""Names that a report for a person lists."""


@dataclass(frozen=True)
class Damaged:
    """A damaged file: where it was, what is wrong, where it lies now, and what is lost with it.

    Attributes:
        file, moved_to: relative to the folder of scores; "" if it was removed, since the folder
            keeps no texts and it may have held some.
        reason: what is wrong with it.
        rows: that it had; None if nothing says so.
        sources: input files that they came from; None if nothing says so.
    """

    file: str
    reason: str
    moved_to: str
    rows: int | None = None
    sources: tuple[str, ...] | None = None


@dataclass
class RepairReport:
    """What a repair found and did.

    Attributes:
        output: the folder of scores.
        dry_run: nothing was changed.
        files, rows: that are there now.
        set_aside: damaged files.
        read_again: input files that were read to their end before, and will be read again when a
            run names them; only rows that are missing are scored.
        ledger: why the ledger was not to be used as it was; None if it was sound.
        mended: other files that were made again.
        repeated: rows that were there twice, with the same text, and were taken out.
        clashes: ids that are there with different texts; they stay as they are.
        deleted: rows of deleted ids that had been left, or come back, and were taken out.
    """

    output: str
    dry_run: bool
    files: int = 0
    rows: int = 0
    set_aside: list[Damaged] = field(default_factory=list)
    read_again: list[str] = field(default_factory=list)
    ledger: str | None = None
    mended: list[str] = field(default_factory=list)
    repeated: int = 0
    clashes: list[str] = field(default_factory=list)
    deleted: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether there was nothing to mend."""
        found = (self.set_aside, self.ledger, self.mended, self.repeated, self.deleted)
        return not any(found)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        status = "dry run" if self.dry_run else "sound" if self.is_sound else "repaired"
        return {"status": status, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        would = "would be " if self.dry_run else ""
        said = ": nothing to mend" if self.is_sound else ""
        yield f"{self.output}: {counted(self.rows, 'row')} in {counted(self.files, 'file')}{said}"
        for one in self.set_aside:
            rows = "its rows" if one.rows is None else f"its {one.rows} rows"
            where = "an unknown input" if one.sources is None else some_of(one.sources)
            done = f"set aside as {one.moved_to}" if one.moved_to else "removed, it may hold texts"
            done = "taken out" if one.reason == MISSING else done
            yield f"{one.file}: {one.reason}; {would}{done}"
            if not one.file.endswith(".parquet"):
                continue  # a card or a record: no rows are lost with it
            yield f"  {rows} came from {where}: score that again, and what is missing comes back"
        if self.read_again:
            yield f"{would}read again when a run names them: {some_of(self.read_again)}"
        if self.ledger is not None:
            yield f"ledger {would}made again from the Parquet files: {self.ledger}"
        for name in self.mended:
            yield f"{name}: {would}mended"
        if self.repeated:
            yield f"{self.repeated} rows that were there before {would}taken out"
        if self.clashes:
            yield f"ids that are there with different texts, and stay: {some_of(self.clashes)}"
        if self.deleted:
            yield f"{self.deleted} rows of deleted ids {would}taken out"


def some_of(names: list[str] | tuple[str, ...]) -> str:
    """Some names in a line, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
