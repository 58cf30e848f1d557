"""Reading of the database's values: JSON is parsed, and a damaged value becomes a missing one.

SQLite stores any value in any column, whatever the column's type. Another program, a person with
a shell or a bad sector may have left a text among numbers. One such value must not hide other
rows.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from ..contract.messages import ROLES
from ..errors import LogWarning, warn
from .columns import COLUMNS, Column
from .rows import Row, parse_json

MAX_SHARED = 100
"""With fewer distinct texts than this in a JSON column, each text is parsed once and copied."""
_DAMAGED = object()
_RUN_ID = 0
"""The place of `run_id` in a row."""


def read_rows(rows: Sequence[tuple[Any, ...]]) -> list[Row]:
    """The rows as mappings. Each of `rows` has the values of all columns, in their order."""
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    run_ids = columns[_RUN_ID]
    read = [
        read_values(column, values, run_ids)
        for column, values in zip(COLUMNS, columns, strict=True)
    ]
    names = [column.name for column in COLUMNS]
    return [dict(zip(names, row, strict=True)) for row in zip(*read, strict=True)]


def read_values(column: Column, values: Sequence[Any], run_ids: Sequence[int]) -> Sequence[Any]:
    """The values of a column. A damaged value is read as None, with one `LogWarning` for all.

    No two rows share a list or a mapping.
    """
    if column.kind == "json":
        read = _read_json(column, values)
    else:
        kinds = _TYPES[column.kind]
        if column.kind in ("integer", "text") and set(map(type, values)) <= kinds:
            return values
        check = _CHECKS.get(column.kind)
        read = [
            value if value is None
            else _DAMAGED if type(value) not in kinds
            else check(value) if check
            else value
            for value in values
        ]  # fmt: skip
    if _DAMAGED not in read:
        return read
    damaged = [run_id for run_id, value in zip(run_ids, read, strict=True) if value is _DAMAGED]
    more = len(damaged) - 1
    others = f" (and of {more:,} other run{'s' * (more > 1)})" if more else ""
    warn(
        f"{column.name} of run {damaged[0]}{others} is damaged, and read as missing",
        LogWarning,
    )  # fmt: skip
    return [None if value is _DAMAGED else value for value in read]


def _real(value: float) -> Any:
    return value if math.isfinite(value) else _DAMAGED


def _boolean(value: int) -> Any:
    return bool(value) if value in (0, 1) else _DAMAGED


def _time(value: str) -> Any:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return _DAMAGED
    return value


_NONE = type(None)
_TYPES: Mapping[str, set[type]] = {
    "integer": {int, _NONE}, "real": {int, float, _NONE}, "text": {str, _NONE},
    "boolean": {int, _NONE}, "time": {str, _NONE},
}  # fmt: skip
_CHECKS: Mapping[str, Callable[[Any], Any]] = {"real": _real, "boolean": _boolean, "time": _time}


# JSON ---------------------------------------------------------------------------


def _read_json(column: Column, texts: Sequence[Any]) -> list[Any]:
    fits = _FITS[column.name]
    different = set(texts)
    # A plain copy of these shares nothing, since their items are texts.
    if len(different) < MAX_SHARED and fits in (_is_texts, _is_tags):
        known = {text: _parsed(text, fits) for text in different}
        return [
            value.copy() if isinstance(value := known[text], list | dict) else value
            for text in texts
        ]
    with suppress(ValueError, TypeError, RecursionError):  # a text is damaged: it is found below
        # All texts are parsed as one, since a call for each row would take most of the time.
        read = parse_json(f"[{','.join('null' if text is None else text for text in texts)}]")
        if len(read) == len(texts):
            return [value if value is None or fits(value) else _DAMAGED for value in read]
    return [_parsed(text, fits) for text in texts]


def _parsed(text: Any, fits: Callable[[Any], bool]) -> Any:
    if text is None:
        return None
    try:
        value = parse_json(text) if isinstance(text, str) else _DAMAGED
    except (ValueError, RecursionError):
        return _DAMAGED
    return value if fits(value) else _DAMAGED


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_tags(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


def _is_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_text(name) and type(number) in (int, float) and abs(number) <= sys.float_info.max
        for name, number in value.items()
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and _is_encodable(value)


def _is_encodable(value: Any) -> bool:
    """Whether the value can be written as JSON: with no lone surrogate and no infinity in it."""
    with suppress(TypeError, ValueError, RecursionError):
        return _is_text(json.dumps(value, ensure_ascii=False, allow_nan=False))
    return False


def _is_spans(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(span, list) and len(span) == 2 and all(map(_is_whole, span)) for span in value
    )


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(message, dict) and message.keys() == {"role", "content"}
        and message["role"] in ROLES and _is_text(message["content"])
        for message in value
    )  # fmt: skip


def _is_text(value: Any) -> bool:
    """Whether the value is a text without lone surrogates, which JSON can hold and files cannot."""
    if not isinstance(value, str):
        return False
    with suppress(UnicodeEncodeError):
        value.encode()
        return True
    return False


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(
        _is_token(token)
        and _is_whole_or_none(token.get("rank"))
        and isinstance(token.get("top"), list)
        and isinstance(token.get("reasoning", False), bool)
        and (token.get("masked_logprob") is None or _is_logprob(token["masked_logprob"]))
        and all(map(_is_token, token["top"]))
        for token in value
    )


def _is_choice_scores(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(each, dict)
            and _is_text(each.get("choice"))
            and all(_is_logprob(each.get(name)) for name in ("probability", "logprob"))
            and all(
                each.get(name) is None or _is_logprob(each[name])
                for name in ("end_logprob", "empty_prompt_logprob")
            )
            and _is_tokens(each.get("tokens"))
            for each in value
        )
    )


def _is_token(token: Any) -> bool:
    return (
        isinstance(token, dict)
        and _is_whole_or_none(token.get("id"))
        and _is_text(token.get("bytes"))
        and _is_logprob(token.get("logprob"))
    )


def _is_whole_or_none(value: Any) -> bool:
    return value is None or _is_whole(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_logprob(value: Any) -> bool:
    if isinstance(value, int | float):
        return abs(value) <= sys.float_info.max
    return bool(value == "-Infinity")  # JSON has no number for it


LISTS_OF_TEXT = ("stop", "content_filters", "notices", "not_honoured")
"""The JSON columns that hold lists of texts."""
_FITS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(LISTS_OF_TEXT, _is_texts),
    "data_spans": _is_spans, "tags": _is_tags, "tokens": _is_tokens,
    "prompt_tokens": _is_tokens, "choice_scores": _is_choice_scores,
    "metrics": _is_metrics, "template_options": _is_object, "value": _is_encodable, "history": _is_messages,
}  # fmt: skip
