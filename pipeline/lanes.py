"""Work side by side on the cores of one machine: several lanes, each with its share of them.

A transformer's small operations leave cores waiting for each other whenever all of them share one
batch. Lanes that run a batch each, on a core (or a few) of their own, wait only at the end.

    lanes = [backbone, backbone.twin()]
    for result in side_by_side(lanes, batches, lambda lane, batch: lane.run(batch), cores_each=1):
        ...                                     # in order of completion
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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
