"""From a Python object to a constraint, and from an answer to the object's value."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Literal

import numpy
import pandas
import pytest
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import Request
from llmwit_magic.errors import ConstraintNotSupported, InvalidInput
from llmwit_magic.requests import expressions, json_schemas, shapes
from llmwit_magic.requests.expressions import NotValid
from tests.support.constrained import Invoice, Mood, Point


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Row(TypedDict):
    id: int


class Tree(BaseModel):
    name: str
    leaves: list[Tree] = []


def stated(**options: Any) -> Any:
    """The constraint of `infer(…, **options)`."""
    return shapes.with_constraint(options)["constraint"]


def schema_of(returns: Any) -> Any:
    made = stated(returns=returns)
    assert made.kind == "json_schema"
    return json.loads(made.source)


@pytest.mark.parametrize(
    ("choices", "texts"),
    [
        (["b", "a"], ("b", "a")),
        (("b", "a", "b"), ("b", "a")),
        ({"b", "a"}, ("a", "b")),
        ([1, numpy.int64(2), "3"], ("1", "2", "3")),
        (pandas.Series(["x", "y"]), ("x", "y")),
        (Mood, ("good", "bad")),
        (Level, ("1", "2")),
    ],
)
def test_choices(choices: Any, texts: tuple[str, ...]) -> None:
    """A list keeps its order, a set is sorted, a whole number is its text."""
    made = stated(choices=choices)
    assert (made.kind, made.choices) == ("choices", texts)


def test_labels_are_choices() -> None:
    """A `Literal` or an Enum of texts is choices: a model writes a label without quotes."""
    assert stated(returns=Literal["a", "b"]).choices == ("a", "b")
    assert stated(returns=Mood).choices == ("good", "bad")
    assert stated(returns=["a", "b"]).choices == ("a", "b")
    # Other values than texts are JSON, and come back as what they are.
    assert schema_of(Literal[1, "a"])["enum"] == [1, "a"]
    assert stated(returns=Level).typed("2") is Level.HIGH
    assert stated(choices=Mood).typed("bad") is Mood.BAD


@pytest.mark.parametrize(
    ("returns", "answer", "value"),
    [
        (Invoice, '{"name": "Ada", "amount": 2}', Invoice(name="Ada", amount=2.0)),
        (Point, '{"x": 1, "y": -2}', Point(1, -2)),
        (Row, '{"id": 7}', {"id": 7}),
        (list[Point], '[{"x": 1, "y": 2}]', [Point(1, 2)]),
        (int, "12345678901234567890", 12345678901234567890),
        (float, "1", 1.0),
        (bool, "true", True),
        (int | None, "null", None),
        (date, '"2026-01-02"', date(2026, 1, 2)),
        (Decimal, "1.10", Decimal("1.10")),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (Literal[1, 2], "2", 2),
    ],
)
def test_types(returns: Any, answer: str, value: Any) -> None:
    """Pydantic makes the schema, the plain JSON fits it, and the value has the type."""
    made = stated(returns=returns)
    json_schemas.check_value(json_schemas.parsed(answer), json.loads(made.source))
    typed = made.typed(answer)
    assert typed == value
    assert type(typed) is type(value)


def test_the_schema_of_a_type() -> None:
    """It has the fields in their order and no titles of them. No other keys are allowed, except
    where the model says so. Decimals are numbers with their bounds."""
    assert schema_of(Invoice) == {
        "properties": {"name": {"type": "string"}, "amount": {"type": "number"},
                       "due": {"anyOf": [{"format": "date", "type": "string"}, {"type": "null"}],
                               "default": None}},
        "required": ["name", "amount"], "title": "Invoice", "type": "object",
        "additionalProperties": False,
    }  # fmt: skip
    tree = schema_of(Tree)
    assert tree["$defs"]["Tree"]["additionalProperties"] is False

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        price: Decimal = Field(ge=0, lt=Decimal("9.5"), max_digits=5)

    assert schema_of(Open)["additionalProperties"] is True
    assert schema_of(Open)["properties"]["price"] == {
        "type": "number", "minimum": 0.0, "exclusiveMaximum": 9.5,
    }  # fmt: skip


def test_a_schema_is_kept_as_it_is() -> None:
    """The order of its keys is the order of the answer."""
    schema = {"type": "object", "properties": {"b": {}, "a": {"type": "null"}}}
    assert list(schema_of(schema)["properties"]) == ["b", "a"]
    assert schema_of(schema) == schema
    assert schema_of(True) is True


@pytest.mark.parametrize(
    ("expression", "source"),
    [
        (r"\d+", r"\d+"),
        (re.compile("a.", re.I | re.S), "(?is)a."),
        (re.compile("(?i)a"), "(?i)a"),
    ],
)
def test_expressions(expression: Any, source: str) -> None:
    """A compiled one has its flags in its text."""
    assert stated(regex=expression) == Constraint(kind="regex", source=source)
    if isinstance(expression, re.Pattern):
        assert stated(returns=expression).source == source


class Plain:
    pass


@dataclass
class Odd:
    x: Plain


class Same(Enum):
    A = 1
    B = "1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"choices": []}, "at least one text"),
        ({"choices": "yes"}, "is no list of texts"),
        ({"choices": {"a": 1}}, "is no list of texts"),
        ({"choices": 5}, "is no list of texts"),
        ({"choices": [1.5]}, "1.5 is neither a text nor a whole number"),
        ({"choices": [True]}, "True is neither"),
        ({"choices": [""]}, "each must be a text with a character"),
        ({"choices": ["\ud800"]}, "lone surrogate"),
        ({"choices": Same}, "have the same text"),
        ({"regex": b"a"}, "is no expression"),
        ({"regex": re.compile(b"a")}, "is no expression"),
        ({"regex": re.compile("a", re.X)}, "the flag VERBOSE"),
        ({"regex": ""}, "it is empty"),
        ({"grammar": 5}, "is no text of a grammar"),
        ({"returns": Plain}, "has no JSON schema"),
        ({"returns": Odd}, "has no JSON schema"),
        ({"returns": Plain()}, "has no JSON schema"),
        ({"returns": "Invoice"}, "is text: give the type itself"),
        ({"returns": {"type": "strng"}}, r"the JSON schema is not valid: $.type: 'strng'"),
        ({"returns": {"a": Plain}}, "the JSON schema is not JSON"),
        ({"returns": {"minimum": float("nan")}}, "the JSON schema is not JSON"),
        ({"returns": Invoice, "choices": ["a"]}, "returns and choices: an answer has one shape"),
        (
            {"regex": "a", "constraint": Constraint(kind="regex", source="a")},
            "regex and constraint",
        ),
    ],
)
def test_what_states_no_constraint(options: dict[str, Any], said: str) -> None:
    """One line says what is wrong."""
    with pytest.raises(InvalidInput) as caught:
        stated(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_none_is_not_given() -> None:
    """So a function can hand its own defaults on."""
    assert shapes.with_constraint({"returns": None, "chat": True}) == {"chat": True}


def test_a_schema_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `jsonschema` is missing, one line says how to install it. Other kinds do not need it."""
    monkeypatch.setitem(sys.modules, "jsonschema.exceptions", None)
    for returns in (Invoice, {"type": "null"}):
        with pytest.raises(
            ConstraintNotSupported, match=r'pip install "llmwit-magic\[constraints\]"'
        ):
            stated(returns=returns)
    assert stated(choices=["a"]).kind == "choices"


