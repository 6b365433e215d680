"""Holds probes on real activations to scikit-learn's optimum: one row per layer, C and method.

    python tests/real/optimum.py tests/real/tweeteval.toml emotion --layer layer_001

The reference is ``LogisticRegression`` at ``tol=1e-8`` on the same standardised values in float64,
warm-started from the C before. It is kept in the run folder and may take long: a run that is
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils._testing import ignore_warnings

from pipeline.config import RunConfig
from pipeline.linear.design import StoreDesign
from pipeline.linear.fitted import Linear
from pipeline.linear.solver import Objective, solve_paths
from pipeline.probes.fitting import matrix
from pipeline.texts.targets import load_target
from store import ActivationStore
from store.layout import Source

Array = NDArray[Any]
CHUNK = 500
"""Iterations of the reference between two savings."""


def value(x: Array, y: Array, theta: Array, penalty: float) -> float:
    """scikit-learn's objective at ``theta`` ``(outputs, features + 1)``, in float64."""
    z = outputs(x, theta)
    if len(theta) == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    loss = float((logsumexp(z, axis=1) - z[np.arange(len(y)), y]).sum())
    return 0.5 * float(np.square(theta[:, :-1]).sum()) + penalty * loss


def outputs(x: Array, theta: Array) -> Array:
    """Logits ``(n, outputs)`` float64."""
    return np.asarray(x @ theta[:, :-1].T + theta[:, -1])


def theta_of(model: Linear) -> Array:
    """Weights and bias ``(outputs, features + 1)`` float64."""
    return np.concatenate([model.weights, model.bias[:, None]], axis=1).astype(np.float64)


def decide(z: Array) -> Array:
    """Predicted classes ``(n,)``."""
    return np.asarray(z[:, 0] > 0 if z.shape[1] == 1 else z.argmax(1))


@ignore_warnings(category=ConvergenceWarning)
def reference(
    x: Array, y: Array, penalty: float, path: Path, start: Array | None, solver: str
) -> Array:
    """scikit-learn's optimum ``(outputs, features + 1)`` float64, kept in ``path``."""
    theta, done = start, False
    if path.is_file():
        with np.load(path) as kept:
            theta, done = kept["theta"], bool(kept["done"])
    while not done:
        model = LogisticRegression(
            C=penalty, tol=1e-8, max_iter=CHUNK, solver=solver, warm_start=theta is not None
        )
        if theta is not None:
            model.coef_, model.intercept_ = theta[:, :-1].copy(), theta[:, -1].copy()
        model.fit(x, y)
        theta = np.concatenate([model.coef_, model.intercept_[:, None]], axis=1)
        done = int(model.n_iter_.max()) < CHUNK
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, theta=theta, done=done)
    assert theta is not None
    return theta


def compare(
    config: RunConfig,
    task: str,
    source: Source,
    penalties: Sequence[float],
    methods: Sequence[str],
    solver: str,
    near: bool,
) -> None:
    """Print a line per C and method of one layer: gap, agreement, time."""
    store = ActivationStore.open(config.store.path)
    target = load_target(store, next(each for each in config.tasks if each.name == task))
    rows, test = target.rows("train"), target.rows("test")
    design = StoreDesign(store, source, rows.positions)
    y = rows.targets[design.order]
    x = matrix(design).astype(np.float64)
    x_test = matrix(StoreDesign(store, source, test.positions, design.standardiser))
    classes = target.num_classes
    found: dict[tuple[str, float], tuple[Linear, float]] = {}
    for method in methods:
        begin = time.process_time()
        # "auto" fits all at once as Phase 1 does; "lone" each by itself.
        grids = [[penalty] for penalty in penalties] if method == "lone" else [list(penalties)]
        for grid in grids:
            for model in solve_paths(design, [Objective(y, classes)], grid)[0]:
                found[method, model.penalty] = model, time.process_time() - begin
    best: Array | None = None
    for penalty in penalties:
        path = Path(config.run_dir) / "references" / f"{task}-{source.name}-{penalty:g}.npz"
        if near:
            fit = solve_paths(design, [Objective(y, classes)], [penalty], tol=1e-6)[0][0]
            best = theta_of(fit)
        best = reference(x, y, penalty, path, best, solver)
        lowest = value(x, y, best, penalty)
        expected = decide(outputs(x_test, best))
        for method in methods:
            model, seconds = found[method, penalty]
            theta = theta_of(model)
            gap = value(x, y, theta, penalty) / lowest - 1
            differing = int((decide(outputs(x_test, theta)) != expected).sum())
            print(
                f"| {task} | {source.label} | {penalty:g} | {method} | {gap:.1e} | {differing} of"
                f" {len(expected)} | {100 - 100 * differing / len(expected):.2f} % |"
                f" {model.converged} | {model.num_iterations} | {seconds:.1f} |",
                flush=True,
            )


def main() -> None:
    """Parse and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("task")
    parser.add_argument("--layer", action="append", required=True, help="such as layer_003")
    parser.add_argument("--C", type=float, nargs="+", default=[1e-4, 1e-2, 1.0, 10.0])
    parser.add_argument("--method", nargs="+", default=["auto", "lone"])
    parser.add_argument("--solver", default="lbfgs")
    parser.add_argument(
        "--near",
        action="store_true",
        help="start the reference at our fit of tol 1e-6, where its own start takes hours",
    )
    args = parser.parse_args()
    print("| task | layer | C | fit | gap | differ | agree | converged | iterations | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for layer in args.layer:
        source = Source.of(layer)
        config = RunConfig.load(Path(args.config))
        compare(config, args.task, source, args.C, args.method, args.solver, args.near)


if __name__ == "__main__":
    main()
