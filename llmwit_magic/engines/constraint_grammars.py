"""From a constraint to a grammar of llguidance, without what that library would silently ignore.

The library itself refuses most of what it does not know. What stands here is the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..contract.constraint import Constraint
from ..errors import ConstraintNotSupported, one_line

LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON is written as Python's `json.dumps` writes it: on one line, with one space behind a comma
and a colon. With free white space, a model at a high temperature may write nothing else."""

LARGEST_EXACT = 2**53
"""The library holds the numbers of a schema as float64. Whole numbers beyond this one are rounded."""

_OF_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_OF_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_OF_ONE = frozenset({"additionalProperties", "items", "additionalItems"})
_NUMBERS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_NEWEST = "https://json-schema.org/draft/2020-12/schema"
_OLDER = (
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
)

# Texts, expressions and comments of Lark, which are stepped over, and (group 1) names in <>.
_LARK = re.compile(
    r"""
    "(?:\\.|[^"\\\n])*" | /(?:\\.|[^/\\\n])+/ | //[^\n]* | \#[^\n]* | (<[^>\n]*>)
    """,
    re.VERBOSE,
)


def grammar_of(constraint: Constraint) -> tuple[str, str]:
    """The grammar for `LLMatcher`, and as what a text was read where that had to be found out.

    Raises `ConstraintNotSupported`.
    """
    from llguidance import LLMatcher

    source = constraint.source
    if constraint.kind == "choices":
        choices = " | ".join(json.dumps(choice) for choice in constraint.choices)
        return LLMatcher.grammar_from_lark(f"start: {choices}"), ""
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(source), ""
    if constraint.kind == "json_schema":
        schema = json.loads(source)
        check_schema(schema)
        if schema is True:
            source = "{}"
        return LLMatcher.grammar_from_json_schema(source, overrides=LAYOUT), ""
    return _grammar(source)


def _grammar(source: str) -> tuple[str, str]:
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if "::=" not in source:  # the sign of GBNF, which Lark does not have
        named = next((found[1] for found in _LARK.finditer(source) if found[1]), None)
        if named:
            raise ConstraintNotSupported(
                f"constraint grammar, read as Lark: {one_line(named)[:60]} is a control token: "
                "answers have none; write a text in quotes"
            )
        return LLMatcher.grammar_from_lark(source), ", read as Lark"
    try:
        return LLMatcher.grammar_from_lark(gbnf_to_lark(source)), ", read as GBNF"
    except Exception as error:  # the library raises plain `Exception`
        raise ConstraintNotSupported(
            f"constraint grammar, read as GBNF: {one_line(str(error))[:300]}"
        ) from None


def check_schema(schema: Any) -> None:
    """Refuse what llguidance would ignore in a JSON schema, or read in another way than validators.

    Raises `ConstraintNotSupported`, with the name of the keyword and its place.
    """
    if schema is False:
        raise ConstraintNotSupported("constraint json_schema: false: no JSON satisfies it")
    dialect = schema.get("$schema", _NEWEST) if isinstance(schema, dict) else _NEWEST
    if not isinstance(dialect, str) or dialect.rstrip("#") not in (_NEWEST, *_OLDER):
        _refuse("$schema", "#", f"is {_shown(dialect)}, which is not known: leave it out")
    newest = dialect.rstrip("#") == _NEWEST
    for place, part in _schemas(schema, "#"):
        if "x-guidance" in part:
            _refuse("x-guidance", place, "is for llguidance alone: leave it out")
        reference = part.get("$ref", "#")
        if not isinstance(reference, str) or not reference.startswith("#"):
            _refuse("$ref", place, f"leads to {_shown(reference)}: nothing is fetched, put it here")
        if newest and isinstance(part.get("items"), list):
            _refuse("items", place, "is a list: write prefixItems")
        if newest and "additionalItems" in part:
            _refuse("additionalItems", place, "is of older JSON schemas: write items")
        if place != "#" and "$schema" in part:
            _refuse("$schema", place, "stands within a schema: leave it out")
        _check_numbers(part, place)
        _check_count(part, place)


def _schemas(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema, and all that stand in it, each with its place as a JSON pointer."""
    waiting = [(place, schema)]
    while waiting:
        place, part = waiting.pop()
        if not isinstance(part, dict):
            continue
        yield place, part
        for name, value in part.items():
            within = f"{place}/{name}"
            if name in _OF_SCHEMAS and isinstance(value, dict):
                waiting += [(f"{within}/{key}", inner) for key, inner in value.items()]
            elif name in _OF_LISTS or (name in _OF_ONE and isinstance(value, list)):
                if isinstance(value, list):
                    waiting += [(f"{within}/{number}", inner) for number, inner in enumerate(value)]
            elif name in _OF_ONE:
                waiting.append((within, value))


def _check_numbers(part: dict[str, Any], place: str) -> None:
    waiting = [(name, part[name]) for name in _NUMBERS if name in part]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(name, inner) for inner in value.values()]
        elif isinstance(value, list):
            waiting += [(name, inner) for inner in value]
        elif isinstance(value, int) and abs(value) > LARGEST_EXACT:
            _refuse(name, place, f"has the number {_shown(value)}, which float64 cannot hold")


def _check_count(part: dict[str, Any], place: str) -> None:
    """Refuse `minProperties` where names that are not listed would have to differ.

    The library does not keep such a name from being written twice.
    """
    least, required = part.get("minProperties"), part.get("required")
    listed = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(least, int) and least > listed + 1:
        _refuse("minProperties", place, f"is more than one above the {listed} required ones")


def _refuse(name: str, place: str, why: str) -> None:
    raise ConstraintNotSupported(f"constraint json_schema: {name} at {place} {why}")


def _shown(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False))[:80]
