"""Files that are whole or absent, locks, and places that are read: what the store stands on.

Read first: `durable` (write, fsync, rename), `location` (a directory) and `objects` (a bucket),
which have their `verbs` in common; then `locks`. `addresses` tells what a user names, `storage` how
buckets are reached; `checked` and `members` tell what was damaged.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
