"""Rows of the log as a pandas DataFrame with one type for each column.

Every cell holds a plain value, so that pandas can count, compare and join it and write it to
files and databases. Each tag and each metric therefore has a column of its own, and lists are JSON
texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy
import pandas

from .columns import COLUMNS, METRIC, TAG, Column
from .reading import LISTS_OF_TEXT, read_values

# With these types, integers with missing values stay integers, and a missing text is no float.
DTYPES = {
    "integer": "Int64", "real": "Float64", "text": "string", "boolean": "boolean",
    "time": "datetime64[us]", "json": "string",
}  # fmt: skip
SINGLE = tuple(column for column in COLUMNS if not column.few)
FEW = tuple(column for column in COLUMNS if column.few)


def frame_of(rows: Sequence[tuple[Any, ...]]) -> pandas.DataFrame:
    """A DataFrame of shape (runs, columns), indexed by run_id.

    `rows` are as the database keeps them: the values of the columns `SINGLE`, then those of `FEW`
    as one JSON list. Rows with the same list share it, and it is parsed once.
    """
    *values, packed = zip(*rows, strict=True) if rows else [()] * (len(SINGLE) + 1)
    run_ids = values[0]
    read = {
        column.name: read_values(column, items, run_ids)
        for column, items in zip(SINGLE, values, strict=True)
    }
    codes, texts = pandas.factorize(numpy.array(packed, dtype=object))
    shared = list(zip(*map(json.loads, texts), strict=True)) if rows else [()] * len(FEW)
    first = [run_ids[place] for place in numpy.unique(codes, return_index=True)[1]]
    columns: dict[str, Any] = {}
    for column, items in zip(FEW, shared, strict=True):
        values_of_few = series(column, read_values(column, items, first))
        columns[column.name] = pandas.Series(values_of_few.array.take(codes))
    return _in_order(read, columns)


def frame_of_rows(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """The same DataFrame, made of rows as the log reads them, with their JSON parsed."""
    return _in_order({column.name: [row[column.name] for row in rows] for column in COLUMNS}, {})


def _in_order(read: Mapping[str, Sequence[Any]], made: Mapping[str, Any]) -> pandas.DataFrame:
    """The DataFrame with all columns in order: `read` holds values, `made` finished columns."""
    columns: dict[str, Any] = {}
    for column in COLUMNS:
        if column.name in made:
            columns[column.name] = made[column.name]
        elif column.name == "tags":
            columns.update(_columns_by_key(TAG, read["tags"], DTYPES["text"]))
        elif column.name == "metrics":
            columns.update(_columns_by_key(METRIC, read["metrics"], DTYPES["real"]))
        else:
            columns[column.name] = series(column, read[column.name])
    frame = pandas.DataFrame(columns).set_index("run_id")
    if not frame.index.hasnans:  # a run that is not logged has no number
        frame.index = frame.index.astype("int64")
    return frame


def _columns_by_key(
    prefix: str, mappings: Sequence[Mapping[str, Any] | None], dtype: str
) -> Iterator[tuple[str, Any]]:
    keys = dict.fromkeys(key for items in mappings for key in items or ())
    for key in keys:
        values = [None if items is None else items.get(key) for items in mappings]
        yield prefix + key, pandas.Series(values, dtype=dtype)


def series(column: Column, values: Sequence[Any]) -> pandas.Series[Any]:
    """The values of a column, as the log reads them, as a Series of the column's type."""
    if column.kind == "time":
        # Spreadsheets refuse times with a zone. A time beyond pandas' range is missing.
        times = pandas.to_datetime(values, utc=True, format="ISO8601", errors="coerce")
        return pandas.Series(times.tz_localize(None), dtype=DTYPES["time"])
    if column.kind == "json":
        values = _json_texts(column, values)
    dtype = DTYPES[column.kind]
    if not any(value is not None for value in values):
        return pandas.Series(None, index=range(len(values)), dtype=dtype)
    return pandas.Series(list(values), dtype=dtype)


# Sorted keys give the same text for the same value, whichever file it was read from.
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def _json_texts(column: Column, values: Sequence[Any]) -> list[str | None]:
    if column.name not in LISTS_OF_TEXT:
        return [None if value is None else _encode(value) for value in values]
    # Many runs share a few values, so each distinct one is encoded once.
    keys = [None if value is None else tuple(value) for value in values]
    known = {key: None if key is None else _encode(key) for key in set(keys)}
    return [known[key] for key in keys]
