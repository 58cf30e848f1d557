"""Rows of the log as a pandas DataFrame with one type for each column."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy
import pandas

from .columns import COLUMNS, NAMES, Column
from .rows import parse_json, read_json

# Integers with missing values stay integers, and a missing text is not a float.
DTYPES = {"integer": "Int64", "real": "Float64", "text": "string", "boolean": "boolean"}

MAX_SHARED = 100
"""Different texts of a JSON column up to which each is read once."""
SINGLE = tuple(column for column in COLUMNS if not column.few)
FEW = tuple(column for column in COLUMNS if column.few)


def frame_of(rows: Sequence[tuple[Any, ...]]) -> pandas.DataFrame:
    """A DataFrame of shape (runs, columns), indexed by run_id.

    `rows` are as the database keeps them: the values of `SINGLE`, then those of
    `FEW` as a JSON list, which is read once for all rows that have the same.
    """
    *values, packed = zip(*rows, strict=True) if rows else [()] * (len(SINGLE) + 1)
    columns = {}
    for column, items in zip(SINGLE, values, strict=True):
        read = _read_all(column, items, values[0]) if column.kind == "json" else items
        columns[column.name] = series(column, read)
    codes, texts = pandas.factorize(numpy.array(packed, dtype=object))
    shared = list(zip(*map(json.loads, texts), strict=True)) if rows else [()] * len(FEW)
    for column, items in zip(FEW, shared, strict=True):
        columns[column.name] = pandas.Series(series(column, items).array.take(codes))
    return _by_number({name: columns[name] for name in NAMES})


def _read_all(column: Column, items: Sequence[str | None], run_ids: Sequence[int]) -> list[Any]:
    """The values of a JSON column, none of them shared by two rows."""
    texts = set(items)
    with suppress(ValueError):  # one of them is damaged: which, is said below
        if len(texts) < MAX_SHARED and column.name != "tokens":  # whose items have items
            known = {text: None if text is None else parse_json(text) for text in texts}
            return [value if (value := known[item]) is None else value.copy() for item in items]
        # As one text: a call for each row would take most of the time.
        read = parse_json(f"[{','.join('null' if item is None else item for item in items)}]")
        if len(read) == len(items):
            return list(read)
    return [
        read_json(item, f"{column.name} of run {run_id}")
        for item, run_id in zip(items, run_ids, strict=True)
    ]


def frame_of_rows(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """The same of rows as the log reads them, their JSON parsed."""
    columns = {
        column.name: series(column, [row[column.name] for row in rows]) for column in COLUMNS
    }
    return _by_number(columns)


def _by_number(columns: Mapping[str, Any]) -> pandas.DataFrame:
    frame = pandas.DataFrame(columns).set_index("run_id")
    if not frame.index.hasnans:  # a run that could not be logged has no number
        frame.index = frame.index.astype("int64")
    return frame


def series(column: Column, values: Sequence[Any]) -> pandas.Series[Any]:
    """The values of a column, in its type."""
    if column.kind == "time":
        times = pandas.to_datetime(values, utc=True, format="ISO8601")
        return pandas.Series(times, dtype="datetime64[us, UTC]")
    dtype = DTYPES.get(column.kind, "object")
    if dtype != "object" and not any(value is not None for value in values):
        return pandas.Series(None, index=range(len(values)), dtype=dtype)
    return pandas.Series(list(values), dtype=dtype)
