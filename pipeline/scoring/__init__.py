"""Dumps in, score tables out, every night, each text once.

In: files of texts or tweets, the heads of a run. Out: a folder of Parquet by date with the ledger
of its ids, quarantined lines, drift, and the summary of every run.

Read first: `files` (the command, from start to end), `batch` (files to rows in the folder) and
`scorer` (rows to scores); `distributed` scores on workers, `prediction` texts in memory, by the
heads that `loading` finds. `folder` and `ledger` keep the promise that nothing is lost or doubled,
in the `place` that they open and the `parts` that lie there; `sinks` say which of these count: all,
or what the log of a `delta` table lists. `keeping` is what `folder` asks of where it keeps them, a
disk or a bucket, `held` what readers ask of both, `origin` says what made them. `repair` mends the
folder (`mended` tells), `deletion` takes tweets out of it for good (`deleted` remembers). The same
in a bucket is `bucketkeeping`, `bucketrepair` and `bucketdeletion`: commits are the truth there
(`commitlog`), which `bucketscores` makes and `bucketledger` remembers. `cache` computes equal texts
once, `summary` counts what became of every row, `alerts` tells of drift, `cascade` lets easy texts
leave early, `metrics` is what Prometheus is told.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
