"""What differs between a store on a disk and one on a bucket, as one protocol.

How a commit becomes the newest, where a plan and its shards lie, how writers exclude each other:
`ondisk` does it by locks and renames, `onbucket` by objects that only one writer can create. What
is committed is the same, and made by the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from store.commits.planning import AppendPlan, Draft
from store.records import SampleIndex, Snapshot, WriteTable

IndexOf = Callable[[Snapshot], Callable[[], SampleIndex]]
"""Takes note of what is the last commit now, and says how to get its index."""
MakeDraft = Callable[[Snapshot, Callable[[], SampleIndex]], Draft]
Change = Callable[[Snapshot, WriteTable], Snapshot]
"""The last commit, and what keeps tables -> it with the change, or itself: nothing to do."""


class Commits(Protocol):
    """Changes of one store; all of them can die anywhere and be asked for again."""

    def begin(self, digest: str, make: MakeDraft) -> AppendPlan:
        """Begin a plan, or go on with the one under way that was asked for by the same digest.

        What the plan under way has finished is published; then another takes its place. If its
        process lives, that is waited for.

        Args:
            digest: of what is asked for.
            make: makes the plan upon the last commit; maybe again upon another.
        """

    def open_plan(self, plan_id: str, snapshot: Snapshot) -> AppendPlan:
        """A plan by its id; StoreError if it is not under way."""

    def under_way(self, snapshot: Snapshot) -> AppendPlan | None:
        """The plan under way, if any."""

    def commit(self) -> Snapshot:
        """Publish what the plan under way has finished without a gap; returns the last commit."""

    def release(self) -> None:
        """Let other processes begin although this one's plan is not finished."""

    def amend(self, change: Change, kind: str) -> None:
        """Publish a change of the last commit."""

    def delete(self, ids: Sequence[str] | None, author_ids: Sequence[str] | None) -> set[str]:
        """Delete ids and authors, from the last commit and the plan under way.

        Returns:
            What was deleted.
        """
