"""Are the estimators better than what takes five lines of scikit-learn, and how long do they take?

    python tests/benchmarks/bench_estimators.py          all tasks, 100 to 3,000 texts, two seeds
    python tests/benchmarks/bench_estimators.py --quick  two tasks, 100 and 300 texts
    python tests/benchmarks/bench_estimators.py --tasks anger emotion --sizes 300 --seeds 0

A *case* is a task of ``tests/real`` with so many of its texts to learn from, drawn with a seed as
in ``bench_heads.py``; all are scored on the same test texts, at most 1,000 (500 with --quick). In
each are fitted, with defaults:

- ``SalientClassifier()`` or ``SalientRegressor()``, on the embedded MiniLM;
- *tfidf*: ``TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)`` and ``LogisticRegression``, of
  values ``Ridge``, its penalty chosen by 5-fold cross-validation;
- *encode*: the final hidden state by ``salient.encode``, its mean at unit length, or mean and
  maximum standardised, whichever has the better cross-validation, and the same linear model.

The metric is macro F1, of values Pearson's r; the penalties of all are chosen for it (of values,
for the squared error). Keys: ``mean_gain_over_tfidf``, ``mean_gain_over_encode``: means over cases
of the estimator's score less the other's, with 95 % bootstrap intervals; ``not_below``: share of
cases where it is at most 0.01 below *encode*, ``not_below_both``: below the better of both;
``fit_s``, ``second_fit_s``: median seconds of the first fit, and of another with other folds
(``random_state=1``), whose activations are in the cache. With --json the last line is one JSON
object: these keys and all ``cases``.
"""

from __future__ import annotations

import os

# Before torch loads OpenMP: threads that spin while they wait starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import salient  # noqa: E402
from tests.benchmarks.bench_heads import TASKS, load_pool, over_cases, shuffled  # noqa: E402
from tests.benchmarks.machine import describe_machine, machine_line  # noqa: E402

SIZES = (100, 300, 1000, 3000)
MAX_TEST, QUICK_TEST = 1000, 500
BELOW = 0.01
PENALTIES = np.logspace(-3, 3, 7)
GOALS = {"mean_gain_over_tfidf": 0.0, "mean_gain_over_encode": 0.03, "not_below": 0.95}
Array = np.ndarray
Result = dict[str, Any]


def linear(is_value: bool, *steps: Any) -> GridSearchCV:
    """A linear model over some steps, whose penalty is chosen by cross-validation."""
    if is_value:
        grid, scoring, model = {"ridge__alpha": PENALTIES}, "neg_mean_squared_error", Ridge()
        return GridSearchCV(make_pipeline(*steps, model), grid, cv=5, scoring=scoring)
    model = LogisticRegression(max_iter=2000)
    grid = {"logisticregression__C": PENALTIES}
    return GridSearchCV(make_pipeline(*steps, model), grid, cv=5, scoring="f1_macro")


def score(is_value: bool, truth: Array, predicted: Array) -> float:
    """Macro F1, or Pearson's r."""
    if is_value:
        return float(pearsonr(truth, predicted).statistic) if np.ptp(predicted) else 0.0
    return float(f1_score(truth, predicted, average="macro"))


def final_states(texts: Sequence[str]) -> Array:
    """Mean and maximum of the final hidden state, ``(n, 2 * units)``."""
    found = salient.encode(texts, sites="hidden", layers=[-1], progress=False)
    rows = found.transpose("sample", "hidden_layer", "pooling", "hidden_unit").values
    return np.asarray(rows.reshape(len(texts), -1), np.float64)


def rivals(is_value: bool, train: Any, test: Any, states: tuple[Array, Array]) -> Result:
    """Scores of what the estimator is compared with."""
    found: Result = {}
    tfidf = linear(is_value, TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True))
    tfidf.fit(train["text"], train["y"])
    found["tfidf"] = score(is_value, test["y"], tfidf.predict(test["text"]))
    units = states[0].shape[1] // 2
    options = {
        "encode_unit": (linear(is_value, Normalizer()), slice(0, units)),
        "encode_both": (linear(is_value, StandardScaler()), slice(None)),
    }
    inner = {}
    for name, (model, part) in options.items():
        model.fit(states[0][:, part], train["y"])
        inner[name] = model.best_score_
        found[name] = score(is_value, test["y"], model.predict(states[1][:, part]))
    found["encode"] = found[max(inner, key=inner.__getitem__)]
    return found


