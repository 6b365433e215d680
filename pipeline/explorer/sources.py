"""What all sessions of the explorer ask: store, run, model, and the maps that were made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.explorer.atlas import Atlas
from pipeline.explorer.projection import TextMap, project
from pipeline.explorer.tokenmaps import TokenPlaces, TokenReader
from store import ActivationStore
from store.layout import Source

MAX_MAPS = 4


@dataclass(frozen=True)
class Sources:
    """What a session's page asks; shared by all sessions.

    Attributes:
        name: of the run or store.
        atlas: answers about neurons and texts.
        reader: runs the backbone, if it is here.
        places: finds the tokens of stored maxima, if the store has them.
    """

    name: str
    atlas: Atlas
    reader: TokenReader | None
    places: TokenPlaces | None = None
    _maps: dict[Source, TextMap] = field(default_factory=dict)
    _busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def highlights(self) -> str:
        """What the caption of a neuron's texts says of their colours."""
        if self.places is not None:
            return "; the outlined token is the one of the maximum"
        if self.reader is not None:
            return "; colour is the activation at each token, the outlined one is the maximum"
        return ""

    def text_map(
        self, source: Source, progress: Callable[[float], object] = lambda _: None
    ) -> TextMap:
        """The map of all texts by a source; made once, the last few are kept.

        May be called in a thread: the store is opened again for it.

        Args:
            source: a stored one.
            progress: told the share that is done.

        Raises:
            SalientError: see :func:`pipeline.explorer.projection.project`.
        """
        with self._busy:
            if source not in self._maps:
                shown = self.atlas.store
                own = ActivationStore.open(shown.location.address, shown.snapshot_id)
                found = project(own, source, progress=progress)
                while len(self._maps) >= MAX_MAPS:
                    self._maps.pop(next(iter(self._maps)))
                self._maps[source] = found
            return self._maps[source]
