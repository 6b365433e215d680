"""The run configuration: one TOML file, validated before the first byte is written.

``RunConfig.load("run.toml")`` reads, resolves relative paths against the file's folder and
validates. Everything that affects results is in here and in ``RunConfig.fingerprint``; run-time
matters (device, workers, progress) are in ``[cluster]`` or flags, and are left out of it.
"""

from pipeline.sections import (
    NAME_PATTERN,
    SCORE_COLUMNS,
    BackboneConfig,
    ClusterConfig,
    CorpusSource,
    HeadConfig,
    NormaliseConfig,
    ProbeConfig,
    ScoreConfig,
    SplitConfig,
    StoreConfig,
    TaskConfig,
)
from pipeline.whole import RunConfig, is_model_path

__all__ = [
    "NAME_PATTERN",
    "SCORE_COLUMNS",
    "BackboneConfig",
    "ClusterConfig",
    "CorpusSource",
    "HeadConfig",
    "NormaliseConfig",
    "ProbeConfig",
    "RunConfig",
    "ScoreConfig",
    "SplitConfig",
    "StoreConfig",
    "TaskConfig",
    "is_model_path",
]
