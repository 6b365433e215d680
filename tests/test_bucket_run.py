"""A whole run with store, dumps and scores in buckets: the numbers and bytes of one on a disk."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.runfolder import RunFolder, read_metrics
from store import ActivationStore
from store.disk import join, locate
from tests.builders.dumps import jsonl, scores, v1
from tests.builders.runs import write_mood_run

SAME = ("probes", "groups", "sweep", "importance")
"""Folders of a run that hold nothing of where things lie."""


def in_bucket(path: Path, bucket: str) -> Path:
    """The run with its corpus, store and scores in a bucket."""
    text = path.read_text()
    text = text.replace('path = "activations"', f'path = "{join(bucket, "activations")}"')
    path.write_text(f'{text}\n[score]\noutput = "{join(bucket, "scores")}"\n')
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_in(bucket: str) -> pa.Table:
    """What a plain reader finds under a folder of scores: all its parts by date."""
    place = locate(bucket)
    found = [one.path for one in place.list() if one.path.startswith("date=")]  # type: ignore[union-attr]
    parts = [pq.read_table(io.BytesIO(place.read(path))) for path in found]
    return pa.concat_tables(parts).sort_by("id")


def test_a_run_in_buckets_is_that_on_a_disk(
    finished_run: Path,
    tmp_path: Path,
    tiny_bert: Path,
    bucket: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = in_bucket(write_mood_run(tmp_path / "away", tiny_bert), bucket)
    alone, away = RunConfig.load(finished_run), RunConfig.load(path)
    for stage in ("extract", "probe", "consolidate"):
        assert run_command([stage, str(path), "--quiet"]) == 0
    one, two = RunFolder(Path(alone.run_dir)), RunFolder(Path(away.run_dir))
    assert read_metrics(one)["tasks"] == read_metrics(two)["tasks"]
    for kind in SAME:
        assert files_of(one.path / kind) == files_of(two.path / kind)
    disk, there = ActivationStore.open(alone.store.path), ActivationStore.open(away.store.path)
    assert disk.schema.fingerprint == there.schema.fingerprint
    assert disk.samples().equals(there.samples())
    for name, layout in disk.schema.arrays.items():
        for layer in layout.layers:
            pair = (store.read_matrix(name, layer=layer) for store in (disk, there))
            np.testing.assert_array_equal(*pair)
    capfd.readouterr()

    dump = gzip.compress(jsonl([v1(number) for number in range(300)]))
    (tmp_path / "dumps").mkdir()
    (tmp_path / "dumps" / "day.jsonl.gz").write_bytes(dump)
    locate(bucket).put("dumps/day.jsonl.gz", dump)  # type: ignore[union-attr]
    here = ["score", str(tmp_path / "dumps" / "*.gz"), "--run", str(finished_run)]
    assert run_command([*here, "--out", str(tmp_path / "scores"), "--quiet"]) == 0
    assert run_command(["score", join(bucket, "dumps/*.gz"), "--run", str(path), "--quiet"]) == 0
    expected, found = scores(tmp_path / "scores").sort_by("id"), rows_in(join(bucket, "scores"))
    assert len(found) == 300
    own = ["source_file", "fingerprint"]
    assert found.drop_columns(own).equals(expected.drop_columns(own))
    capfd.readouterr()

    # The others that read a run and its store.
    for words in (["inspect", two.path], ["report", two.path, "--images", "none"], ["rank", path]):
        assert run_command([str(word) for word in words]) == 0, capfd.readouterr().err
    assert run_command(["store", "info", away.store.path, "--json"]) == 0
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [name for name, content in files_of(two.path).items() if secret in content]
    assert secret.decode() not in "".join(capfd.readouterr())


def test_a_dry_run_says_the_requests(
    tmp_path: Path, tiny_bert: Path, bucket: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = in_bucket(write_mood_run(tmp_path, tiny_bert), bucket)
    assert run_command(["run", str(path), "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "bucket: " in said and "PUT" in said and "free" not in said
    assert run_command(["run", str(path), "--dry-run", "--json"]) == 0
    asked = json.loads(capfd.readouterr().out)["extraction"]["requests"]
    assert asked["get_all"] == 3 * 7  # slots of 64 of 160 texts, 3 FFN layers and 4 hidden states
    assert not list(locate(bucket).list())  # type: ignore[union-attr]
