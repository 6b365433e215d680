from .address import is_hub as is_hub
from .card import Terms as Terms
from .hub import find_folders as find_folders
from .hub import pull as pull
from .hub import push as push
from .packing import head_folders as head_folders
