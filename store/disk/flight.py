"""Several reads at a time, their results in order, in bounded memory.

A disk answers at once, and one read after another is fastest. A bucket takes its time over each
request, whatever its size, so many are in flight there: of several layers and slots, and ahead of
whoever goes through a layer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from store.disk.location import Location
from store.disk.objects import ObjectLocation

S = TypeVar("S")
T = TypeVar("T")
IN_FLIGHT = 16
"""Reads of a bucket at a time (each of a shard, by as many requests as it has ranges)."""
AHEAD_BYTES = 2**29
"""What they may hold together, where a shard is not larger than half of it."""
_mine = threading.local()


def lanes(location: Location, num_bytes: int) -> int:
    """How many reads of so many bytes are made at a time: one, but of a bucket.

    Within a job of `in_order` it is that job's share.
    """
    if not isinstance(location, ObjectLocation):
        return 1
    return max(1, min(share(), max(2, AHEAD_BYTES // max(1, num_bytes))))


def share() -> int:
    """How many requests whoever runs in this thread may make at a time."""
    mine: int = getattr(_mine, "share", IN_FLIGHT)
    return mine


def in_order(work: Callable[[S], T], jobs: Sequence[S], at_once: int) -> Iterator[T]:
    """What `work` makes of each job, in order; jobs are begun ahead of who takes the results.

    Args:
        work: called in threads, with one job.
        jobs: begun in their order.
        at_once: how many are done at a time, and one waits; with 1 no thread is made.
    """
    threads = min(at_once, len(jobs))
    if threads <= 1:
        yield from map(work, jobs)
        return

    def shared(job: S) -> T:
        _mine.share = max(1, at_once // threads)
        return work(job)

    begun: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                begun.append(pool.submit(shared, job))
                if len(begun) > threads:  # one waits, for the thread that ends next
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for left in begun:
                left.cancel()


def all_done(work: Callable[[S], object], jobs: Sequence[S], at_once: int) -> None:
    """Do every job, as `in_order` does."""
    for _ in in_order(work, jobs, at_once):
        pass
