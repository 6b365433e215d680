"""Commands that hand heads on: `salient push` and `salient pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.commands.arguments import RUN_SIGN, is_run, lies_near
from pipeline.commands.options import SHARE, AsJson, Quiet
from pipeline.commands.printing import out, print_json, terminal
from pipeline.errors import ConfigError

app = typer.Typer()


@app.command(rich_help_panel=SHARE)
def push(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A finished run, or a head's folder.")
    ],
    name: Annotated[str, typer.Argument(metavar="hub:user/name", help="A model repository.")],
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="This task only; may be repeated.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="Of the heads: apache-2.0 …, or a sentence; default head.licence of the run.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data-note", help="Whose the training texts are, under which terms."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make it a private one.")] = False,
    with_words: Annotated[
        bool,
        typer.Option("--with-words", help="Let words of the training texts go along (n-grams)."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the card; send nothing.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Share a run's chosen heads on a hub of models: JSON, safetensors and a model card.

    One commit, with a folder for each task; no texts. It goes to huggingface.co, or HF_ENDPOINT, as
    who is logged in with hf auth login or HF_TOKEN.
    """
    from pipeline import sharing

    if source.is_dir() and not is_run(source) and (near := lies_near(source, RUN_SIGN)):
        raise ConfigError(f"{source}: no run or head here{near}")
    pushed = sharing.push(
        source,
        name,
        sharing.Terms(licence, data),
        tasks=tasks or (),
        private=private,
        with_words=with_words,
        dry_run=dry_run,
        say=terminal(quiet),
    )
    if as_json:
        print_json(pushed.to_dict())
        return
    for file, size in pushed.files.items():
        out.print(f"{size:>14,} {escape(file)}")
    if pushed.commit is None:
        out.print("", escape(pushed.card), "nothing was sent (--dry-run)", sep="\n")
        return
    done = "pushed" if pushed.changed else "nothing has changed since"
    out.print(f"{done}: hub:{escape(pushed.repository)}@{pushed.commit}")


@app.command(rich_help_panel=SHARE)
def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="hub:user/name[@revision]", help="A repository that salient push wrote."
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(help="A new folder; default the cache of huggingface_hub."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Fetch heads from a hub of models and check them; nothing of it can run code.

    Without a revision the main branch is taken, and its commit printed. --heads of salient score
    takes what is printed, or the hub's name itself.
    """
    from pipeline import sharing
    from pipeline.heads import describe_heads

    pulled = sharing.pull(name, folder, say=terminal(quiet))
    if as_json:
        print_json(pulled.to_dict())
        return
    out.print(f"pulled: hub:{escape(pulled.repository)}@{pulled.commit}")
    for head in pulled.heads:
        out.print(escape(f"{head.folder}: {describe_heads([head])}"))
