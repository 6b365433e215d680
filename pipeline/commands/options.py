"""Arguments and options that several commands share, and the groups on the page of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RUN, LOOK, SCORE, SHARE = "Run", "Look", "Score", "Share"
CLUSTER, STORE = "Cluster", "Store"
"""Groups of commands on the page of help."""
ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The run's TOML file; `salient init` writes one.")
]
RunOrConfig = Annotated[
    Path, typer.Argument(metavar="RUN", help="The run's TOML file, or the folder of a run.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
JobId = Annotated[
    str | None, typer.Argument(help="The job's id, or how it begins; default the youngest.")
]
Model = Annotated[
    str | None, typer.Option(help="The backbone's location on this machine, if it moved.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …; auto takes a GPU if any.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Allow the model's own code that a configuration in JSON asks for.",
        hidden=True,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
