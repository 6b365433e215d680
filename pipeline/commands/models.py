"""``salient models``: which models there are to begin with, and which types are known."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import RUN, AsJson
from pipeline.commands.printing import out, print_json

app = typer.Typer()


@app.command(rich_help_panel=RUN)
def models(as_json: AsJson = False) -> None:
    """List models to begin with, by language and size, and the model types that are known."""
    from pipeline.backbone import ADVISED, FFN_SITES

    types = sorted(FFN_SITES)
    if as_json:
        rows = [asdict(row) | {"stored_bytes": row.stored_bytes} for row in ADVISED]
        print_json({"models": rows, "types": types})
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model", overflow="fold")
    for heading in ("blocks x\nneurons", "million\nweights", "KB a\ntext"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("languages", "licence"):
        table.add_column(heading)
    for row in ADVISED:
        table.add_row(
            escape(row.name),
            f"{row.blocks} x {row.neurons:,}",
            f"{row.parameters:,}",
            f"{row.stored_bytes / 1000:,.0f}",
            row.languages,
            row.licence,
        )
    out.print(table)
    for row in ADVISED:
        out.print(escape(f"{row.name}: {row.remark}"))
    out.print(
        "KB a text: what a store keeps of its neurons (mean and max, float16); scoring stores none."
    )
    out.print(
        "Hub models need their `revision`, the 40-digit commit in the hub's file history, and"
        " weights in safetensors. Read a model's card before you use it."
    )
    out.print(f"Known types: {', '.join(types)}.")
    out.print("Of other types `salient check MODEL` says whether they can be read.")
