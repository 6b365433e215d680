"""The run configuration: one TOML file, validated before the first byte is written.

``RunConfig.load("run.toml")`` reads, resolves relative paths against the file's folder and
validates. Everything that affects results is in here and in ``RunConfig.fingerprint``; run-time
matters (device, workers, progress) are in ``[cluster]`` or flags, and are left out of it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError, did_you_mean

SCORE_COLUMNS = (
    "id", "created_at", "source_file", "text_hash", "n_tokens", "truncated", "fingerprint",
)  # fmt: skip
"""Columns of scored Parquet files beside those of the tasks."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""Names of runs and tasks: they become names of files and columns."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BackboneConfig(_Section):
    """The frozen transformer whose activations are read."""

    model: str
    """A Hugging Face model directory, a hub name, or ``package:NAME`` of an installed package."""
    revision: str | None = None
    """The 40-digit commit of a hub model; required for hub names."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward pass, in training and scoring; bfloat16 is faster, about 1 % off."""
    max_length: int | None = Field(default=None, ge=2)
    """Tokens per text, special tokens included; longer texts are cut and flagged.
    Default: the model's context."""
    special_tokens: bool = True
    """Pool over ``[CLS]``, ``[SEP]``, ``<s>`` … too, as in the paper."""
    ffn_site: str | None = None
    """Path of the FFN's down projection, ``{i}`` for the block, for families not in FFN_SITES."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


class NormaliseConfig(_Section):
    """Text normalisation, applied alike in training and scoring."""

    html_unescape: bool = True
    """``&amp;`` -> ``&``."""
    users: bool = True
    """``@name`` -> ``@user``, as in TweetEval."""
    urls: bool = True
    """``https://…`` -> ``http``, as in TweetEval."""


class CorpusSource(_Section):
    """One labelled text set: files of one format, with the columns to read."""

    path: str | None = None
    """A file or (TweetEval layout) a folder; the rows' splits come from ``split`` or are drawn."""
    train: str | None = None
    """The training split's file, instead of ``path``; ``val`` and ``test`` go with it."""
    val: str | None = None
    """The validation split's file; without one the split is drawn from the training file."""
    test: str | None = None
    """The test split's file; without one the split is drawn from the training file."""
    hub: str | None = None
    """A ``datasets`` hub name, instead of ``path``."""
    hub_config: str | None = None
    """Configuration of the hub's data set, where it has several."""
    revision: str | None = None
    """Commit of the hub's data set."""
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "tweeteval", "hub"] = "auto"
    """Format of the files; ``auto`` goes by their names and first bytes."""
    text: str = "text"
    """Column of the text."""
    id: str | None = None
    """Column of the id; without one, ids are made from the source's name and the row number."""
    time: str | None = None
    """Column of the time (ISO 8601, Twitter's format or epoch seconds)."""
    author: str | None = None
    """Column of the author's id, kept so that an author's texts can be deleted."""
    split: str | None = None
    """Column with train, val or test (also validation, dev)."""
    labels: dict[str, str] = Field(min_length=1)
    """Task name -> label column."""
    where: dict[str, str] = Field(default_factory=dict)
    """Keep only the rows whose column has this value."""
    limit: int | None = Field(default=None, ge=1)
    """Read a seeded sample of at most so many rows of each file."""

    @model_validator(mode="after")
    def _one_place(self) -> CorpusSource:
        places = [
            self.path is not None,
            self.hub is not None,
            any((self.train, self.val, self.test)),
        ]
        if sum(places) != 1:
            raise ValueError("give exactly one of: path, hub, or train/val/test files")
        if places[2] and self.train is None:
            raise ValueError("train is missing; val and test alone cannot train a probe")
        if places[2] and self.split is not None:
            raise ValueError(
                "split names a column, but train/val/test files already give the splits"
            )
        return self


