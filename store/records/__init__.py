"""What a snapshot shows: its slots, samples and labels, in small files that never change.

Read first: `snapshots`, then `history` (which there are) and `encoding` (their bytes).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