def columns(rows: Any) -> dict[str, Any]:
    """Texts and targets of a table's rows."""
    return {"text": rows["text"].to_pylist(), "y": np.asarray(rows["label"].to_pylist())}


def measure(pool: Any, size: int, seed: int, cache: Path, tested: tuple[Any, Array]) -> Result:
    """One case."""
    is_value = pool.task.type == "regression"
    train = columns(shuffled(pool.known, seed).slice(0, size))
    test, test_states = tested
    kind = salient.SalientRegressor if is_value else salient.SalientClassifier
    start = time.perf_counter()
    ours = kind(cache=cache / f"{pool.name}-{size}-{seed}", progress=False)
    ours.fit(train["text"], train["y"])
    fit_s = time.perf_counter() - start
    result: Result = {
        "case": f"{pool.name}-{size}-{seed}",
        "task": pool.name,
        "size": size,
        "ours": score(is_value, test["y"], ours.predict(test["text"])),
        "kind": ours.head_.card.kind,
        "depth": ours.depth_,
        "fit_s": fit_s,
    }
    start = time.perf_counter()
    kind(**ours.get_params() | {"random_state": 1}).fit(train["text"], train["y"])
    result["second_fit_s"] = time.perf_counter() - start
    return result | rivals(is_value, train, test, (final_states(train["text"]), test_states))


def run_cases(
    tasks: Sequence[str], sizes: Sequence[int], seeds: Sequence[int], max_test: int
) -> list[Result]:
    """Every case of the grid."""
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for name in tasks:
            pool = load_pool(name, max_test)
            test = columns(pool.test)
            tested = test, final_states(test["text"])
            for size in (size for size in sizes if size <= len(pool.known)):
                for seed in seeds:
                    case = measure(pool, size, seed, Path(folder), tested)
                    cases.append(case)
                    print(
                        f"{case['case']:<18} {case['kind']:<7} {case['depth']}  ours"
                        f" {case['ours']:.3f}  tfidf {case['tfidf']:.3f}  encode"
                        f" {case['encode']:.3f}  fit {case['fit_s']:.1f} s, again"
                        f" {case['second_fit_s']:.1f} s",
                        flush=True,
                    )
    return cases


def summarise(cases: Sequence[Result]) -> Result:
    """The keys over all cases, and a line per goal."""
    result: Result = {"num_cases": len(cases), "intervals": {}}
    means = {
        "mean_gain_over_tfidf": [case["ours"] - case["tfidf"] for case in cases],
        "mean_gain_over_encode": [case["ours"] - case["encode"] for case in cases],
        "not_below": [float(case["ours"] >= case["encode"] - BELOW) for case in cases],
        "not_below_both": [
            float(case["ours"] >= max(case["tfidf"], case["encode"]) - BELOW) for case in cases
        ],
    }
    for name, values in means.items():
        result[name], low, high = over_cases(values)
        result["intervals"][name] = [low, high]
        goal = GOALS.get(name)
        verdict = "" if goal is None else "PASS" if result[name] >= goal else "FALLS SHORT"
        wanted = "" if goal is None else f" >= {goal:g}"
        print(f"{verdict:<12} {name} {result[name]:+.4f} ({low:+.4f} to {high:+.4f}){wanted}")
    for name in ("fit_s", "second_fit_s"):
        result[name] = statistics.median(case[name] for case in cases)
        sizes = dict.fromkeys(case["size"] for case in cases)
        result[f"{name}_by_size"] = {
            str(size): statistics.median(case[name] for case in cases if case["size"] == size)
            for size in sizes
        }
        own = ", ".join(f"{size}: {s:.1f}" for size, s in result[f"{name}_by_size"].items())
        print(f"{name} {result[name]:.1f} (by size {own})")
    return result


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="two tasks, 100 and 300 texts")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=None)
    parser.add_argument("--sizes", nargs="+", type=int, default=None, help="training texts")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="of the draws")
    options = parser.parse_args()
    quick = options.quick
    tasks = options.tasks or (("offensive", "anger") if quick else tuple(TASKS))
    sizes = options.sizes or (SIZES[:2] if quick else SIZES)
    seeds = options.seeds or ((0,) if quick else (0, 1))
    machine = describe_machine()
    print(machine_line(machine))
    cases = run_cases(tasks, sizes, seeds, QUICK_TEST if quick else MAX_TEST)
    result = summarise(cases) | {"machine": machine, "cases": cases}
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
