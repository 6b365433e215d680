"""Salient in Python: texts in, activations, classes or scores out.

    import salient

    clf = salient.SalientClassifier().fit(texts, labels)
    clf.predict(["what a day"])

Each name here is that of a wing of `pipeline` or `store`, which the commands call too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn


def _refuse_shadows() -> None:
    """ImportError where another ``pipeline`` or ``store`` is found before ours; imports neither."""
    here = os.path.dirname(os.path.realpath(__file__))
    for name in ("pipeline", "store"):
        try:
            spec = find_spec(name)  # of what is imported already, or would be
        except ValueError:  # imported, without a spec
            found = getattr(sys.modules[name], "__file__", None) or "a module without a file"
        else:
            if spec is None:
                continue
            found = spec.origin or next(iter(spec.submodule_search_locations or ()), "a module")
        if os.path.dirname(os.path.realpath(found)) == os.path.join(here, name):
            continue
        said = (
            f"{found} hides the package {name!r} of Salient, which lies in {here}; rename it, or"
            " run from another folder"
        )
        if os.path.basename(sys.argv[0]) in ("salient", "salient.py"):  # the command, not a script
            print(f"salient: {said}", file=sys.stderr)
            raise SystemExit(2)
        raise ImportError(said)


_refuse_shadows()

__all__ = [
    "SalientClassifier",
    "SalientError",
    "SalientRegressor",
    "Scorer",
    "__version__",
    "encode",
    "encode_stream",
    "example_tweets",
    "load",
    "prevalence",
]
"""What a star imports; ``open`` is left out, for it would hide Python's."""

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.demo import example_tweets as example_tweets
    from pipeline.estimators import SalientClassifier as SalientClassifier
    from pipeline.estimators import SalientRegressor as SalientRegressor
    from pipeline.extraction import encode as encode
    from pipeline.extraction import encode_stream as encode_stream
    from pipeline.scoring import Scorer as Scorer
    from store.errors import SalientError as SalientError

    __version__: str

_HOMES: dict[str, str] = {
    "SalientClassifier": "pipeline.estimators",
    "SalientError": "store.errors",
    "SalientRegressor": "pipeline.estimators",
    "Scorer": "pipeline.scoring",
    "encode": "pipeline.extraction",
    "encode_stream": "pipeline.extraction",
    "example_tweets": "pipeline.demo",
}
"""Name -> the module that it comes from; nothing is imported before it is asked for."""
Paths = str | Path


