"""A run folder with a byte flipped gives the right numbers, or an error that names the file."""

from __future__ import annotations

import copy
import io
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.extraction.golden import read_golden, read_outputs
from pipeline.heads.activations import read_held_out
from pipeline.heads.drift import Reference
from pipeline.heads.model import Head, HeadCard
from pipeline.neurons.ablation import AblationOptions, ablate, read_ablations
from pipeline.neurons.comparison import RankOptions, rank
from pipeline.neurons.tables import RankTables, importance_cube, rank_cubes, read_overlaps
from pipeline.probes.importance import read_importance
from pipeline.probes.keptgrams import RowGram
from pipeline.probes.model import ProbeCard, load_probe
from pipeline.probes.probing import lacking, load_targets, probe_fingerprints
from pipeline.probes.rows import task_rows
from pipeline.report import terminal
from pipeline.report.inspection import describe, inspect
from pipeline.report.scores import label_rows, remarks, score_rows
from pipeline.runfolder import RunFolder, read_card, read_metrics, read_sweep, run_config
from pipeline.scoring.cascade import Cascade, CascadeTask
from store import ActivationStore
from store.errors import SalientError
from store.layout import Source, ffn
from store.tables import (
    read_arrays,
    read_json,
    read_table,
    write_arrays,
    write_json,
    write_table,
)

FLIPS = 300
MANY_FLIPS = 2000
NOT_READ = (
    r"\.lock",
    r"figures/.*",
    r"report\.html",
    r"plan\.json",
    r"set_aside\.parquet",
    r"(stability|selectivity|importance_experts)/.*",
    r"heads/[^/]+/[^/]+/ngrams\.parquet",
)
"""What Salient writes into a run's folder for people and other programs, and never reads again."""


