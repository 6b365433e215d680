"""The texts of stored samples: from the store, or from the corpus where the store keeps none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import RunConfig
from pipeline.corpus import corpus_of
from pipeline.errors import ExtractError
from store import ActivationStore


def sample_texts(store: ActivationStore, positions: NDArray[Any], config: RunConfig) -> list[str]:
    """The normalised texts at some positions.

    Args:
        store: the activation store.
        positions: ``(n,)`` int64, of living samples, in any order.
        config: names the corpus, which is read again if the store keeps hashes only.

    Raises:
        ExtractError: the store keeps no texts, and the corpus has lost some.
    """
    samples = store.samples()
    rows = np.searchsorted(samples["position"].to_numpy(), positions)
    chosen = samples.take(pa.array(rows))
    if not chosen["text"].null_count:
        return list(chosen["text"].to_pylist())
    corpus = corpus_of(config).samples
    known = dict(zip(corpus["text_hash"].to_pylist(), corpus["text"].to_pylist(), strict=True))
    hashes = chosen["text_hash"].to_pylist()
    if missing := sum(one not in known for one in hashes):
        raise ExtractError(
            f"{config.store.path}: keeps no texts, and {missing} of {len(hashes)} are not in the"
            " corpus files any more; restore those, or extract with keep_text = true"
        )
    return [known[one] for one in hashes]