def test_the_type_stays_in_this_process() -> None:
    """A pickle, JSON and the log have the plain constraint, which is equal to the one with a type."""
    made = stated(returns=Invoice)
    plain = Constraint(kind=made.kind, source=made.source)
    assert made == plain
    assert plain == made
    assert hash(made) == hash(plain)
    assert made != Constraint(kind="regex", source="a")
    request = Request(model="m", prompt="p", constraint=made)
    again = pickle.loads(pickle.dumps(request))
    assert type(again.constraint) is Constraint
    assert again == request
    assert request.model_dump()["constraint"] == {"kind": made.kind, "source": made.source}
    for same in (copy.copy(request), copy.deepcopy(request), request.with_params(seed=1)):
        assert same.constraint.type is Invoice


# The strict reading of JSON ---------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"a": 1', "it is not JSON"),
        ("", "it is not JSON"),
        ("{} {}", "it is not JSON"),
        ("NaN", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("1e999", "the number 1e999 is too large"),
        ('{"a": 1, "a": 1}', "the key 'a' stands in it twice"),
        ("9" * 5000, "an integer in it has too many digits"),
        ('"\\ud800"', "a text in it has a lone surrogate"),
        ("[" * 100_000 + "]" * 100_000, "it is nested too deep"),
    ],
)
def test_what_is_no_value(answer: str, said: str) -> None:
    """What the standard of JSON leaves open is no value: two readers would read two things."""
    with pytest.raises(NotValid, match=re.escape(said)):
        json_schemas.parsed(answer)


