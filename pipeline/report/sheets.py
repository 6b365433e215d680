"""CSV for spreadsheets: the one writer of every table that is made to be opened in one.

    csv_text(["id", "text"], [("17", "=1+1")])      # id,text and 17,'=1+1

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, which may
send away what is in other cells; texts and names of labels are anybody's. Such cells get a leading
apostrophe, which spreadsheets take for "this is text" (OWASP, "CSV injection"). Whoever needs the
texts byte by byte takes Parquet, or the store.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet calculates."""


def csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """CSV with a header; None is an empty cell, and no text a formula."""
    out = io.StringIO()
    writer = csv.writer(out)  # lines end as RFC 4180 has it: else a lone \r is not quoted
    for row in (header, *rows):
        writer.writerow([_harmless(cell) for cell in row])
    return out.getvalue()


def _harmless(cell: Any) -> Any:
    if isinstance(cell, str) and cell.startswith(STARTS_FORMULA) and not _is_number(cell):
        return f"'{cell}"
    return cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
