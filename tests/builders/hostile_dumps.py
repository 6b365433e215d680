"""Files as nobody should write them, made of valid ones; the same seed gives the same file.

    make, ending = SOURCES["tweets"]
    data = spoiled(make(), random.Random(7))     # cut, spliced, with noise in it
    path.write_bytes(packed(data, random.Random(7)))

`python -m tests.builders.hostile_dumps FOLDER FIRST LAST` reads such files, or with `FILE` alone
one of yours, and prints what it took.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CorpusError, DumpError
from pipeline.texts.inputs import InputOptions, detect, read_blocks
from tests.builders.dumps import LAYOUTS, v1, v2, v2_page
from tests.builders.framed import PACKED, framed, tar, zipped

NUM_ROWS = 30
LINE_BYTES = 1 << 20
"""Longest line of the files that are read here, so that longer ones can be made quickly."""


def _texts() -> list[dict[str, str]]:
    return [
        {"id": f"t{i}", "text": f'tea, "rain" and 今 {i}', "lang": "en", "created_at": "2026-01-01"}
        for i in range(NUM_ROWS)
    ]


def _csv() -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["id", "text", "lang", "created_at"])
    writer.writeheader()
    writer.writerows(_texts())
    return out.getvalue().encode()


def _parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_texts()), out, row_group_size=7)
    return out.getvalue()


def _arrow() -> bytes:
    out, table = io.BytesIO(), pa.Table.from_pylist(_texts())
    with pa.ipc.new_file(out, table.schema) as sink:
        sink.write_table(table, max_chunksize=7)
    return out.getvalue()


def _tweets(layout: str) -> Callable[[], bytes]:
    return lambda: LAYOUTS[layout]([v1(i) for i in range(NUM_ROWS)])


def _framed(name: str) -> Callable[[], bytes]:
    return lambda: framed(name, [v1(i) for i in range(NUM_ROWS)])


SOURCES: dict[str, tuple[Callable[[], bytes], str]] = {
    "tweets": (_tweets("lines"), ".jsonl"),
    "array of tweets": (_tweets("array"), ".json"),
    "printed tweets": (_tweets("printed array"), ".json"),
    "statuses": (_tweets("printed statuses"), ".json"),
    "v2": (lambda: LAYOUTS["lines"]([v2_page(), *map(v2, range(10))]), ".json"),
    "sequence": (_framed("sequence"), ".json-seq"),
    "counted": (_framed("counted"), ".json"),
    "glued": (_framed("glued"), ".json"),
    "script": (_framed("script"), ".js"),
    "map": (_framed("map"), ".json"),
    "printed one after another": (_framed("printed"), ".json"),
    "Python's repr": (_framed("Python's repr"), ".txt"),
    "lines with CR": (_framed("lines with CR"), ".jsonl"),
    "UTF-16": (lambda: _framed("lines")().decode().encode("utf-16"), ".jsonl"),
    "csv": (_csv, ".csv"),
    "tsv": (lambda: _csv().replace(b",", b"\t"), ".tsv"),
    "texts as JSON": (lambda: LAYOUTS["lines"](_texts()), ".jsonl"),
    "plain lines": (lambda: b"\n".join(row["text"].encode() for row in _texts()), ".txt"),
    "parquet": (_parquet, ".parquet"),
    "arrow": (_arrow, ".arrow"),
}
"""Name -> maker of a valid file, and how its name ends."""

NOISE: dict[str, Callable[[], bytes]] = {
    "NUL": lambda: b"\0",
    "many NULs": lambda: b"\0" * 5000,
    "half a surrogate pair": lambda: b"\\ud83d",
    "its bytes": lambda: b"\xed\xa0\xbd",
    "no UTF-8": lambda: b"\xff\xfe\x80",
    "a byte order mark": lambda: b"\xef\xbb\xbf",
    "other line ends": lambda: b"\r\x0b\x0c\xc2\x85\xe2\x80\xa8",
    "a line feed": lambda: b"\n",
    "a quote": lambda: b'"',
    "brackets": lambda: b'{"a": [',
    "other brackets": lambda: b"]}]}",
    "10,000 arrays": lambda: b"[" * 10_000,
    "10,000 objects": lambda: b'{"id":' * 10_000,
    "1,000 closed arrays": lambda: b'"id": ' + b"[" * 900 + b"]" * 900 + b",",
    "10,000 closed arrays": lambda: b'"id": ' + b"[" * 10_000 + b"]" * 10_000 + b",",
    "an id of 1,000 digits": lambda: b'"id": ' + b"9" * 1000 + b",",
    "an id of 10,000 digits": lambda: b'"id": ' + b"9" * 10_000 + b",",
    "a number beyond floats": lambda: b'"id": 1e999, "created_at": -1e999, "text": 1e308,',
    "no numbers": lambda: b'"id": NaN, "created_at": Infinity,',
    "a late time": lambda: b'"created_at": 99999999999999999999,',
    "the same keys": lambda: b'"id": 1, "id": "2", "id_str": "3", "text": "a", "text": null,',
    "100,000 keys": lambda: b"".join(b'"k%d":%d,' % (i, i) for i in range(100_000)),
    "a key of a megabyte": lambda: b'"' + b"k" * LINE_BYTES + b'": 1,',
    "a long line": lambda: b"x" * (LINE_BYTES + 1),
    "a long text": lambda: b"\n" + json.dumps(v1(99, text="rain " * 250_000)).encode() + b"\n",
    "100,000 fields": lambda: b"," * 100_000,
    "a record without an end": lambda: b'"a\n' * 3 + b'"\n","' * 60_000,
    "100,000 values": lambda: b"1\n" * 100_000,
}
"""What may stand anywhere in a file."""


def spoiled(data: bytes, order: random.Random) -> bytes:
    """A few changes, most of them at a place where something begins or ends."""
    for _ in range(order.choice([1, 1, 2, 4])):
        at = order.randrange(len(data) + 1)
        if order.random() < 0.7:
            at = data.find(order.choice([b"\n", b",", b":", b'"', b"{"]), at) + 1 or at
        match order.randrange(6):
            case 0:
                data = data[:at]
            case 1:
                start = order.randrange(len(data) + 1)
                data = data[:at] + data[start : start + order.randrange(2000)] + data[at:]
            case 2:
                data = data[:at] + data[at + order.randrange(1, 300) :]
            case 3 if data:
                spot = order.randrange(len(data))
                data = data[:spot] + bytes([order.randrange(256)]) + data[spot + 1 :]
            case _:
                data = data[:at] + NOISE[order.choice([*NOISE])]() + data[at:]
    return data


def _two(data: bytes) -> bytes:
    return tar({"0" * 120: data, "1" * 120: data})


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    **{name: pack for name, pack in PACKED.items() if name != "plain"},
    "tar of two": _two,
    "tar in gz": lambda data: gzip.compress(_two(data)),
    "gz in tar": lambda data: _two(gzip.compress(data)),
    "zip of two": lambda data: zipped({"a.json": data, "b.json": data}),
}


def packed(data: bytes, order: random.Random) -> bytes:
    """The data as it is, or packed, or packed and then spoiled."""
    if order.random() < 0.5:
        return data
    data = PACKINGS[order.choice([*PACKINGS])](data)
    return spoiled(data, order) if order.random() < 0.4 else data


def hostile_file(folder: Path, seed: int) -> Path:
    """Write one."""
    order = random.Random(seed)
    make, ending = SOURCES[[*SOURCES][seed % len(SOURCES)]]
    data = make()
    if order.random() < 0.9:
        data = spoiled(data, order)
    path = folder / f"{seed}{ending}"
    path.write_bytes(packed(data, order) if ending not in (".parquet", ".arrow") else data)
    return path


def accounted(path: Path, **options: int) -> Counter[str]:
    """Read a file as scoring does; every row read is a row, left out, or bad.

    ``failed`` is 1 where the file as a whole was refused, in one line that names it.
    """
    counts: Counter[str] = Counter()
    own = InputOptions(block_rows=16, **{"max_line_bytes": LINE_BYTES, **options})
    try:
        for block in read_blocks(path, detect(path, own), own):
            counts.update({"rows": len(block.rows), "bad": len(block.bad)})
            counts["read"] += block.counts["read"]
            for name, count in block.counts.items():
                counts["filtered"] += count if name.startswith("filtered/") else 0
            for reason in block.bad["reason"].to_pylist():
                assert reason and "\n" not in reason and len(reason) < 500, reason
    except (CorpusError, DumpError) as error:
        assert path.name in str(error) and "\n" not in str(error) and len(str(error)) < 2000
        counts["failed"] += 1
    assert counts["read"] == counts["rows"] + counts["filtered"] + counts["bad"], counts
    return counts


def main() -> None:
    """Read files in a process of its own: which seeds fail, and how much memory they took."""
    place, seeds = Path(sys.argv[1]), range(*map(int, sys.argv[2:] or [0]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total: Counter[str] = accounted(place) if place.is_file() else Counter()
    for seed in seeds:
        path = hostile_file(place, seed)
        try:
            total += accounted(path)
        except BaseException:
            print("seed", seed, file=sys.stderr)
            raise
        path.unlink()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**total, "kilobytes": after - before}))


if __name__ == "__main__":
    main()
