from .dataset import to_xarray as to_xarray
from .reader import ActivationReader as ActivationReader
from .view import StoreView as StoreView
