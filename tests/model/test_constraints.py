"""Answers of the default model with constraints: whatever it writes, each ended one satisfies its own."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry

from llmwit_magic.contract.constraint import Constraint, ConstraintKind
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, InferencingParams
from llmwit_magic.errors import ConstraintNotSupported
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.schemas import random_schema

pytestmark = pytest.mark.timeout(280)

PROMPTS = ("Write JSON:", "", "The answer is {", "Once upon a time", "\n\n", "日本の首都は", "[1, 2, 3",
           "Name, age and town of a person:", "def f(x):", "<|im_start|>user\nGo on", "!!!!!")  # fmt: skip


def asked(
    session: Session, model: Path, kind: ConstraintKind, source: str, prompt: str, **settings: Any
) -> Run:
    fields = {name: settings.pop(name) for name in ("engine", "chat") if name in settings}
    run = session.run(
        Request(
            model=str(model),
            prompt=prompt,
            params=InferencingParams(**{"max_tokens": 60, "seed": 1} | settings),
            constraint=Constraint(kind=kind, source=source),
            context_length=512,
            threads=1,
            **fields,
        )
    )
    assert run.wait(100)
    return run


@pytest.mark.timeout(3600)
def test_every_ended_answer_validates(
    session: Session, default_model_source: Path, request: pytest.FixtureRequest
) -> None:
    """Random schemas and prompts at temperature 1.5. Those that were cut say `length`."""
    trials = 1000 if request.config.getoption("--long") else 30
    ended = 0
    for number in range(trials):
        numbers = random.Random(number)
        schema = random_schema(numbers)
        prompt = numbers.choice(PROMPTS) or "\n"
        run = asked(
            session, default_model_source, "json_schema", json.dumps(schema), prompt,
            temperature=1.5, seed=number,
        )  # fmt: skip
        if isinstance(run.error, ConstraintNotSupported):  # parts that contradict each other
            continue
        assert run.error is None, (number, schema, run.error)
        result = run.result
        if result.finish_reason == "length":
            continue
        assert result.finish_detail in (FinishDetail.CONSTRAINT, FinishDetail.EOS), (number, schema)
        validator = Draft202012Validator(schema, registry=Registry())
        errors = [error.message for error in validator.iter_errors(json.loads(result.text))]
        assert not errors, (number, schema, result.text, errors)
        ended += 1
    print(f"{ended} of {trials} answers ended, and validate")
    assert ended > trials / 3


@pytest.mark.parametrize("engine", ["ctransformers", "llama.cpp"])
def test_both_engines_keep_each_kind(
    session: Session, default_model_source: Path, engine: str
) -> None:
    """The likely answer where it is a sensible one, and the row of the log says the constraint."""
    cases: list[tuple[ConstraintKind, str, str]] = [
        ("choices", '[" Paris", " Rome"]', " Paris"),
        ("regex", r" [A-Z][a-z]+[.,]", r" Paris[.,]"),
        ("grammar", 'root ::= " " city "!"\ncity ::= "Rome" | "Paris"', " Paris!"),
        ("json_schema", '{"enum": ["Paris", "Rome"]}', '"Paris"'),
    ]
    for kind, source, pattern in cases:
        run = asked(
            session, default_model_source, kind, source, "The capital of France is",
            temperature=0, engine=engine,
        )  # fmt: skip
        assert run.error is None
        assert re.fullmatch(pattern, run.result.text)
        assert run.result.finish_detail == FinishDetail.CONSTRAINT
        assert run.run_id is not None
        row = session.log.row(run.run_id)
        assert (row["constraint_kind"], row["constraint_source"]) == (kind, source)
        assert session.log[run.run_id].request.constraint == run.request.constraint
    again = session.run(run.request)
    assert again.wait(50)
    assert again.result.text == run.result.text


def test_a_chat_answers_with_a_record(session: Session, default_model_source: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "country": {"enum": ["France", "Italy"]},
        },
        "required": ["city", "country"],
        "additionalProperties": False,
    }
    run = asked(
        session, default_model_source, "json_schema", json.dumps(schema),
        "Describe the capital of France as JSON.", temperature=0, chat=True,
    )  # fmt: skip
    assert json.loads(run.result.text) == {"city": "Paris", "country": "France"}
