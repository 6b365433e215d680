from .line import INTERRUPTED as INTERRUPTED
from .line import main as main
from .line import run_command as run_command
