from .costs import MeasureOptions as MeasureOptions
from .depth import RULES as RULES
from .depth import Plan as Plan
from .outcome import plan_runs as plan_runs
