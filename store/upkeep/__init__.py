"""Looking after a store: what it holds, whether it is sound, what can go, archives.

Read first: `inspection`, then `removal`, `compaction`, `garbage`, `copying`, `export`. For stores
on buckets `rewriting` is what a compaction does, `sweeping` what it and `garbage` remove, `uploads`
what no listing shows, and `keptobjects` what is verified.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
