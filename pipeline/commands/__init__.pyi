from .entry import main as main
from .line import run_command as run_command
from .stopping import INTERRUPTED as INTERRUPTED
from .stopping import exit_with as exit_with
