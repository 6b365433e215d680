"""For `dask worker --preload`: processes that die, as over a fault in a library or for want of
memory.

Over a text with the word "poison" each time; and once for each file ``METHOD.N`` in the folder
``$DEATHS``, at the next call of that method by whichever worker comes first.
"""

import os
import signal
from pathlib import Path

from pipeline.extraction.extractor import Extractor
from pipeline.heads.model import Head
from store import ActivationStore

MORTAL = {"encode": Extractor, "labels": ActivationStore, "save": Head}


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _deadly(name, plain):
    def method(self, *arguments, **options):
        if name == "encode" and any("poison" in text for text in arguments[0]):
            _die()
        for order in Path(os.environ.get("DEATHS", "/nowhere")).glob(f"{name}.*"):
            try:
                order.unlink()
            except FileNotFoundError:  # another worker's
                continue
            _die()
        return plain(self, *arguments, **options)

    method.plain = plain
    return method


for _name, _owner in MORTAL.items():
    _plain = getattr(_owner, _name)
    setattr(_owner, _name, _deadly(_name, getattr(_plain, "plain", _plain)))  # may be loaded twice
