from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.linear.threads import BlockThreads


@pytest.fixture
def threads() -> Iterator[BlockThreads]:
    with BlockThreads() as found:
        yield found
