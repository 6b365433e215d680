"""Predictions for texts in memory: the numbers that `salient score` writes, to the last bit.

    scorer.predict(texts)                       # (n,) classes or values
    scorer.predict_proba(texts)                 # (n, classes)
    scorer.predict_frame(frame, text="text")    # the frame with the columns of the scores

Texts are normalised, cut into blocks and computed once each as the command does it: rounding
depends on the texts that are computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.config import NormaliseConfig, ScoreConfig
from pipeline.errors import ConfigError, CorpusError, ScoreInputError, did_you_mean
from pipeline.heads import Head, Sheet, backbone_facts, head_facts
from pipeline.scoring.cache import CachePlan, TextCache
from pipeline.texts import BLOCK_CHARS, given_or_missing, given_texts, normaliser
from store import text_hash

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
Carried = TypeVar("Carried")
OF_ROWS = ("id", "created_at", "source_file", "text_hash")
"""Columns of a table of scores that belong to a row rather than to its text."""


class _Scored(Protocol):
    @property
    def table(self) -> pa.Table: ...


@dataclass(frozen=True)
class _Piece:
    """Rows of a frame that are computed together; ``last`` of its frame."""

    frame: Any
    last: bool


class Predicting:
    """What scores tables can also predict for lists, arrays and frames.

    Attributes:
        heads: one for each task.
        normalise: how their texts were normalised.
        reading: how texts are cut into blocks, and how many scores are remembered; of the run's
            ``[score]`` section where a run was loaded.
        metrics: task -> its entry in the run's ``metrics.json``, where a run was loaded.
    """

    heads: tuple[Head, ...]
    normalise: Mapping[str, bool]
    score_along: Callable[[Iterable[tuple[Any, pa.Table]]], Iterator[tuple[Any, _Scored]]]
    reading: ScoreConfig = ScoreConfig()
    metrics: Mapping[str, Mapping[str, Any]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of their columns."""
        return tuple(head.card.task for head in self.heads)

    def classes(self, task: str | None = None) -> tuple[str, ...]:
        """Classes or labels of a task, in the order of :meth:`predict_proba`'s columns.

        Args:
            task: its name; may be left out where there is one task only.
        """
        return self._head(task).card.classes

    def predict(self, texts: Iterable[Any], task: str | None = None) -> Array:
        """Classes, label sets or values of texts.

        Args:
            texts: a list, array, Series or column of ``n`` strings.
            task: which; may be left out where there is one task only.

        Returns:
            ``(n,)`` class names (object; None where the text is empty); of label sets ``(n,
            labels)`` bool (none where it is empty); of a regression ``(n,)`` float64 (NaN).

        Raises:
            CorpusError: a row that is no text; names the row.
            ConfigError: no such task, or none named where there are several.
        """
        head = self._head(task)
        found = self._predicted(texts, [head.card.task])[head.card.task]
        if head.card.type == "regression":
            return np.asarray(found.to_numpy(), np.float64)
        if not head.multilabel:
            return np.array(found.to_pylist(), object)
        number = {name: i for i, name in enumerate(head.card.classes)}
        mask = np.zeros((len(found), len(number)), bool)
        for row, names in enumerate(found.to_pylist()):
            mask[row, [number[name] for name in names or ()]] = True
        return mask

    def predict_proba(self, texts: Iterable[Any], task: str | None = None) -> Array:
        """Probabilities of classes, or of labels.

        Args:
            texts, task: as of :meth:`predict`.

        Returns:
            ``(n, classes)`` float32, columns as in :meth:`classes`; NaN where the text is empty.

        Raises:
            CorpusError, ConfigError: as of :meth:`predict`; the task is a regression.
        """
        head = self._head(task)
        if not head.card.classes:
            raise ConfigError(
                f"task {head.card.task!r} is a regression and has no probabilities; predict gives"
                " its values"
            )
        columns = list(head_columns(head).values())
        found = self._predicted(texts, columns)
        return np.stack([found[name].to_numpy() for name in columns], axis=1)

    def predict_frame(
        self, frame: pd.DataFrame, text: str = "text", *, prefix: str = ""
    ) -> pd.DataFrame:
        """A copy of a frame with predictions: ``TASK`` and, for classes, ``TASK_p_CLASS``.

        Args:
            frame: ``n`` rows; its index stays.
            text: column of the texts; missing and empty ones have null predictions.
            prefix: of the new columns' names.

        Raises:
            CorpusError: no such column, a row that is no text, or a new column that is there.
        """
        (found,) = self.predict_frames([frame], text, prefix=prefix)
        return found

    def predict_frames(
        self, frames: Iterable[pd.DataFrame], text: str = "text", *, prefix: str = ""
    ) -> Iterator[pd.DataFrame]:
        """The same for a stream of frames, which are drawn in another thread, a few ahead.

        Args:
            frames: which may have no end.
            text, prefix: as of :meth:`predict_frame`.
        """
        added = self._added()

        def pieces() -> Iterator[tuple[_Piece, list[str | None]]]:
            for frame in frames:
                texts = _column(frame, text, [prefix + name for name in added])
                *first, end = self.blocks(texts)
                for block in first:
                    yield _Piece(frame, False), block
                yield _Piece(frame, True), end

        tables: list[pa.Table] = []
        for piece, table in self._scores(pieces()):
            tables.append(table.select(added))
            if piece.last:
                yield _beside(piece.frame, pa.concat_tables(tables), prefix)
                tables = []

    def __repr__(self) -> str:
        return str(self._sheet())

    def _repr_html_(self) -> str:
        return self._sheet().html()

    def _sheet(self) -> Sheet:
        rows = [head_facts(head, self.metrics.get(head.card.task)) for head in self.heads]
        return Sheet(type(self).__name__, backbone_facts(self.heads), rows)

    # ------------------------------------------------------------------ blocks as of the command

    def _head(self, task: str | None) -> Head:
        known = {head.card.task: head for head in self.heads}
        if task is None and len(known) == 1:
            return self.heads[0]
        if task is None:
            raise ConfigError(f"task: name one of {', '.join(known)}, for there are several")
        if task not in known:
            hint = did_you_mean(task, known)
            raise ConfigError(
                f"task {task!r}: {hint and f'{hint} '}there are heads for {', '.join(known)}"
            )
        return known[task]

    def _added(self) -> list[str]:
        return [
            name for head in self.heads for name in (head.card.task, *head_columns(head).values())
        ]

    def _predicted(self, texts: Iterable[Any], columns: Sequence[str]) -> pa.Table:
        """Some columns of the scores, a row for each text."""
        blocks = self.blocks(given_texts(texts))
        found = [table for _, table in self._scores((None, block) for block in blocks)]
        return pa.concat_tables([table.select(list(columns)) for table in found])

    def blocks(self, texts: Sequence[str | None]) -> Iterator[list[str | None]]:
        """Texts that are computed together, as a file of them is read; one block without rows if
        there are none."""
        block, num_chars = list[str | None](), 0
        for text in texts:
            block.append(text)
            num_chars += len(text or "")
            if len(block) >= self.reading.block_rows or num_chars > BLOCK_CHARS:
                yield block
                block, num_chars = [], 0
        if block or not texts:
            yield block

    def _scores(
        self, blocks: Iterable[tuple[Carried, list[str | None]]]
    ) -> Iterator[tuple[Carried, pa.Table]]:
        """Scores of blocks, a row for each text; equal texts are computed once."""
        clean = normaliser(trained_normalisation(self.heads))
        cache = TextCache(max_texts=self.reading.cache_texts)

        def works() -> Iterator[tuple[tuple[Carried, CachePlan], pa.Table]]:
            for carried, block in blocks:
                rows = _rows([clean(text or "") for text in block])
                plan = cache.plan(rows["text_hash"].to_pylist())
                yield (carried, plan), rows.take(pa.array(plan.new, pa.int64()))

        for (carried, plan), scored in self.score_along(works()):
            yield carried, cache.resolve(plan, scored.table.drop_columns(list(OF_ROWS)))


