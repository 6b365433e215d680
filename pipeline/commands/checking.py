"""``salient check``: can this model serve, are its numbers its own, and how fast is it here?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from pipeline.commands.arguments import config_at
from pipeline.commands.options import RUN, AsJson, Device, Quiet, TrustCode
from pipeline.commands.printing import out, print_json, terminal
from pipeline.errors import BackboneError

app = typer.Typer()


@app.command(rich_help_panel=RUN)
def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model folder, package:NAME, hub name (with --revision), or a run's TOML file.",
        ),
    ],
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Compare with the model's own forward pass, however large it is."
        ),
    ] = False,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens per text; default the model's context.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (default) or bfloat16.")] = None,
    ffn_site: Annotated[
        str | None,
        typer.Option(help="Path of the FFN's down projection, {i} standing for the block."),
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="Words before every text.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Words around every text, {text} in its place.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="The 40-digit commit of a hub model.")
    ] = None,
    trust_remote_code: TrustCode = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Load a model as an extraction would, prove its numbers, and measure it; writes nothing.

    What --json prints is what a report of an error should hold. Exit code 2 if the model cannot be
    used.
    """
    from pipeline.config import backbone_of
    from pipeline.extraction import check_model

    options = {
        "max_length": max_length,
        "dtype": dtype,
        "ffn_site": ffn_site,
        "prefix": prefix,
        "template": template,
        "revision": revision,
        "trust_remote_code": trust_remote_code or None,
    }
    known = {"model": model}
    if model.endswith(".toml") and not Path(model).is_dir():
        known = config_at(Path(model)).backbone.model_dump()
    given = {key: value for key, value in options.items() if value is not None}
    settings = backbone_of({**known, **given})
    facts = check_model(
        settings, full=full or settings.check == "full", device=device, say=terminal(quiet)
    )
    if as_json:
        print_json(facts)
    elif "rate" in facts:
        out.print(_overview(facts), "", soft_wrap=False)
        out.print("largest difference, relative to the layer's largest value:", "")
        out.print(_differences(facts), "", soft_wrap=False)
        for line in _verdict(facts):
            out.print(escape(line), soft_wrap=False)
    if facts["problem"]:
        raise BackboneError(facts["problem"])


def _overview(facts: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(facts):
        table.add_row(name, escape(value))
    return table


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from pipeline.progress import counted

    family, machine, tokenizer = facts["family"], facts["machine"], facts["tokenizer"]
    how = {
        "listed": "a known type",
        "discovered": "not a known type; its FFN was found by its width",
        "named": "its FFN as named",
        "none": "a mixture of experts"
        if "router" in facts["sites"]
        else "without an FFN whose activations can be read",
    }[family["site"]]
    yield "model", facts["model"]
    yield "type", f"{family['type']}, {how}"
    yield "runs", f"{family['part']}, {family['parameters'] / 1e6:,.1f} M parameters"
    for site, one in facts["sites"].items():
        where = f", before {one['path']}" if "path" in one else ""
        what = counted(one["layers"], "state" if site == "hidden" else "layer")
        yield site, f"{what} of {one['width']:,} numbers{where}"
        if site == "hidden" and one["layers"] == 1:
            yield "", 'only the final one can be read: set sites = ["ffn"] under [store]'
        if site == "experts":
            yield "", "read only where sites under [store] names them"
    yield (
        "batches",
        {
            "packed": "packed, without pads",
            "padded": "padded",
            "equal": "of equally long texts, for pads would change the numbers",
        }.get(facts["layout"], facts["layout"]),
    )
    for key in ("prefix", "template"):
        if facts[key]:
            yield key, repr(facts[key])
    yield "context", f"{facts['context']['tokens']:,} tokens: {facts['context']['limited_by']}"
    yield (
        "tokenizer",
        (
            f"{tokenizer['class']}, {tokenizer['entries']:,} entries; reads {tokenizer['sample']!r}"
            f" as {' '.join(map(str, tokenizer['tokens']))}"
        ),
    )
    place = machine["gpu"] if facts["device"].startswith("cuda") else machine["processor"]
    yield (
        "engine",
        (
            f"{facts['engine']}, {facts['dtype']}, on {facts['device']} ({place},"
            f" {counted(machine['threads'], 'thread')})"
        ),
    )
    for number, rate in enumerate(facts["rate"]):
        yield (
            "" if number else "rate",
            (
                f"{counted(rate['blocks'], 'block')}: {rate['texts_per_s']:,.0f} tweets/s,"
                f" {rate['tokens_per_s']:,.0f} tokens/s"
            ),
        )
    sizes = (f"{site} {size / 1e9:,.1f} GB" for site, size in facts["disk"].items())
    yield "disk", f"{', '.join(sizes)} for a million texts, as float16"
    yield "fingerprint", facts["fingerprint"][:16]


def _differences(facts: Mapping[str, Any]) -> Table:
    """By layer (hidden state), what each way to compute it differs by from extraction's."""
    columns: dict[str, dict[str, float]] = {}
    heads = {"batches": "in a batch", "plain": "own forward pass"}
    if "blocks" in facts["cut"]:
        heads["cut"] = f"{_first(facts)} alone"
    for key, head in heads.items():
        columns[head] = facts[key].get("differences", {})
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("")
    for head in columns:
        table.add_column(head, justify="right")
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        values = (column.get(name) for column in columns.values())
        table.add_row(escape(_label(name)), *(_figure(value) for value in values))
    return table


def _first(facts: Mapping[str, Any]) -> str:
    number = facts["cut"]["blocks"]
    return "first block" if number == 1 else f"first {number} blocks"


def _figure(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"


def _to(value: float) -> str:
    return f"to {_figure(value)}" if value else "exactly"


def _label(name: str) -> str:
    """``layer_003`` -> ``ffn 3``."""
    stem, _, number = name.rpartition("_")
    return f"{'ffn' if stem == 'layer' else stem} {int(number)}" if number.isdigit() else name


def _verdict(facts: Mapping[str, Any]) -> Iterator[str]:
    plain, cut, batches = facts["plain"], facts["cut"], facts["batches"]
    kernels = "" if facts["engine"] == batches["engine"] else ", by torch's kernels"
    yield f"a text in a batch = the text alone ({_to(batches['largest'])}{kernels})"
    yield from (f"passed over {trouble}" for trouble in batches["passed_over"])
    if batches["untried"]:
        yield (
            "not tried, for such texts take long: texts around"
            f" {' and '.join(f'{limit:,}' for limit in batches['untried'])} tokens"
        )
    if "skipped" in plain:
        yield f"not compared with the model's own forward pass: {plain['skipped']}"
    elif plain["agrees"]:
        yield f"extraction = the model's own forward pass ({_to(plain['largest'])})"
    if missing := plain.get("missing"):
        yield (
            f"not compared with it: {', '.join(map(_label, missing))}; transformers does not give"
            " these, or counts them otherwise"
        )
    if cut.get("agrees"):
        yield f"the {_first(facts)} alone = the whole ({_to(cut['largest'])})"
    elif "skipped" in cut:
        yield f"no cut depth was tried: {cut['skipped']}"
    else:
        why = cut.get("refused") or f"other numbers by {_figure(cut['largest'])}"
        yield f"scoring will load all blocks, even to run the {_first(facts)}: {why}"
    if not facts["problem"]:
        yield "fine: this model can be used"
