"""What may be written beside a run: a rating, a note, tags, metrics."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from typing import Any

from ..contract.record import real
from ..errors import InvalidInput
from .rows import Row

NAMES = ("rating", "note", "tags", "metrics")
_RATINGS = (1, -1)


def annotation_row(values: Mapping[str, Any]) -> Row:
    """The values as columns of the database. None removes what was there.

    Raises `InvalidInput` for a name that is not one of `NAMES`, and for a value that is not valid.
    """
    unknown = [name for name in values if name not in NAMES]
    if unknown:
        raise InvalidInput(
            f"{unknown[0]}: only {', '.join(NAMES)} of a run can be set; what it was stays"
        )
    return {name: _CHECKS[name](value) for name, value in values.items()}


def _rating(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, bool) and hasattr(value, "__index__"):  # numpy's integers too
        number = operator.index(value)
        if number in _RATINGS:
            return number
    raise InvalidInput(f"rating: {value!r} is not valid: it must be 1, -1 or None")


def _note(value: Any) -> str | None:
    return None if value is None else _text("note", value)


def _tags(value: Any) -> str:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInput(f"tags: {value!r} is not valid: it must be a mapping of texts")
    tags = {_text("tags", key): _text("tags", item) for key, item in (value or {}).items()}
    return json.dumps(tags, ensure_ascii=False)


def metric_numbers(value: Any) -> dict[str, float | None]:
    """Metrics by name as floats; None stays. Raises `InvalidInput` for what is no finite number.

    True is 1 and False is 0, because a metric may say whether an answer is right.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(f"metrics: {value!r} is not valid: it must be a mapping of numbers")
    found: dict[str, float | None] = {}
    for key, given in value.items():
        name = _text("metrics", key)
        number = real(given)
        number = float(number) if isinstance(number, bool) else number
        if number is not None and not (isinstance(number, float) and math.isfinite(number)):
            raise InvalidInput(
                f"metrics: {name}: {given!r} is not valid: it must be a finite number"
            )
        found[name] = number
    return found


def _metrics(value: Any) -> str:
    numbers = metric_numbers(value or {})
    kept = {name: number for name, number in numbers.items() if number is not None}
    return json.dumps(kept, ensure_ascii=False)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{name}: {value!r} is not valid: it must be text")
    try:
        value.encode()
    except UnicodeEncodeError:  # UTF-8 has no form for it, and SQLite and files need one
        raise InvalidInput(f"{name}: {value!r} has a lone surrogate: remove it") from None
    return str(value)


_CHECKS = {"rating": _rating, "note": _note, "tags": _tags, "metrics": _metrics}