class TaskConfig(_Section):
    """One target over the texts."""

    name: str = Field(pattern=NAME_PATTERN)
    """As in a corpus entry's ``labels``; also the column of its predictions."""
    type: Literal["classification", "regression"]
    """Classes, given as texts or integers, or a number."""
    labels: tuple[str, ...] | None = None
    """The classes, in order; default: those found in the training split, sorted."""
    metric: (
        Literal[
            "accuracy", "macro_f1", "macro_recall", "f1", "auc", "pearson", "spearman", "mae", "r2"
        ]
        | None
    ) = None
    """What model selection maximises (minimises for mae); default macro_f1 or pearson."""
    positive: str | None = None
    """The class that the metrics f1 and auc are about; default the last one."""

    @property
    def selection_metric(self) -> str:
        """The metric that model selection goes by."""
        return self.metric or ("macro_f1" if self.type == "classification" else "pearson")

    @model_validator(mode="after")
    def _metric_fits(self) -> TaskConfig:
        regression = {"pearson", "spearman", "mae", "r2"}
        if self.metric is not None and (self.metric in regression) != (self.type == "regression"):
            raise ValueError(f"metric {self.metric!r} does not fit a {self.type} task")
        if self.type == "regression" and (self.labels or self.positive):
            raise ValueError("labels and positive are for classification tasks")
        if self.labels is not None and (
            len(set(self.labels)) != len(self.labels) or len(self.labels) < 2
        ):
            raise ValueError("labels needs at least two different classes")
        if (
            self.positive is not None
            and self.labels is not None
            and self.positive not in self.labels
        ):
            raise ValueError(f"positive {self.positive!r} is not one of labels {list(self.labels)}")
        return self


class SplitConfig(_Section):
    """Splits drawn where a source gives none (seeded, stratified, by identical text)."""

    val: float = Field(default=0.15, gt=0, lt=0.5)
    """Share of the texts in the validation split."""
    test: float = Field(default=0.15, gt=0, lt=0.5)
    """Share of the texts in the test split."""


class StoreConfig(_Section):
    """The activation store."""

    path: str
    """Folder of the store; several runs may share one."""
    poolings: tuple[str, ...] = ("mean", "max")
    """How a text's tokens become one number per neuron."""
    hidden: Literal["final", "all"] = "final"
    """Which pooled hidden states are stored beside the activations."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the stored activations."""
    samples_per_shard: int | None = Field(default=None, ge=1)
    """Texts in a file; default as many as make files of about 50 MB."""
    keep_text: bool = True
    """False keeps the texts' hashes only."""
    peaks: bool = False
    """Also store which token each neuron's maximum lies on, for the explorer; as large as one more
    pooling. No influence on results."""

    @model_validator(mode="after")
    def _peaks_fit(self) -> StoreConfig:
        if self.peaks and "max" not in self.poolings:
            raise ValueError(
                f"peaks are the tokens that max pooling takes: add 'max' to poolings"
                f" {list(self.poolings)}, or leave peaks out"
            )
        return self


