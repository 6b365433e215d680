"""Executes the notebooks and writes their outputs in place, small and the same wherever they run.

    make notebooks                              # all, on runs/demo
    python -m tests.notebooks 00 02             # those whose names begin so
    SALIENT_IMDB=FOLDER python -m tests.notebooks 02
    python -m tests.notebooks --check           # executes nothing, looks at what is there

What asks for IMDb is left as it is where ``SALIENT_IMDB`` is not set, unless it is named.

A code host then shows what a user's Jupyter shows, but for progress, times and colours beyond a
palette. :func:`faults` says what must not stay in a notebook; the tests ask it too.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.builders.paths import ROOT

FOLDER = ROOT / "notebooks"
MOST_BYTES = 300_000
COLOURS = 96
"""Of a picture: enough for lines, bands and smooth letters."""
PROGRESS = "progress"
"""Tag of a cell whose printed lines tell of progress, and are not kept."""
PATHS = re.compile(r"(?<![\w.])/(?:tmp|home|root|work|Users|private|mnt|opt|usr)/\S*")
COMPLAINTS = re.compile(r"\w*Warning:|Traceback|<progress|<p class=.soft.>none</p>")
"""The last is what the explorer says where there are no texts to show."""
TEXTS = "SALIENT_IMDB"
BARE = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks(starts: Sequence[str] = ()) -> list[Path]:
    """The notebooks, or those whose names begin with one of ``starts``."""
    found = sorted(FOLDER.glob("*.ipynb"))
    return [path for path in found if not starts or path.name.startswith(tuple(starts))]


def execute(path: Path, *, timeout: int = 3600) -> Any:
    """A notebook as it is after all its cells have run, in its own folder."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources=where
    ).execute()
    return normalised(notebook)


def normalised(notebook: Any) -> Any:
    """The notebook without progress, times and widgets; its pictures as PNG of few colours."""
    notebook.metadata = dict(BARE)
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        cell.execution_count = number + 1
        kept = [one for one in cell.outputs if not _is_progress(one, PROGRESS in tags)]
        cell.outputs = list(_joined(kept))
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number + 1
            if "data" in output:
                output.metadata, output.data = {}, dict(_small(output.data))
    return notebook


def _is_progress(output: Any, printed: bool) -> bool:
    if output.output_type == "stream":
        return printed or "IProgress not found" in output.text  # tqdm's, without ipywidgets
    said = "".join(output.get("data", {}).get("text/html", "-"))
    return output.output_type == "display_data" and (not said or said.startswith("<progress"))


def _joined(outputs: Sequence[Any]) -> Iterator[Any]:
    """Lines that were printed one after the other are one output, however they arrived."""
    last: Any = None
    for output in outputs:
        stream = output.get("name")
        if last is not None and stream is not None and last.get("name") == stream:
            last.text += output.text
            continue
        last = output
        yield output


def _small(data: Any) -> Iterator[tuple[str, Any]]:
    for kind, content in data.items():
        if kind == "image/png":
            yield kind, _fewer_colours(content)
        elif not kind.startswith("application/vnd.jupyter.widget"):
            yield kind, content


def _fewer_colours(content: str) -> str:
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
    file = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode() + "\n"


def faults(notebook: Any) -> list[str]:
    """What must not be in a notebook's outputs, a line for each."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            parts = [output.get("text", ""), *output.get("data", {}).items()]
            said = [part if isinstance(part, str) else str(part[1]) for part in parts]
            text = "\n".join(said[:1] if "image/png" in output.get("data", {}) else said)
            if output.output_type == "error" or output.get("name") == "stderr":
                text = output.get("evalue", text)
                found.append(f"cell {number}: {output.get('ename', 'stderr')}: {text[:300]}")
            elif complaint := COMPLAINTS.search(text):
                found.append(f"cell {number}: {complaint[0]}")
            found += [f"cell {number}: a path of a machine: {path}" for path in PATHS.findall(text)]
    return found


def unfit(path: Path) -> list[str]:
    """What is wrong with a notebook as it lies there, without executing it."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    found = faults(notebook)
    if (size := path.stat().st_size) > MOST_BYTES:
        found.append(f"{size:,} bytes: more than {MOST_BYTES:,}")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != [*range(1, len(code) + 1)]:
        found.append("not executed from the first cell to the last: make notebooks")
    if not any("image/png" in one.get("data", {}) for cell in code for one in cell.outputs):
        found.append("no figure: make notebooks")
    if notebook.metadata != BARE or any({*cell.metadata} - {"tags"} for cell in notebook.cells):
        found.append("metadata of an execution: make notebooks")
    return found


def main(words: Sequence[str]) -> None:
    """Execute notebooks and write them, or look at them as they are."""
    import nbformat

    starts = [word for word in words if word != "--check"]
    os.environ.pop("MPLBACKEND", None)
    for path in notebooks(starts):
        asks = TEXTS in path.read_text("utf-8") and TEXTS not in os.environ
        if "--check" not in words and asks and not starts:
            print(f"{path.relative_to(ROOT)}: left as it is; {TEXTS} names no IMDb")
        elif "--check" not in words:
            with tempfile.TemporaryDirectory(prefix="salient-notebooks-") as cache:
                os.environ["SALIENT_CACHE"] = cache
                notebook = execute(path)
            nbformat.write(notebook, path)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)
        if wrong := unfit(path):
            raise SystemExit("\n".join(f"{path.name}: {one}" for one in wrong))


if __name__ == "__main__":
    main(sys.argv[1:])
