"""Texts of a folder of scores by group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.prevalence import grouped
from pipeline.prevalence.grouped import ScoredTask, group_of_date, monday_of, read_groups, tasks_of
from tests.builders.scores import class_rows, write_scores

TASK = ScoredTask("mood", "classification", ("glad", "sad"))


def folder_of(path: Path, days: dict[str, int], **others: Any) -> Path:
    """``{date: texts}``, the share of glad ones rising with the date; one empty text a day."""
    draw = np.random.default_rng(0)
    rows = {}
    for i, (day, number) in enumerate(days.items()):
        glad = np.clip(draw.normal(0.3 + 0.1 * i, 0.2, size=number), 0.01, 0.99)
        rows[day] = class_rows("mood", TASK.classes, np.stack([glad, 1 - glad], axis=1), empty=1)
    return write_scores(path, rows, {"mood": {"classes": list(TASK.classes), **others}})


def test_days_weeks_and_months() -> None:
    assert monday_of("2024-12-31") == "2024-12-30" == monday_of("2025-01-05")
    assert monday_of("unknown") == "unknown"
    assert group_of_date("2024-12-31", "month") == "2024-12"
    assert group_of_date("2024-12-31", None) == "all"
    assert group_of_date("2024-12-31", "platform") is None


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (None, {"all": 60}),
        ("day", {"2024-12-29": 10, "2024-12-30": 20, "2025-01-05": 25, "unknown": 5}),
        ("week", {"2024-12-23": 10, "2024-12-30": 45, "unknown": 5}),
        ("month", {"2024-12": 30, "2025-01": 25, "unknown": 5}),
        ("mood", None),
    ],
)
def test_every_text_is_in_one_group(
    tmp_path: Path, by: str | None, expected: dict[str, int] | None
) -> None:
    days = {"2024-12-29": 10, "2024-12-30": 20, "2025-01-05": 25, "unknown": 5}
    found = read_groups(folder_of(tmp_path / "scores", days), [TASK], by=by)["mood"]
    counts = {group: own.num_texts for group, own in found.items()}
    assert sum(counts.values()) == 60 and sum(own.num_empty for own in found.values()) == 4
    if expected is not None:
        assert counts == expected
    for group, own in found.items():
        values, decided = own.sample()
        assert own.counts.sum() == own.num_texts == len(values)
        assert (decided.sum(axis=0) == own.counts).all()
        assert np.allclose(values.sum(axis=0), own.sums, atol=1e-4)
        if by == "mood":
            assert group in ("glad", "sad", "unknown")


def test_of_many_texts_some_are_kept_whatever_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "MAX_TEXTS", 40)
    folder = folder_of(tmp_path / "scores", {"2024-01-01": 90, "2024-01-02": 110})
    one = read_groups(folder, [TASK])["mood"]["all"]
    (folder / "date=2024-01-01").rename(folder / "date=2024-01-03")
    other = read_groups(folder, [TASK])["mood"]["all"]
    assert one.num_texts == other.num_texts == 200
    assert (one.counts == other.counts).all() and np.allclose(one.sums, other.sums)
    assert np.array_equal(one.sample()[0], other.sample()[0]) and len(one.sample()[0]) == 40


def test_label_sets_and_values(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "topics": pa.array([["a"], ["a", "b"], [], None], pa.list_(pa.string())),
            "topics_p_a": pa.array([0.9, 0.8, 0.1, None], pa.float32()),
            "topics_p_b": pa.array([0.2, 0.7, 0.1, None], pa.float32()),
            "level": pa.array([1.0, 2.0, 3.0, None], pa.float64()),
        }
    )
    card = {"topics": {"classes": ["a", "b"]}, "level": {"classes": []}}
    folder = write_scores(tmp_path / "scores", {"2024-01-01": rows}, card)
    tasks = tasks_of(folder, {"tasks": card})
    assert [task.type for task in tasks] == ["multilabel", "regression"]
    found = read_groups(folder, tasks)
    assert found["topics"]["all"].counts.tolist() == [2, 1]
    level = found["level"]["all"]
    assert (level.num_texts, level.num_empty, level.sums[0], level.squares[0]) == (3, 1, 6, 14)


def test_what_cannot_be_grouped_by_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "scores", {"2024-01-01": 9})
    with pytest.raises(ConfigError, match=r"--by 'dya'.* day, week, month, or a column"):
        read_groups(folder, [TASK], by="dya")
    monkeypatch.setattr(grouped, "MAX_GROUPS", 5)
    with pytest.raises(ConfigError, match="more than 5 groups"):
        read_groups(folder, [TASK], by="id")
    monkeypatch.setattr(grouped, "MAX_DATES", 0)
    with pytest.raises(ConfigError, match=r"more than 0 groups.* --by week or month"):
        read_groups(folder, [TASK], by="day")


def test_many_groups_are_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "scores", {"2024-01-01": 3000})
    made: list[int] = []
    monkeypatch.setattr(grouped.Group, "of", lambda task: made.append(1))
    with pytest.raises(ConfigError, match="more than 2,000 groups"):
        read_groups(folder, [TASK], by="id")
    assert not made


def test_any_column_makes_groups(tmp_path: Path) -> None:
    """No value and no number are unknown; a part of an earlier version may lack the column."""
    glad = np.linspace(0.1, 0.9, 4)
    own = class_rows("mood", TASK.classes, np.stack([glad, 1 - glad], axis=1))
    level = pa.array([0.5, None, float("nan"), 0.5], pa.float64())
    live = pa.array([True, False, None, True])
    rows = {"2024-01-01": own, "2024-01-02": own}
    rows["2024-01-02"] = own.append_column("level", level).append_column("live", live)
    folder = write_scores(tmp_path / "scores", rows, {"mood": {"classes": list(TASK.classes)}})
    for by, expected in (
        ("level", {"0.5": 2, "unknown": 6}),
        ("live", {"False": 1, "True": 2, "unknown": 5}),
    ):
        found = read_groups(folder, [TASK], by=by)["mood"]
        assert {group: texts.num_texts for group, texts in found.items()} == expected


def test_of_many_groups_fewer_texts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "MAX_KEPT", 60)
    folder = folder_of(tmp_path / "scores", {"2024-01-01": 90, "2024-01-02": 110, "2024-01-03": 9})
    found = read_groups(folder, [TASK], by="day")["mood"]
    assert [len(texts.sample()[0]) for texts in found.values()] == [20, 20, 9]
    assert [texts.num_texts for texts in found.values()] == [90, 110, 9]
