"""Rows of the log as a pandas DataFrame with one type for each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .columns import COLUMNS

if TYPE_CHECKING:
    import pandas

# Integers with missing values stay integers, and a missing text is not a float.
_DTYPES = {"integer": "Int64", "real": "Float64", "text": "string", "boolean": "boolean"}


def to_frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """A DataFrame of shape (runs, columns), indexed by run_id.

    `started_at` is a timestamp with time zone UTC; `stop`, `tags`, `tokens`
    and `content_filters` hold Python lists and mappings.
    """
    import pandas

    data = {}
    for column in COLUMNS:
        values = [row[column.name] for row in rows]
        if column.kind == "time":
            data[column.name] = pandas.Series(
                pandas.to_datetime(values, utc=True, format="ISO8601"),
                dtype="datetime64[us, UTC]",
            )
        else:
            data[column.name] = pandas.Series(values, dtype=_DTYPES.get(column.kind, "object"))
    return pandas.DataFrame(data).set_index("run_id")
