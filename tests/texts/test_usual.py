"""Columns by the names that tools give them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorpusError
from pipeline.texts.choosing import TWEETS, InputOptions, columns_line, settled
from pipeline.texts.inputs import detect, earlier_key, input_key, read_blocks
from pipeline.texts.usual import USUAL, fitting, plain

TOOLS = {
    "twint": "id conversation_id created_at date time timezone user_id username language tweet",
    "snscrape": "url date rawContent renderedContent id user.username lang",
    "airline": "tweet_id airline_sentiment name text tweet_created user_timezone",
    "TAGS": "id_str from_user text created_at time user_lang in_reply_to_user_id_str",
    "4CAT": "id thread_id timestamp body author_name author_id language_guess",
    "spreadsheet": "Tweet ID;Post Date;Screen Name;Tweet Text;Language",
    "camels": "tweetId fullText createdAt userName",
    "mastodon": "uri content published language account",
    "apart": "message date time timezone user",
}
READ = {
    "twint": ("tweet", "id", "created_at", "language", "user_id"),
    "snscrape": ("rawContent", "id", "date", "lang", "user.username"),
    "airline": ("text", "tweet_id", "tweet_created", None, None),
    "TAGS": ("text", "id_str", "created_at", None, "from_user"),
    "4CAT": ("body", "id", "timestamp", None, "author_id"),
    "spreadsheet": ("Tweet Text", "Tweet ID", "Post Date", "Language", "Screen Name"),
    "camels": ("fullText", "tweetId", "createdAt", None, "userName"),
    "mastodon": ("content", "uri", "published", "language", None),
    "apart": ("message", None, "date + time + timezone", None, "user"),
}
VALUES = {"id": "1467810369", "date": "2026-11-04", "time": "09:00:00", "timezone": "-0800"}


def value(name: str) -> str:
    known = {plain(name): "2026-11-04 09:00" for name in USUAL["time"]} | VALUES
    return known.get(plain(name), f"of {name}")


def table(path: Path, names: list[str], *rows: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *(rows or [[value(one) for one in names]])])
    return path


def split(names: str) -> list[str]:
    return names.split(";") if ";" in names else names.split()


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_columns_of_tools(tmp_path: Path, tool: str, format: str) -> None:
    names, path = split(TOOLS[tool]), tmp_path / f"a.{format}"
    row = {name: value(name) for name in names}
    if format == "csv":
        table(path, names)
    elif format == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    assert tuple(settled(path, format, InputOptions()).read.values()) == READ[tool]
    assert settled(path, format, InputOptions(text=names[0])).text == names[0]


def test_names_are_compared_without_case_and_signs() -> None:
    for name in ("tweet_id", "Tweet ID", "tweetId", "TWEET-ID", "\ufefftweet.id", " tweet_id "):
        assert fitting("id", ["x", name], USUAL) == [name]
    assert fitting("id", ["ID", "id"], USUAL) == ["id"], "as it is written goes first"
    with pytest.raises(CorpusError, match=r"'Id' and 'ID' may both be meant by 'id'; .* --id"):
        fitting("id", ["Id", "ID"], USUAL)
    assert fitting("id", ["url", "link", "user_id", "identity"], USUAL) == []
    assert fitting("lang", ["user_lang"], USUAL) == []


@given(
    use=st.sampled_from(sorted(USUAL)),
    names=st.lists(
        st.sampled_from([one for names in USUAL.values() for one in names]), unique=True
    ),
)
def test_what_fits_is_in_the_order_of_the_table(use: str, names: list[str]) -> None:
    found = fitting(use, names, USUAL)
    if use != "time":
        assert found == [one for one in USUAL[use] if one in names]
    assert bool(found) == any(one in names for one in USUAL[use])


def test_no_two_names_of_a_use_are_one() -> None:
    for use, names in USUAL.items():
        assert len({plain(one) for one in names}) == len(names), use
    assert [names[0] for names in USUAL.values()] == [
        "text", "id", "created_at", "lang", "author_id",
    ]  # fmt: skip


def test_what_holds_what_it_should_is_taken(tmp_path: Path) -> None:
    names = ["id", "tweet_id", "created_at", "date", "text", "full_text", "lang", "language"]
    row = ["1.46781E+18", "1467810369", "3 hours ago", "2026-11-04", "", "all of it", "", "en"]
    path = table(tmp_path / "a.csv", names, row, row)
    found = settled(path, "csv", InputOptions())
    assert found.read == {
        "text": "full_text", "id": "tweet_id", "time": "date", "lang": "language", "author": None,
    }  # fmt: skip
    assert columns_line(found) == (
        "columns: text = 'full_text' (not 'text'), id = 'tweet_id' (not 'id'), time = 'date' (not"
        " 'created_at'), lang = 'language' (not 'lang'); none for author"
    )
    spoiled = table(tmp_path / "b.csv", ["id", "text"], ["1.46781E+18", "so"])
    assert settled(spoiled, "csv", InputOptions()).id == "id", "which is then refused"


def test_two_that_may_be_meant_are_an_error(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["Text", "TEXT"])
    with pytest.raises(CorpusError, match=r"a\.csv: columns 'Text' and 'TEXT' may both be meant"):
        settled(path, "csv", InputOptions())
    assert settled(path, "csv", InputOptions(text="TEXT")).text == "TEXT"


def test_a_day_and_its_time_are_one(tmp_path: Path) -> None:
    rows = [["a", "2026-11-04", "09:00:00", "-0800"], ["b", "2026-11-04", "10:00:00", ""]]
    path = table(tmp_path / "a.csv", ["text", "date", "time", "timezone"], *rows)
    (block,) = read_blocks(path, "csv", InputOptions())
    assert block.rows["created_at"].to_pylist() == [1793811600, 1793786400]
    named = InputOptions(text="text", time="date + time")
    (block,) = read_blocks(path, "csv", named)
    assert block.rows["created_at"].to_pylist() == [1793782800, 1793786400]
    whole = [["a", "2026-11-04", "2026-11-04T09:00Z"]]
    (block,) = read_blocks(
        table(tmp_path / "b.csv", ["text", "date", "time"], *whole), "csv", InputOptions()
    )
    assert block.rows["created_at"].to_pylist() == [1793782800]


def test_rows_say_who_wrote_them(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["text", "user_id", "who"], ["a", "77", "me"])
    for options, author in ((InputOptions(), "77"), (InputOptions(author="who"), "me")):
        kind = detect(path, options)
        (block,) = read_blocks(path, kind, options)
        assert block.rows["author_id"].to_pylist() == [author]
        named = settled(path, kind, options)
        keys = {input_key(path, "x", kind, options, columns=named.read)}
    assert len(keys) == 1, "it has no part in what is scored"


def test_keys_are_those_of_the_columns(tmp_path: Path) -> None:
    path, options = table(tmp_path / "a.csv", ["text", "id", "created_at", "lang"]), InputOptions()

    def key(options: InputOptions, **read: str | None) -> str:
        return input_key(path, "x", "csv", options, columns={"text": "text", "id": "id", **read})

    assert key(options) == key(options, time="created_at", author="user")
    assert key(options) != key(options, time="date")
    assert key(options) != key(InputOptions(detect_language=True))
    assert detect(path, options) != TWEETS


def test_a_table_that_was_read_by_made_ids_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("tweet_id,text,created_at\n17,so,2026-11-04\n")
    others: dict[str, Any] = {"filters": {"languages": []}}
    # What version 1 wrote for it.
    known = "e01c214894aff95e920c5300fea4e26bd051cf4d3861770ad8e1013c98b37007"
    assert earlier_key(path, "x", "csv", InputOptions(), **others) == known
    assert earlier_key(path, "x", "csv", InputOptions(text="text"), **others) != known
    assert earlier_key(path, "x", "csv", InputOptions(id="tweet_id"), **others) is None
    path.write_text("id,text\n17,so\n")
    assert earlier_key(path, "x", "csv", InputOptions(), **others) is None, "the same ids"
    path.write_text("tweet_id,tweet\n17,so\n")
    assert earlier_key(path, "x", "csv", InputOptions(), **others) is None, "it could not be read"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("11/4/2026 9:00", "'11/4/2026 9:00' may be day or month first; write the year first"),
        ("2026-11-04 09:00:00 IST", "IST is the time of India, Israel and Ireland; write the off"),
        ("46330.375", "looks like a spreadsheet's count of days"),
        ("last week", "'last week' is no time; write ISO 8601"),
    ],
)
def test_times_that_cannot_be_read_are_said(tmp_path: Path, value: str, said: str) -> None:
    path = table(tmp_path / "a.csv", ["text", "date"], ["a", value], ["b", value])
    for options in (InputOptions(), InputOptions(text="text", time="date")):
        line = columns_line(settled(path, "csv", options))
        assert "; most times are not known: " in line and said in line
    path = table(tmp_path / "b.csv", ["text", "date"], ["a", ""], ["b", "2026-11-04"])
    assert "not known" not in columns_line(settled(path, "csv", InputOptions()))
