"""A scorer from what a run, or somebody else, has left: a run's folder or file, or head folders.

scorer = load_scorer([Path("runs/sentiment")])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.heads import Head
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.scoring.prepared import (
    ScoreOptions,
    Source,
    check_normalisation,
    find_heads,
    trusts,
)
from pipeline.scoring.scorer import Scorer


def load_scorer(
    paths: Sequence[Path],
    *,
    tasks: Sequence[str] = (),
    model: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Scorer:
    """The heads of a run, or of some folders, over their backbone, checked on the golden texts.

    Args:
        paths: a run's folder, or the TOML file of a finished run; or head folders, one a task.
        tasks: only these; default all.
        model: the backbone's location, if it moved.
        device: torch device.
        trust_remote_code: the model's own code may run, where the heads ask for it.

    Raises:
        ConfigError: no run and no head there, or no such task.
        SalientError: damaged files, or a model that is not the one they know.
    """
    if not paths:
        raise ConfigError("no path to load: give a run's folder, or head folders")
    runs = [path for path in paths if _is_run(path)]
    if runs and len(paths) > 1:
        raise ConfigError(f"{runs[0]}: is a run; load it alone, or name head folders only")
    source = find_heads(runs[0], (), tasks) if runs else find_heads(None, paths, tasks)
    heads = [Head.load(folder) for folder in source.folders]
    check_normalisation(heads, source.config)
    options = ScoreOptions(model=model, device=device, trust_remote_code=trust_remote_code)
    trusted = trusts(source.config, heads, options)
    scorer = Scorer.load(source.folders, model=model, device=device, trust_remote_code=trusted)
    if source.config is not None:
        scorer.reading = source.config.score
    scorer.metrics = _metrics(source)
    return scorer


def _is_run(path: Path) -> bool:
    if not path.exists():
        raise ConfigError(f"{path}: nothing there; name a run's folder or a head folder")
    if path.is_file() and path.suffix != ".toml":
        raise ConfigError(f"{path}: is a file; name its folder {path.parent}, or a run's TOML file")
    return path.is_file() or (path / "run.json").is_file()


def _metrics(source: Source) -> dict[str, Any]:
    """What the run measured, if it says."""
    if source.config is None:
        return {}
    run = RunFolder(Path(source.config.run_dir))
    return dict(read_metrics(run)["tasks"]) if run.metrics.is_file() else {}
