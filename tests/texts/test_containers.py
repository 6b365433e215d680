"""Packed files and archives: unpacked whatever they are, and kept up to where they break."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts.containers import StreamBreak, members, unpacked
from tests.builders import framed
from tests.builders.dumps import LAYOUTS, bad, dump, jsonl, rows, totals, v1


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zst,
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_packings(tmp_path: Path, packing: str) -> None:
    pack = PACKINGS[packing]
    tweets = [v1(i) for i in range(50)]
    plain = rows(dump(tmp_path / "same", jsonl(tweets)))
    assert rows(dump(tmp_path / "same", pack(jsonl(tweets)))) == plain
    two_parts = pack(jsonl(tweets[:20])) + pack(jsonl(tweets[20:]))
    assert rows(dump(tmp_path / "same", two_parts)) == plain
    assert rows(dump(tmp_path / "same", pack(jsonl(tweets)) + b"\0" * 512)) == plain


@pytest.mark.parametrize("num_zeros", [4, 2000])
def test_zeros_between_streams(tmp_path: Path, num_zeros: int) -> None:
    """Padding that xz allows, whatever of it stands in one piece with the next stream."""
    parts = [lzma.compress(jsonl([v1(i)])) for i in range(3)]
    blocks = dump(tmp_path / "padded", (b"\0" * num_zeros).join(parts))
    assert (totals(blocks)["tweets"], totals(blocks)["quarantined"]) == (3, 0)


@pytest.mark.parametrize("outer", ["plain", *PACKINGS])
def test_tar_of_packed_files(tmp_path: Path, outer: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("2021/01"))
        for number, pack in enumerate([bytes, *PACKINGS.values()]):
            data = pack(jsonl([v1(10 * number + i) for i in range(10)]))
            entry = tarfile.TarInfo(f"2021/01/{number:02d}.json")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    data = file.getvalue() if outer == "plain" else PACKINGS[outer](file.getvalue())
    blocks = dump(tmp_path / "month.tar", data, block_rows=7)
    assert totals(blocks)["tweets"] == totals(blocks)["read"] == 40
    assert rows(blocks)[15]["source_file"] == "month.tar:2021/01/01.json"
    assert rows(blocks)[15]["line"] == 6


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("layout", ["lines", "array"])
def test_rows_before_a_break_are_kept(tmp_path: Path, packing: str, layout: str) -> None:
    order = random.Random(0)
    noise = [v1(i, text="".join(order.choices("abcdefgh ", k=200))) for i in range(3000)]
    data = PACKINGS[packing](LAYOUTS[layout](noise))
    blocks = dump(tmp_path / "broken", data[: len(data) * 4 // 5])
    counts = totals(blocks)
    assert 1000 < counts["tweets"] < 2900
    assert counts["quarantined"] == 1
    (row,) = bad(blocks)
    assert row["reason"] == f"{packing} breaks off before its end"
    kept = rows(blocks)
    assert [row["id"] for row in kept] == [tweet["id_str"] for tweet in noise[: len(kept)]]


def test_damage_inside_packed_data(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(jsonl([v1(i) for i in range(5000)])))
    data[len(data) // 2] ^= 255
    blocks = dump(tmp_path / "a", bytes(data))
    counts = totals(blocks)
    assert counts["tweets"] > 100
    assert bad(blocks)[-1]["reason"].startswith("damaged gz")


@pytest.mark.parametrize("outer", ["plain", "gz"])
def test_broken_tar(tmp_path: Path, outer: str) -> None:
    data = jsonl([v1(i) for i in range(100)])
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(3):
            entry = tarfile.TarInfo(f"{number}.json")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    in_second_file = file.getvalue()[: 3 * 512 + len(data) * 3 // 2]
    between_files = file.getvalue()[: 512 + -(-len(data) // 512) * 512 + 100]
    if outer == "gz":
        in_second_file, between_files = (
            gzip.compress(part, 0)[:-8] for part in (in_second_file, between_files)
        )
    blocks = dump(tmp_path / "a.tar", in_second_file)
    counts = totals(blocks)
    assert 140 <= counts["tweets"] <= 150
    (row,) = bad(blocks)
    assert row["source_file"] == "a.tar:1.json"
    assert "gz breaks off" in row["reason"] or "damaged tar" in row["reason"]
    counts = totals(dump(tmp_path / "a.tar", between_files))
    assert (counts["tweets"], counts["quarantined"]) == (100, 1)


@given(data=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\x1f\x8b\x08", b"BZh91AY&SY"]))
def test_smoke_unpacking_any_bytes_breaks_off_at_worst(data: bytes, prefix: bytes) -> None:
    try:
        for _ in unpacked(iter([prefix + data])):
            pass
    except StreamBreak:
        pass


@pytest.mark.parametrize("zeros", [1024, 10240])
def test_tars_that_are_joined(tmp_path: Path, zeros: int) -> None:
    one, other = framed.tar({"a": b"1"}), framed.tar({"b": b"2", "c": b"3"})
    path = tmp_path / "a.tar"
    path.write_bytes(one.rstrip(b"\0").ljust(1024, b"\0") + bytes(zeros) + other)
    assert [b"".join(member.chunks) for member in members(path)] == [b"1", b"2", b"3"]
    path.write_bytes(one + b"lol" * 512 + other)
    found: list[bytes] = []
    with pytest.raises(StreamBreak, match="damaged tar: invalid header, behind a file or its end"):
        found.extend(b"".join(member.chunks) for member in members(path))
    assert found == [b"1"]
