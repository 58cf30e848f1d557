"""A constraint is checked when it is made, and it stays with its request wherever that goes."""

from __future__ import annotations

import json

import pytest

from llmwit_magic.contract.constraint import DEEPEST_SCHEMA, LARGEST_SOURCE, Constraint
from llmwit_magic.contract.engine import Capabilities, check_honoured
from llmwit_magic.contract.request import Request
from llmwit_magic.engines.local.wire import Run, decoded, encoded
from llmwit_magic.errors import ConstraintNotSupported, InvalidInput
from llmwit_magic.runlog.rows import as_read, request_of, request_row
from llmwit_magic.running.batch import batch_name

YES_NO = Constraint(kind="choices", source='["yes", "no"]')
KINDS = (
    YES_NO,
    Constraint(kind="regex", source=r"[a-z]+\n?"),
    Constraint(kind="json_schema", source='{"properties": {"b": {}, "a": {}}}'),
    Constraint(kind="grammar", source='start: "ü" | "b"'),
)


@pytest.mark.parametrize("constraint", KINDS, ids=lambda constraint: constraint.kind)
def test_a_constraint_goes_over_the_wire_and_through_the_log(constraint: Constraint) -> None:
    request = Request(model="m", prompt="p", constraint=constraint)
    assert decoded(encoded(Run(request, 0))).request == request
    row = request_row(request)
    assert (row["constraint_kind"], row["constraint_source"]) == (
        constraint.kind,
        constraint.source,
    )
    assert row["constraint_hash"] == constraint.hash
    assert len(constraint.hash) == 64
    assert request_of(as_read(row)) == request


def test_requests_with_other_constraints_are_other_batches() -> None:
    requests = [Request(model="m", prompt="p")]
    requests += [Request(model="m", prompt="p", constraint=constraint) for constraint in KINDS]
    assert len({batch_name("t", request) for request in requests}) == len(requests)
    assert len({constraint.hash for constraint in KINDS}) == len(KINDS)


def test_the_choices_are_the_texts_in_their_order() -> None:
    assert YES_NO.choices == ("yes", "no")
    assert KINDS[1].choices == ()


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("choice", "[]", "kind: 'choice' is not valid: it must be choices, regex, json_schema"),
        ("regex", "", "constraint regex: it is empty"),
        ("grammar", " \n", "constraint grammar: it is empty"),
        ("regex", "a\ud800", "source: a lone surrogate"),
        ("grammar", "a" * (LARGEST_SOURCE + 1), "it has 1,000,001 bytes, and may have 1,000,000"),
        ("choices", "yes", "constraint choices: its source is not JSON: Expecting value"),
        ("choices", "[]", "a JSON list of at least one text"),
        ("choices", '{"a": 1}', "a JSON list of at least one text"),
        ("choices", '["a", ""]', "'' is no choice: each must be a text with a character"),
        ("choices", '["a", 1]', "1 is no choice"),
        ("choices", '["a", "b", "a"]', "'a' stands there twice"),
        ("choices", '["\\ud800"]', "a lone surrogate stands in"),
        ("json_schema", "{", "constraint json_schema: its source is not JSON"),
        ("json_schema", "[]", r"\[\] is no schema: it must be a JSON object"),
        ("json_schema", '{"minimum": NaN}', "NaN is no number of JSON"),
        ("json_schema", '{"minimum": -Infinity}', "-Infinity is no number of JSON"),
        ("json_schema", '{"minimum": ' + "1" * 5000 + "}", "constraint json_schema"),
        ("json_schema", '{"a":' * DEEPEST_SCHEMA + "1" + "}" * DEEPEST_SCHEMA, "over 128 levels"),
        ("json_schema", '{"a":' * 100_000, "it is nested too deep"),
    ],
)
def test_a_source_that_cannot_be_of_its_kind_is_refused(
    kind: str, source: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        Request(model="m", prompt="p", constraint={"kind": kind, "source": source})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1100


def test_the_deepest_schema_is_taken() -> None:
    deep = '{"a":' * (DEEPEST_SCHEMA - 1) + "1" + "}" * (DEEPEST_SCHEMA - 1)
    assert json.loads(Constraint(kind="json_schema", source=deep).source)


def test_an_engine_without_constraints_refuses_them_by_name() -> None:
    request = Request(model="m", prompt="p", constraint=YES_NO)
    with pytest.raises(ConstraintNotSupported, match="constraint choices: the engine of m cannot"):
        check_honoured(request, Capabilities())
    check_honoured(request, Capabilities(constraints={"choices"}))
