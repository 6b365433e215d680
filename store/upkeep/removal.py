"""Deleting samples by name, and saying of each name what became of it.

    print(delete_samples(store, ["17", "18"], dry_run=True))

`ActivationStore.delete` does the work; `store.upkeep.compaction` removes the bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from store.activations import ActivationStore
from store.commits import doomed_records, known_authors, planned_ids

_SHOWN = 5


@dataclass(frozen=True)
class DeleteReport:
    """What was deleted, or would be.

    Attributes:
        deleted: how many ids.
        deleted_before: ids asked for that were deleted already.
        unknown_ids: ids asked for that the store does not know.
        unknown_authors: authors asked for of whom it knows no sample.
        dry_run: nothing was done.
    """

    deleted: int
    deleted_before: tuple[str, ...] = ()
    unknown_ids: tuple[str, ...] = ()
    unknown_authors: tuple[str, ...] = ()
    dry_run: bool = False

    def not_found(self, ids: Sequence[str] = (), of_file: Sequence[str] = ()) -> str:
        """Whom to name as not found, in words; "" if all was well.

        Args:
            ids, of_file: as of :func:`unmet`.
        """
        found, unknown_ids = [], unmet(self.unknown_ids, ids, of_file)
        for what, names in (("id", unknown_ids), ("author", self.unknown_authors)):
            if names:
                more = len(names) - _SHOWN
                shown = ", ".join(names[:_SHOWN]) + f" and {more:,} more" * (more > 0)
                found.append(f"{what}{'s' * (len(names) > 1)} {shown}")
        return " and ".join(found)

    def __str__(self) -> str:
        ids = f"{self.deleted:,} id{'s' * (self.deleted != 1)}"
        line = f"{ids} would be deleted; nothing was written" if self.dry_run else f"{ids} deleted"
        if before := len(self.deleted_before):
            line += f"; {before:,} {'was' if before == 1 else 'were'} deleted before"
        if unknown := len(self.unknown_ids):
            line += f"; {unknown:,} {'is' if unknown == 1 else 'are'} not in the store"
        return line


def unmet(missing: Collection[str], ids: Sequence[str], of_file: Sequence[str]) -> list[str]:
    """The missing ids that make a deletion fail: any named one by one, or all of a file.

    Args:
        missing: ids that are not there.
        ids: named one by one.
        of_file: listed in one, as all that were deleted anywhere; some of them are always missing.
    """
    missing = set(missing)
    named = [*dict.fromkeys(one for one in ids if one in missing)]
    if not named and missing >= set(of_file):
        named = [*dict.fromkeys(of_file)]
    return named


def delete_samples(
    store: ActivationStore,
    ids: Sequence[str] = (),
    *,
    authors: Sequence[str] = (),
    dry_run: bool = False,
) -> DeleteReport:
    """Hide samples from every read; names that the store does not know hinder no others.

    Args:
        store: the store.
        ids: of samples.
        authors: all of whose samples go.
        dry_run: only say what would go.

    Raises:
        StoreInputError: authors, and no sample names its own.
    """
    asked = list(dict.fromkeys(map(str, ids)))
    store.writable_location()
    store.refresh()
    index, plan = store.index, store.plan_under_way()
    address = store.location.address
    found = known_authors(address, plan, index, authors) if authors else set()
    living = doomed_records(index, asked, authors)["id"].to_pylist()
    known = {*living, *planned_ids(plan, asked, authors)}
    nobody = tuple(name for name in dict.fromkeys(map(str, authors)) if name not in found)
    num = len(known) if dry_run else store.delete(asked or None, author_ids=authors or None)
    rest = pa.chunked_array([[name for name in asked if name not in known]], pa.string())
    gone = pa.array(store.index.was_deleted(rest))
    return DeleteReport(
        num,
        deleted_before=tuple(rest.filter(gone).to_pylist()),
        unknown_ids=tuple(rest.filter(pc.invert(gone)).to_pylist()),
        unknown_authors=nobody,
        dry_run=dry_run,
    )
