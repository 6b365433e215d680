from .backend import SalientBackend as SalientBackend
from .backend import open_dataset as open_dataset
from .backend import to_xarray as to_xarray
from .huggingface import to_hf_dataset as to_hf_dataset
from .memory import in_memory as in_memory
from .reader import ActivationReader as ActivationReader
from .view import StoreView as StoreView
from .zarrstore import SnapshotStore as SnapshotStore
