"""A constraint: what an answer must be. The checks here need no library."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, NoReturn, Self, get_args

from pydantic import model_validator

from ..errors import InvalidInput
from .record import Record, Setting, Text, shown

ConstraintKind = Literal["choices", "regex", "json_schema", "grammar"]
CONSTRAINT_KINDS: tuple[ConstraintKind, ...] = get_args(ConstraintKind)

LARGEST_SOURCE = 1_000_000
"""Bytes that the source of a constraint may have in UTF-8."""
DEEPEST_SCHEMA = 128
"""How deep lists and mappings of a JSON schema may stand in each other."""


class Constraint(Record):
    """What an answer must be. Raises `InvalidInput` for a source that cannot be one of its kind.

    `source` depends on `kind`:

    - `choices`: a JSON list of different texts, of which the answer is one
    - `regex`: a regular expression that the whole answer matches
    - `json_schema`: a JSON schema as JSON text. The answer is JSON that it allows. The order of its
      properties is the order in the answer.
    - `grammar`: a context-free grammar in the notation of Lark or in GBNF, that of llama.cpp
    """

    kind: Annotated[ConstraintKind, Setting("choices, regex, json_schema or grammar")]
    source: Text

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if not (self.source if self.kind == "regex" else self.source.strip()):
            _refuse(self.kind, "it is empty")
        size = len(self.source.encode())
        if size > LARGEST_SOURCE:
            _refuse(self.kind, f"it has {size:,} bytes, and may have {LARGEST_SOURCE:,}")
        if self.kind == "choices":
            _check_choices(_parsed(self.kind, self.source))
        elif self.kind == "json_schema":
            _check_schema(_parsed(self.kind, self.source))
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of kind and source, as 64 hexadecimal digits."""
        return hashlib.sha256(f"{self.kind}\n{self.source}".encode()).hexdigest()

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts of the kind `choices`; none for other kinds."""
        return tuple(json.loads(self.source)) if self.kind == "choices" else ()


def _refuse(kind: str, why: str) -> NoReturn:
    raise InvalidInput(f"constraint {kind}: {why}")


def _parsed(kind: str, source: str) -> Any:
    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    try:
        return json.loads(source, parse_constant=constant)
    except RecursionError:
        _refuse(kind, "it is nested too deep")
    except ValueError as error:
        _refuse(kind, f"its source is not JSON: {error}")


def _check_choices(choices: Any) -> None:
    if not isinstance(choices, list) or not choices:
        _refuse("choices", "its source must be a JSON list of at least one text")
    for choice in choices:
        if not isinstance(choice, str) or not choice:
            _refuse(
                "choices", f"{shown(choice)} is no choice: each must be a text with a character"
            )
        if any("\ud800" <= sign <= "\udfff" for sign in choice):
            _refuse("choices", f"a lone surrogate stands in {choice!a}: remove it")
    if len(set(choices)) < len(choices):
        twice = next(choice for place, choice in enumerate(choices) if choice in choices[:place])
        _refuse("choices", f"{shown(twice)} stands there twice")


def _check_schema(schema: Any) -> None:
    if not isinstance(schema, dict | bool):
        _refuse("json_schema", f"{shown(schema)} is no schema: it must be a JSON object")
    depth, level = 0, [schema]
    while level:
        depth += 1
        if depth > DEEPEST_SCHEMA:
            _refuse("json_schema", f"it is nested over {DEEPEST_SCHEMA} levels deep")
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
