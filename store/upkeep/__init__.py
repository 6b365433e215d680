"""Looking after a store: what it holds, whether it is sound, what can go, archives.

Read first: `inspection`, then `removal`, `compaction`, `garbage` and `export`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
