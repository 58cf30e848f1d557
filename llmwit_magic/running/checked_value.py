"""The value of an answer: what its text stands for by the constraint, checked in this process.

It is checked whatever the engine promises, since some servers take a constraint and ignore it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..base.printable import on_one_line
from ..contract.constraint import Constraint
from ..contract.events import End
from ..contract.wit import Ending, FinishDetail, FinishReason
from ..errors import one_line
from ..requests.expressions import NotValid, matches
from ..requests.json_schemas import check_value, parsed
from ..requests.shapes import TypedConstraint

_CUT = {
    FinishDetail.MAX_TOKENS: "cut by max tokens",
    FinishDetail.CONTEXT_FULL: "cut by a full context",
    FinishDetail.CONTENT_FILTER: "cut by a content filter",
}


@dataclass(frozen=True, slots=True)
class CheckedValue:
    """The value, or why there is none. `as_json` is the value in the log: JSON text."""

    value: Any = None
    error: str | None = None
    as_json: str | None = None


def checked_value(
    constraint: Constraint, text: str, status: Ending, end: End | None
) -> CheckedValue:
    """The value of an answer that has ended.

    An answer that was cut has none, not even where the part that there is would be valid: `12` may
    be the beginning of `123`.
    """
    if status == "error":
        return CheckedValue(error="the run failed")
    detail = end.finish_detail if end else None
    if status == "interrupted" or end is None or detail is None:
        return CheckedValue(error="interrupted")
    if detail in _CUT:
        return CheckedValue(error=_CUT[detail])
    if (end.finish_reason or detail.reason) is not FinishReason.STOP:
        return CheckedValue(error="cut by the server")
    try:
        return _value(constraint, text)
    except NotValid as error:
        return CheckedValue(error=_line(f"not valid: {error}"))
    except BaseException as error:  # a validator of the user's own type may raise anything
        return CheckedValue(error=_line(f"not valid: {type(error).__name__}: {error}"))


def _line(said: str) -> str:
    return one_line(on_one_line(said))


def _value(constraint: Constraint, text: str) -> CheckedValue:
    """Raises `NotValid`."""
    plain: Any = text
    if constraint.kind == "choices" and text not in constraint.choices:
        raise NotValid(f"{_shown(text)} is none of the choices")
    if constraint.kind == "regex" and not matches(constraint.source, text):
        raise NotValid(f"{_shown(text)} does not match the expression")
    if constraint.kind == "json_schema":
        plain = parsed(text)
        check_value(plain, json.loads(constraint.source))
    value = constraint.typed(text) if isinstance(constraint, TypedConstraint) else plain
    return CheckedValue(value, None, json.dumps(plain, ensure_ascii=False))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
