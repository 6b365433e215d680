"""Encodings: told, marked, damaged, and never mistaken for another."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CorpusError
from pipeline.texts.blocks import Layout
from pipeline.texts.charsets import as_utf8, is_utf8
from pipeline.texts.formats import detect_format
from pipeline.texts.inputs import InputOptions, detect, read_blocks
from pipeline.texts.rows import check_encoding, read_rows

TEXTS = ["naïve café", "„so“ – 5 €", "plain"]


def texts(path: Path, encoding: str | None = None, **options: str) -> list[str | None]:
    blocks = read_rows(path, ["text"], layout=Layout(encoding), **options)
    return [text for block in blocks for text in block.columns["text"]]


def refusal(path: Path, encoding: str | None = None) -> str:
    with pytest.raises(CorpusError) as caught:
        texts(path, encoding)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_every_text_format_in_an_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    lines = ["text\tn" if name == "a.tsv" else "text", *TEXTS]
    if name == "a.tsv":
        lines[1:] = [f"{line}\t1" for line in TEXTS]
    if name == "a.txt":
        lines = TEXTS
    if name == "a.jsonl":
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    path = tmp_path / name
    path.write_bytes("\r\n".join(lines).encode(encoding))
    format = detect_format(path, text="text", layout=Layout(encoding))
    assert texts(path, encoding, format=format) == TEXTS
    if encoding in ("utf-16", "utf-8", "utf-8-sig"):  # says itself what it is
        assert texts(path, format=format) == TEXTS


def test_a_mark_that_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text\nnaïve\n".encode("utf-16"))
    assert "mark of utf-16-le, which encoding = 'cp1252' is not; leave encoding" in refusal(
        path, "cp1252"
    )
    path.write_bytes("text\nnaïve\n".encode("utf-16-le"))
    assert 'a zero in every other byte, as utf-16-le has; set encoding = "utf-16-le"' in refusal(
        path
    )
    assert texts(path, "utf-16-le") == ["naïve"]
    assert "not utf-16-le: truncated data; mend it" in refusal(_cut(path), "utf-16-le")


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-1])
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("café".encode("latin-1"), "byte 0xE9 at position 4 looks like latin-1 or cp1252; set enc"),
        (
            "привет".encode("cp1251"),
            "byte 0xEF at position 1; set encoding to the file's own, such",
        ),
        ("感谢".encode("gb18030"), "byte 0xB8 at position 1; set encoding to the file's own, such"),
        ("naïve".encode() + b" caf\xe9", "position 11, though what is before it is UTF-8; mend"),
    ],
)
def test_bytes_that_are_not_utf8(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\na\n" + line + b"\n")
    assert refusal(path).startswith("line 3: not UTF-8: byte 0x")
    assert expected in refusal(path)
    path.write_bytes("text\nnaïve\n".encode() + b"caf\xe9\n")
    assert "line 3: not UTF-8: byte 0xE9 at position 4, though what is before" in refusal(path)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "' + line + b'"}\n')
    assert "line 2: not UTF-8: byte 0x" in refusal(path)
    assert 'as in encoding = "cp1252"' in refusal(path)


def test_bytes_that_the_encoding_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\ncaf\xe9\nso \x81 so\n")
    assert refusal(path, "cp1252") == (
        'line 3: not cp1252: byte 0x81 is not in it; mend the line, or set "latin-1"'
    )
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "caf\xe9"}\n{"text": "so \x81 so"}\n')
    assert refusal(path, "cp1252") == ("line 2: not cp1252: byte 0x81 is not in it; mend the line")


@pytest.mark.parametrize(
    ("encoding", "line", "byte"),
    [
        ("euc_kr", b"ab\xc2\x80cd", "0xC2"),
        ("big5", b"ab\xc2\x80\xc2\xa0cd", "0xC2"),
        ("ascii", "café".encode(), "0xC3"),
        ("shift_jis", b"ab\x80cd", "0x80"),
    ],
)
def test_bytes_that_the_encoding_lacks_are_no_utf8_either(
    tmp_path: Path, encoding: str, line: bytes, byte: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\n" + line + b"\n")
    assert refusal(path, encoding) == (
        f"line 2: not {encoding}: byte {byte} is not in it; mend the line"
    )
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + line + b'"}\n')
    assert refusal(path, encoding) == (
        f"line 1: not {encoding}: byte {byte} is not in it; mend the line"
    )


def test_utf8_is_not_garbled(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\nplain\nnaïve\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="is UTF-8, and encoding = 'cp1252' would garble it"):
        check_encoding(path, "cp1252", "csv")
    path.write_bytes(b"text\nplain\nna\xefve\n")
    check_encoding(path, "cp1252", "csv")
    path.write_bytes(b"text\nplain\n")
    check_encoding(path, "latin-1", "csv")
    options = InputOptions(encoding="cp1252")
    path.write_text("text\nplain\nnaïve\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="would garble it; leave encoding out"):
        list(read_blocks(path, detect(path, options), options))


@given(st.text(st.characters(codec="cp1252")), st.integers(1, 7), st.sampled_from([*"\n\r", ""]))
@settings(max_examples=50, deadline=None)
def test_smoke_streams_in_pieces(text: str, step: int, end: str) -> None:
    text += end
    for encoding in ("cp1252", "utf-8", "utf-16", "utf-8-sig"):
        data = text.encode(encoding)
        if encoding == "cp1252" and data.startswith((*map(bytes, (b"\xff\xfe", b"\xfe\xff")),)):
            continue
        chunks = (data[at : at + step] for at in range(0, len(data), step))
        found = b"".join(as_utf8(chunks, encoding)).decode()
        mac = "\r" in text and "\n" not in text
        bare = text.removeprefix("\ufeff")
        assert found == (bare.replace("\r", "\n") if mac else bare)


def test_how_sure_utf8_must_be() -> None:
    def said(data: bytes, encoding: str) -> bool:
        return is_utf8(iter([data]), encoding=encoding)

    assert said("é".encode(), "cp1252") and not said(b"e", "cp1252")
    assert not said("é".encode(), "gb18030") and said("é".encode() * 8, "gb18030")
    assert not said("é".encode() + b"\xe9", "cp1252")
    assert not said("é".encode() + codecs.BOM_UTF16, "utf-16")