@pytest.fixture(scope="module")
def whole(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A finished run with what further commands add to it."""
    home = tmp_path_factory.mktemp("whole") / "home"
    shutil.copytree(finished_run.parent, home)
    config = RunConfig.load(home / finished_run.name)
    rank(config, options=RankOptions(replicates=2, shuffles=1))
    ablate(config, tasks=["mood"], options=AblationOptions(top=3, draws=1))
    folder = RunFolder(Path(config.run_dir))
    early, full = (Head.load(folder.head("mood", name)) for name in ("depth_000", "chosen"))
    task = CascadeTask(
        "depth_000", early.card.depth, early.fingerprint, full.card.depth, full.fingerprint, 0.9
    )
    Cascade({"mood": task}, 0.01).save(folder, {})
    write_json(folder.plan, {"format_version": 1})
    store, probe = ActivationStore.open(config.store.path), load_probe(folder, "mood", ffn(1))
    size = probe.weights.shape[1]
    gram = RowGram(np.arange(5), probe.standardiser, np.eye(size, dtype=np.float32))
    gram.write(folder.gram("mood", "layer_001"), store.schema.fingerprint)
    return config


# -- readers: what is told of each file -----------------------------------------------------------

Reader = Callable[[RunConfig, Path], Any]


def plain(value: Any) -> Any:
    """Something that is equal where the value is: arrays and tables as bytes."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, pa.Table):
        return value.to_pydict()
    if isinstance(value, Mapping):
        return {str(key): plain(own) for key, own in value.items()}
    if isinstance(value, tuple | list):
        return [plain(own) for own in value]
    return plain(vars(value)) if hasattr(value, "__dataclass_fields__") else value


def of_run(config: RunConfig) -> RunFolder:
    return RunFolder(Path(config.run_dir))


def of_probe(config: RunConfig, path: Path) -> Any:
    """As Phase 1 sees it when it is run again, and as Phase 2 reads it."""
    store, folder = ActivationStore.open(config.store.path), of_run(config)
    source, task = Source.of(path.stem), path.parent.name
    target = next(one for one in load_targets(config, store) if one.task.name == task)
    fingerprint = probe_fingerprints(config, store, load_targets(config, store))[task]
    if why := lacking(config, store, target, source, fingerprint):
        assert str(path) in why or path.stem in why
    card = ProbeCard.read(folder, task, source)
    assert card.fingerprint == fingerprint or why
    return card, load_probe(folder, task, source, store.schema)


def of_groups(config: RunConfig, path: Path) -> Any:
    """Damaged ones are found again."""
    store = ActivationStore.open(config.store.path)
    target = next(one for one in load_targets(config, store) if one.task.name == path.stem)
    return task_rows(config, store, target)


def of_gram(config: RunConfig, path: Path) -> Any:
    """Damaged ones are made again."""
    found = RowGram.read(path, ActivationStore.open(config.store.path).schema.fingerprint)
    return "made again" if found is None else found


def of_head(config: RunConfig, path: Path) -> Any:
    folder = path.parent
    head = Head.load(folder)
    beside = Reference.read(folder, head), read_held_out(folder, head), read_outputs(folder)
    return head.card, head.fingerprint, head.parts, head.thresholds, *beside


def of_tables(config: RunConfig, path: Path) -> Any:
    schema = ActivationStore.open(config.store.path).schema
    tables = RankTables.read(of_run(config), schema)
    return tables, read_importance(of_run(config), path.stem)


READERS: dict[str, Reader] = {
    r"run\.json": lambda config, _: (read_card(of_run(config)), run_config(Path(config.run_dir))),
    r"metrics\.json": lambda config, _: read_metrics(of_run(config)),
    r"golden\.safetensors": lambda _, path: read_golden(path),
    r"probes/.*": of_probe,
    r"groups/.*": of_groups,
    r"grams/.*": of_gram,
    r"(importance|rankings)/.*": of_tables,
    r"overlaps/.*": lambda _, path: read_overlaps(path),
    r"sweep/.*": lambda config, path: read_sweep(of_run(config), path.stem),
    r"heads/.*/(head|golden|lexicon)\.json": of_head,
    r"heads/.*/(head|reference|held_out|golden_activations)\.safetensors": of_head,
    r"cascade\.json": lambda config, _: Cascade.load(of_run(config)),
    r"ablation\.json": lambda _, path: read_ablations(path),
}
"""Name in a run's folder -> how it is read."""


def reader_of(name: str) -> Reader | None:
    """How a file is read; None for those that are not."""
    found = [read for pattern, read in READERS.items() if re.fullmatch(pattern, name)]
    assert len(found) == 1 or any(re.fullmatch(pattern, name) for pattern in NOT_READ), (
        f"{name}: nothing reads it, and it is not among the files that are not read"
    )
    return found[0] if found else None


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def flipped(content: bytes, draw: random.Random) -> bytes:
    place, bit = draw.randrange(len(content)), draw.randrange(8)
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def damage(config: RunConfig, flips: int, seed: int) -> dict[str, int]:
    """Flip bits one after another; how often what came of it."""
    folder, draw = Path(config.run_dir), random.Random(seed)
    readers = {name: reader_of(name) for name in files_of(folder)}
    names = [name for name, read in readers.items() if read is not None]
    right = {name: plain(readers[name](config, folder / name)) for name in names}  # type: ignore[misc]
    counts = {"right": 0, "refused": 0}
    for number in range(flips):
        # Each file in turn, so that the small ones are not forgotten.
        name = names[number % len(names)]
        path, read = folder / name, readers[name]
        assert read is not None
        content = path.read_bytes()
        try:
            path.write_bytes(flipped(content, draw))
            try:
                found = plain(read(config, path))
            except SalientError as error:
                assert str(path) in str(error) or str(path.parent) in str(error), error
                assert "again" in str(error), error
                counts["refused"] += 1
            else:
                assert found == right[name] or found == "made again", name
                counts["right"] += 1
        finally:
            path.write_bytes(content)
    return counts


def test_a_flipped_bit_is_noticed_or_does_not_matter(whole: RunConfig) -> None:
    counts = damage(whole, FLIPS, seed=0)
    assert sum(counts.values()) == FLIPS and counts["refused"] > FLIPS / 2


@pytest.mark.slow
def test_many_flipped_bits_are_noticed_or_do_not_matter(whole: RunConfig) -> None:
    assert sum(damage(whole, MANY_FLIPS, seed=1).values()) == MANY_FLIPS


def one_of_each(folder: Path) -> dict[str, str]:
    """Pattern of ``READERS`` -> a file, the first of those that it is about."""
    names = files_of(folder)
    found = {p: [name for name in names if re.fullmatch(p, name)] for p in READERS}
    return {pattern: own[0] for pattern, own in found.items()}


def test_a_file_cut_short_or_emptied_is_noticed(whole: RunConfig) -> None:
    folder = Path(whole.run_dir)
    for pattern, name in one_of_each(folder).items():
        path, read = folder / name, READERS[pattern]
        content = path.read_bytes()
        right = plain(read(whole, path))
        for cut in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:cut])
            try:
                assert plain(read(whole, path)) in (right, "made again"), (name, cut)
            except SalientError as error:
                assert str(path.parent) in str(error)
        path.write_bytes(content)


