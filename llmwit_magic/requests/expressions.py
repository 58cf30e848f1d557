"""Regular expressions that check an answer, by the library `regex`, within bounds of time and size."""

from __future__ import annotations

import re
import time
from typing import Any

MATCH_SECONDS = 2.0
"""Seconds that one search of an expression may take."""
LARGEST = 100_000
"""The most characters of an expression, and the most items that its fixed repetitions make."""

# An escape, a class, a group's beginning or end, a count, any other sign. The time is linear: a
# class that is not closed goes on to the end.
_PART = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*(?:\]|\Z)|(?P<open>\()|(?P<close>\))"
    r"|\{(?P<least>\d+)(?:,\d*)?\}|.",
    re.DOTALL,
)


class NotValid(ValueError):
    """An answer is not what it must be. The message says where and why."""


def matches(expression: str, text: str, until: float | None = None) -> bool:
    """Whether the expression matches all of the text. `until` is a time of `time.monotonic`.

    Raises `NotValid` where that cannot be found out, as after `MATCH_SECONDS`.
    """
    return _searched("fullmatch", expression, text, until)


def finds(expression: str, text: str, until: float | None = None) -> bool:
    """Whether the expression matches a part of the text. Raises `NotValid` as `matches` does."""
    return _searched("search", expression, text, until)


def _searched(how: str, expression: str, text: str, until: float | None) -> bool:
    # Only now: few cells have an expression.
    import regex

    if len(expression) > LARGEST or _items(expression) > LARGEST:
        raise NotValid(
            f"the expression is too large to check: over {LARGEST:,} signs or repetitions"
        )
    left = MATCH_SECONDS if until is None else min(until - time.monotonic(), MATCH_SECONDS)
    search: Any = getattr(regex, how)
    try:
        return search(expression, text, timeout=max(left, 0.001)) is not None
    except TimeoutError:
        raise NotValid(f"the check by the expression takes over {MATCH_SECONDS:g} s") from None
    except (regex.error, ValueError, KeyError, RecursionError, MemoryError) as error:
        said = str(error) or type(error).__name__
        raise NotValid(f"the expression cannot be checked: {said}") from None


def _items(expression: str) -> int:
    """How many items the expression has when its fixed repetitions are written out.

    The library writes `a{1000}` out, and so for each level of a nested one.
    """
    totals, last = [0], 0
    for part in _PART.finditer(expression):
        if part["open"]:
            totals.append(0)
            last = 0
            continue
        if part["least"]:
            factor = max(int(part["least"][:9]), 1)
            totals[-1] += last * (factor - 1)
            last *= factor
        else:
            last = totals.pop() if part["close"] and len(totals) > 1 else 1
            totals[-1] += last
        if totals[-1] > LARGEST:
            break
    return max(totals)