class ProbeConfig(_Section):
    """Phase 1: one single-layer network per layer."""

    solver: Literal["lbfgs", "sklearn"] = "lbfgs"
    """Ours, out of core and many fits at once, or scikit-learn's estimators as the reference."""
    C: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Inverse penalty strengths tried on validation for classification (loss summed over rows, as
    in scikit-learn)."""
    alpha: tuple[float, ...] = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4)
    """Penalty strengths tried on validation for regression, on the scale of ridge."""
    penalty: Literal["l2", "l1", "elasticnet"] = "l2"
    """Norm of the weights; l1 and elasticnet set most of them to zero, through scikit-learn
    whatever the solver, in memory and much slower."""
    l1_ratio: float = Field(default=0.5, gt=0, le=1)
    """Share of the L1 norm in the elastic net."""
    class_weight: Literal["balanced"] | None = None
    """Rows weighted so that all classes weigh the same; None: all rows weigh the same."""
    tol: float = Field(default=1e-4, gt=0)
    """Largest gradient entry of the mean loss at which a fit counts as converged; its square is the
    largest estimated gap of the penalised loss to the optimum, relative to it."""

    @model_validator(mode="after")
    def _grids(self) -> ProbeConfig:
        for name, grid in (("C", self.C), ("alpha", self.alpha)):
            if not grid or min(grid) <= 0:
                raise ValueError(f"{name} needs at least one value, all above 0")
        return self


class HeadConfig(_Section):
    """Phase 2: the cross-layer heads and the choice of depth."""

    kinds: tuple[Literal["frozen", "sparse", "ensemble"], ...] = ("frozen", "sparse", "ensemble")
    """Heads to train; the ensemble is the mean of a depth's best frozen and best sparse head."""
    select: Literal["share", "top_k", "budget"] = "share"
    """How salient features are selected: a share of each layer's importance (``eta``), so many of
    each layer (``top_k``), or so many of all layers together (``budget``). All sizes are tried."""
    eta: tuple[float, ...] = (0.1, 0.25, 0.5)
    """Shares of each layer's squared importance that the salient features must reach."""
    top_k: tuple[int, ...] = (32, 128, 512)
    """Numbers of features of each layer."""
    budget: tuple[int, ...] = (128, 512, 2048)
    """Numbers of features of layers ``0..depth`` together, those with the largest shares of their
    layers' squared importance."""
    ranking: str = "weight"
    """What importance is: the probes' weights, or another ranking of ``salient rank``."""
    max_features: int = Field(default=8192, ge=1)
    """Largest number of salient features of a sparse head; larger candidates are left out."""
    training: Literal["seen", "unseen", "both", "cross_fit"] = "cross_fit"
    """What the frozen head's network is trained on: the outputs of the probes on the rows that they
    were fitted on (seen), or out-of-fold outputs on these rows (cross_fit). For unseen and both,
    Phase 2 builds on the probes fitted without fold 0; the network is trained on fold 0 (unseen),
    or on all rows (both)."""
    folds: int = Field(default=5, ge=2)
    """Folds of the training rows, for out-of-fold outputs."""
    judge: Literal["validation", "cross_validation"] = "validation"
    """What heads are compared, calibrated and given thresholds by: their outputs on the validation
    rows alone, or together with out-of-fold outputs on the training rows (as many fits more as
    there are folds; steadier where the validation split is small)."""
    hidden_width: int = Field(default=16, ge=0)
    """Width of the frozen head's dense network; 0 for a single linear layer."""
    max_depth: float = Field(default=1.0, gt=0, le=1)
    """Deepest block allowed, as a share of the backbone's blocks."""
    tolerance: float = Field(default=0.01, ge=0)
    """The smallest depth whose score is within this of the best is chosen."""
    calibrate: bool = True
    """Calibrate class probabilities, and try thresholds per class, on the rows of ``judge``."""
    licence: str | None = None
    """Terms for passing the heads on, noted on their cards."""

    @property
    def sizes(self) -> tuple[float, ...]:
        """Sizes of the salient sets to try, in the unit of ``select``, increasing."""
        grids = {"share": self.eta, "top_k": self.top_k, "budget": self.budget}
        return tuple(sorted(set(grids[self.select])))

    @property
    def num_folds(self) -> int:
        """Folds that Phase 1 fits out-of-fold probes for; 0 if none are needed."""
        return 0 if self.training == "seen" else self.folds

    @model_validator(mode="after")
    def _shares(self) -> HeadConfig:
        if not self.kinds or not self.eta or not all(0 < eta <= 1 for eta in self.eta):
            raise ValueError("kinds and eta need at least one value; eta lies in (0, 1]")
        for name, grid in (("top_k", self.top_k), ("budget", self.budget)):
            if not grid or min(grid) < 1:
                raise ValueError(f"{name} needs at least one value, all at least 1")
        if "ensemble" in self.kinds and not {"frozen", "sparse"} <= set(self.kinds):
            raise ValueError("kinds: the ensemble is made of frozen and sparse heads; name both")
        if self.judge == "cross_validation" and self.training != "cross_fit":
            raise ValueError(
                f"judge = 'cross_validation' goes with training = 'cross_fit', not"
                f" {self.training!r}: the other outputs on training rows are not held out"
            )
        return self


class ScoreConfig(_Section):
    """Batch scoring."""

    output: str | None = None
    """Folder of the scores, where ``--out`` names none."""
    languages: tuple[str, ...] = ()
    """Score tweets of these languages only, by Twitter's codes (``en``); default: all."""
    since: str | None = None
    """Score tweets from this date or time on, in UTC."""
    until: str | None = None
    """Score tweets before this date or time."""
    retweets: Literal["keep", "drop", "only"] = "keep"
    """Retweets are scored by the full text of the tweet that they repeat."""
    max_errors: float = Field(default=0.05, ge=0, le=1)
    """Share of unreadable lines above which a scoring run fails."""
    block_rows: int = Field(default=4096, ge=1)
    """Rows read and scored at a time."""
    buffer_rows: int = Field(default=250_000, ge=1)
    """Scored rows that wait in memory, so that files do not get small."""
    cache_texts: int = Field(default=200_000, ge=0)
    """Texts whose scores are remembered while a run goes on, for retweets."""
    parity_samples: int = Field(default=16, ge=0)
    """Stored samples that are recomputed before scoring starts."""
    drift_warning: float = Field(default=0.2, gt=0)
    """Population stability index, beyond what chance makes of it, from which a run warns that the
    texts are no longer like those the heads were validated on."""


