"""Files that are whole or absent, locks, and places that are read: what the store stands on.

Read first: `durable` (write, fsync, rename), then `locks` and `location` (local or fsspec);
`checked` and `members` tell what was damaged. `flight` keeps many reads of a bucket under way.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
