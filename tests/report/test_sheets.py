"""CSV that a spreadsheet may open: no text of anybody's is calculated."""

from __future__ import annotations

import csv
import io

import pytest

from pipeline.report.sheets import csv_text


@pytest.mark.parametrize("text", ["=1+1", "@SUM(1)", "+a", "-a", "\t=1", "\r=1", "-2+3"])
def test_no_text_is_a_formula(text: str) -> None:
    (row,) = list(csv.DictReader(io.StringIO(csv_text(["id", "text"], [("1", text)]), newline="")))
    assert row == {"id": "1", "text": f"'{text}"}


def test_numbers_and_other_texts_stay_as_they_are() -> None:
    written = csv_text(["a", "b"], [(-0.25, "-0.25"), (None, "+1e3"), (3, 'a, "=b"'), (1, " =")])
    assert written.splitlines() == ["a,b", "-0.25,-0.25", ",+1e3", '3,"a, ""=b"""', "1, ="]