class ClusterConfig(_Section):
    """Where the work runs; does not affect results."""

    kind: Literal[
        "local",
        "processes",
        "cuda",
        "scheduler",
        "ssh",
        "slurm",
        "pbs",
        "lsf",
        "sge",
        "oar",
        "moab",
        "htcondor",
        "kubernetes",
        "gateway",
    ] = "local"
    """Threads of this process, processes of this machine, a running scheduler, or what starts
    workers elsewhere; the rows of ``pipeline.clusterkinds.KINDS``."""
    workers: int | None = Field(default=None, ge=1)
    """Workers to start, or tasks under way on a running scheduler; default one for each core, GPU
    or host of ``hosts``, one job of a batch system, or all workers there. The most if adapting."""
    min_workers: int | None = Field(default=None, ge=1)
    """Let the number of workers follow the work, between this and ``workers``."""
    address: str | None = None
    """Of a running scheduler (``tcp://host:8786``, ``tls://…``) or of a Dask Gateway."""
    tls_ca: str | None = None
    """PEM file of the certificate authority, for a scheduler at a ``tls://`` address."""
    tls_cert: str | None = None
    """PEM file of the client's certificate."""
    tls_key: str | None = None
    """PEM file of the client's key."""
    hosts: tuple[str, ...] = ()
    """ssh: the scheduler's host and the workers' (a host may come several times)."""
    device: str = "auto"
    """Torch device. With "cuda" blocks go only to workers that offer the resource GPU, and workers
    that have one make the probes' Gram matrices there."""
    workers_per_gpu: int = Field(default=1, ge=1)
    """cuda: workers that share a GPU, each with a model of its own."""
    cores: int | None = Field(default=None, ge=1)
    """Cores of a worker; default a share of this machine's, elsewhere the worker's threads."""
    memory: str | None = None
    """Memory of a worker, as in "8GB"."""
    walltime: str | None = Field(default=None, pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")
    """Batch systems: time limit of the driver's job and of each worker's, as "HH:MM:SS"."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the kind's own cluster class, such as queue, account or image."""
    dashboard: str | None = None
    """Where a cluster that is started here serves its dashboard, as ":8787"; default any port."""
    wait_s: float = Field(default=600, gt=0)
    """How long to wait for a scheduler or for workers that do not answer. Workers that wait in the
    queue of a batch system are waited for without end."""

    @model_validator(mode="after")
    def _keys_go_with_the_kind(self) -> ClusterConfig:
        if (self.kind in ("scheduler", "gateway")) != (self.address is not None):
            raise ValueError(
                "address goes with kind = 'scheduler' or 'gateway', and with no other kind"
            )
        if (self.kind == "ssh") != bool(self.hosts):
            raise ValueError("hosts goes with kind = 'ssh', and with no other kind")
        if len(self.hosts) == 1:
            raise ValueError("hosts needs the scheduler's host and at least one worker's")
        if len({key is None for key in (self.tls_ca, self.tls_cert, self.tls_key)}) > 1:
            raise ValueError("tls_ca, tls_cert and tls_key go together")
        if self.min_workers is not None and self.min_workers > (self.workers or 0):
            raise ValueError("min_workers needs workers, and is at most that")
        return self


class RunConfig(_Section):
    """Everything one run depends on."""

    format_version: Literal[1] = 1
    """Of the configuration file."""
    name: str = Field(pattern=NAME_PATTERN)
    """The run's name, shown in reports and lists of jobs."""
    seed: int = Field(default=0, ge=0)
    """Of all that is drawn: splits, folds, bootstrap rows, initial weights."""
    run_dir: str
    """Folder for probes, tables, heads and figures of this run."""
    backbone: BackboneConfig
    """``[backbone]``"""
    corpus: tuple[CorpusSource, ...] = Field(min_length=1)
    """``[[corpus]]``, an entry for each labelled set."""
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    """``[[tasks]]``, an entry for each target."""
    normalise: NormaliseConfig = NormaliseConfig()
    """``[normalise]``"""
    splits: SplitConfig = SplitConfig()
    """``[splits]``"""
    store: StoreConfig
    """``[store]``"""
    probe: ProbeConfig = ProbeConfig()
    """``[probe]``"""
    head: HeadConfig = HeadConfig()
    """``[head]``"""
    score: ScoreConfig = ScoreConfig()
    """``[score]``"""
    cluster: ClusterConfig = ClusterConfig()
    """``[cluster]``"""

    @model_validator(mode="after")
    def _names_meet(self) -> RunConfig:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"tasks: names must differ, found {names}")
        if reserved := sorted(set(names) & {*SCORE_COLUMNS, "date"}):
            raise ValueError(
                f"tasks: the name {reserved[0]!r} is a column of the scores; choose another"
            )
        if Path(self.run_dir).resolve() == Path(self.store.path).resolve():
            raise ValueError("run_dir and store.path are one folder; they need one each")
        used = {task for source in self.corpus for task in source.labels}
        if unknown := sorted(used - set(names)):
            raise ValueError(
                f"corpus labels name tasks without a [[tasks]] entry: {unknown}; known: {names}"
            )
        if unused := sorted(set(names) - used):
            raise ValueError(
                f"tasks {unused} have no labels: name a column in a [[corpus]] entry's labels"
            )
        return self

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """Read, resolve and validate a TOML file (or a JSON file, as jobs carry with them).

        Relative paths are resolved against the file's folder.

        Raises:
            ConfigError: unreadable file, TOML syntax, unknown key or bad value; one line naming it.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such configuration file; `salient init {path}` writes a starter"
            ) from None
        except IsADirectoryError:
            raise ConfigError(f"{path}: is a folder; name the TOML file inside it") from None
        except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        return cls.from_dict(data, origin=path)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, origin: Path) -> RunConfig:
        """Validate a parsed configuration; ``origin`` is named in errors and anchors paths."""
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"{origin}: {_first_problem(error)}") from None
        return config._resolved(origin.resolve().parent)

    def _resolved(self, base: Path) -> RunConfig:
        def at(value: str | None) -> str | None:
            return None if value is None else str((base / Path(value).expanduser()).resolve())

        model = self.backbone.model
        if is_model_path(model) or (base / model).is_dir():
            model = str((base / Path(model).expanduser()).resolve())
        return self.model_copy(
            update={
                "run_dir": at(self.run_dir),
                "backbone": self.backbone.model_copy(update={"model": model}),
                "store": self.store.model_copy(update={"path": at(self.store.path)}),
                "score": self.score.model_copy(update={"output": at(self.score.output)}),
                "cluster": self.cluster.model_copy(
                    update={
                        key: at(getattr(self.cluster, key))
                        for key in ("tls_ca", "tls_cert", "tls_key")
                    }
                ),
                "corpus": tuple(
                    source.model_copy(
                        update={
                            key: at(getattr(source, key))
                            for key in ("path", "train", "val", "test")
                        }
                    )
                    for source in self.corpus
                ),
            }
        )

    @property
    def fingerprint(self) -> str:
        """Digest of all that affects results (not the cluster, not where things lie).

        Of paths only the last part counts: what the files hold is fingerprinted elsewhere.
        """
        data = self.model_dump(mode="json", exclude={"cluster", "run_dir", "score", "name"})
        for key in ("path", "peaks"):
            data["store"].pop(key)
        if is_model_path(self.backbone.model):
            data["backbone"]["model"] = Path(self.backbone.model).name
        for source in data["corpus"]:
            for key in ("path", "train", "val", "test"):
                source[key] = source[key] and Path(source[key]).name
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def task(self, name: str) -> TaskConfig:
        """The task of that name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise ConfigError(f"no task {name!r}; the configuration has {[t.name for t in self.tasks]}")


