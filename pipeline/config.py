"""The run configuration: one TOML file, validated before the first byte is written.

``RunConfig.load("run.toml")`` reads, resolves relative paths against the file's folder and
validates. Everything that affects results is in here and in ``RunConfig.fingerprint``; run-time
matters (device, workers, progress) are in ``[cluster]`` or flags, and are left out of it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError

SCORE_COLUMNS = ("id", "created_at", "source_file", "text_hash", "n_tokens", "truncated")
"""Columns of scored Parquet files beside those of the tasks."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BackboneConfig(_Section):
    """The frozen transformer whose activations are read."""

    model: str
    """A Hugging Face model directory, a hub name, or ``package:NAME`` of an installed package."""
    revision: str | None = None
    """The 40-digit commit of a hub model; required for hub names."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: int | None = Field(default=None, ge=2)
    """Tokens per text, special tokens included; longer texts are cut and flagged.
    Default: the model's context."""
    special_tokens: bool = True
    """Pool over [CLS], [SEP], <s> … too, as in the paper."""
    ffn_site: str | None = None
    """Path of the FFN's down projection, ``{i}`` for the block, for families not in FFN_SITES."""
    trust_remote_code: bool = False


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
    val: str | None = None
    test: str | None = None
    """One file per split, instead of ``path``."""
    hub: str | None = None
    """A ``datasets`` hub name, instead of ``path``."""
    hub_config: str | None = None
    revision: str | None = None
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "tweeteval", "hub"] = "auto"
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
    type: Literal["classification", "regression"]
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
    test: float = Field(default=0.15, gt=0, lt=0.5)


class StoreConfig(_Section):
    """The activation store."""

    path: str
    poolings: tuple[str, ...] = ("mean", "max")
    hidden: Literal["final", "all"] = "final"
    dtype: Literal["float16", "float32"] = "float16"
    samples_per_shard: int | None = Field(default=None, ge=1)
    keep_text: bool = True
    """False keeps the texts' hashes only."""


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
    """Largest gradient entry of the mean loss at which a fit counts as converged."""

    @model_validator(mode="after")
    def _grids(self) -> ProbeConfig:
        for name, grid in (("C", self.C), ("alpha", self.alpha)):
            if not grid or min(grid) <= 0:
                raise ValueError(f"{name} needs at least one value, all above 0")
        return self


class HeadConfig(_Section):
    """Phase 2: the cross-layer heads and the choice of depth."""

    kinds: tuple[Literal["frozen", "sparse"], ...] = ("frozen", "sparse")
    eta: tuple[float, ...] = (0.1, 0.25, 0.5)
    """Shares of each layer's squared importance that the salient neurons must reach."""
    max_features: int = Field(default=8192, ge=1)
    """Largest number of salient features of a sparse head; larger candidates are left out."""
    training: Literal["seen", "cross_fit"] = "cross_fit"
    """What the frozen head's network is trained on: Phase 1's outputs on its own training rows, or
    out-of-fold ones."""
    folds: int = Field(default=5, ge=2)
    hidden_width: int = Field(default=16, ge=0)
    """Width of the frozen head's dense network; 0 for a single linear layer."""
    max_depth: float = Field(default=1.0, gt=0, le=1)
    """Deepest block allowed, as a share of the backbone's blocks."""
    tolerance: float = Field(default=0.01, ge=0)
    """The smallest depth whose validation score is within this of the best is chosen."""

    @model_validator(mode="after")
    def _shares(self) -> HeadConfig:
        if not self.kinds or not self.eta or not all(0 < eta <= 1 for eta in self.eta):
            raise ValueError("kinds and eta need at least one value; eta lies in (0, 1]")
        return self


class ScoreConfig(_Section):
    """Batch scoring."""

    output: str | None = None
    block_rows: int = Field(default=4096, ge=1)
    max_errors: float = Field(default=0.05, ge=0, le=1)
    """Share of unreadable lines above which a scoring run fails."""
    parity_samples: int = Field(default=16, ge=0)
    """Stored samples that are recomputed before scoring starts."""


class ClusterConfig(_Section):
    """Where the work runs; does not affect results."""

    kind: Literal["local", "processes", "scheduler"] = "local"
    workers: int | None = Field(default=None, ge=1)
    address: str | None = None
    device: str = "auto"

    @model_validator(mode="after")
    def _address(self) -> ClusterConfig:
        if (self.kind == "scheduler") != (self.address is not None):
            raise ValueError("address goes with kind = 'scheduler', and with no other kind")
        return self


class RunConfig(_Section):
    """Everything one run depends on."""

    format_version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    seed: int = Field(default=0, ge=0)
    run_dir: str
    """Folder for probes, tables, heads and figures of this run."""
    backbone: BackboneConfig
    corpus: tuple[CorpusSource, ...] = Field(min_length=1)
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    normalise: NormaliseConfig = NormaliseConfig()
    splits: SplitConfig = SplitConfig()
    store: StoreConfig
    probe: ProbeConfig = ProbeConfig()
    head: HeadConfig = HeadConfig()
    score: ScoreConfig = ScoreConfig()
    cluster: ClusterConfig = ClusterConfig()

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
        """Read, resolve and validate a TOML file.

        Relative paths are resolved against the file's folder.

        Raises:
            ConfigError: unreadable file, TOML syntax, unknown key or bad value; one line naming it.
        """
        path = Path(path)
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such configuration file; `salient init {path}` writes a starter"
            ) from None
        except IsADirectoryError:
            raise ConfigError(f"{path}: is a folder; name the TOML file inside it") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
        data["store"].pop("path")
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
        close = get_close_matches(str(first["loc"][-1]), choices, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        message = f"unknown key; {hint}valid keys here: {', '.join(choices)}"
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
    return re.sub(r"\[(\d+)\]", r"[\1]", out)


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