def _rows(texts: Sequence[str]) -> pa.Table:
    """Rows as scoring takes them, of normalised texts."""
    count = len(texts)
    return pa.table(
        {
            "id": pa.nulls(count, pa.string()),
            "text": pa.array(texts, pa.string()),
            "text_hash": pa.array([text_hash(text) for text in texts], pa.string()),
            "created_at": pa.nulls(count, pa.int64()),
            "source_file": pa.nulls(count, pa.string()),
        }
    )


def _column(frame: Any, text: str, added: Sequence[str]) -> list[str | None]:
    """The texts of a frame, if it has room for what is added."""
    if not hasattr(frame, "columns") or not hasattr(frame, "index"):
        raise CorpusError(
            f"a {type(frame).__name__} is no pandas.DataFrame; for a list of texts there is predict"
        )
    names = list(frame.columns)
    if names.count(text) != 1:
        hint = did_you_mean(text, map(str, names))
        twice = " once" if text in names else ""
        raise CorpusError(
            f"the frame has no column {text!r}{twice}; {hint and f'{hint} '}its columns are"
            f" {', '.join(map(repr, names[:30]))}"
        )
    if taken := [name for name in added if name in names]:
        raise CorpusError(
            f"the frame has a column {taken[0]!r} already; give prefix='predicted_', or rename it"
        )
    return given_or_missing(frame[text])


def _beside(frame: Any, table: pa.Table, prefix: str) -> Any:
    """A copy of a frame with the columns of a table."""
    import pandas as pd

    added = table.to_pandas()
    added.index = frame.index
    return pd.concat([frame, added.add_prefix(prefix)], axis=1)


def trained_normalisation(heads: Sequence[Head]) -> NormaliseConfig:
    """How texts were normalised in training.

    Raises:
        ScoreInputError: in a way that this version does not know.
    """
    trained = heads[0].card.extraction["normalise"]
    try:
        return NormaliseConfig.model_validate(trained)
    except ValidationError:
        raise ScoreInputError(
            f"the heads were trained on texts normalised with {trained}, and this version knows"
            f" {', '.join(NormaliseConfig.model_fields)} only; install the version that trained"
            " them"
        ) from None


def head_columns(head: Head) -> dict[str, str]:
    """Class name -> column of its probability."""
    return {name: f"{head.card.task}_p_{name}" for name in head.card.classes}
