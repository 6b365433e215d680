"""The sections of the run configuration, a class each; a key's docstring says what it means."""

from __future__ import annotations

import codecs
import re
from encodings.aliases import aliases
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.config.addresses import (
    CREDENTIALS,
    FolderOrBucket,
    InputPath,
    ModelName,
    without_login,
)
from pipeline.errors import did_you_mean

SCORE_COLUMNS = (
    "id", "created_at", "source_file", "text_hash", "n_tokens", "truncated", "fingerprint",
    "platform",
)  # fmt: skip
"""Columns of scored Parquet files beside those of the tasks."""
TYPE_METRICS = {
    "classification": ("macro_f1", "accuracy", "macro_recall", "f1", "auc"),
    "multilabel": ("macro_f1", "micro_f1", "lrap"),
    "regression": ("pearson", "spearman", "mae", "r2"),
}
"""Type of a task -> its metrics, the default first."""
TEXT_FIELD = "{text}"
"""Where the text goes in a template."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""Names of runs and tasks: they become names of files and columns."""


Ranking = Literal[
    "weight",
    "l2",
    "l1",
    "mean_difference",
    "probeless",
    "anova_f",
    "correlation",
    "mutual_information",
]
"""The probes' weights, and the rows of ``pipeline.neurons.RANKINGS``."""
Pooling = Literal["mean", "max", "first", "last"]
"""The rows of ``pipeline.backbone.POOLINGS``."""


class Section(BaseModel):
    """A part of the configuration: no unknown keys, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BackboneConfig(Section):
    """The frozen transformer whose activations are read."""

    model: ModelName = Field(examples=["roberta-base"])
    """A Hugging Face model directory, a hub name, or ``package:NAME`` of an installed package."""
    revision: str | None = Field(
        default=None, examples=["e2da8e2f811d1448a5b465c236feacd80ffbac7b"]
    )
    """The 40-digit commit of a hub model; required for hub names."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward pass, in training and scoring; bfloat16 is faster, about 1 % off."""
    max_length: int | None = Field(default=None, ge=2, examples=[128])
    """Tokens per text, special tokens included; longer texts are cut and flagged.
    Default: the model's context."""
    special_tokens: bool = True
    """Pool over ``[CLS]``, ``[SEP]``, ``<s>`` … too, as in the paper."""
    prefix: str | None = Field(default=None, examples=["query: "])
    """Words that the model reads before every text, such as ``"query: "`` for e5. Mean and max
    pooling (and ``store.peaks``) then run over the text's own tokens only, from its first to its
    last; first and last pooling take the first and last token of all, special ones only with
    ``special_tokens``. Where a text is too long, its end is cut off."""
    template: str | None = Field(
        default=None, examples=['This sentence: "{text}" means in one word: "']
    )
    """Instead of a prefix, words around every text, with ``{text}`` in its place, pooled in the
    same way: of ``'This sentence: "{text}" means in one word: "'`` last pooling reads the last
    token. Other braces mean themselves. What follows a text that is too long stays."""
    ffn_site: str | None = Field(default=None, examples=["layers.{i}.mlp.down_proj"])
    """Path of the FFN's down projection, ``{i}`` for the block, for families not in FFN_SITES."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    engine: Literal["auto", "torch", "onednn"] = "auto"
    """Kernels on the CPU: those that a store was begun with, else the faster by a rule. They agree
    to rounding, so results count as the same."""
    check: Literal["auto", "full"] = "auto"
    """``full`` compares what is extracted of a few texts with the model's own plain forward pass,
    once for a model; it is loaded a second time for that. What cannot be compared is said: the
    activations of experts, and hidden states that the model does not list."""
    whole: bool = False
    """Load all blocks even where the first are enough. An extraction notes it on what it makes
    where the first blocks alone give other numbers."""

    @model_validator(mode="after")
    def _words_fit(self) -> BackboneConfig:
        words_around(self.prefix, self.template)
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_set(self, serialise: SerializerFunctionWrapHandler) -> Any:
        """Fingerprints and records of runs that say nothing of the newer keys stay as they were."""
        data = serialise(self)
        newer = [key for key in ("prefix", "template") if data.get(key, "") is None]
        return {key: value for key, value in data.items() if key not in newer}


def words_around(prefix: str | None, template: str | None) -> tuple[str, str]:
    """What stands before a text and what behind it.

    Raises:
        ValueError: both are given, one of them says nothing, or the template does not hold
            ``{text}`` once.
    """
    if prefix is not None and template is not None:
        raise ValueError(
            f"prefix {prefix!r} and template {template!r} are both given; write the prefix into the"
            " template, and leave prefix out"
        )
    for key, value in (("prefix", prefix), ("template", template)):
        if value in ("", TEXT_FIELD):
            raise ValueError(f"{key} {value!r} says nothing; leave it out, or give it words")
    if template is None:
        return prefix or "", ""
    if (count := template.count(TEXT_FIELD)) != 1:
        raise ValueError(
            f"template {template!r} holds {TEXT_FIELD} {count} times; write it once, where the text"
            f" goes, as in 'query: {TEXT_FIELD}'"
        )
    before, _, after = template.partition(TEXT_FIELD)
    return before, after


class NormaliseConfig(Section):
    """Text normalisation, applied alike in training and scoring."""

    html_unescape: bool = True
    """``&amp;`` -> ``&``."""
    users: bool = True
    """``@name`` -> ``@user``, as in TweetEval."""
    urls: bool = True
    """``https://…`` -> ``http``, as in TweetEval."""


