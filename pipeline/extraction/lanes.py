"""Work side by side on the cores of one machine: several lanes, each with its share of them.

A transformer's small operations leave cores waiting for each other whenever all of them share one
batch. Lanes that run a batch each, on a core (or a few) of their own, wait only at the end.

    lanes = [backbone, backbone.twin()]
    for result in side_by_side(lanes, batches, lambda lane, batch: lane.run(batch), cores_each=1):
        ...                                     # in order of completion

``ahead`` is for work that comes in stages: each is done in a thread of its own, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import torch

Lane = TypeVar("Lane")
Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_LANES = 8
"""More lanes would want more memory; with more cores than this each lane gets several."""


def num_lanes(device: torch.device) -> int:
    """Lanes to use: one for each core that torch may use, within bounds; one on other devices."""
    return min(torch.get_num_threads(), MAX_LANES) if device.type == "cpu" else 1


@contextmanager
def threads(count: int, name: str, *, cores_each: int = 1) -> Iterator[ThreadPoolExecutor]:
    """Threads whose torch operations use so many cores each."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            count, name, initializer=torch.set_num_threads, initargs=(cores_each,)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # threads to come start with what was set last


def ahead(
    items: Iterable[Item], work: Callable[[Item], Result], *, count: int = 1, cores_each: int = 1
) -> Iterator[Result]:
    """``work(item)`` of each item, in order, done in another thread while the caller does others.

    Stages are nested: ``ahead(ahead(files, read), compute)``.

    Args:
        items: drawn in that thread; if it is a generator it is closed when the caller stops.
        work: called for one item at a time.
        count: results made before the caller asks for them.
        cores_each: cores for the torch operations of ``work``.

    Yields:
        The results. What drawing or ``work`` raises is raised once those before it are handed out.
    """
    source = iter(items)

    def step() -> tuple[Result] | None:
        for item in source:
            return (work(item),)
        return None

    coming: deque[Future[tuple[Result] | None]] = deque()
    with threads(1, "ahead", cores_each=cores_each) as thread:
        try:
            coming.extend(thread.submit(step) for _ in range(count))
            while (found := coming.popleft().result()) is not None:
                coming.append(thread.submit(step))
                yield found[0]
        finally:
            for waiting in coming:
                waiting.cancel()
            if isinstance(source, Generator):
                thread.submit(source.close).result()  # by the thread that may be drawing from it


def side_by_side(
    lanes: Sequence[Lane],
    items: Iterable[Item],
    work: Callable[[Lane, Item], Result],
    *,
    cores_each: int,
) -> Iterator[Result]:
    """``work(lane, item)`` for every item; a lane takes the next item when it is free.

    Args:
        lanes: what each thread has for itself. With a single one there is no thread.
        items: taken in their order.
        work: called by several threads at a time, with different lanes.
        cores_each: cores for the torch operations of one lane.

    Yields:
        The results in order of completion. Once an error is seen no item is begun; it is raised
        when those under way have ended.
    """
    if len(lanes) == 1:
        for item in items:
            yield work(lanes[0], item)
        return
    free: SimpleQueue[Lane] = SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def run(item: Item) -> Result:
        lane = free.get()
        try:
            return work(lane, item)
        finally:
            free.put(lane)

    with threads(len(lanes), "lane", cores_each=cores_each) as pool:
        futures = [pool.submit(run, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
