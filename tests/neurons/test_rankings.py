from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.feature_selection import f_classif, f_regression, mutual_info_classif, r_regression
from sklearn.metrics import mutual_info_score

from pipeline import stages
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, ProbeError
from pipeline.neurons import comparison
from pipeline.neurons.rankings import RANKINGS, ranking_table, streamed_values, to_xarray
from pipeline.neurons.sums import (
    NUM_BINS,
    Columns,
    RankingTarget,
    Sums,
    layer_edges,
    layer_sums,
    quantile_edges,
    stream_sums,
)
from pipeline.probes.importance import feature_importance, feature_rank
from pipeline.report.terminal import ranking_views
from pipeline.runfolder import RunFolder
from pipeline.texts.targets import Rows, load_target
from store import ActivationStore
from store.tables import read_arrays, read_table
from tests.builders.runs import write_mood_run

Array = np.ndarray[Any, Any]

REAL_TOML = """
name = "real"
run_dir = "run"
[backbone]
model = "{model}"
[store]
path = "activations"
samples_per_shard = 128
[[corpus]]
path = "{data}/tweeteval/emotion"
format = "tweeteval"
labels = {{ emotion = "label" }}
limit = 60
[[corpus]]
path = "{data}/tweeteval/offensive"
format = "tweeteval"
labels = {{ offensive = "label" }}
limit = 60
[[corpus]]
train = "{data}/affect/EI-reg-En-joy-train.txt"
val = "{data}/affect/EI-reg-En-joy-dev.txt"
test = "{data}/affect/EI-reg-En-joy-test-gold.txt"
format = "tsv"
id = "ID"
text = "Tweet"
labels = {{ joy = "Intensity Score" }}
limit = 60
[[tasks]]
name = "emotion"
type = "classification"
[[tasks]]
name = "offensive"
type = "classification"
[[tasks]]
name = "joy"
type = "regression"
[probe]
C = [1e-3]
alpha = [1000.0]
"""


@pytest.fixture(scope="module")
def real_run(
    tmp_path_factory: pytest.TempPathFactory, minilm: str, shared_data: Path
) -> Iterator[Path]:
    """A probed run on real tweets and a real encoder; each tweet has one task's label only."""
    folder = tmp_path_factory.mktemp("real")
    path = folder / "run.toml"
    path.write_text(REAL_TOML.format(model=minilm, data=shared_data), encoding="utf-8")
    config = RunConfig.load(path)
    stages.extract(config)
    stages.probe(config)
    yield path


def by_hand(x: Array, rows: Rows, edges: Array, num_classes: int | None) -> dict[str, Array]:
    """Every ranking the plain way: loops, float64, scikit-learn."""
    x, y = x.astype(np.float64), rows.targets
    groups = y
    if num_classes is None:
        groups = np.digitize(y, np.quantile(y, [0.25, 0.5, 0.75]), right=True)
    means = [x[groups == k].mean(axis=0) for k in np.unique(groups)]
    pairs = [np.abs(a - b) for i, a in enumerate(means) for b in means[:i]]
    codes = (x.T[None] > edges[:, :, None]).sum(axis=0)
    indicators = [y] if num_classes is None else [y == k for k in range(num_classes)]
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")  # of constant neurons, which real activations have
        values = {
            "mean_difference": np.max(pairs, axis=0) / x.std(axis=0),
            "probeless": np.sum(pairs, axis=0),
            "anova_f": (f_regression if num_classes is None else f_classif)(x, y)[0],
            "correlation": np.max([np.abs(r_regression(x, z)) for z in indicators], axis=0),
            "mutual_information": np.array([mutual_info_score(groups, c) for c in codes[::9]]),
        }
    constant = np.ptp(x, axis=0) == 0
    return {
        name: column if len(column) < len(constant) else np.where(constant, 0.0, column)
        for name, column in values.items()
    }


def test_rankings_of_real_activations_agree_with_scikit_learn(real_run: Path) -> None:
    config = RunConfig.load(real_run)
    store = ActivationStore.open(config.store.path)
    targets = [load_target(store, task) for task in config.tasks]
    train = [target.rows("train") for target in targets]
    columns = Columns.of(
        [
            RankingTarget.of(rows, num_classes=target.num_classes)
            for rows, target in zip(train, targets, strict=True)
        ],
        num_samples=store.num_samples,
    )
    layer = 3
    edges = layer_edges(store, layer, columns)
    assert store.num_samples > 2 * store.schema.samples_per_shard
    for rows, target, (sums,) in zip(
        train, targets, layer_sums(store, layer, columns), strict=True
    ):
        x = store.read_matrix(layer=layer, samples=rows.positions)
        found = streamed_values(sums)
        expected = by_hand(x, rows, edges, target.num_classes)
        assert set(found) == set(expected)
        for name, values in expected.items():
            every = 9 if name == "mutual_information" else 1
            np.testing.assert_allclose(
                found[name][::every], values, rtol=2e-4, atol=1e-6, err_msg=name
            )


