"""The value of an answer as a small table: its keys, or its records as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_jsonable_python

from ..base.printable import short
from ..base.widths import filled, width

MAX_ROWS = 20
MAX_COLUMNS = 8
MAX_TEXT = 300
"""The most characters of a cell in HTML. The result keeps all of the value."""
VALUE_COLUMNS = 60
"""The most columns of a cell in text."""


@dataclass(frozen=True, slots=True)
class ValueTable:
    """Texts in rows of the same length, `head` over them, and lines under them.

    `head` is empty where the first column has the keys.
    """

    rows: tuple[tuple[str, ...], ...]
    head: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def table_of(value: Any) -> ValueTable | None:
    """The table of a value; None for one that the text of the answer shows as well."""
    if value is None or isinstance(value, str | int | float):
        return None
    try:
        plain = to_jsonable_python(value, by_alias=True, serialize_unknown=True)
    except Exception:  # a type of the user's may write itself as it likes
        plain = {"value": _repr(value)}
    if isinstance(plain, Mapping) and plain:
        items = list(plain.items())
        rows = tuple((_cut(str(key)), _text(item)) for key, item in items[:MAX_ROWS])
        return ValueTable(rows, (), _left_out(len(items), "keys"))
    if isinstance(plain, list) and plain:
        return _of_list(plain)
    return None


def value_lines(value: Any) -> list[str]:
    """The value of an answer as a table, under a line that says so; empty where there is none."""
    table = table_of(value)
    if table is None:
        return []
    rows = [
        [short(text, VALUE_COLUMNS) for text in row]
        for row in ((table.head, *table.rows) if table.head else table.rows)
    ]
    widths = [max(width(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = ["  ".join(map(filled, row, widths)).rstrip() for row in rows]
    return ["── value", *lines, *(f"── {note}" for note in table.notes)]


def _of_list(items: Sequence[Any]) -> ValueTable:
    shown, notes = items[:MAX_ROWS], _left_out(len(items), "rows")
    if not all(isinstance(item, Mapping) and item for item in shown):
        return ValueTable(tuple((str(i), _text(item)) for i, item in enumerate(shown)), (), notes)
    names = list(dict.fromkeys(key for item in shown for key in item))
    if len(names) > MAX_COLUMNS:
        notes += (f"{MAX_COLUMNS} of {len(names)} columns",)
    names = names[:MAX_COLUMNS]
    rows = tuple(
        tuple(_text(item[name]) if name in item else "" for name in names) for item in shown
    )
    return ValueTable(rows, tuple(_cut(str(name)) for name in names), notes)


def _left_out(count: int, what: str) -> tuple[str, ...]:
    return (f"the first {MAX_ROWS} of {count:,} {what}",) if count > MAX_ROWS else ()


def _text(item: Any) -> str:
    """A text as it is; anything else as compact JSON."""
    if isinstance(item, str):
        return _cut(item)
    try:
        return _cut(json.dumps(item, ensure_ascii=False, separators=(", ", ": ")))
    except (TypeError, ValueError, RecursionError):
        return _repr(item)


def _repr(value: Any) -> str:
    try:
        return _cut(repr(value))
    except Exception:
        return type(value).__name__


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
