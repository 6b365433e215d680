"""The explorer's fragments of HTML, made from answers of :mod:`pipeline.explorer.atlas`.

All text is escaped by the template; a test shows a tweet with a ``<script>`` in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from pipeline.explorer.atlas import Atlas
from pipeline.explorer.decisions import Decision
from pipeline.explorer.places import Neuron
from pipeline.explorer.tokenmaps import TokenMap, TokenPlaces, TokenReader
from pipeline.report import Voice, stance
from store.errors import SalientError

CONTEXT_CHARS = 160
"""Characters shown on each side of the strongest token of a long text."""
MAX_WEIGHTS = 12
"""Classes whose weights are shown."""

_FRAGMENTS = (
    Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    .from_string(
        resources.files(__package__).joinpath("fragments.html").read_text(encoding="utf-8")
    )
    .module
)


def fragment(name: str, *arguments: Any) -> str:
    """One macro of ``fragments.html``."""
    return str(getattr(_FRAGMENTS, name)(*arguments))


@dataclass(frozen=True)
class Piece:
    """A part of a text: a token with its activation and heat in [0, 1], or what lies between."""

    text: str
    value: float | None = None
    heat: float = 0.0
    peak: bool = False


@dataclass(frozen=True)
class TextRow:
    """A text in the list of a neuron's top texts."""

    position: int
    value: float
    label: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class TextGroup:
    """Texts that belong together, such as those at a quantile."""

    title: str
    rows: Sequence[TextRow]


@dataclass(frozen=True)
class VoiceView:
    """A neuron's weights in one task, the largest first, and the size that bars are drawn to."""

    task: str
    unit: str
    rows: Sequence[tuple[str, float]]
    largest: float
    more: int


def pieces(found: TokenMap, *, scale: float) -> Iterator[Piece]:
    """A text cut at its tokens; a long one around its strongest token only.

    Args:
        found: the neuron's activation at each token.
        scale: the activation with the greatest heat.
    """
    peak, text = found.peak, found.text
    begin, end = 0, len(text)
    if peak >= 0 and len(text) > 3 * CONTEXT_CHARS:  # a special token's place is the text's start
        begin = max(0, int(found.starts[peak]) - CONTEXT_CHARS)
        end = min(len(text), int(found.stops[peak]) + CONTEXT_CHARS)
    if peak >= 0 and found.stops[peak] <= found.starts[peak]:
        value = float(found.values[peak])
        yield Piece("[special token]", value, _heat(value, scale), True)
        yield Piece(" ")
    if begin:
        yield Piece("…")
    at = begin
    for i, (start, stop, value) in enumerate(
        zip(found.starts, found.stops, found.values, strict=True)
    ):
        if stop <= start or start < at or stop > end or np.isnan(value):
            continue  # special tokens, further bytes of a character, outside the excerpt, unknown
        if start > at:
            yield Piece(text[at:start])
        yield Piece(text[start:stop], float(value), _heat(value, scale), i == peak)
        at = int(stop)
    if at < end:
        yield Piece(text[at:end])
    if end < len(text):
        yield Piece("…")


def _heat(value: float, scale: float) -> float:
    return float(np.clip(value / scale, 0, 1)) if scale > 0 else 0.0


def text_rows(
    atlas: Atlas,
    reader: TokenReader | None,
    neuron: Neuron,
    positions: NDArray[Any],
    values: NDArray[Any],
    task: str | None,
    *,
    places: TokenPlaces | None = None,
) -> list[TextRow]:
    """Top texts with their tokens highlighted, or plain where nothing is known of them.

    Args:
        atlas: the store.
        reader: runs the backbone; None for plain texts.
        neuron: whose.
        positions: ``(k,)`` of the texts.
        values: ``(samples,)`` the neuron's, by position.
        task: whose labels to show.
        places: finds the peaks that the store has; the model is not run then.
    """
    texts = atlas.texts.at(positions)
    labels = atlas.texts.label_names(task, positions) if task else [""] * len(texts)
    shown: list[tuple[Piece, ...]] = [
        (Piece("(the store keeps no texts)" if text is None else text),) for text in texts
    ]
    if (places or reader) and None not in texts:
        kept = [str(text) for text in texts]
        if places is not None:
            found = atlas.peaks(neuron, positions)
            maps = places.peaks(kept, *found, n_tokens=atlas.texts.num_tokens(positions))
        else:
            assert reader is not None
            maps = reader.tokens(kept, layer=neuron.layer, neuron=neuron.neuron)
        scale = max((float(np.nanmax(m.values)) for m in maps if m.peak >= 0), default=0.0)
        shown = [tuple(pieces(one, scale=scale)) for one in maps]
    return [
        TextRow(int(position), float(values[position]), label, parts)
        for position, label, parts in zip(positions, labels, shown, strict=True)
    ]


