from .estimator import SalientClassifier as SalientClassifier
from .estimator import SalientRegressor as SalientRegressor
from .inputs import InputError as InputError
from .inputs import SettingError as SettingError
from .summary import Summary as Summary
