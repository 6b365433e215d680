"""For `dask worker --preload`: a process that dies over a text with the word "poison", as over a
fault in a library or for want of memory."""

import os
import signal

from pipeline.extractor import Extractor

_encode = getattr(Extractor.encode, "plain", Extractor.encode)  # Dask may load this twice


def _deadly(self, texts):
    if any("poison" in text for text in texts):
        os.kill(os.getpid(), signal.SIGKILL)
    return _encode(self, texts)


_deadly.plain = _encode
Extractor.encode = _deadly