# -- commands -------------------------------------------------------------------------------------


def spoilt(path: Path) -> None:
    """Another number in the file, as disks give it."""
    content = bytearray(path.read_bytes())
    place = len(content) - 9 if path.suffix == ".safetensors" else len(content) // 2
    if path.suffix == ".parquet":  # of a page: what stands in the footer is not all of use
        group = pq.read_metadata(path).row_group(0)
        column = group.column(group.num_columns - 1)
        place = column.data_page_offset + column.total_compressed_size - 2
        if column.has_dictionary_page:
            place = column.dictionary_page_offset + column.total_compressed_size - 2
    if path.suffix == ".json":  # a digit or letter, so that it is JSON still
        place = next(at for at in range(place, len(content)) if chr(content[at]).isalnum())
    content[place] ^= 1
    path.write_bytes(bytes(content))


LOOKS = (("inspect", "{run}"), ("report", "{run}", "--images", "none"))
SCORES = (("score", "{texts}", "--heads", "{run}/heads/mood/chosen", "--out", "{out}"),)
COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "run.json": (*LOOKS, ("score", "{texts}", "--run", "{run}", "--out", "{out}")),
    "metrics.json": (*LOOKS, ("consolidate", "{toml}")),
    "golden.safetensors": (("extract", "{toml}"),),
    "probes/mood/layer_001.json": (("consolidate", "{toml}"),),
    "probes/mood/layer_001.safetensors": (("consolidate", "{toml}"), ("rank", "{toml}")),
    "sweep/mood.parquet": (*LOOKS, ("plan", "{run}", "--rounds", "1")),
    "importance/mood.parquet": (LOOKS[1], ("ablate", "{toml}", "--task", "mood")),
    "overlaps/mood.parquet": LOOKS[1:],
    "ablation.json": (LOOKS[1], ("ablate", "{toml}", "--task", "mood", "--top", "3")),
    "cascade.json": (("score", "{texts}", "--run", "{toml}", "--cascade", "--out", "{out}"),),
    "heads/mood/chosen/head.json": SCORES,
    "heads/mood/chosen/head.safetensors": SCORES,
    "heads/mood/chosen/golden.json": SCORES,
    "heads/mood/chosen/golden_activations.safetensors": SCORES,
    "heads/mood/chosen/reference.safetensors": SCORES,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_name_the_damaged_file_and_the_remedy(
    whole: RunConfig, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(whole.run_dir)
    path, content = run / name, (run / name).read_bytes()
    places = {"run": run, "toml": run.parent / "run.toml", "texts": run.parent / "tweets.csv"}
    spoilt(path)
    try:
        for number, words in enumerate(COMMANDS[name]):
            out = tmp_path / str(number)
            code = run_command([word.format(out=out, **places) for word in words])
            said = capsys.readouterr()
            page = run / "report.html"
            if words[0] == "report" and code == 0:  # it shows the rest
                assert str(path) in page.read_text("utf-8")
                continue
            assert code in (1, 2) and str(path) in said.err and "again" in said.err, said
            assert "Traceback" not in said.err
            assert not out.exists() or not list(out.rglob("*.parquet"))
    finally:
        path.write_bytes(content)


def test_running_again_mends_what_can_be_made_again(
    whole: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(whole.run_dir).parent, tmp_path / "home")
    config = RunConfig.load(tmp_path / "home/run.toml")
    run, metrics = Path(config.run_dir), read_metrics(of_run(whole))
    damaged = [
        "run.json",
        "probes/mood/layer_001.safetensors",
        "probes/level/hidden_002.json",
        "groups/mood.safetensors",
        "importance/mood.parquet",
        "heads/level/chosen/reference.safetensors",
    ]
    before = {name: (run / name).read_bytes() for name in damaged}
    for name in damaged:
        spoilt(run / name)
    assert run_command(["run", str(tmp_path / "home/run.toml")]) == 0
    said = capsys.readouterr().err
    assert "made again" in said and "heads/level/chosen/reference.safetensors" in said
    redone = [line for line in said.splitlines() if "probe " in line and "done before" not in line]
    assert len(redone) == 2
    assert read_metrics(of_run(config)) == metrics
    for name in damaged:
        assert plain(READERS[one_pattern(name)](config, run / name)) is not None
    for name in damaged[1:]:
        assert (run / name).read_bytes() == before[name]


def one_pattern(name: str) -> str:
    return next(pattern for pattern in READERS if re.fullmatch(pattern, name))


# -- folders from elsewhere: well-formed files with odd members -----------------------------------

ODD: tuple[Any, ...] = (None, "x", "\x1b[2J", -1, 2**70, 1e308, [], {}, [[0]], {"a": None}, True)


def members(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each member of JSON, however deep."""
    entries = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from members(value, (*path, key))


def changed(data: Any, way: tuple[Any, ...], value: Any) -> Any:
    """A copy with another member at a way; without it if the value is Ellipsis."""
    data = copy.deepcopy(data)
    inner = data
    for key in way[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[way[-1]]
    else:
        inner[way[-1]] = value
    return data


def shown(config: RunConfig, name: str) -> None:
    """All that is made of a file for people."""
    folder, console = of_run(config), Console(file=io.StringIO(), width=100)
    if name == "metrics.json":
        for task, entry in read_metrics(folder)["tasks"].items():
            console.print(terminal.task_table(task, entry), terminal.label_table(task, entry))
            console.print(terminal.depth_table(task, entry, read_sweep(folder, "mood")))
            list(score_rows(entry)), list(label_rows(entry)), remarks(entry)
    elif name == "ablation.json":
        for task, entry in read_ablations(folder.ablation).items():
            console.print(terminal.ablation_table(task, entry))
    elif name == "cascade.json":
        Cascade.load(folder)
    elif name == "run.json":
        read_card(folder), run_config(folder.path)
        list(describe(inspect(folder.path)))
    else:
        list(describe(inspect((folder.path / name).parent)))
        of_head(config, folder.path / name)


SHOWN = (
    "run.json",
    "metrics.json",
    "ablation.json",
    "cascade.json",
    "heads/mood/chosen/head.json",
    "heads/mood/chosen/golden.json",
)


@pytest.mark.parametrize("name", SHOWN)
def test_odd_members_are_refused_or_shown(whole: RunConfig, name: str) -> None:
    """No exception but an error that names the file: nobody's checksum says who wrote a file."""
    path = Path(whole.run_dir) / name
    content, data, draw = path.read_bytes(), read_json(path), random.Random(0)
    ways = list(members(data))
    refused = 0
    try:
        for way in draw.sample(ways, min(60, len(ways))):
            write_json(path, changed(data, way, draw.choice((*ODD, ...))))
            try:
                shown(whole, name)
            except SalientError as error:
                assert str(path.parent) in str(error) or "run.json" in str(error), error
                refused += 1
    finally:
        path.write_bytes(content)
    assert refused


def test_odd_tensors_are_refused(whole: RunConfig) -> None:
    run, draw = Path(whole.run_dir), random.Random(0)
    odd: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
        lambda x: x[..., None],
        lambda x: x.reshape(-1)[:-1],
        lambda x: x.astype(np.int64) if x.dtype.kind == "f" else x.astype(np.float32),
        lambda x: -x - 1 if x.dtype != np.uint8 else x[:1],
        lambda x: np.full_like(x, 2**40) if x.dtype == np.int64 else x[:0],
    )
    for pattern, name in one_of_each(run).items():
        path = run / name
        if path.suffix != ".safetensors":
            continue
        content, arrays = path.read_bytes(), read_arrays(path)
        try:
            for key in draw.sample(sorted(arrays), min(8, len(arrays))):
                for change in (*odd, None):
                    others = {k: v for k, v in arrays.items() if k != key}
                    own = {} if change is None else {key: change(arrays[key])}
                    write_arrays(path, others | own)
                    try:
                        READERS[pattern](whole, path)
                    except SalientError as error:
                        # Other groups are other folds, and those may leave nothing to learn from.
                        assert str(path.parent) in str(error) or pattern == "groups/.*"
        finally:
            path.write_bytes(content)


def test_tables_that_would_fill_the_memory_are_refused(whole: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    table = read_importance(of_run(whole), "mood")
    schema = ActivationStore.open(whole.store.path).schema
    for column, value in (("neuron", 2**31 - 1), ("layer", 2**15 - 1), ("neuron", -1)):
        values = table[column].to_numpy().copy()
        values[0] = value
        place = table.column_names.index(column)
        write_table(folder.importance("mood"), table.set_column(place, column, pa.array(values)))
        with pytest.raises(SalientError, match=r"mood\.parquet.* one for each neuron"):
            importance_cube(read_importance(folder, "mood"))
    path = of_run(whole).ranking("rankings", "mood")
    ranks = read_table(path)
    values = ranks["neuron"].to_numpy().copy()
    values[-1] = 2**31 - 1
    place = ranks.column_names.index("neuron")
    with pytest.raises(SalientError, match="none of the store's"):
        rank_cubes(ranks.set_column(place, "neuron", pa.array(values)), schema)


def test_no_name_in_a_run_folder_leads_out_of_it(whole: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(whole.run_dir, tmp_path / "run")
    shutil.copytree(tmp_path / "run/heads/mood/depth_000", tmp_path / "outside")
    folder = RunFolder(tmp_path / "run")
    data = read_json(folder.cascade)
    for early in ("../../../../outside", str(tmp_path / "outside"), ".."):
        data["tasks"]["mood"]["early"] = early
        write_json(folder.cascade, data)
        with pytest.raises(SalientError, match=r"cascade\.json.*tasks\.mood\.early"):
            Cascade.load(folder)
    metrics = read_metrics(folder)
    metrics["tasks"]["../../outside"] = metrics["tasks"].pop("mood")
    write_json(folder.metrics, metrics)
    with pytest.raises(SalientError, match=r"metrics\.json"):
        read_metrics(folder)


@pytest.mark.parametrize("inner", ["heads", "heads/mood", "probes/mood", "figures", "run.link"])
def test_no_link_leads_out_of_a_run_folder(
    whole: RunConfig, tmp_path: Path, inner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(whole.run_dir).parent, tmp_path / "home")
    run, toml = tmp_path / "home/run", str(tmp_path / "home/run.toml")
    (tmp_path / "outside/mood").mkdir(parents=True)
    (tmp_path / "outside/mood/precious").write_text("precious", "utf-8")
    shutil.rmtree(run / inner, ignore_errors=True)
    (run / inner).symlink_to(tmp_path / "outside")
    for words in (["probe", toml], ["consolidate", toml], ["inspect", str(run)]):
        assert run_command(words) == 1
        said = capsys.readouterr().err
        assert str(run / inner) in said and "leads out of the run's folder" in said
    assert files_of(tmp_path / "outside") == ["mood/precious"]


def test_a_run_folder_does_not_say_where_scores_are_written(
    whole: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole.run_dir, tmp_path / "run")
    card = read_json(tmp_path / "run/run.json")
    card["config"]["score"]["output"] = str(tmp_path / "elsewhere")
    write_json(tmp_path / "run/run.json", card)
    texts = Path(whole.run_dir).parent / "tweets.csv"
    assert run_command(["score", str(texts), "--run", str(tmp_path / "run")]) == 2
    assert "--out FOLDER" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


CRAFTED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "a model that is nowhere": (("extraction", "backbone", "model"), "/nowhere/model"),
    "a model that is a file": (("extraction", "backbone", "model"), "/etc/passwd"),
    "a package to import": (("extraction", "backbone", "model"), "package:this.that"),
    "an unknown precision": (("extraction", "backbone", "dtype"), "float8"),
    "an unknown key": (("extraction", "backbone", "hook"), "os.system"),
    "no texts at all": (("extraction", "backbone", "max_length"), 2),
    "a site with code": (("extraction", "backbone", "ffn_site"), "{i.__class__}"),
    "an unknown pooling": (("poolings",), ["mean", "eval"]),
    "many poolings": (("poolings",), ["mean"] * 1000),
    "another extraction": (("extraction_fingerprint",), "0" * 64),
    "a normalisation with code": (("extraction", "normalise", "eval"), True),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_heads_are_refused_in_one_line(
    whole: RunConfig, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(whole.run_dir) / "heads/mood/chosen", tmp_path / "head")
    way, value = CRAFTED[case]
    card = read_json(tmp_path / "head/head.json")
    inner = card
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    data = {name: own for name, own in card.items() if name != "fingerprint"}
    data |= {name: tuple(data[name]) for name in ("classes", "poolings")}
    loaded = Head.load(Path(whole.run_dir) / "heads/mood/chosen")
    crafted = replace(loaded, card=HeadCard(**data))
    crafted.save(tmp_path / "head")  # with a fingerprint and a checksum that are right
    texts = Path(whole.run_dir).parent / "tweets.csv"
    words = ["score", str(texts), "--heads", str(tmp_path / "head"), "--out", str(tmp_path / "out")]
    assert run_command(words) in (1, 2)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("salient: ") and "Traceback" not in said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.parquet"))


def test_text_of_a_folder_obeys_nobody(whole: RunConfig, tmp_path: Path) -> None:
    """Neither a terminal's control characters nor Rich's markup."""
    card = read_json(Path(whole.run_dir) / "run.json")
    card["config"]["backbone"]["model"] = "evil\x1b[2J"
    assert "evil\\x1b[2J" in "\n".join(describe({"card": card}))
    metrics = read_metrics(of_run(whole))["tasks"]["mood"]
    metrics["chosen"]["kind"] = "[/red]"
    metrics["labels"] = {"[/b]": {"f1": 0.5, "interval": None, "rows": 3}}
    sweep, shown = read_sweep(of_run(whole), "mood"), io.StringIO()
    console = Console(file=shown, width=100)
    console.print(terminal.task_table("mood", metrics), terminal.label_table("mood", metrics))
    console.print(terminal.depth_table("mood", metrics, sweep))
    assert shown.getvalue().count("[/red]") == 2 and "[/b]" in shown.getvalue()
