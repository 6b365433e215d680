"""The whole run configuration: how its sections meet, its file and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from pipeline.config.addresses import FolderPath, is_address
from pipeline.config.problems import every_problem, first_problem
from pipeline.config.sections import (
    NAME_PATTERN,
    SCORE_COLUMNS,
    BackboneConfig,
    ClusterConfig,
    CorpusSource,
    HeadConfig,
    NormaliseConfig,
    ProbeConfig,
    ScoreConfig,
    Section,
    SplitConfig,
    StorageConfig,
    StoreConfig,
    SubmissionConfig,
    TaskConfig,
)
from pipeline.errors import ConfigError, did_you_mean

_ELSEWHERE = {"cluster", "run_dir", "score", "name", "storage", "submission"}
"""Sections and keys that results do not depend on."""


class RunConfig(Section):
    """Everything one run depends on."""

    format_version: Literal[1] = 1
    """Of the configuration file."""
    name: str = Field(pattern=NAME_PATTERN, examples=["sentiment"])
    """The run's name, shown in reports and lists of jobs."""
    seed: int = Field(default=0, ge=0, examples=[1])
    """Of all that is drawn: splits, folds, bootstrap rows, initial weights."""
    run_dir: FolderPath = Field(examples=["runs/sentiment"])
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
    storage: StorageConfig = StorageConfig()
    """``[storage]``"""
    submission: SubmissionConfig = SubmissionConfig()
    """``[submission]``"""
    _code_withheld: bool = PrivateAttr(default=False)
    """It asks for a model's own code, and comes from somebody who may not allow that."""

    @model_validator(mode="after")
    def _names_meet(self) -> RunConfig:
        if problems := [*self._problems()]:
            raise ValueError("\n".join(problems))
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_said(self, serialise: SerializerFunctionWrapHandler) -> Any:
        """Records of runs that say nothing of the newer sections stay as they were."""
        data = serialise(self)
        for name, unsaid in (("storage", StorageConfig()), ("submission", SubmissionConfig())):
            if name in data and getattr(self, name) == unsaid:
                del data[name]
        return data

    def _problems(self) -> Iterator[str]:
        """Where sections do not go together."""
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            yield f"tasks: names must differ, found {names}"
        if reserved := sorted(set(names) & {*SCORE_COLUMNS, "date"}):
            yield f"tasks: the name {reserved[0]!r} is a column of the scores; choose another"
        in_bucket = is_address(self.store.path)
        if not in_bucket and Path(self.run_dir).resolve() == Path(self.store.path).resolve():
            yield "run_dir and store.path are one folder; they need one each"
        used = {task for source in self.corpus for task in source.labels}
        if unknown := sorted(used - set(names)):
            hint = next(filter(None, (did_you_mean(one, names) for one in unknown)), "")
            yield (
                f"corpus labels name tasks without a [[tasks]] entry: {unknown}; known: {names}"
                + (f"; {hint}" if hint else "")
            )
        if unused := sorted(set(names) - used):
            yield f"tasks {unused} have no labels: name a column in a [[corpus]] entry's labels"
        for task in self.tasks:
            yield from self._column_problems(task)
        by = self.head.folds_by
        if by is not None and not any(getattr(source, by) for source in self.corpus):
            yield (
                f"head.folds_by = {by!r} needs each text's {by}, and no corpus entry names a column"
                f' of it; add `{by} = "COLUMN"` under [[corpus]], or leave folds_by out'
            )

    def _column_problems(self, task: TaskConfig) -> Iterator[str]:
        """Label columns of 0 and 1 are for label sets, and the same ones everywhere."""
        columns = [
            names
            for source in self.corpus
            if not isinstance(names := source.labels.get(task.name, ""), str)
        ]
        if task.type != "multilabel":
            if columns:
                yield (
                    f"corpus labels name several columns for task {task.name!r}, which is a"
                    f" {task.type} task; name one column, or set its type to multilabel"
                )
            return
        wanted = task.labels or (columns[0] if columns else None)
        for names in columns:
            if len(set(names)) != len(names) or len(names) < 2:
                yield (
                    f"corpus labels: task {task.name!r} needs at least two different columns,"
                    f" found {list(names)}"
                )
            if wanted is not None and set(names) != set(wanted):
                yield (
                    f"corpus labels: task {task.name!r} has the columns {list(names)}, but the"
                    f" labels {list(wanted)}; name a column for each label, called as it"
                )
        if not set(self.head.single_kinds) - {"frozen"}:
            yield (
                f"head.kinds {list(self.head.kinds)}: multilabel task {task.name!r} needs dense,"
                " states or sparse heads, or the final one with head.max_depth = 1; add 'dense'"
            )

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """Read, resolve and validate a TOML file (or a JSON file, as jobs carry with them).

        Relative paths are resolved against the file's folder. A JSON file was written by a program,
        maybe elsewhere: it is taken as :meth:`handed_over`. From then on this process reaches
        buckets as the file's ``[storage]`` says, and no other's.

        Raises:
            ConfigError: unreadable file, TOML syntax, unknown key or bad value; one line naming it.
            StoreError: a JSON file that is damaged.
        """
        path = Path(path)
        if path.suffix == ".json" and path.is_file():
            from store.tables import read_json

            data = read_json(path, remedy="submit the job again")
            return cls._in_use(data, path).handed_over()
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such configuration file; `salient init {path}` writes a starter"
            ) from None
        except IsADirectoryError:
            raise ConfigError(f"{path}: is a folder; name the TOML file inside it") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}{_remedy(error)}") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        return cls._in_use(data, path)

    @classmethod
    def _in_use(cls, data: Mapping[str, Any], origin: Path) -> RunConfig:
        config = cls.from_dict(data, origin=origin)
        config.storage.apply()
        return config

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, origin: Path) -> RunConfig:
        """Validate a parsed configuration; ``origin`` is named in errors and anchors paths."""
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            first, *others = every_problem(error, cls)
            if not others:
                raise ConfigError(f"{origin}: {first}") from None
            listed = "".join(f"\n  {line}" for line in (first, *others))
            raise ConfigError(f"{origin}: {len(others) + 1} problems{listed}") from None
        return config._resolved(origin.resolve().parent)

    def _resolved(self, base: Path) -> RunConfig:
        def at(value: str | None) -> str | None:
            if value is None or is_address(value):
                return value
            return str((base / Path(value).expanduser()).resolve())

        model = self.backbone.model
        if is_model_path(model) or (base / model).is_dir():
            model = str((base / Path(model).expanduser()).resolve())
        return self.model_copy(
            update={
                "run_dir": at(self.run_dir),
                "backbone": self.backbone.model_copy(update={"model": model}),
                "store": self.store.model_copy(update={"path": at(self.store.path)}),
                "score": self.score.model_copy(update={"output": at(self.score.output)}),
                "submission": self.submission.model_copy(
                    update={"folder": at(self.submission.folder)}
                ),
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
                        | {
                            "label_names": {
                                task: at(own) if isinstance(own, str) else own
                                for task, own in source.label_names.items()
                            }
                        }
                    )
                    for source in self.corpus
                ),
            }
        )

    def handed_over(self) -> RunConfig:
        """The same as somebody else's, who may say much, but not that a model's code runs here.

        The fingerprint stays what it was.
        """
        if not self.backbone.trust_remote_code:
            return self
        changed = self._trusting(False)
        changed._code_withheld = True
        return changed

    def allowing_code(self) -> RunConfig:
        """The same where the caller allows what :meth:`handed_over` has withheld."""
        return self._trusting(True) if self._code_withheld else self

    def _trusting(self, trust: bool) -> RunConfig:
        backbone = self.backbone.model_copy(update={"trust_remote_code": trust})
        return self.model_copy(update={"backbone": backbone})

    def stated(self) -> dict[str, Any]:
        """As JSON, with what :meth:`handed_over` has withheld: for another to read as it was."""
        data = self.model_dump(mode="json")
        data["backbone"]["trust_remote_code"] |= self._code_withheld
        return data

    @property
    def code_withheld(self) -> bool:
        """Whether it asks for a model's own code, and may not allow it."""
        return self._code_withheld and not self.backbone.trust_remote_code

    def trusts(self, recorded: Mapping[str, Any], *, moved: bool = False) -> bool:
        """Whether it allows the code of the model that a head or a store was made with.

        Args:
            recorded: the ``[backbone]`` section that the head or the store carries.
            moved: the caller says where that model lies, so that its name does not matter.
        """
        own = self.backbone
        same = (recorded.get("model"), recorded.get("revision")) == (own.model, own.revision)
        return own.trust_remote_code and (moved or same)

    @property
    def fingerprint(self) -> str:
        """Digest of all that affects results (not the cluster, not where things lie).

        Of paths only the last part counts: what the files hold is fingerprinted elsewhere.
        """
        data = self.model_dump(mode="json", exclude=_ELSEWHERE)
        for key in ("path", "peaks"):
            data["store"].pop(key)
        if self.store.experts is None:  # so that runs of earlier versions stay as they are
            data["store"].pop("experts")
        for key in ("engine", "check", "whole"):
            data["backbone"].pop(key)
        data["backbone"]["trust_remote_code"] |= self._code_withheld
        if is_model_path(self.backbone.model):
            data["backbone"]["model"] = Path(self.backbone.model).name
        for source in data["corpus"]:
            for key in ("path", "train", "val", "test"):
                source[key] = source[key] and Path(source[key]).name
            for task, own in source.get("label_names", {}).items():
                source["label_names"][task] = Path(own).name if isinstance(own, str) else own
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def task(self, name: str) -> TaskConfig:
        """The task of that name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise ConfigError(f"no task {name!r}; the configuration has {[t.name for t in self.tasks]}")


def changes(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration as JSON differs from the defaults; all of one that is not valid."""
    try:
        return RunConfig.model_validate(data).model_dump(mode="json", exclude_defaults=True)
    except ValidationError:  # of another version
        return dict(data)


def backbone_of(settings: Mapping[str, Any]) -> BackboneConfig:
    """The ``[backbone]`` section of some settings.

    Raises:
        ConfigError: naming the key, the value and the valid ones.
    """
    try:
        return BackboneConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(first_problem(error, BackboneConfig)) from None


_REMEDIES = {
    "Cannot declare ('corpus',) twice": "write [[corpus]] (two brackets), each time",
    "Cannot declare ('tasks',) twice": "write [[tasks]] (two brackets), each time",
    "Cannot declare": "a section stands once in the file, with all of its keys",
    "Cannot overwrite a value": "a key stands once in its section",
    "Invalid value": 'texts stand in quotes, as in name = "mine"; true and false do not',
    "Unescaped '\\'": "write / in place of \\ in paths, or put them in single quotes",
}
"""How messages of `tomllib` begin -> what a beginner may have meant."""


def _remedy(error: Exception) -> str:
    for begins, remedy in _REMEDIES.items():
        if str(error).startswith(begins):
            return f"; {remedy}"
    return ""


def is_model_path(model: str) -> bool:
    """Whether a ``backbone.model`` is meant as a path rather than a hub name."""
    return model.startswith((".", "/", "~"))
