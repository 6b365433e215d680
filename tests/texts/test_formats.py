"""Formats of tables, told from name and content."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from pipeline.config import CorpusSource
from pipeline.errors import CorpusError
from pipeline.texts.formats import FORMATS, detect_format
from pipeline.texts.inputs import READERS, TWEETS
from pipeline.texts.rows import read_rows


def test_every_format_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no format 'xml'; the formats are csv, tsv"):
        list(read_rows(tmp_path / "a.jsonl", ["text"], format="xml"))
    labelled = set(get_args(CorpusSource.model_fields["format"].annotation))
    assert labelled - {"auto", "hub"} == set(FORMATS) - {"text"}  # plain lines hold no labels
    of_sets = {"tweeteval", "trees", "folders"}  # layouts of labels
    assert set(READERS) - {TWEETS} == set(FORMATS) - of_sets


def test_formats_are_told_from_name_and_content(tmp_path: Path) -> None:
    for name, data, expected in (
        ("a.csv", "text,label\n", "csv"),
        ("a.csv", "text\tlabel\n", "tsv"),
        ("a.txt", "text\tlabel\n", "tsv"),
        ("a.data", '{"text": 1}', "jsonl"),
        ("a.json", "[]", "jsonl"),
        ("a", "text,label\n", "csv"),
    ):
        (tmp_path / name).write_text(data)
        assert detect_format(tmp_path / name) == expected