def test_command_writes_and_prints_every_table(
    real_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rank", str(real_run), "-q", "--top", "100", "--rows", "3"]
    assert run_command([*command, "--stability", "2", "--selectivity", "--task", "joy"]) == 0
    out = capsys.readouterr().out
    for part in ("joy: neurons with", "top 100 features", "2 bootstrap", "pearson with labels"):
        assert part in out
    assert "emotion" not in out
    assert run_command([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["emotion", "offensive", "joy"]
    assert len(found["emotion"]["neurons"]) == 3
    folder = RunFolder(Path(RunConfig.load(real_run).run_dir))
    table = read_table(folder.ranking("rankings", "emotion"))
    dataset = to_xarray(table)
    assert dict(dataset.sizes) == {"layer": 6, "pooling": 2, "neuron": 1536, "ranking": 6}
    weights = read_arrays(folder.probe("emotion", "layer_004").with_suffix(".safetensors"))[
        "weights"
    ]
    np.testing.assert_allclose(
        dataset["value"].sel(layer=4, pooling="max", ranking="l2"),
        feature_importance(weights)[1536:],
    )
    np.testing.assert_allclose(dataset["share"].sum(["pooling", "neuron"]), 1.0)
    best = found["emotion"]["neurons"][0]
    place = {key: best[key] for key in ("layer", "pooling", "neuron")}
    assert dataset["rank"].sel(**place, ranking="anova_f") == best["ranks"]["anova_f"]
    assert set(read_table(folder.ranking("stability", "joy")).column_names) >= {
        "overlap",
        "jaccard",
        "stability",
        "spearman",
    }


def test_results_do_not_depend_on_the_workers(real_run: Path) -> None:
    config = RunConfig.load(real_run)
    options = comparison.RankOptions(replicates=2)
    parts = []
    for workers in (1, 2):
        cluster = config.cluster.model_copy(update={"workers": workers})
        one = config.model_copy(update={"cluster": cluster})
        parts.append(comparison.rank(one, tasks=["offensive"], options=options)["offensive"])
    for kind, table in parts[0].items():
        for name in table.column_names:
            first, second = (part[kind][name].to_pylist() for part in parts)
            if isinstance(first[0], float):
                np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)
            elif name != "rank":
                assert first == second


def test_an_l1_probe_is_a_ranking_of_its_own(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert)
    text = path.read_text().replace("[probe]", '[probe]\npenalty = "l1"')
    text = text.replace("alpha = [10.0, 100.0]", "alpha = [0.1]") + "[cluster]\nworkers = 1\n"
    path.write_text(text)
    config = RunConfig.load(path)
    stages.extract(config)
    stages.probe(config)
    options = comparison.RankOptions(replicates=2)
    found = comparison.rank(config, tasks=["mood"], options=options)["mood"]
    dataset = to_xarray(found["rankings"])
    stem = RunFolder(tmp_path / "run").probe("mood", "layer_002")
    weights = read_arrays(stem.with_suffix(".safetensors"))
    np.testing.assert_allclose(
        dataset["value"].sel(layer=2, ranking="l1").values.ravel(), np.abs(weights["weights"][0])
    )
    assert "l2" not in dataset["ranking"] and "l1" not in found["stability"]["ranking"].to_pylist()
    assert list(ranking_views("mood", found, rows=2))
    with pytest.raises(ConfigError, match=r"probe.penalty = 'l2', not 'l1'"):
        comparison.rank(config, options=comparison.RankOptions(shuffles=2))


def test_errors_name_the_remedy(real_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(real_run)
    with pytest.raises(ConfigError, match="no task 'mood'; the configuration has"):
        comparison.rank(config, tasks=["mood"])
    with pytest.raises(ConfigError, match="a layer has 3072 features"):
        comparison.rank(config, options=comparison.RankOptions(top=4000))
    with pytest.raises(ConfigError, match="give 2 replicates or more"):
        comparison.RankOptions(replicates=1)
    with pytest.raises(ProbeError, match="no run here"):
        comparison.rank(config.model_copy(update={"run_dir": str(tmp_path / "none")}))


def sums_of(x: Array, rows: Rows, num_classes: int | None) -> Sums:
    columns = Columns.of([RankingTarget.of(rows, num_classes=num_classes)], num_samples=len(x))
    edges = quantile_edges(x.T)
    return stream_sums([(0, x.T)], columns, edges=edges, shift=x.mean(axis=0))[0][0]


@settings(max_examples=40)
@given(st.data())
def test_blocks_and_weights_do_not_matter(data: st.DataObject) -> None:
    """Any cut into blocks gives the same; a weight is a repetition; unlabelled rows may be NaN."""
    n = data.draw(st.integers(4, 30))
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = draw.normal(size=(n, 5)).astype(np.float16).astype(np.float32)
    times = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, 3)))
    if not times.any():
        times[0] = 1
    num_classes = data.draw(st.sampled_from([None, 2, 4]))
    y = draw.normal(size=n) if num_classes is None else draw.integers(0, num_classes, n)
    position = np.repeat(np.arange(n), times)
    whole = sums_of(x, Rows(position, y[position]), num_classes)
    holes = np.where(times[:, None] == 0, np.nan, x)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    edges = quantile_edges(x.T)
    target = RankingTarget.of(Rows(position, y[position]), num_classes=num_classes)
    columns = Columns.of([target], num_samples=n)
    bounds = [0, *cuts, n]
    blocks = [(a, holes.T[:, a:b]) for a, b in pairwise(bounds) if b > a]
    parts = stream_sums(blocks, columns, edges=edges, shift=x.mean(axis=0))[0][0]
    if num_classes is not None:
        once = np.flatnonzero(times)
        weighted = RankingTarget.of(
            Rows(once, y[once]), num_classes=num_classes, weights=times[once].astype(float)
        )
        columns = Columns.of([weighted], num_samples=n)
        repeated = stream_sums([(0, x.T)], columns, edges=edges, shift=x.mean(axis=0))[0][0]
        np.testing.assert_allclose(repeated.sums, whole.sums, atol=1e-4)
        np.testing.assert_array_equal(repeated.bins, whole.bins)
    for name, values in streamed_values(whole).items():
        found = streamed_values(parts)[name]
        if name == "anova_f":  # of exact fits, the quotient of something and nothing
            found, values = found / (found + n), values / (values + n)
        np.testing.assert_allclose(found, values, rtol=1e-3, atol=1e-4, err_msg=name)
    assert (whole.bins.sum(axis=0) == whole.counts[:, None]).all()


