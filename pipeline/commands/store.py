"""``salient store …``: look after a store.

Each command is one function of ``store``, but for ``add``, which needs the model.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.arguments import is_run, store_at
from pipeline.commands.options import Device, Model, Quiet
from pipeline.commands.printing import terminal
from pipeline.errors import ConfigError
from store.errors import StoreError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

app = typer.Typer(
    help="Look after an activation store: what it holds, whether it is sound, what can go.",
    no_args_is_help=True,
)

StorePath = Annotated[
    str,
    typer.Argument(metavar="STORE", help="Folder or URL of the store, or a run (folder, TOML)."),
]
OwnStore = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="Folder or URL of the store, or the TOML file of its run."
    ),
]
"""Of a command that changes it: a run's folder may come from elsewhere, and must not say which."""
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SnapshotId = Annotated[
    str | None, typer.Option("--snapshot", help="Look at this snapshot; default the last one.")
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _open(path: str, snapshot: str | None = None) -> Any:
    from store import ActivationStore

    return ActivationStore.open(store_at(path), snapshot=snapshot)


def _own(path: str) -> str:
    """The folder of a store that is to be changed."""
    if is_run(Path(path)):
        raise ConfigError(
            f"{path}: is a run's folder, and this changes the store; name that itself: the run says"
            f" that it is {store_at(path)}"
        )
    return store_at(path)


def _seconds(text: str) -> float:
    """Seconds of a time such as 0s, 90m, 24h or 7d."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    if found is None:
        raise ConfigError(
            f"--grace {text}: no time; give a whole number and s, m, h or d, such as 90m, 24h or 7d"
        )
    return float(int(found[1]) * _UNITS[found[2]])


def _show(report: DataclassInstance, *, as_json: bool) -> None:
    if as_json:
        facts = asdict(report) if is_dataclass(report) else report
        print(json.dumps(facts, ensure_ascii=False, default=str))
    else:
        print(report)


@app.command()
def info(path: StorePath, snapshot: SnapshotId = None, as_json: AsJson = False) -> None:
    """Say what the store holds."""
    from store.upkeep import info as describe

    _show(describe(_open(path, snapshot)), as_json=as_json)


@app.command()
def verify(path: StorePath, snapshot: SnapshotId = None, as_json: AsJson = False) -> None:
    """Read every byte and check every checksum; exit code 1 and the slots' names if damaged."""
    from store.upkeep import verify as check

    report = check(_open(path, snapshot))
    _show(report, as_json=as_json)
    if report.damage:
        raise typer.Exit(1)


@app.command()
def snapshots(path: StorePath) -> None:
    """List the commits that can still be opened."""
    from store.upkeep import describe_snapshots

    print(describe_snapshots(_open(path)))


@app.command()
def gc(
    path: OwnStore,
    keep: Annotated[int, typer.Option(help="How many of the newest snapshots stay.")] = 10,
    grace: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="In a bucket: what no snapshot names stays until it is so old, such as 90m, 24h or"
            " 7d. Default 24h.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove old snapshots' records and leftovers of dead runs; never activations.

    In a bucket, uploads that nobody finished are aborted, too.
    """
    from store.upkeep import gc as collect

    grace_s = None if grace is None else _seconds(grace)
    report = collect(_open(_own(path)), keep=keep, dry_run=dry_run, grace_s=grace_s)
    _show(report, as_json=as_json)


@app.command()
def delete(
    path: OwnStore,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="A sample's id; repeatable.")
    ] = None,
    authors: Annotated[
        list[str] | None, typer.Option("--author", help="All samples of an author; repeatable.")
    ] = None,
    ids_file: Annotated[
        Path | None, typer.Option("--ids-file", help="A file with one sample id per line.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hide samples from every read at once; `salient store compact` removes their bytes.

    Exit code 1 says that an --id or --author, or every id of the file, is not in the store; the
    others are deleted all the same.
    """
    from store.upkeep import delete_samples

    listed = []
    if ids_file is not None:
        from pipeline.scoring import read_names

        listed = read_names(ids_file)
    chosen = [*(ids or ()), *listed]
    if not chosen and not authors:
        raise ConfigError("nothing to delete: give --id, --ids-file or --author")
    report = delete_samples(_open(_own(path)), chosen, authors=authors or (), dry_run=dry_run)
    _show(report, as_json=as_json)
    if report.deleted and not (as_json or dry_run):
        print(f"`salient store compact {path}` removes their bytes")
        print("Scores are kept apart: `salient score delete OUT --ids FILE` removes them there.")
    if unknown := report.not_found(ids or (), listed):
        rest = "; all others would go" if dry_run else "; all others were deleted"
        raise StoreError(f"{unknown}: not in the store{rest * bool(report.deleted)}")


@app.command()
def add(
    path: OwnStore,
    hidden: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="Hidden states: all, final, or numbers such as 0,6 (0: the embeddings).",
        ),
    ] = "",
    layers: Annotated[
        str, typer.Option(metavar="WHICH", help="FFN layers: all, or numbers such as 3,4.")
    ] = "",
    model: Model = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compute layers that the store lacks for all its samples, with the model that made it.

    Its texts are computed once more. All samples gain the layers at once, at the end; interrupted,
    the same command goes on where it was (an extraction in between begins it anew).
    """
    from pipeline.extraction import add_layers

    if not hidden and not layers:
        raise ConfigError("nothing to add: give --hidden or --layers")
    report = add_layers(
        _own(path),
        layers=layers,
        hidden=hidden,
        model=model,
        device=device,
        say=terminal(quiet),
    )
    _show(report, as_json=as_json)


@app.command()
def compact(path: OwnStore, as_json: AsJson = False) -> None:
    """Really remove the bytes of deleted samples, from every kept snapshot."""
    from store.upkeep import compact as remove

    _show(remove(_open(_own(path))), as_json=as_json)


@app.command()
def copy(
    path: StorePath,
    target: Annotated[str, typer.Argument(help="A new folder, or a URL such as s3://BUCKET/PATH.")],
    snapshot: SnapshotId = None,
    as_json: AsJson = False,
) -> None:
    """Copy the store to a folder or into a bucket: one snapshot, without what was deleted.

    All that is read is compared with its checksums. Into a bucket, the same copy again goes on
    where one was interrupted.
    """
    from store.upkeep import copy_store

    _show(copy_store(_open(path, snapshot), target), as_json=as_json)


@app.command()
def export(
    path: StorePath,
    target: Annotated[Path, typer.Argument(help="A new folder (archive) or Parquet file.")],
    layer: Annotated[
        int | None, typer.Option(help="With --neuron: write these to Parquet, not an archive.")
    ] = None,
    neurons: Annotated[list[int] | None, typer.Option("--neuron", help="Repeatable.")] = None,
    poolings: Annotated[list[str] | None, typer.Option("--pooling", help="Default: all.")] = None,
    keepbits: Annotated[
        int, typer.Option(help="Mantissa bits kept in the archive; 5 is 1.6 % off at most.")
    ] = 5,
    snapshot: SnapshotId = None,
    as_json: AsJson = False,
) -> None:
    """Write a compressed archive of the store, or a few neurons as a Parquet table."""
    from store.upkeep import export_archive, export_parquet

    if (layer is None) != (not neurons):
        raise ConfigError("--layer and --neuron go together; leave both out for an archive")
    store = _open(path, snapshot)
    if layer is None:
        report = export_archive(store, target, keepbits=keepbits)
    else:
        report = export_parquet(
            store, target, layer=layer, units=neurons or (), poolings=poolings or None
        )
    _show(report, as_json=as_json)
