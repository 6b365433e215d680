from .compaction import compact as compact
from .export import export_archive as export_archive
from .export import export_parquet as export_parquet
from .garbage import gc as gc
from .inspection import describe_snapshots as describe_snapshots
from .inspection import info as info
from .inspection import verify as verify
