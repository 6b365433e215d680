"""Lanes: every item once, errors out, threads' settings restored."""

import threading
import time

import pytest
import torch

from pipeline.extraction import lanes
from pipeline.extraction.lanes import ahead, num_lanes, side_by_side, threads


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


def test_stages_run_ahead_of_the_caller_and_of_each_other():
    drawn, doubled, fourth = [], [], threading.Event()

    def items():
        for i in range(20):
            drawn.append(i)
            if i == 3:
                fourth.set()
            yield i

    def double(i):
        doubled.append(i)
        return 2 * i

    results = ahead(ahead(items(), lambda i: i), double, count=2)
    assert next(results) == 0
    assert fourth.wait(60) and drawn == [0, 1, 2, 3] and doubled == [0, 1, 2][: len(doubled)]
    assert list(results) == [2 * i for i in range(1, 20)]
    assert drawn == doubled == list(range(20))


def test_errors_of_a_stage_come_in_their_turn():
    def items():
        yield from (1, 2)
        raise ValueError("broken file")

    results = ahead(ahead(items(), lambda i: i), lambda i: 2 * i, count=2)
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(ValueError, match="broken file"):
        next(results)


def test_a_caller_who_stops_ends_all_stages():
    closed, before = [], torch.get_num_threads()

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    results = ahead(ahead(items(), lambda i: i), lambda i: i)
    next(results)
    results.close()
    assert closed and torch.get_num_threads() == before
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


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
