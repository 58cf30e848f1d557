"""Labels as texts, so that the right answers and the model's are compared by one rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import pandas

NO_VALUE = "(no valid value)"
"""What stands in a table for an answer that is missing or is none of the labels."""


def label_text(value: Any) -> str | None:
    """The text of a label; None where it is missing.

    A member of an Enum is its value. A whole number is written without a fraction, because pandas
    makes floats of whole numbers where some are missing: 1, 1.0 and "1" are the same label.
    """
    if isinstance(value, Enum):
        value = value.value
    if pandas.api.types.is_scalar(value) and pandas.isna(value):
        return None
    if pandas.api.types.is_float(value) and float(value).is_integer():
        value = int(value)
    return str(value)


def label_texts(column: pandas.Series[Any]) -> list[str | None]:
    """The labels of a column as texts."""
    return [label_text(value) for value in column]


def in_order(found: Iterable[str | None], columns: Sequence[pandas.Series[Any]]) -> list[str]:
    """The distinct labels in their order.

    That is the order of the categories where one of the columns is categorical. Numbers are
    ordered by size, and other texts by their letters.
    """
    names: dict[str, None] = {}
    for column in columns:
        if isinstance(column.dtype, pandas.CategoricalDtype):
            names |= dict.fromkeys(map(str, map(label_text, column.cat.categories)))
    rest = {name for name in found if name is not None} - names.keys()
    return [*names, *sorted(rest, key=_by_size)]


def _by_size(name: str) -> tuple[bool, float, str]:
    try:
        return (False, float(name), name)
    except ValueError:
        return (True, 0.0, name)
