"""Whatever is in a file, and however little of it there is, its rows are accounted for in memory
that has a bound."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorpusError
from pipeline.texts import containers
from pipeline.texts.inputs import InputOptions, detect, read_blocks
from tests.builders.dumps import v1
from tests.builders.framed import NAMES, PACKED, framed, zipped, zst
from tests.builders.hostile_dumps import LINE_BYTES, NOISE, SOURCES, accounted
from tests.builders.paths import ROOT

BOUND_MB = 400
"""Of a process that reads files whose lines have a megabyte at most."""
MB = 1 << 20


def read_apart(*arguments: object) -> Counter[str]:
    """Read files in a process of its own, which is to take no more memory than the bound."""
    command = [sys.executable, "-m", "tests.builders.hostile_dumps", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    counts: Counter[str] = Counter(json.loads(done.stdout))
    assert counts["kilobytes"] < BOUND_MB * 1024, counts
    return counts


def test_spoiled_files(tmp_path: Path) -> None:
    counts = read_apart(tmp_path, 0, 120)
    assert counts["rows"] > 500 and counts["bad"] > 100


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("first", range(200, 3200, 250))
def test_many_spoiled_files(tmp_path: Path, first: int) -> None:
    read_apart(tmp_path, first, first + 250)


@pytest.mark.parametrize("source", ["tweets", "printed tweets", "csv", "texts as JSON"])
@pytest.mark.parametrize("noise", NOISE)
def test_each_noise_in_the_middle(tmp_path: Path, source: str, noise: str) -> None:
    make, ending = SOURCES[source]
    data = make()
    at = data.index(b"\n", len(data) // 2) + 1
    path = tmp_path / f"a{ending}"
    path.write_bytes(data[:at] + NOISE[noise]() + data[at:])
    counts = accounted(path)
    assert counts["rows"] >= 10 or counts["failed"]


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zst,
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_what_grows_when_it_is_unpacked(tmp_path: Path, packing: str) -> None:
    pack = PACKINGS[packing]
    line = json.dumps(v1(0)).encode() + b"\n"
    zeros = pack(bytes(16 * MB)) * 16
    (tmp_path / "a.json").write_bytes(pack(line) + zeros + pack(b"\n" + line))
    assert (tmp_path / "a.json").stat().st_size < 2 * MB
    counts = read_apart(tmp_path / "a.json")
    assert (counts["rows"], counts["bad"]) == (2, 1)


@pytest.mark.slow
def test_two_gigabytes_in_some_hundred_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(b"text\n") + bz2.compress(bytes(2100 * MB)))
    assert (tmp_path / "a.csv.bz2").stat().st_size < 4000
    assert read_apart(tmp_path / "a.csv.bz2")["bad"] == 1


LONG = "x" * 5000
SPOILED = {
    "a.jsonl": [json.dumps({"text": text}) for text in ("one", LONG, "two")],
    "a.json": [json.dumps(v1(number, text=text)) for number, text in enumerate(("1", LONG, "2"))],
    "a.csv": ["text", "one", LONG, "two"],
    "b.csv": ["text,b", "one,1", '"x', *['","'] * 900, "two,2"],
    "a.tsv": ["text\tb", "one\t1", f"{LONG}\t1", "two\t2"],
    "a.txt": ["one", LONG, "two"],
}


@pytest.mark.parametrize("name", SPOILED)
def test_reading_goes_on_behind_a_line_that_is_too_long(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("\n".join(SPOILED[name]) + "\n")
    options = InputOptions(max_line_bytes=2000)
    blocks = list(read_blocks(path, detect(path, options), options))
    bad = [row for block in blocks for row in block.bad.to_pylist()]
    texts = [text for block in blocks for text in block.rows["text"].to_pylist()]
    assert any("max_line_bytes = 2000" in row["reason"] for row in bad)
    assert texts[0][0] in "o1" and texts[-1][0] in "t2"
    assert accounted(path, max_line_bytes=2000)["bad"] == len(bad)


def test_a_long_value_of_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    odd = [b"one", b"x" * 5000, b"\xff", None, b"two"]
    pq.write_table(pa.table({"text": pa.array(odd, pa.binary())}), path)
    options = InputOptions(max_line_bytes=2000)
    (block,) = read_blocks(path, "parquet", options)
    assert block.rows["text"].to_pylist() == ["one", "", "two"]
    assert block.bad["line"].to_pylist() == [2, 3]
    assert block.bad["reason"].to_pylist() == [
        "longer than max_line_bytes = 2000",
        "not UTF-8: byte 0xFF",
    ]


def test_a_text_that_a_parquet_file_repeats(tmp_path: Path) -> None:
    text = "tea and rain " * 80_000  # just a megabyte, in a thousand rows
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), [text[:LINE_BYTES]])
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 2 * MB
    assert read_apart(tmp_path / "a.parquet")["rows"] == 1000


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry, data in entries:
            archive.addfile(entry, io.BytesIO(data) if data else None)
    return file.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (tarfile.REGTYPE, 1 << 62),
        (tarfile.GNUTYPE_LONGNAME, 1 << 40),
        (tarfile.XHDTYPE, 1 << 40),
        (tarfile.FIFOTYPE, 1 << 62),
        (tarfile.CONTTYPE, 1 << 62),
        (tarfile.GNUTYPE_SPARSE, 1 << 62),
    ],
)
def test_sizes_that_a_tar_makes_up(tmp_path: Path, kind: bytes, size: int) -> None:
    line = json.dumps(v1(0)).encode() + b"\n"
    good = tar((header("a.json", len(line)), line))[:1024]
    made_up = header("b.json", size, kind).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(good + made_up + line)
    counts = accounted(tmp_path / "a.tar")
    assert counts["rows"] in (1, 2) and counts["bad"] >= 1


def test_headers_of_a_tar_within_headers(tmp_path: Path) -> None:
    chain = header("x", 512, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) + bytes(512)
    (tmp_path / "a.tar").write_bytes(chain * 5000)
    assert accounted(tmp_path / "a.tar")["bad"] == 1


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"PK\x03\x04" + random.Random(0).randbytes(500))
    blocks = read_blocks(tmp_path / "a.json", "tweets", InputOptions())
    assert next(blocks).bad["reason"].to_pylist() == ["damaged zip: File is not a zip file"]
    with pytest.raises(CorpusError, match=r"a\.json: damaged zip.*fetch the file again"):
        next(blocks)


def test_a_zip_of_zeros(tmp_path: Path) -> None:
    line = json.dumps(v1(0)).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", line + bytes(256 * MB) + b"\n" + line)
    assert (tmp_path / "a.zip").stat().st_size < 2 * MB
    counts = read_apart(tmp_path / "a.zip")
    assert (counts["rows"], counts["bad"]) == (2, 1)


def test_spoiled_zips(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", b"".join(json.dumps(v1(i)).encode() + b"\n" for i in range(50)))
    data, rng = file.getvalue(), random.Random(0)
    for _ in range(60):
        spoiled = bytearray(data[: rng.choice([len(data), rng.randrange(4, len(data))])])
        for _ in range(rng.randrange(4)):
            spoiled[rng.randrange(4, len(spoiled))] = rng.randrange(256)
        (tmp_path / "a.zip").write_bytes(spoiled)
        counts = accounted(tmp_path / "a.zip")
        assert counts["rows"] == 50 or counts["bad"] or counts["failed"]


@pytest.mark.parametrize("framing", NAMES)
def test_mutated_framings_in_containers(tmp_path: Path, framing: str) -> None:
    """Cut, flipped or repeated anywhere, also in what holds them: nothing is raised but errors for
    people, and all is accounted for."""
    order = random.Random(framing)
    data = framed(framing, [v1(i) for i in range(12)])
    for number, pack in enumerate(PACKED.values()):
        for inside in (True, False):
            path = tmp_path / f"{number}{inside}.json"
            path.write_bytes(pack(mutated(data, order)) if inside else mutated(pack(data), order))
            accounted(path)


def mutated(data: bytes, order: random.Random) -> bytes:
    at, other = sorted(order.randrange(len(data)) for _ in range(2))
    match order.randrange(4):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[other:]
        case 2:
            return data[:other] + data[at:]
    return data[:at] + bytes([data[at] ^ 1 << order.randrange(8)]) + data[at + 1 :]


def test_what_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_FREELY", 4 * MB)
    monkeypatch.setattr(containers, "MOST_TIMES", 20)
    line = json.dumps(v1(0)).encode() + b"\n"
    inner = zipped({"a.json": line, "b.json": b" " * 3 * MB})
    for pack in (
        gzip.compress,
        lambda data: zipped({"a.zip": data, "b.zip": data, "c.json": line}),
    ):
        (tmp_path / "a.json").write_bytes(pack(inner))
        counts = accounted(tmp_path / "a.json")
        assert counts["rows"] == 1 if pack is gzip.compress else counts["failed"] == 1
    (tmp_path / "a.json").write_bytes(gzip.compress(line + b" " * 5 * MB + b"\n" + line))
    counts = accounted(tmp_path / "a.json")
    assert (counts["rows"], counts["bad"], counts["failed"]) == (1, 1, 1)


def test_what_is_packed_too_often(tmp_path: Path) -> None:
    data = json.dumps(v1(0)).encode() + b"\n"
    for number in range(8):
        (tmp_path / "a.json").write_bytes(data)
        assert accounted(tmp_path / "a.json")["rows"] == (number <= containers.MOST_LAYERS)
        data = zipped({"a.zip": data}) if number % 2 else gzip.compress(data)


def test_an_index_of_a_zip_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_ZIP_MOST_INDEX", 100)
    (tmp_path / "a.zip").write_bytes(zipped({f"{i}.json": b"{}" for i in range(9)}))
    with pytest.raises(CorpusError, match=r"a\.zip: is a zip archive of too many files; unpack it"):
        detect(tmp_path / "a.zip", InputOptions())


def test_names_in_archives_are_names_only(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(json.dumps(v1(7)))
    line = json.dumps(v1(0)).encode() + b"\n"
    link = header("b.json", 0, tarfile.SYMTYPE)
    link.linkname = str(tmp_path / "secret")
    hard = header("c.json", 0, tarfile.LNKTYPE)
    hard.linkname = "../secret"
    (tmp_path / "a.tar").write_bytes(
        tar((header("/etc/a.json", len(line)), line), (link, b""), (hard, b"")).replace(
            b"\0" * 10240, b""
        )
    )
    before = sorted(tmp_path.iterdir())
    assert accounted(tmp_path / "a.tar")["rows"] == 1
    (tmp_path / "a.tar").write_bytes(zipped({"../../a.json": line, "/b.json": line}))
    assert accounted(tmp_path / "a.tar")["rows"] == 2
    assert sorted(tmp_path.iterdir()) == before
