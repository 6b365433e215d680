from .shares import ASSUMPTION as ASSUMPTION
from .shares import BY as BY
from .shares import SharesReport as SharesReport
from .shares import find_shares as find_shares
from .shares import shares_of_outputs as shares_of_outputs
from .shares import write_shares as write_shares
