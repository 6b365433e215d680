"""The cache of texts: each computed once while it is remembered, whatever the blocks."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.cache import CachePlan, TextCache


def predict(hashes: list[str]) -> pa.Table:
    """What a model might say of texts."""
    return pa.table({"p": pa.array([f"of {one}" for one in hashes], pa.string())})


class Model:
    """Plans and resolves blocks, and counts what is computed."""

    def __init__(self, max_texts: int) -> None:
        self.cache = TextCache(max_texts=max_texts)
        self.computed: list[str] = []

    def resolve(self, block: str, plan: CachePlan) -> None:
        texts = [block[at] for at in plan.new]
        self.computed += texts
        assert self.cache.resolve(plan, predict(texts)).equals(predict(list(block)))


def test_the_three_blocks_of_the_docstring() -> None:
    model = Model(max_texts=4)
    blocks = ["aba", "bc", "daa"]
    plans = [model.cache.plan(block) for block in blocks]  # all ahead of the first result
    assert plans == [
        CachePlan(0, new=[0, 1], forget=False, again=[], rows=[0, 1, 0]),
        CachePlan(1, new=[1], forget=False, again=[], rows=[1, 2]),
        CachePlan(2, new=[0], forget=True, again=[0], rows=[1, 0, 0]),
    ]
    for block, plan in zip(blocks, plans, strict=True):
        model.resolve(block, plan)
    assert model.computed == ["a", "b", "c", "d"]


def test_a_block_without_a_new_text_computes_nothing() -> None:
    model = Model(max_texts=100)
    for block in ("ab", "ba", "", "aab"):
        model.resolve(block, model.cache.plan(block))
    assert model.computed == ["a", "b"]


def test_texts_seen_again_stay_and_others_are_forgotten() -> None:
    model = Model(max_texts=4)
    for block in ("abc", "ade", "afg", "b"):
        model.resolve(block, model.cache.plan(block))
    assert model.computed == [*"abcdefg", "b"], "b fell out, a never did"


def test_plans_are_resolved_in_their_order() -> None:
    cache = TextCache(max_texts=4)
    cache.plan("ab")
    second = cache.plan("c")
    with pytest.raises(AssertionError, match="in their order"):
        cache.resolve(second, predict(["c"]))


@given(
    blocks=st.lists(st.text(alphabet="abcdefgh", max_size=8), max_size=12),
    max_texts=st.integers(0, 10),
    ahead=st.integers(0, 3),
)
def test_every_row_gets_the_prediction_of_its_text(
    blocks: list[str], max_texts: int, ahead: int
) -> None:
    model = Model(max_texts)
    planned: list[tuple[str, CachePlan]] = []
    for block in blocks:
        planned.append((block, model.cache.plan(block)))
        while len(planned) > ahead:
            model.resolve(*planned.pop(0))
    for one in planned:
        model.resolve(*one)
    if max_texts > 2 * sum(map(len, blocks)):
        assert len(model.computed) == len(set("".join(blocks)))