_COMMON_ENCODINGS = (
    "utf-8", "utf-16", "cp1252", "latin-1", "cp1250", "cp1251", "gb18030", "big5", "shift_jis",
    "euc_kr",
)  # fmt: skip
_NO_TEXT = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "utf-7"}


def _is_encoding(name: str) -> bool:
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        return False
    return info._is_text_encoding and info.name.replace("_", "-") not in _NO_TEXT


def _encoding(name: str) -> str:
    if not _is_encoding(name):
        known = filter(_is_encoding, (*_COMMON_ENCODINGS, *aliases, *aliases.values()))
        hint = did_you_mean(name, known)
        raise ValueError(
            f"no encoding of texts has that name{hint and f'; {hint}'}; take one that Python has,"
            f" such as {', '.join(_COMMON_ENCODINGS)}"
        )
    return name


def _distinct_names(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise ValueError(f"needs a name for each column, each another one, found {list(names)}")
    return names


def _delimiter(sign: str) -> str:
    if len(sign) != 1 or sign in '\r\n "':
        raise ValueError(f"{sign!r} is not one sign, such as ',', ';', '|' or a tab")
    return sign


Encoding = Annotated[str, AfterValidator(_encoding)]
Delimiter = Annotated[str, AfterValidator(_delimiter)]
ColumnNames = Annotated[tuple[str, ...], AfterValidator(_distinct_names)]


def _columns(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{value!r} is neither a label column nor a list of columns of 0 and 1")
    return value


def _as_words(value: Any) -> Any:
    """Numbers and truth values as files have them."""
    if isinstance(value, list | tuple):
        return tuple(_as_words(one) for one in value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


class CorpusSource(Section):
    """One labelled text set: files of one format, with the columns to read."""

    path: InputPath | None = Field(default=None, examples=["tweets.csv"])
    """A file; a file in a zip archive, as in ``"a.zip/train.csv"`` (of a single one the archive's
    name is enough); a folder whose files are the parts of one table, in the order of their names,
    or a pattern as in ``"parts/*.csv"`` (names that begin with a dot or ``_`` are left out, and
    said); or a folder of the TweetEval layout; or any of these in a bucket, as in
    ``"s3://bucket/tweets.csv"``. The rows' splits come from ``split`` or are drawn. Files of texts
    may be packed with gz, bz2, xz or zst."""
    train: InputPath | None = Field(default=None, examples=["train.csv"])
    """The training split's file or files, instead of ``path``; ``val`` and ``test`` go with it."""
    val: InputPath | None = Field(default=None, examples=["val.csv"])
    """The validation split's; without it the split is drawn from the training files."""
    test: InputPath | None = Field(default=None, examples=["test.csv"])
    """The test split's; without it the split is drawn from the training files."""
    hub: str | None = Field(default=None, examples=["cardiffnlp/tweet_eval"])
    """A ``datasets`` hub name, instead of ``path``."""
    hub_config: str | None = Field(default=None, examples=["sentiment"])
    """Configuration of the hub's data set, where it has several."""
    revision: str | None = Field(
        default=None, examples=["b3a375baf0f409c77e6bc7aa35102b7b3534f8be"]
    )
    """Commit of the hub's data set."""
    format: Literal[
        "auto",
        "csv",
        "tsv",
        "jsonl",
        "parquet",
        "arrow",
        "tweeteval",
        "trees",
        "folders",
        "hub",
    ] = "auto"
    """Format of the files; ``auto`` goes by their names and first bytes. ``arrow`` is Arrow IPC,
    also called Feather; ``trees`` has a tree of phrases per line, as the Stanford Sentiment
    Treebank, with the columns text and label; ``folders`` a folder for each class with a file for
    each text, as aclImdb, with the columns text, folder and file."""
    encoding: Encoding | None = Field(default=None, examples=["cp1252"])
    """Of text files, by Python's name, such as ``"cp1252"``; default UTF-8, or what the byte order
    mark says (UTF-8, UTF-16, UTF-32)."""
    columns: ColumnNames = Field(default=(), examples=[["label", "id", "text"]])
    """Names for the columns of CSV and TSV files without a header, all of them, in order."""
    delimiter: Delimiter | None = Field(default=None, examples=[";"])
    """Between the fields of CSV files; default a comma, semicolon, tab or bar, whichever the header
    has, or the rows of a file without one."""
    text: str = Field(default="text", examples=["body"])
    """Column of the text; in JSON also a path through objects and lists, as in ``"data.text"`` and
    ``"posts.0.text"``; in CSV and TSV files without a header its number, from 1, as in ``"6"``;
    here and wherever a column is named."""
    id: str | None = Field(default=None, examples=["id"])
    """Column of the id; without one, ids are made from the source's name and the row number."""
    time: str | None = Field(default=None, examples=["created_at"])
    """Column of the time (ISO 8601, Twitter's format or epoch seconds)."""
    author: str | None = Field(default=None, examples=["author_id"])
    """Column of the author's id, kept so that an author's texts can be deleted."""
    split: str | None = Field(default=None, examples=["split"])
    """Column with train, val or test (also validation, dev)."""
    labels: dict[str, Annotated[str | tuple[str, ...], BeforeValidator(_columns)]] = Field(
        min_length=1, examples=[{"sentiment": "label"}]
    )
    """Task name -> label column; of a multilabel task also a list of columns of 0 and 1, which are
    called as the labels."""
    label_names: dict[str, str | dict[str, str]] = Field(
        default_factory=dict, examples=[{"sentiment": {"0": "negative", "4": "positive"}}]
    )
    """Task name -> what its labels mean: ``{ 0 = "negative", 4 = "positive" }``, or a file with the
    name of label 0 in its first line, that of 1 in its second …, or with a number and a name in
    each."""
    separator: str | None = Field(default=None, min_length=1, examples=[";"])
    """What stands between the labels of a multilabel task in one cell, as in ``"a;b"``; default
    ``|``. Lists as JSON or Python writes them are read as well."""
    where: dict[str, Annotated[str | tuple[str, ...], BeforeValidator(_as_words)]] = Field(
        default_factory=dict, examples=[{"lang": "en", "confidence": ">= 0.6"}]
    )
    """Keep only the rows whose column has this value, or one of a list of them; or a number as in
    ``">= 0.6"`` (also ``>``, ``<``, ``<=``; a text that looks like that is a list of one)."""
    limit: int | None = Field(default=None, ge=1, examples=[10_000])
    """Read a seeded sample of at most so many rows of each file, or of each folder of parts."""

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
        if self.hub is not None and (self.encoding or self.columns or self.delimiter):
            raise ValueError(
                "encoding, columns and delimiter are for files; leave them out with hub"
            )
        if unknown := sorted(self.label_names.keys() - self.labels.keys()):
            raise ValueError(
                f"label_names is for tasks that labels has, not for {unknown[0]!r}; labels has"
                f" {', '.join(self.labels)}"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_set(self, serialise: SerializerFunctionWrapHandler) -> Any:
        """Fingerprints and records of runs that say nothing of the newer keys stay as they were."""
        data = serialise(self)
        newer = [
            key
            for key in ("encoding", "columns", "delimiter", "label_names", "separator")
            if not data.get(key)
        ]
        return {key: value for key, value in data.items() if key not in newer}


class TaskConfig(Section):
    """One target over the texts."""

    name: str = Field(pattern=NAME_PATTERN, examples=["sentiment"])
    """As in a corpus entry's ``labels``; also the column of its predictions."""
    type: Literal["classification", "regression", "multilabel"]
    """One of several classes, given as texts or integers; a number; or any subset of the labels,
    given as a list (in CSV and TSV as JSON or Python writes it, or names with the corpus entry's
    ``separator`` between) or in a column each."""
    labels: tuple[str, ...] | None = Field(
        default=None, examples=[["negative", "neutral", "positive"]]
    )
    """The classes or labels, in order; default: those found in the training split, sorted, or the
    label columns."""
    metric: (
        Literal[
            "accuracy",
            "macro_f1",
            "macro_recall",
            "f1",
            "auc",
            "micro_f1",
            "lrap",
            "pearson",
            "spearman",
            "mae",
            "r2",
        ]
        | None
    ) = None
    """What model selection maximises (minimises for mae); default macro_f1 or pearson. Of
    multilabel tasks macro_f1 (the mean of the labels' own), micro_f1 or lrap (label ranking average
    precision)."""
    positive: str | None = Field(default=None, examples=["hate"])
    """The class that the metrics f1 and auc are about; default the last one."""

    @property
    def selection_metric(self) -> str:
        """The metric that model selection goes by."""
        return self.metric or TYPE_METRICS[self.type][0]

    @model_validator(mode="after")
    def _metric_fits(self) -> TaskConfig:
        fitting = TYPE_METRICS[self.type]
        if self.selection_metric not in fitting:
            raise ValueError(
                f"metric {self.metric!r} does not fit a {self.type} task; choose one of"
                f" {', '.join(fitting)}"
            )
        if self.type == "regression" and self.labels:
            raise ValueError("labels are for classification and multilabel tasks")
        if self.type != "classification" and self.positive:
            raise ValueError("positive is for classification tasks")
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


class SplitConfig(Section):
    """Splits drawn where a source gives none: seeded, stratified, near-duplicate texts together."""

    val: float = Field(default=0.15, gt=0, lt=0.5, examples=[0.2])
    """Share of the texts in the validation split."""
    test: float = Field(default=0.15, gt=0, lt=0.5, examples=[0.2])
    """Share of the texts in the test split."""


class StoreConfig(Section):
    """The activation store."""

    path: FolderOrBucket = Field(examples=["activations"])
    """Folder of the store, or its place in a bucket, as in ``"s3://bucket/activations"`` (also
    ``gs://`` and ``az://``; ``[storage]`` says how it is reached). Several runs may share one."""
    poolings: tuple[Pooling, ...] = Field(default=("mean", "max"), examples=[["last"]])
    """How a text's tokens become one number per neuron: mean, max, first, last (in a decoder the
    token that has seen all others)."""
    sites: tuple[Literal["ffn", "hidden", "router", "experts"], ...] | None = Field(
        default=None, examples=[["ffn", "hidden"]]
    )
    """What is stored of a text: the FFN activations (ffn); every hidden state: embeddings, after
    each block, final (hidden; without it only the final one, which the conventional head needs); of
    mixtures of experts how probable each expert is (router), and the activations of the experts'
    neurons times the router's weights (experts). Default: all but experts in a new store, what it
    holds in an old one. A store that holds more serves as it is, and heads read all of it."""
    experts: tuple[int, ...] | None = Field(default=None, examples=[[0, 7]])
    """Numbers of the experts whose activations are stored, where all of them would be too many."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the stored activations."""
    samples_per_shard: int | None = Field(default=None, ge=1, examples=[512])
    """Texts in a file; default as many as make files of about 50 MB."""
    keep_text: bool = True
    """False keeps the texts' hashes only."""
    peaks: bool = False
    """Also store which token each neuron's maximum lies on, for the explorer; as large as one more
    pooling. No influence on results."""

    @model_validator(mode="before")
    @classmethod
    def _sites_of_old(cls, data: Any) -> Any:
        """Earlier versions had ``hidden = "final"`` or ``"all"``."""
        sites = {"final": ("ffn",), "all": ("ffn", "hidden")}
        if isinstance(data, dict) and data.get("hidden") in sites:
            rest = {key: value for key, value in data.items() if key != "hidden"}
            return {"sites": sites[data["hidden"]]} | rest
        return data

    @model_validator(mode="after")
    def _sites_fit(self) -> StoreConfig:
        if self.sites is not None and not self.sites:
            raise ValueError("sites names none; leave it out, or name some")
        if self.experts is not None and "experts" not in (self.sites or ()):
            raise ValueError(
                f"experts {list(self.experts)} are those whose activations are stored: add"
                " 'experts' to sites, or leave experts out"
            )
        if self.experts is not None and (not self.experts or min(self.experts) < 0):
            raise ValueError(f"experts {list(self.experts)}: name numbers from 0, at least one")
        return self

    @model_validator(mode="after")
    def _poolings_differ(self) -> StoreConfig:
        if not self.poolings or len(set(self.poolings)) < len(self.poolings):
            raise ValueError(
                f"poolings {list(self.poolings)}: name at least one, each once; leave poolings out"
                " for mean and max"
            )
        return self

    @model_validator(mode="after")
    def _peaks_fit(self) -> StoreConfig:
        if self.peaks and "max" not in self.poolings:
            raise ValueError(
                f"peaks are the tokens that max pooling takes: add 'max' to poolings"
                f" {list(self.poolings)}, or leave peaks out"
            )
        return self


class ProbeConfig(Section):
    """Phase 1: one single-layer network per layer."""

    solver: Literal["lbfgs", "sklearn"] = "lbfgs"
    """Ours, out of core and many fits at once, or scikit-learn's estimators as the reference."""
    C: tuple[float, ...] = Field(
        default=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), examples=[[0.1]]
    )
    """Inverse penalty strengths tried on validation for classification (loss summed over rows, as
    in scikit-learn)."""
    alpha: tuple[float, ...] = Field(
        default=(1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4), examples=[[10.0, 100.0]]
    )
    """Penalty strengths tried on validation for regression, on the scale of ridge."""
    penalty: Literal["l2", "l1", "elasticnet"] = "l2"
    """Norm of the weights; l1 and elasticnet set most of them to zero, through scikit-learn
    whatever the solver, in memory and much slower."""
    l1_ratio: float = Field(default=0.5, gt=0, le=1, examples=[0.9])
    """Share of the L1 norm in the elastic net."""
    class_weight: Literal["balanced"] | None = None
    """Rows weighted so that all classes weigh the same; None: all rows weigh the same, as they
    always do in multilabel tasks. Of heads the fits alone are weighted: their probabilities are
    calibrated to the classes' frequencies, and decisions go by the task's metric."""
    tol: float = Field(default=1e-4, gt=0, examples=[1e-5])
    """Largest gradient entry of the mean loss at which a fit counts as converged; its square is the
    largest estimated gap of the penalised loss to the optimum, relative to it."""

    @model_validator(mode="after")
    def _grids(self) -> ProbeConfig:
        for name, grid in (("C", self.C), ("alpha", self.alpha)):
            if not grid or min(grid) <= 0:
                raise ValueError(f"{name} needs at least one value, all above 0")
        return self


class HeadConfig(Section):
    """Phase 2: the heads on several layers, and the choice among them."""

    kinds: tuple[
        Literal["dense", "states", "sparse", "frozen", "ensemble", "stack", "final"], ...
    ] = Field(
        default=(
            "dense",
            "states",
            "sparse",
            "frozen",
            "ensemble",
            "stack",
            "final",
        ),
        examples=[["sparse"]],
    )
    """Heads to train: all features of both sites in one linear model (dense), the hidden states
    alone (states), the salient features of both sites (sparse), the paper's (frozen), the mean of a
    frozen and a sparse one (ensemble), a weighted sum of the best of each of these (stack), the
    conventional one on the final hidden state (final). Multilabel tasks have no frozen heads and
    no ensembles."""
    lexical: bool = False
    """Join the n-grams of the text, which cost no model time: better where the texts to score are
    like the training texts, brittle where they are not."""
    select: Literal["share", "top_k", "budget"] = "share"
    """How salient features are selected: a share of each layer's importance (``eta``; of sparse
    heads, of all layers' and sites' together), so many of each layer (``top_k``), or so many of all
    layers together (``budget``). All sizes are tried."""
    eta: tuple[float, ...] = Field(default=(0.25, 0.5, 0.75), examples=[[0.5]])
    """Shares of each layer's squared importance that the salient features must reach."""
    top_k: tuple[int, ...] = Field(default=(32, 128, 512), examples=[[100]])
    """Numbers of features of each layer."""
    budget: tuple[int, ...] = Field(default=(128, 512, 2048), examples=[[1000]])
    """Numbers of features of all layers of a head together, those with the largest shares of their
    layers' squared importance."""
    ranking: Ranking = Field(default="weight", examples=["probeless"])
    """What importance is for frozen heads: the probes' weights, or another ranking of ``salient
    rank``, which knows the labels of all training rows: by folds such heads look too good. Sparse
    heads go by the weights of the model on all features."""
    block_rows: int = Field(default=3000, ge=100, examples=[2000])
    """Rows of one linear model; more are divided into blocks whose models are averaged. Memory
    grows with its square, time with its cube."""
    max_features: int = Field(default=8192, ge=1, examples=[4096])
    """Largest number of salient features of a sparse head; larger candidates are left out."""
    training: Literal["seen", "unseen", "both", "cross_fit"] = "cross_fit"
    """What the frozen head's network is trained on: the outputs of the probes on the rows that they
    were fitted on (seen), or out-of-fold outputs on these rows (cross_fit). For unseen and both,
    Phase 2 builds on the probes fitted without fold 0; the network is trained on fold 0 (unseen),
    or on all rows (both)."""
    folds: int = Field(default=5, ge=2, examples=[10])
    """Folds of training and validation rows together, for out-of-fold outputs; Phase 1 fits each
    layer's probe again without each of them."""
    judge: Literal["validation", "cross_validation"] | None = None
    """What heads are compared, calibrated and given thresholds by: out-of-fold outputs on training
    and validation rows, with which heads are then fitted, or outputs on the validation rows alone.
    Default: cross_validation, of ``training`` other than cross_fit validation."""
    folds_by: Literal["time", "author"] | None = None
    """Folds of consecutive times, or of whole authors, as a shift would make them, so that
    brittleness shows; default near-duplicates together, else at random."""
    hidden_width: int = Field(default=16, ge=0, examples=[0])
    """Width of the frozen head's dense network; 0 for a single linear layer."""
    max_depth: float = Field(default=1.0, gt=0, le=1, examples=[0.67])
    """Blocks that a head may run at most, as a share of the backbone's: 0.67 of 6 blocks are 4."""
    standard_errors: float = Field(default=3.0, ge=0, examples=[2.0])
    """How sure a choice must be, in standard errors of a difference of out-of-fold losses: the head
    on all features is left for one that is surely better, or for a smaller one (fewer blocks, then
    features) that surely costs no more than a fiftieth of what has been learnt. Of some twenty
    heads one is ahead by two of them by luck."""
    tolerance: float = Field(default=0.01, ge=0, examples=[0.02])
    """Score that ``salient plan`` may give away for fewer blocks."""
    calibrate: bool = True
    """Calibrate class probabilities, and try thresholds per class or label, on the rows of
    ``judge``."""
    licence: str | None = Field(default=None, examples=["CC-BY-4.0"])
    """Terms for passing the heads on, noted on their cards."""

    @property
    def sizes(self) -> tuple[float, ...]:
        """Sizes of the salient sets to try, in the unit of ``select``, increasing."""
        grids = {"share": self.eta, "top_k": self.top_k, "budget": self.budget}
        return tuple(sorted(set(grids[self.select])))

    @property
    def single_kinds(self) -> tuple[str, ...]:
        """Those of ``kinds`` that are one model within ``max_depth``: made of no other heads."""
        made = {"ensemble", "stack"} if self.max_depth == 1 else {"ensemble", "stack", "final"}
        return tuple(kind for kind in dict.fromkeys(self.kinds) if kind not in made)

    @property
    def by_folds(self) -> bool:
        """Whether out-of-fold outputs judge."""
        return (self.judge or "cross_validation") == "cross_validation" and (
            self.training == "cross_fit"
        )

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
        if not self.single_kinds:
            reason = (
                f"the final head runs all blocks, but max_depth = {self.max_depth:g}; set"
                " max_depth = 1, or add"
                if "final" in self.kinds
                else "these are made of other kinds, none of which is named; add"
            )
            raise ValueError(f"kinds {list(self.kinds)}: {reason} 'dense'")
        if "stack" in self.kinds and len(self.single_kinds) < 2:
            raise ValueError(
                f"kinds {list(self.kinds)}: the stack is a sum of heads of at least two other kinds"
                f", and with max_depth = {self.max_depth:g} only {self.single_kinds[0]!r} is there;"
                f" add {'sparse' if self.single_kinds == ('dense',) else 'dense'!r}, or leave"
                " 'stack' out"
            )
        if self.judge == "cross_validation" and self.training != "cross_fit":
            raise ValueError(
                f"judge = 'cross_validation' goes with training = 'cross_fit', not"
                f" {self.training!r}: the other outputs on training rows are not held out"
            )
        return self


class ScoreConfig(Section):
    """Batch scoring."""

    output: FolderOrBucket | None = Field(default=None, examples=["scores"])
    """Folder of the scores, or its place in a bucket, where ``--out`` names none."""
    out_format: Literal["parquet", "delta"] = "parquet"
    """How the folder keeps its rows: Parquet files by date, or the same files as a Delta table."""
    languages: tuple[str, ...] = Field(default=(), examples=[["en"]])
    """Score tweets of these languages only, by Twitter's codes (``en``); default: all."""
    since: str | None = Field(default=None, examples=["2026-11-01"])
    """Score tweets from this date or time on, in UTC."""
    until: str | None = Field(default=None, examples=["2026-12-01"])
    """Score tweets before this date or time."""
    retweets: Literal["keep", "drop", "only"] = "keep"
    """Retweets are scored by the full text of the tweet that they repeat."""
    max_errors: float = Field(default=0.05, ge=0, le=1, examples=[0.01])
    """Share of unreadable lines above which a scoring run fails."""
    text: str | None = Field(default=None, examples=["body"])
    """Column of the text, in files of texts; or its number, from 1, where a file has no header.
    Default the corpus's where a file has it, or as tools usually call it (text, full_text, tweet,
    content, body, message …). Naming any column says that files are no dumps of posts."""
    id: str | None = Field(default=None, examples=["tweet_id"])
    """Column of the id; default the corpus's, or as usual (id, id_str, tweet_id, status_id …) if a
    file has one, else its name and line make it."""
    time: str | None = Field(default=None, examples=["posted_at"])
    """Column of the time, or ``date + time + timezone`` where these stand apart; default the
    corpus's, or as usual (created_at, timestamp, date …) if a file has one."""
    lang: str | None = Field(default=None, examples=["language"])
    """Column of the language; default as usual (lang, language, tweet_lang …) if a file has one."""
    author: str | None = Field(default=None, examples=["username"])
    """Column of the author, by which `salient score delete` finds what an author wrote; default the
    corpus's, or as usual (author_id, user_id, username …) if a file has one."""
    detect_language: bool = False
    """Find the language of texts that do not say it, for ``languages`` (extra: ``languages``). Of a
    few words it is often wrong."""
    block_rows: int = Field(default=4096, ge=1, examples=[1024])
    """Rows read and scored at a time; fewer where their texts are very long."""
    encoding: Encoding | None = Field(default=None, examples=["cp1252"])
    """Of all inputs, as under ``[[corpus]]``."""
    columns: ColumnNames = Field(default=(), examples=[["id", "text"]])
    """Names for the columns of files of texts without a header, as under ``[[corpus]]``."""
    delimiter: Delimiter | None = Field(default=None, examples=[";"])
    """Of CSV files, as under ``[[corpus]]``."""
    max_line_bytes: int = Field(default=1 << 25, ge=1024, examples=[1 << 20])
    """Longest line, row or JSON value that is read (unpacked); a longer one is unreadable. Memory
    may take some twenty times as much."""
    buffer_rows: int = Field(default=250_000, ge=1, examples=[100_000])
    """Scored rows that wait in memory, so that files do not get small."""
    cache_texts: int = Field(default=200_000, ge=0, examples=[0])
    """Texts whose scores are remembered while a run goes on, for retweets."""
    parity_samples: int = Field(default=16, ge=0, examples=[64])
    """Stored samples that are recomputed before scoring starts."""
    drift_warning: float = Field(default=0.2, gt=0, examples=[0.25])
    """Population stability index, beyond what chance makes of it, from which a run warns that the
    texts are no longer like those the heads were validated on."""


_SECRET = re.compile(
    r"key|secret|token|password|passwd|credential|sas|connection_string|service_account|username",
    re.IGNORECASE,
)
"""In the names of keys that somebody might look for under ``[storage]``."""


class StorageConfig(Section):
    """How buckets are reached; does not affect results. Credentials never stand here: they come
    from the environment (``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``,
    ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_KEY`` …), from ``profile``, or are
    the machine's own (instance roles)."""

    endpoint: str | None = Field(default=None, examples=["http://127.0.0.1:9000"])
    """Address of a server other than the cloud's own, such as MinIO's; default
    ``AWS_ENDPOINT_URL``, or the cloud's."""
    region: str | None = Field(default=None, examples=["eu-central-1"])
    """Of S3 buckets; default ``AWS_REGION`` or ``AWS_DEFAULT_REGION``."""
    allow_http: bool = False
    """Talk without TLS to an endpoint that begins with ``http://``; whoever is on the way reads
    along."""
    skip_signature: bool = False
    """Read public buckets without credentials."""
    profile: str | None = Field(default=None, examples=["research"])
    """Of ``~/.aws``, instead of ``AWS_PROFILE``. Workers elsewhere need it too."""
    account: str | None = Field(default=None, examples=["mine"])
    """Storage account of ``az://`` addresses; default ``AZURE_STORAGE_ACCOUNT_NAME``."""
    virtual_hosted: bool | None = Field(default=None, examples=[True])
    """Whether the bucket's name stands in the host's name of an S3 endpoint, rather than in the
    path."""
    request_timeout_s: float | None = Field(default=None, gt=0, examples=[60])
    """Seconds that one request may take before it is tried again; default 120."""
    connect_timeout_s: float | None = Field(default=None, gt=0, examples=[5])
    """Seconds until a connection must stand; default 10."""
    retry_timeout_s: float | None = Field(default=None, gt=0, examples=[300])
    """Seconds after which a request that fails is no longer tried again; default 60."""

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, data: Any) -> Any:
        """What is refused here is not repeated: errors end up in logs."""
        if not isinstance(data, dict):
            return data
        secret = next((key for key in data if _SECRET.search(str(key))), None)
        if secret is not None and secret not in cls.model_fields:
            raise ValueError(
                f"{secret!r} is secret, and files are copied and shared; {CREDENTIALS}"
            )
        endpoint = data.get("endpoint")
        if isinstance(endpoint, str):
            if not endpoint.startswith(("http://", "https://")):
                raise ValueError(
                    "endpoint is no address of a server: write it as"
                    f' "https://HOST" or "http://HOST:PORT", without a login; {CREDENTIALS}'
                )
            shown = without_login(endpoint)
            if shown != endpoint:
                raise ValueError(
                    f"endpoint {shown!r} is given with a login, or with what follows a ? or #:"
                    f" leave that out; {CREDENTIALS}"
                )
            if endpoint.startswith("http://") and data.get("allow_http") is not True:
                raise ValueError(
                    f"endpoint {endpoint!r} talks without TLS; add allow_http = true where whoever"
                    " is on the way may read along, or name an https:// address"
                )
        return data

    def apply(self) -> None:
        """Reach buckets so from now on, in this process; what is unsaid is the environment's."""
        from store.disk import use_storage

        use_storage(self.model_dump(exclude_defaults=True))


class SubmissionConfig(Section):
    """Where jobs of ``salient submit`` are kept; does not affect results."""

    folder: FolderOrBucket | None = Field(default=None, examples=["s3://bucket/jobs"])
    """A folder, or a place in a bucket; default ``$SALIENT_JOBS``, else ``~/.salient/jobs``.
    Other commands on jobs look into that default, or where ``--jobs`` says."""


class ClusterConfig(Section):
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
    workers elsewhere; the rows of ``pipeline.cluster.kinds.KINDS``."""
    workers: int | None = Field(default=None, ge=1, examples=[4])
    """Workers to start, or tasks under way on a running scheduler; default one for each core, GPU
    or host of ``hosts``, one job of a batch system, or all workers there. The most if adapting."""
    min_workers: int | None = Field(default=None, ge=1, examples=[1])
    """Let the number of workers follow the work, between this and ``workers``."""
    address: str | None = Field(default=None, examples=["tcp://node1:8786"])
    """Of a running scheduler (``tcp://host:8786``, ``tls://…``) or of a Dask Gateway."""
    security: Literal["tls", "none"] = "tls"
    """Keys made for each session that scheduler, workers and client of a cluster started here must
    show each other, or "none": whoever reaches a port then runs code as you. A running scheduler, a
    Dask Gateway and Kubernetes bring their own."""
    tls_ca: str | None = Field(default=None, examples=["ca.pem"])
    """PEM file of the certificate authority, for a scheduler at a ``tls://`` address."""
    tls_cert: str | None = Field(default=None, examples=["client.pem"])
    """PEM file of the client's certificate."""
    tls_key: str | None = Field(default=None, examples=["client.key"])
    """PEM file of the client's key."""
    hosts: tuple[str, ...] = Field(default=(), examples=[["node1", "node1", "node2"]])
    """ssh: the scheduler's host and the workers' (a host may come several times)."""
    device: str = Field(default="auto", examples=["cuda"])
    """Torch device. With "cuda" blocks go only to workers that offer the resource GPU, and workers
    that have one make the probes' Gram matrices there."""
    workers_per_gpu: int = Field(default=1, ge=1, examples=[2])
    """cuda: workers that share a GPU, each with a model of its own."""
    cores: int | None = Field(default=None, ge=1, examples=[4])
    """Cores of a worker; default a share of this machine's, elsewhere the worker's threads."""
    memory: str | None = Field(default=None, examples=["16GB"])
    """Memory of a worker, as in "8GB"."""
    walltime: str | None = Field(
        default=None, pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$", examples=["08:00:00"]
    )
    """Batch systems: time limit of the driver's job and of each worker's, as "HH:MM:SS"."""
    options: dict[str, Any] = Field(
        default_factory=dict, examples=[{"queue": "long", "account": "me"}]
    )
    """Further arguments of the kind's own cluster class, such as queue, account or image."""
    dashboard: str | None = Field(default=None, examples=["127.0.0.1:8787"])
    """Where a cluster that is started here serves its dashboard, as "127.0.0.1:8787"
    or, to all who reach this machine, ":8787"; default any port, for this machine only."""
    wait_s: float = Field(default=600, gt=0, examples=[60])
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
