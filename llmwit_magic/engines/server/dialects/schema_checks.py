"""What of JSON schemas servers know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ....errors import ConstraintNotSupported

_UNKNOWN = (
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "propertyNames", "dependentSchemas", "dependentRequired", "dependencies", "unevaluatedItems",
    "unevaluatedProperties", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
"""The keywords that neither of llama-server's two libraries for grammars knows."""
_FORMATS = (
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
)  # fmt: skip
"""The formats that llguidance knows. llama.cpp itself knows some of them, and passes over others."""
_TYPES = ("null", "boolean", "object", "array", "number", "string", "integer")
_LOOKS_OR_REFERS_BACK = re.compile(r"\(\?(?:<?[=!])|\\[1-9]")
_NOT_STRICT = ("allOf", "oneOf", "not", "if", "then", "else", "patternProperties",
               "dependentSchemas", "dependentRequired")  # fmt: skip
"""The keywords that OpenAI's strict schemas do not have."""


def check_known_to_llama_server(schema: Any) -> None:
    """Raise `ConstraintNotSupported` for what llama-server cannot hold an answer to.

    It would answer without any constraint, and say nothing of that. Sources: llguidance's
    docs/json_schema.md, common/json-schema-to-grammar.cpp of llama.cpp.
    """
    for part in _parts(schema):
        if part is False:
            _refuse("a part that allows nothing")
        if not isinstance(part, Mapping):
            continue
        for keyword in _UNKNOWN:
            if part.get(keyword) not in (None, False):
                _refuse(repr(keyword))
        _check_values(part)


def _check_values(part: Mapping[str, Any]) -> None:
    reference = part.get("$ref")
    if reference is not None and not str(reference).startswith("#"):
        _refuse(f"a $ref to {str(reference)[:60]!r}, which is never fetched")
    types = part.get("type", ())
    for name in [types] if isinstance(types, str) else types:
        if name not in _TYPES:
            _refuse(f"the type {str(name)[:40]!r}")
    name = part.get("format")
    if name is not None and name not in _FORMATS:
        _refuse(f"the format {str(name)[:40]!r}")
    patterns = [part.get("pattern"), *(part.get("patternProperties") or ())]
    if any(_LOOKS_OR_REFERS_BACK.search(str(pattern)) for pattern in patterns if pattern):
        _refuse("a pattern with look-around or a back-reference")


def _refuse(what: str) -> None:
    raise ConstraintNotSupported(f"llama-server cannot be told the JSON schema: it has {what}")


def strict_objection(schema: Any) -> str | None:
    """Why OpenAI would not take the schema as a strict one; None where it would.

    Source: the guide on structured outputs of OpenAI's documentation, part "Supported schemas".
    """
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        return "it is not of one object"
    for part in _parts(schema):
        if not isinstance(part, Mapping):
            return "a part of it is true or false"
        if found := next((keyword for keyword in _NOT_STRICT if keyword in part), None):
            return f"it has {found}"
        if part.get("type") != "object" and "properties" not in part:
            continue
        if part.get("additionalProperties") is not False:
            return "an object in it allows other properties (additionalProperties)"
        if set(part.get("properties") or ()) != set(part.get("required") or ()):
            return "a property in it may be left out (required)"
    return None


_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS = ("items", "additionalItems", "not", "if", "then", "else", "contains",
            "propertyNames", "unevaluatedItems", "unevaluatedProperties")  # fmt: skip


def _parts(schema: Any) -> Iterator[Any]:
    """The schema and all schemas in it. What stands in `const`, `enum` and `default` is data."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        yield part
        if not isinstance(part, Mapping):
            continue
        for keyword in _OF_SCHEMAS:
            if isinstance(part.get(keyword), Mapping):
                waiting += part[keyword].values()
        for keyword in _LISTS:
            if isinstance(part.get(keyword), list):
                waiting += part[keyword]
        for keyword in _SCHEMAS:
            inner = part.get(keyword)
            waiting += inner if isinstance(inner, list) else [inner] if inner is not None else []
        # That these are false is how objects are closed, and no part that allows nothing.
        if part.get("additionalProperties") not in (None, False):
            waiting.append(part["additionalProperties"])
