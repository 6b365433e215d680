"""How many requests scoring into a bucket takes, by arithmetic: clouds charge for each.

A batch of rows is a part for each of its dates, put beside the others and copied to its place once
the batch's one commit is there; in between the newest commits are looked up.
"""

from __future__ import annotations

from math import ceil

from pipeline.config import RunConfig, is_address

ROWS = 1_000_000
"""Texts that the figures are for."""


def scoring_requests(config: RunConfig) -> dict[str, int] | None:
    """Requests for ``texts`` scored texts of one date: ``put``, ``copy``, ``get``, ``list`` and
    ``delete``; each further date in a batch (``batches``) puts and copies one more. None where
    scores are not known to go to a bucket."""
    score = config.score
    if score.output is None or not is_address(score.output):
        return None
    batches = ceil(ROWS / score.buffer_rows)
    return {
        "texts": ROWS,
        "batches": batches,
        "put": 2 * batches,
        "copy": batches,
        "get": batches,
        "list": 2 * batches + 3,
        "delete": batches,
    }