def is_model_path(model: str) -> bool:
    """Whether a ``backbone.model`` is meant as a path rather than a hub name."""
    return model.startswith((".", "/", "~"))


def _first_problem(error: ValidationError) -> str:
    """One line for the first validation error (and how many more there are)."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = _location(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        choices = sorted(_section_at(first["loc"][:-1]).model_fields)
        hint = did_you_mean(str(first["loc"][-1]), choices)
        message = f"unknown key; {hint and f'{hint} '}valid keys here: {', '.join(choices)}"
    elif first["type"] == "missing":
        message = "is required"
    elif not isinstance(first["input"], Mapping | Sequence) or isinstance(first["input"], str):
        message = f"{message}, not {first['input']!r}"
    rest = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return f"{where + ': ' if where else ''}{message}{rest}"


def _location(loc: Sequence[int | str]) -> str:
    out = ""
    for part in loc:
        out += f"[{part + 1}]" if isinstance(part, int) else f"{'.' if out else ''}{part}"
    return out


def _section_at(loc: Sequence[int | str]) -> type[BaseModel]:
    """The section class that a validation error's location lies in."""
    section: type[BaseModel] = RunConfig
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = next(
            candidate
            for candidate in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(candidate, type) and issubclass(candidate, BaseModel)
        )
    return section