def explain_html(
    atlas: Atlas,
    reader: TokenReader | None,
    *,
    position: int | None = None,
    text: str = "",
    task: str | None = None,
) -> str:
    """What each task says of a stored text, or of any text, and why.

    Args:
        atlas: the store and heads.
        reader: runs the backbone; without it only stored texts can be explained.
        position: of a stored sample.
        text: instead of a stored sample.
        task: that links to neurons lead to, where they are of no task.
    """
    if position is None and reader is None:
        return fragment("message", "Explaining a new text needs the model; it is not available.")
    try:
        if position is None:
            assert reader is not None
            title, labels = "your text", []
            vectors = reader.vectors(text)
            read: str | None = reader.normalise(text)
        else:
            title = atlas.texts.ids([position])[0]
            read = atlas.texts.at([position])[0]
            named = [(task, atlas.texts.label_names(task, [position])[0]) for task in atlas.tasks]
            labels = [(task, label) for task, label in named if label]
            # Running the model once is faster than reading a shard of every layer.
            if reader is not None and read is not None:
                vectors = reader.vectors(read, normalised=True)
            else:
                vectors = atlas.sample(position)
            text = "(the store keeps no texts)" if read is None else read
        html = fragment("sample", title, text, labels)
        decided = list(_views(atlas.decisions(vectors, read)))
        return html + fragment("explanation", decided, atlas.strongest(vectors), task)
    except SalientError as error:
        return fragment("message", str(error))


def _views(decisions: Iterable[Decision]) -> Iterator[dict[str, Any]]:
    """What the template shows: of a task with several decisions the first says them all."""
    task = None
    for one in decisions:
        sizes = [abs(reason.contribution) for reason in one.reasons]
        yield {**vars(one), "first": one.task != task, "largest": max([*sizes, 1e-12])}
        task = one.task


def standing_html(
    atlas: Atlas, neuron: Neuron, task: str | None, labels: Mapping[str, str], *, chosen: bool
) -> str:
    """A neuron's place in every task, what it speaks for there, and its weights in one task.

    Args:
        atlas: the store and run.
        neuron: in one pooling.
        task: whose weights are shown.
        labels: ranking -> what people call it.
        chosen: whether the texts below are this pooling's.
    """
    voices = {voice.task: voice for voice in atlas.voices(neuron)}
    rows = [{**vars(rank), "speaks": speaks(voices.get(rank.task))} for rank in atlas.ranks(neuron)]
    shown = _voice_view(voices[task]) if task in voices else None
    return fragment("standing", neuron, rows, shown, labels, chosen)


def speaks(voice: Voice | None) -> str:
    """What a neuron says in a task, in words: ``for happy +0.21, against sad -0.15``."""
    if voice is None:
        return "–"
    if voice.kind == "regression":
        (weight,) = voice.weights.values()
        return f"{stance(voice.kind, '', weight)} {weight:+.3f}"
    best, worst = (pick(voice.weights.items(), key=lambda item: item[1]) for pick in (max, min))
    parts = []
    if best[1] > 0:
        parts.append(f"{stance(voice.kind, *best)} {best[1]:+.3f}")
    if worst[1] < 0:
        parts.append(f"{stance(voice.kind, *worst)} {worst[1]:+.3f}")
    return ", ".join(parts) or "neither for nor against"


def _voice_view(voice: Voice) -> VoiceView:
    rows = voice.by_size()
    unit = {"regression": "the value", "multilabel": "a label's logit"}
    return VoiceView(
        voice.task,
        unit.get(voice.kind, "a class's logit, against the average of all"),
        rows[:MAX_WEIGHTS],
        max([*(abs(weight) for _, weight in rows), 1e-12]),
        max(len(rows) - MAX_WEIGHTS, 0),
    )
