"""What constraints can have: what is refused by name before a run, and what is taken and honoured."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from referencing import Registry

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.wit import FinishDetail
from llmwit_magic.errors import ConstraintNotSupported
from tests.support.masked_runs import BYTES, regex, run, vocabulary
from tests.support.schemas import random_schema

ROOT = "constraint json_schema: "
REFUSED: dict[str, tuple[Any, str]] = {
    "not": ({"not": {"type": "string"}}, "not"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "contains": ({"type": "array", "contains": {}}, "contains"),
    "minContains": ({"type": "array", "minContains": 1}, "minContains"),
    "maxContains": ({"type": "array", "maxContains": 1}, "maxContains"),
    "if": ({"if": {"type": "string"}, "then": False}, "if"),
    "then": ({"then": {"type": "string"}}, "then"),
    "else": ({"else": {"type": "string"}}, "else"),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "dependentSchemas": ({"dependentSchemas": {"a": {}}}, "dependentSchemas"),
    "dependencies": ({"dependencies": {"a": ["b"]}}, "dependencies"),
    "propertyNames": ({"propertyNames": {"maxLength": 3}}, "propertyNames"),
    "unevaluatedProperties": ({"unevaluatedProperties": False}, "unevaluatedProperties"),
    "unevaluatedItems": ({"unevaluatedItems": False}, "unevaluatedItems"),
    "$dynamicRef": ({"$dynamicRef": "#a"}, r"\$dynamicRef"),
    "$ref to a file": ({"$ref": "file:///etc/passwd"}, r"\$ref at # leads to .file:///etc/passwd"),
    "$ref to a URL": ({"items": {"$ref": "http://h/s"}}, r"\$ref at #/items leads to .http://h/s"),
    "$ref to a name": ({"$ref": "other.json"}, r"\$ref at # leads to"),
    "$ref to nothing": ({"$ref": "#/$defs/a"}, "a"),
    "$ref to itself": ({"$ref": "#"}, "no text that the model can write"),
    "format": ({"type": "string", "format": "ipv9"}, "Unknown format: ipv9"),
    "look-ahead": ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
    "back-reference": ({"type": "string", "pattern": r"(a)\1"}, "backreferences"),
    "$schema": ({"$schema": "http://h/mine"}, r"\$schema at # is .http://h/mine"),
    "inner $schema": (
        {"items": {"$schema": "https://json-schema.org/draft/2020-12/schema"}},
        r"\$schema at #/items",
    ),
    "items as a list": ({"type": "array", "items": [{}]}, "items at # is a list"),
    "additionalItems": ({"type": "array", "additionalItems": {}}, "additionalItems at #"),
    "x-guidance": ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
    "overlapping oneOf": ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, "oneOf"),
    "large const": ({"const": 2**53 + 1}, "const at # has the number 9007199254740993"),
    "large enum": ({"enum": [{"a": [2**60]}]}, "enum at # has the number"),
    "minProperties": ({"type": "object", "minProperties": 2}, "minProperties at #"),
    "false": (False, "no JSON satisfies it"),
    "type": ({"type": "text"}, "text"),
    "empty enum": ({"enum": []}, "enum|anyOf|option"),
    "contradiction": ({"type": "integer", "minimum": 3, "maximum": 1}, "minimum|maximum"),
}  # fmt: skip
TAKEN: dict[str, Any] = {
    "true": True,
    "annotations": {"title": "t", "description": "d", "default": 1, "examples": [1],
                    "deprecated": True, "readOnly": True, "writeOnly": True, "$comment": "c"},
    "unknown keyword": {"type": "integer", "discriminator": {"propertyName": "a"}},
    "draft 7": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
                "items": [{"type": "null"}], "additionalItems": False},
    "type": {"type": ["integer", "null"]},
    "const": {"const": {"a": [1, None, "x"]}},
    "enum": {"enum": ["a", 1, None, True, [1]]},
    "anyOf": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    "oneOf": {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
    "allOf": {"allOf": [{"type": "integer"}, {"minimum": 1}, {"maximum": 9}]},
    "$ref": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}},
    "$anchor": {"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "null"}}},
    "recursive": {"type": "array", "items": {"$ref": "#"}},
    "prefixItems": {"type": "array", "prefixItems": [{"type": "null"}], "items": False},
    "items": {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
    "properties": {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "null"}},
                   "required": ["a", "b"], "additionalProperties": False},
    "patternProperties": {"type": "object", "patternProperties": {"^a": {"type": "null"}},
                          "additionalProperties": False},
    "minProperties": {"type": "object", "minProperties": 1, "maxProperties": 3},
    "minLength": {"type": "string", "minLength": 1, "maxLength": 3},
    "pattern": {"type": "string", "pattern": "^[a-z]+$"},
    "minimum": {"type": "number", "minimum": -1, "exclusiveMaximum": 2.5},
    "multipleOf": {"type": "integer", "multipleOf": 3},
    **{f"format {name}": {"type": "string", "format": name} for name in (
        "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_ignored_is_refused_by_name(name: str) -> None:
    """Before the run, on one line."""
    schema, message = REFUSED[name]
    constraint = Constraint(kind="json_schema", source=json.dumps(schema))
    with pytest.raises(ConstraintNotSupported, match=message) as caught:
        vocabulary(BYTES).mask(constraint)
    assert str(caught.value).startswith(ROOT)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_is_honoured(name: str) -> None:
    """Answers with random letters validate, as far as they end."""
    schema = TAKEN[name]
    validator = validator_for(schema, Draft202012Validator)(schema, registry=Registry())
    constraint = Constraint(kind="json_schema", source=json.dumps(schema))
    for seed in range(6):
        outcome = run(BYTES, constraint, seed=seed, temperature=1.5, max_tokens=150)
        assert outcome.error is None
        if outcome.finish is not FinishDetail.MAX_TOKENS:
            validator.validate(json.loads(outcome.text))


def test_json_is_written_as_python_writes_it() -> None:
    """One space behind commas and colons, no line ends; the properties in the schema's order."""
    schema = {
        "type": "object",
        "properties": {"b": {"const": [1, 2]}, "a": {"const": {"é": None}}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    outcome = run(BYTES, Constraint(kind="json_schema", source=json.dumps(schema)))
    assert outcome.text == json.dumps({"b": [1, 2], "a": {"é": None}}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('root ::= "a', "read as GBNF"),
        ("root ::= foo", "read as GBNF: Rule 'foo' not found"),
        ('rule ::= "a"', "read as GBNF: No 'root' rule"),
        ('root: "a"', "read as Lark: llguidance refuses it: no start rule"),
        ("start: start", "read as Lark: llguidance refuses it: no text that the model can write"),
        ('start: "a" <|im_end|>', r"read as Lark: <\|im_end\|> is a control token"),
        ("start: <[2]>", r"read as Lark: <\[2\]> is a control token"),
        ("start: @other", "read as Lark"),
        ('start: %json {"not": {}}', "Unimplemented keys"),
        ("start: /a(?=b)/", "look-around"),
        ("hello", "read as Lark"),
        ("root ::= [z-a]", "read as GBNF"),
    ],
)
def test_a_grammar_that_is_none_is_refused_and_says_as_what_it_was_read(
    source: str, message: str
) -> None:
    with pytest.raises(ConstraintNotSupported, match=message) as caught:
        vocabulary(BYTES).mask(Constraint(kind="grammar", source=source))
    assert "\n" not in str(caught.value)


def test_names_in_texts_of_lark_are_no_control_tokens() -> None:
    source = '// not <this>\nstart: "<a>" /<b>/ # nor <that>\n'
    assert run(BYTES, Constraint(kind="grammar", source=source)).text == "<a><b>"


@pytest.mark.parametrize(
    "source", ["a(?=b)", "(?<!a)b", r"(a)\1", "(", "a{2,1}", r"\p{Foo}", "[b-a]"]
)
def test_an_expression_that_is_not_taken_is_refused(source: str) -> None:
    with pytest.raises(
        ConstraintNotSupported, match="constraint regex: llguidance refuses it"
    ) as caught:
        vocabulary(BYTES).mask(regex(source))
    assert len(str(caught.value)) < 200


def test_answers_to_random_schemas_validate() -> None:
    """80 schemas of the keywords that are taken, and random letters. tests/model has a real model."""
    ended = 0
    for number in range(80):
        schema = random_schema(random.Random(number))
        constraint = Constraint(kind="json_schema", source=json.dumps(schema))
        outcome = run(BYTES, constraint, seed=number, temperature=1.5, max_tokens=200)
        assert outcome.error is None
        if outcome.finish is FinishDetail.MAX_TOKENS:
            continue
        validator = Draft202012Validator(schema, registry=Registry())
        errors = [error.message for error in validator.iter_errors(json.loads(outcome.text))]
        assert not errors, (number, schema, outcome.text)
        ended += 1
    assert ended > 40
