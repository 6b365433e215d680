from .costs import MeasureOptions as MeasureOptions
from .depth import RULES as RULES
from .depth import Plan as Plan
from .exchange import apply as apply
from .outcome import Outcome as Outcome
from .outcome import plan_runs as plan_runs
from .planner import make_plan as make_plan
from .thresholds import build as build
