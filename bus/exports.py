"""Rows as the lines of a file: JSON Lines for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from . import messages

JSONL: Final = "jsonl"
CSV: Final = "csv"
FORMATS: Final = (JSONL, CSV)
MEDIA_TYPES: Final = {
    JSONL: "application/jsonl; charset=utf-8",
    CSV: "text/csv; charset=utf-8; header=present",
}
# A cell that begins so is a formula to spreadsheets: whoever may write a name, a
# payload or an error could have it run on the machine of who opens the file.
_FORMULA: Final = tuple("=+-@\t\r\n＝＋－＠")  # the wide ones as well


def lines(
    rows: Iterable[Mapping[str, Any]], kind: str, columns: Sequence[str]
) -> Iterator[bytes]:
    """The file line by line, in UTF-8; `columns` are those of CSV, in their order."""
    return _jsonl(rows) if kind == JSONL else _csv(rows, columns)


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        yield messages.written(row) + b"\n"


def _csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[bytes]:
    yield _line(columns)
    for row in rows:
        yield _line([cell(row.get(name)) for name in columns])


def cell(value: Any) -> str:
    """A value as a cell that no spreadsheet computes; objects and lists as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.lstrip(" ").startswith(_FORMULA) else value
    return messages.written(value).decode()


def _line(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    # A lone half of a surrogate pair, which JSON lets through, is no UTF-8.
    return text.getvalue().encode("utf-8", "replace")