def test_constant_features_come_last_and_far_means_do_no_harm() -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 500)
    x = draw.normal(size=(500, 4)).astype(np.float32)
    x[:, 0] += y
    x[:, 1] = 1234.5
    x[:, 2] = 0.0
    x[:, 3] = (1000 + x[:, 0]).astype(np.float32)
    values = streamed_values(sums_of(x, Rows(np.arange(500), y), 3))
    for name, column in values.items():
        assert np.isfinite(column).all()
        assert (column[1:3] == 0).all(), name
    expected = f_classif(x[:, [0, 3]].astype(np.float64), y)[0]
    np.testing.assert_allclose(values["anova_f"][[0, 3]], expected, rtol=1e-4)


def test_mutual_information_orders_neurons_as_the_nearest_neighbour_estimate_does() -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 3000)
    strength = np.linspace(0, 2, 40)
    noise = draw.normal(size=(3000, 40))
    # Half of the neurons separate the classes by their spread alone, which no mean shows.
    x = np.where(
        np.arange(40) % 2, noise + strength * y[:, None], noise * np.exp(strength * y[:, None] / 2)
    )
    found = streamed_values(sums_of(x.astype(np.float32), Rows(np.arange(3000), y), 3))
    reference = mutual_info_classif(x, y, random_state=0)
    assert stats.spearmanr(found["mutual_information"], reference)[0] > 0.97
    assert stats.spearmanr(found["anova_f"], reference)[0] < 0.9


def test_a_class_without_rows_and_a_single_class() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 3)).astype(np.float32)
    y = draw.integers(0, 2, 60)
    rows = Rows(np.arange(60), y)
    with_absent, without = (streamed_values(sums_of(x, rows, k)) for k in (3, 2))
    for name, column in without.items():
        np.testing.assert_allclose(with_absent[name], column, err_msg=name)
    for column in streamed_values(sums_of(x, Rows(np.arange(60), 0 * y), 2)).values():
        np.testing.assert_allclose(column, 0, atol=1e-12)


def test_bins_have_equal_shares() -> None:
    x = np.random.default_rng(0).normal(size=(1600, 2)).astype(np.float32)
    sums = sums_of(x, Rows(np.arange(1600), np.zeros(1600, np.int64)), 2)
    np.testing.assert_array_equal(sums.bins.sum(axis=1), np.full((NUM_BINS, 2), 100))


def test_table_ranks_from_zero_and_shares_sum_to_one() -> None:
    values = {"l2": np.array([3.0, 0.0, 4.0, 4.0]), "anova_f": np.array([1.0, 3.0, 0.0, 0.0])}
    table = ranking_table(values, task="t", layer=7, poolings=("mean", "max"))
    assert table["rank"].to_pylist() == [2, 3, 0, 1, 1, 0, 2, 3]
    np.testing.assert_allclose(table["share"][:4], np.array([9, 0, 16, 16]) / 41)
    np.testing.assert_allclose(table["share"][4:], [0.25, 0.75, 0, 0])
    dataset = to_xarray(table)
    assert float(dataset["value"].sel(layer=7, pooling="max", neuron=0, ranking="l2")) == 4.0
    assert list(dataset["pooling"].values) == ["mean", "max"]
    assert set(RANKINGS) >= set(values)
    assert feature_rank(np.array([1.0, 1.0])).tolist() == [0, 1]
