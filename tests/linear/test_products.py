"""Products of few rows with a block: equal to numpy's, for every layout and type used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import LinAlgError

from pipeline.linear.products import factorise, times


@pytest.mark.parametrize("num_rows", [1, 2, 7, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_equals_numpy(num_rows: int, dtype: type, transposed: bool) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(num_rows, 130)).astype(dtype)
    block = rng.normal(size=(257, 130) if transposed else (130, 257)).astype(dtype)
    tensor = torch.from_numpy(block)
    block, tensor = (block.T, tensor.t()) if transposed else (block, tensor)

    found = times(torch.from_numpy(rows), tensor)

    assert found.dtype == tensor.dtype
    expected = rows.astype(np.float64) @ block.astype(np.float64)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5 if dtype == np.float32 else 1e-12)


def test_without_the_private_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.linear.products._HAS_LINEAR", False)
    rows, block = torch.randn(3, 20), torch.randn(20, 50)
    torch.testing.assert_close(times(rows, block), rows @ block)


def test_factor_equals_scipys() -> None:
    x = np.random.default_rng(0).normal(size=(60, 90)).astype(np.float32)
    gram = x @ x.T
    found = np.tril(factorise(gram.copy(order="F")))
    np.testing.assert_allclose(found, np.linalg.cholesky(gram), rtol=1e-4, atol=1e-4)
    with pytest.raises(LinAlgError, match="not positive"):
        factorise(np.asfortranarray(gram - 1000 * np.eye(60, dtype=np.float32)))