def load(
    heads: Paths | Sequence[Paths],
    *,
    tasks: Sequence[str] = (),
    model: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Scorer:
    """Heads to predict with, over their backbone, checked on the texts recorded with them.

        scorer = salient.load("runs/sentiment")
        scorer.predict(["what a day"])

    Args:
        heads: a run's folder, or the TOML file of a finished run, for its chosen heads; or a head
            folder, ``hub:user/name@revision``, or several of these, one for each task.
        tasks: only these tasks; default all.
        model: the backbone's location, if it is not where the heads were trained.
        device: torch device; "auto" takes a GPU if there is one.
        trust_remote_code: Python code that comes with the model may run, where heads ask for it.

    Raises:
        ConfigError: no run and no head there, or no such task.
        SalientError: damaged files, or a model that is not the one that the heads know.
    """
    from pipeline.errors import ConfigError
    from pipeline.progress import teller
    from pipeline.scoring import load_scorer
    from pipeline.sharing import find_folders, is_hub

    names = [heads] if isinstance(heads, str | Path) else heads
    if not isinstance(names, Sequence) or not all(isinstance(one, str | Path) for one in names):
        raise ConfigError(
            f"heads: {heads!r} ({type(heads).__name__}) is no path; give a run's folder, a head's,"
            " hub:user/name, or a list of heads"
        )
    for name in names:
        _refuse_address(name)
    given = [name if is_hub(name) else Path(name).expanduser() for name in names]
    return load_scorer(
        find_folders(given, say=teller()),  # of a branch the commit, where somebody looks
        tasks=tasks,
        model=model,
        device=device,
        trust_remote_code=trust_remote_code,
    )


def _refuse_address(path: Paths) -> None:
    if "://" in str(path):
        from pipeline.errors import ConfigError

        raise ConfigError(
            f"{path}: runs and heads lie in folders of a machine, or heads on a hub"
            " (hub:user/name); copy it here first"
        )


def prevalence(
    scores: Paths,
    *,
    by: str | None = None,
    task: str | Sequence[str] = (),
    run: Paths | None = None,
    heads: Paths | Sequence[Paths] = (),
) -> pd.DataFrame:
    """Shares of classes in a folder of scores, corrected for the errors of its heads.

        shares = salient.prevalence("scores", by="day")
        shares[shares.method == "em"].pivot(index="group", columns="class", values="share")

    Args:
        scores: a folder that ``salient score`` wrote, or its URL.
        by: "day", "week" (called by its Monday), "month", or a column of the scores; None: all
            texts together.
        task: only this one, or these.
        run: the run that made the scores, to be asked what its heads get wrong; or
        heads: its head folders. Only a folder of an earlier version needs one of them.

    Returns:
        A row for each task, group, class and method ("counted", "mean", "adjusted", "em"), with
        ``share`` and its 95 % interval ``low`` to ``high`` (of a regression the mean value),
        ``num_texts``, ``num_empty`` and ``flag``: what speaks against a corrected share. Its
        ``attrs["notes"]`` say what was assumed and tested.

    Raises:
        ConfigError: no scores there, no such task or column, or heads that did not make them.
        SalientError: a damaged file.
    """
    from pipeline.prevalence import find_shares

    several = [heads] if isinstance(heads, str | Path) else heads
    for one in (*several, *([] if run is None else [run])):
        _refuse_address(one)
    found = find_shares(
        scores if "://" in str(scores) else Path(scores).expanduser(),
        by=by,
        tasks=[task] if isinstance(task, str) else task,
        run=None if run is None else Path(run).expanduser(),
        heads=[Path(one).expanduser() for one in several],
    )
    frame: pd.DataFrame = found.table.to_pandas()
    frame.attrs["notes"] = list(found.notes)
    return frame


def open(path: Paths, **options: Any) -> Any:
    """A store of activations as a lazy ``xarray.Dataset``, or the results of a finished run.

        salient.open("activations").ffn.sel(layer=3, pooling="max")
        salient.open("runs/sentiment").importance["sentiment"]

    Args:
        path: a store (also an fsspec address such as ``s3://…``), or a run's folder or TOML file.
        **options: of a store: ``labels``, ``text``, ``chunks``, ``dtype``, ``snapshot``,
            ``check``, as of ``store.open_dataset``.

    Returns:
        Of a store the Dataset, ``ffn (layer, pooling, neuron, sample)`` and what else it holds; of
        a run a ``pipeline.report.RunResults``.

    Raises:
        SalientError: neither is there, or it is damaged.
        ConfigError: options for a run.
    """
    if not isinstance(path, str | Path) or "\0" in str(path):
        from pipeline.errors import ConfigError

        raise ConfigError(f"path: {path!r} is none; give that of a store or a run")
    place = Path(path).expanduser()
    if place.suffix == ".toml" or (place / "run.json").is_file():
        if options:
            from pipeline.errors import ConfigError

            raise ConfigError(f"{path}: is a run, and {', '.join(options)} is said of stores only")
        from pipeline.report import open_results

        return open_results(place)
    from store import open_dataset

    return open_dataset(path if "://" in str(path) else place, **options)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from store.layout import own_version

        found = own_version() or "0+unknown"  # a checkout that is not installed
    elif name in _HOMES:
        from importlib import import_module

        found = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "open"])


def main() -> NoReturn:
    """The command ``salient``."""
    from pipeline.commands import main

    main()


if __name__ == "__main__":
    main()
