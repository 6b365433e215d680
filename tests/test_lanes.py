"""Lanes: every item once, errors out, threads' settings restored."""

import threading
import time

import pytest
import torch

from pipeline import lanes
from pipeline.lanes import num_lanes, side_by_side, threads


@pytest.mark.parametrize("count", [1, 3])
def test_every_item_is_done_once_and_a_lane_does_one_at_a_time(count):
    busy = {name: threading.Lock() for name in range(count)}

    def work(lane, item):
        assert busy[lane].acquire(blocking=False)
        try:
            return item * item
        finally:
            busy[lane].release()

    done = list(side_by_side(list(busy), range(200), work, cores_each=1))
    assert sorted(done) == [i * i for i in range(200)]


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_is_raised_and_ends_the_rest(count):
    begun = []

    def work(_, item):
        begun.append(item)
        time.sleep(0.001)
        if item == 3:
            raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        list(side_by_side(range(count), range(1000), work, cores_each=1))
    assert len(begun) < 1000


def test_threads_take_their_share_of_the_cores_and_leave_the_callers_alone(monkeypatch):
    before = torch.get_num_threads()
    with threads(2, "test", cores_each=1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == before
    with threads(1, "test", cores_each=before) as pool:
        assert pool.submit(torch.get_num_threads).result() == before
    monkeypatch.setattr(lanes.torch, "get_num_threads", lambda: 64)
    assert num_lanes(torch.device("cpu")) == lanes.MAX_LANES
    assert num_lanes(torch.device("cuda")) == 1
