from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from pipeline.heads.dense import DECAYS, iterate_dense


@pytest.mark.parametrize("classes", [2, 3, None])
def test_without_a_hidden_layer_it_is_the_linear_optimum(classes: int | None) -> None:
    draw = np.random.default_rng(0)
    z = draw.normal(size=(500, 6)).astype(np.float32)
    signal = z[:, 0] - z[:, 1] + draw.normal(size=500)
    y = signal if classes is None else np.digitize(signal, np.linspace(-0.5, 0.5, classes - 1))
    weight = draw.uniform(0.5, 1.5, size=500)
    found = list(iterate_dense(z, y, num_classes=classes, width=0, seed=0, weight=weight))
    share = weight / weight.sum()
    for decay, dense in zip(DECAYS, found, strict=True):
        if classes is None:
            # The target is scaled to unit variance inside: penalties scale with it.
            model = Ridge(alpha=decay).fit(z, y, sample_weight=share)
            expected = model.predict(z)[:, None]
        else:
            model = LogisticRegression(C=1 / decay, tol=1e-8, max_iter=10_000)
            expected = model.fit(z, y, sample_weight=share).decision_function(z).reshape(500, -1)
        outputs = dense.outputs(z)
        if classes is not None and classes > 2:
            outputs = outputs - outputs.mean(1, keepdims=True)
        np.testing.assert_allclose(outputs, expected, atol=0.02)


def test_a_hidden_layer_sees_what_no_linear_model_does() -> None:
    draw = np.random.default_rng(1)
    z = draw.normal(size=(800, 2)).astype(np.float32)
    y = (z[:, 0] * z[:, 1] > 0).astype(np.int64)
    dense, *_ = iterate_dense(z, y, num_classes=2, width=8, seed=0)
    assert np.mean((dense.outputs(z)[:, 0] > 0) == y) > 0.9
    again, *_ = iterate_dense(z, y, num_classes=2, width=8, seed=0)
    np.testing.assert_array_equal(again.weights, dense.weights)
