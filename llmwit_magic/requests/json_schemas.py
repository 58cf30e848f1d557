"""JSON and JSON schemas: strict reading of an answer, and the check of a value by `jsonschema`.

Nothing is ever fetched: a `$ref` leads to a part of the schema itself, or it is an error.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any, NoReturn

from ..errors import ConstraintNotSupported, InvalidInput
from .expressions import NotValid, finds

CHECK_SECONDS = 2.0
"""Seconds that the check of an answer by a schema may take."""
FORMATS = ("date", "email", "ipv4", "ipv6", "uuid")
"""The formats that are checked. For others `jsonschema` needs packages that may be there or not."""
LARGEST_CHECKED = 2_000
"""The most objects and lists of a schema that is itself checked. That takes about a second."""
MISSING = 'a JSON schema needs jsonschema: pip install "llmwit-magic[constraints]"'

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


def parsed(text: str) -> Any:
    """The value of a JSON text. Raises `NotValid`, too for what the standard leaves open.

    These are a key that an object has twice, NaN, a number that no float can hold, an integer of
    more digits than Python reads, and half of a surrogate pair.
    """
    try:
        value = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_mapping
        )
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise NotValid("a text in it has a lone surrogate") from None
    except RecursionError:
        raise NotValid("it is nested too deep") from None
    except NotValid:
        raise
    except json.JSONDecodeError as error:
        raise NotValid(f"it is not JSON: {error}") from None
    except ValueError:
        raise NotValid("an integer in it has too many digits") from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise NotValid(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotValid(f"the number {digits[:20]} is too large")
    return number


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise NotValid(f"the key {twice!r} stands in it twice")
    return made


def check_schema(schema: Any) -> None:
    """Raise `InvalidInput` unless this is a JSON schema by the draft that it names.

    The default is draft 2020-12. A larger schema than `LARGEST_CHECKED` is left to the engine.
    Raises `ConstraintNotSupported` where `jsonschema` is missing.
    """
    try:
        from jsonschema.exceptions import SchemaError
    except ImportError:
        raise ConstraintNotSupported(MISSING) from None
    if _is_large(schema):
        return
    try:
        # Without formats: expressions of JSON schemas are not Python's.
        _draft(schema).check_schema(schema, format_checker=None)
    except SchemaError as error:
        raise InvalidInput(f"the JSON schema is not valid: {_said(error)}") from None
    except RecursionError:
        raise InvalidInput("the JSON schema is not valid: it is nested too deep") from None


def _is_large(schema: Any) -> bool:
    count, left = 0, [schema]
    while left and count <= LARGEST_CHECKED:
        item = left.pop()
        if isinstance(item, dict | list):
            count += 1
            left += item.values() if isinstance(item, dict) else item
    return count > LARGEST_CHECKED


def check_value(value: Any, schema: Any) -> None:
    """Raise `NotValid` unless the schema allows the value, and where that cannot be found out."""
    try:
        from jsonschema import FormatChecker
        from jsonschema.exceptions import best_match
        from referencing import Registry
    except ImportError:
        raise NotValid(f"not checked: {MISSING}") from None
    kind = _bounded(_draft(schema))
    if isinstance(schema, dict):  # a `$ref` to the whole schema would lead to the draft's own class
        schema = {key: item for key, item in schema.items() if key != "$schema"}
    token = _deadline.set(time.monotonic() + CHECK_SECONDS)
    try:
        validator = kind(schema, registry=Registry(), format_checker=FormatChecker(FORMATS))
        error = best_match(validator.iter_errors(value))
    except TimeoutError:
        raise NotValid(f"the check by the schema takes over {CHECK_SECONDS:g} s") from None
    except RecursionError:
        raise NotValid("the check by the schema has no end") from None
    except NotValid:
        raise
    except Exception as error:  # a schema from a log or a server may be none
        raise NotValid(f"it cannot be checked: {type(error).__name__}: {error}") from None
    finally:
        _deadline.reset(token)
    if error is not None:
        raise NotValid(_said(error))


def _said(error: Any) -> str:
    return f"{error.json_path}: {_shortened(error.message)}"


def _shortened(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:100]} … {message[-80:]}"


def _draft(schema: Any) -> Any:
    """The validator of the draft that a schema names."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    named = schema.get("$schema") if isinstance(schema, dict) else None
    if not isinstance(named, str):
        return Draft202012Validator
    return validator_for(schema, default=Draft202012Validator)


@cache
def _bounded(draft: Any) -> Any:
    """The validator with time limits. Without `$ref`, a check's time is bounded by the sizes."""
    from jsonschema.validators import extend

    def in_time(check: Any) -> Any:
        def checked(*arguments: Any) -> Any:
            if time.monotonic() > _deadline.get():
                raise TimeoutError
            return check(*arguments)

        return checked

    own = {"pattern": _pattern, "patternProperties": _pattern_properties}
    references = ("$ref", "$dynamicRef", "$recursiveRef")
    own |= {
        name: in_time(draft.VALIDATORS[name]) for name in references if name in draft.VALIDATORS
    }
    return extend(draft, own)


def _pattern(validator: Any, expression: str, value: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if validator.is_type(value, "string") and not finds(expression, value, _deadline.get()):
        yield ValidationError(f"{_shortened(repr(value))} does not match {expression!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, schema: Any
) -> Iterator[Any]:
    if not validator.is_type(value, "object"):
        return
    for expression, inner in patterns.items():
        for key, item in value.items():
            if finds(expression, key, _deadline.get()):
                yield from validator.descend(item, inner, path=key, schema_path=expression)
