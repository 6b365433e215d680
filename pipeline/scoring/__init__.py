"""Dumps in, score tables out, every night, each text once.

In: files of texts or tweets, the heads of a run. Out: a folder of Parquet by date with the ledger
of its ids, quarantined lines, drift, and the summary of every run.

Read first: `files` (a run over files, from start to end) and `scorer` (rows to scores); `folder`
and `ledger` keep the promise that nothing is lost or doubled, `cache` computes equal texts once,
`alerts` tells of drift, `cascade` lets easy texts leave early.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