def test_large_whole_numbers_are_exact() -> None:
    """An integer that no float can hold stays itself."""
    assert json_schemas.parsed(' {"n": 9007199254740993} ') == {"n": 2**53 + 1}


def fork(levels: int) -> dict[str, Any]:
    """A schema whose check takes a time that doubles with each level."""
    names = [f"#/$defs/d{level}" for level in range(levels)]
    inner = {
        f"d{level}": {"anyOf": [{"$ref": names[level + 1]}, {"$ref": names[level + 1]}]}
        for level in range(levels - 1)
    }
    return {"$ref": names[0], "$defs": inner | {f"d{levels - 1}": {"type": "null"}}}


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"properties": {"a": {"type": "number"}}}, {"a": "x"}, r"$.a: 'x' is not of type 'number'"),
        ({"type": "string", "format": "date"}, "yesterday", "is not a 'date'"),
        ({"pattern": r"^\p{L}+$"}, "a1", "does not match"),
        ({"pattern": "(a|aa)+$"}, "a" * 60 + "b", "takes over"),
        ({"patternProperties": {"^x": {"type": "null"}}}, {"xy": 1}, "is not of type 'null'"),
        ({"$ref": "#"}, 1, "the check by the schema has no end"),
        (fork(40), 1, "the check by the schema takes over"),
        ({"$ref": "http://127.0.0.1:9/schema"}, 1, "it cannot be checked"),
        ({"$ref": "file:///etc/hostname"}, 1, "it cannot be checked"),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema",
          "properties": {"a": {"$ref": "#"}, "b": {"pattern": "(a|aa)+$"}}},
         {"a": {"b": "a" * 60 + "b"}}, "takes over"),
        ({"type": 5}, 1, "it cannot be checked"),
        (False, 1, "False schema does not allow 1"),
    ],
)  # fmt: skip
def test_what_a_schema_does_not_allow(
    schema: Any, value: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says where. No check goes on for ever, and nothing is fetched."""
    monkeypatch.setattr(json_schemas, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(expressions, "MATCH_SECONDS", 0.2)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(NotValid, match=re.escape(said)):
        json_schemas.check_value(value, schema)


def test_a_large_schema_is_read_in_bounded_time() -> None:
    """Its check takes a time that grows with its size. The engine refuses what it does not take."""
    nested: Any = {"type": "strng"}
    for _ in range(12):
        nested = {"anyOf": [nested, nested]}
    assert schema_of(nested) == nested


# Expressions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        "a{100000000}", "((a{1000}){1000}){1000}", "(?:(?:[ab]{999,}){999}){999}", r"(\d{400}){400}",
        "a{99999999999999999999}", "[" * 200_000, "a|" * 400_000, "(" * 2_000 + "a" + ")" * 2_000,
        "(?:" * 30_000, "[[:foo:]",
    ],
    ids=lambda expression: expression[:20],
)  # fmt: skip
def test_expressions_that_are_too_large_to_check(expression: str) -> None:
    """The library would write their repetitions out, and fill the memory of the kernel."""
    with pytest.raises(NotValid, match="the expression"):
        expressions.matches(expression, "a")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (r"[a-z]{1,100}( [a-z]{1,100}){0,500}", "ab cd"),
        (r"\d{4}-\d\d(\(\d{3}\)){20}", "2026-11" + "(123)" * 20),
        (r"(?P<x>[^\]{}]{1000})", "x" * 1000),
        (r"a{,5}{", "aa{"),
    ],
)
def test_ordinary_repetitions_are_checked(expression: str, text: str) -> None:
    """Ranges are not written out, and counts side by side add up."""
    assert expressions.matches(expression, text)
    assert expressions.finds(expression, f"- {text} -")
    assert not expressions.matches(expression, f"- {text} -")


@pytest.mark.parametrize("empty", [[], (), set(), pandas.Series([], dtype=object)])
def test_no_choices_are_refused(empty: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^choices: there is none: give at least one text$"):
        shapes.of_choices(empty)
