"""Measure how long the command and the packages take to start.

    python tests/benchmarks/bench_startup.py [--quick] [--json]

Every line is a process of its own, from its start to its end: medians of 15 (5 with --quick), taken
in turns, so that a busy moment of the machine falls on all of them. What there is to compare with:
an interpreter that does nothing, and one that imports the libraries of the command line only. With
--json the last line is one JSON object with the keys num_runs, nothing_s, typer_rich_s,
import_salient_s, import_pipeline_s, import_store_s, help_s and usage_error_s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

STARTS = {
    "nothing_s": (["-c", "pass"], 0),
    "typer_rich_s": (["-c", "import typer, rich"], 0),
    "import_salient_s": (["-c", "import salient"], 0),
    "import_pipeline_s": (["-c", "import pipeline"], 0),
    "import_store_s": (["-c", "import store"], 0),
    "help_s": (["-m", "salient", "--help"], 0),
    "usage_error_s": (["-m", "salient", "run"], 2),
}
"""What is measured: arguments of the interpreter, and its exit code."""


def seconds(arguments: list[str], code: int) -> float:
    """Wall-clock time of one process."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    if done.returncode != code:
        raise SystemExit(f"{arguments}: exit code {done.returncode}\n{done.stderr}")
    return elapsed


def measure(num_runs: int) -> dict[str, float]:
    """Median seconds of every start, after one that fills the caches."""
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    for number in range(num_runs + 1):
        for name, start in STARTS.items():
            elapsed = seconds(*start)
            if number:
                times[name].append(elapsed)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Start, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    num_runs = 5 if options.quick else 15
    result = measure(num_runs)
    for name, value in result.items():
        print(f"{name:18} {value:8.3f}")
    if options.json:
        print(json.dumps({"num_runs": num_runs, **result}))


if __name__ == "__main__":
    main()
