"""Constraints on a real llama-server of the default model: what is asked for is what comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import regex
from referencing import Registry

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.errors import ConstraintNotSupported
from llmwit_magic.running.session import Session
from tests.support.llama_server import LlamaServerChild, running_llama_server

Ask = Callable[..., InferencingResult]
PROMPTS = ("Is it sunny today?", "Tell me of a person.", "1, 2, 3,", "日本の首都は")
CHOICES = ("yes", "no", "maybe", "maybe not", 'a "quoted\\one"', "日本", "line\nline")
EXPRESSIONS = (
    r"\d{3}-[a-z]{2,5}",
    r"(?:yes|no)[.!?]{0,3}",
    r"[^\d\s]{2,6}",
    r"[A-Z][a-z]{1,9}( [A-Z][a-z]{1,9}){0,3}",
    r"\D{3}\S{2}\W",
    r"\x41\u00e9[é-ü]{2}\.?",
    r"(a|b)?(ab|ba){1,4}|c{5}",
    r"(?is)[^a-y\d]{2}.é[b-d]x",
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog", None, 7]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "one": {"oneOf": [{"const": 1}, {"$ref": "#/$defs/date"}]},
    },
    "required": ["name", "age", "kind", "tags", "one"],
    "additionalProperties": False,
    "$defs": {"date": {"type": "string", "format": "date"}},
}
GRAMMAR = 'root ::= "move " side (" " side)?\nside ::= "left" | "right" | [0-9]{1,3} " steps"'


@pytest.fixture(scope="module")
def server(default_model_source: Path) -> Iterator[LlamaServerChild]:
    with running_llama_server(default_model_source) as child:
        yield child


@pytest.fixture
def ask(server: LlamaServerChild, session: Session) -> Ask:
    def run(kind: Any, source: str, prompt: str, seed: int = 0, **values: Any) -> Any:
        params = {"temperature": 1.5, "seed": seed, "max_tokens": 120, **values.pop("params", {})}
        constraint = Constraint(kind=kind, source=source)
        request = Request(
            model=server.url, prompt=prompt, constraint=constraint, params=params, **values
        )
        done = session.run(request)
        assert done.wait(60)
        done.raise_failure()
        return done.result

    return run


def is_choice(text: str) -> bool:
    return text in CHOICES


def is_record(text: str) -> bool:
    validator = jsonschema.Draft202012Validator(SCHEMA, registry=Registry())
    return validator.is_valid(json.loads(text))


def is_move(text: str) -> bool:
    side = r"(left|right|[0-9]{1,3} steps)"
    return regex.fullmatch(rf"move {side}( {side})?", text) is not None


@pytest.mark.parametrize(
    ("kind", "source", "valid"),
    [
        ("choices", json.dumps(CHOICES), is_choice),
        ("json_schema", json.dumps(SCHEMA), is_record),
        ("grammar", GRAMMAR, is_move),
    ],
    ids=["choices", "json_schema", "grammar"],
)
def test_twenty_warm_answers_are_valid(
    kind: str, source: str, valid: Callable[[str], bool], ask: Ask
) -> None:
    """Without the constraint, answers at this temperature are anything."""
    answers = [ask(kind, source, PROMPTS[seed % 4], seed, chat=seed % 2 == 1) for seed in range(20)]
    assert [answer.text for answer in answers if not valid(answer.text)] == []
    ended = "constraint" if kind == "choices" else "eos"
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert ended in {answer.finish_detail for answer in answers}
    assert len({answer.text for answer in answers}) > 2
    assert {answer.value_error for answer in answers} == {None}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_written_for_an_expression_matches_it(expression: str, ask: Ask) -> None:
    for seed in range(20 if expression == EXPRESSIONS[0] else 4):
        answer = ask("regex", expression, PROMPTS[seed % 4], seed)
        assert regex.fullmatch(expression, answer.text), answer.text
        assert answer.finish_detail == "eos"


def test_a_choice_is_known_to_be_whole_where_no_other_goes_on(ask: Ask) -> None:
    """Else the model has decided to end it. Either way the end is no generated token."""
    whole = ask("choices", '["Paris"]', "The capital of France is", params={"temperature": 0})
    assert (whole.text, whole.finish_reason, whole.finish_detail) == ("Paris", "stop", "constraint")
    open_end = ask("choices", '["a", "aaaaaaaaaaaaaaaa"]', PROMPTS[0], params={"temperature": 0})
    assert open_end.finish_detail == ("eos" if open_end.text == "a" else "constraint")
    listed = ask("choices", '["Paris"]', "The capital of France is", top_logprobs=2)
    assert listed.tokens is not None
    assert listed.usage.generated_token_count == len(listed.tokens)
    assert b"".join(token.bytes for token in listed.tokens) == b"Paris"
    # The log-probabilities are those of the model without the constraint.
    assert listed.tokens[0].logprob < -2


def test_half_a_record_is_a_length(ask: Ask) -> None:
    cut = ask("json_schema", json.dumps(SCHEMA), PROMPTS[1], params={"max_tokens": 5})
    assert (cut.finish_reason, cut.finish_detail) == ("length", "max_tokens")


def test_many_choices_cost_little(ask: Ask) -> None:
    choices = [f"label {i}" for i in range(1000)]
    assert ask("choices", json.dumps(choices), PROMPTS[0]).text in choices


@pytest.mark.parametrize(
    ("kind", "source", "named"),
    [
        ("grammar", 'start: "a"', "takes GBNF"),
        ("grammar", '%llguidance {}\nstart ::= "a"', "takes GBNF"),
        ("grammar", 'root ::= "a', "failed to parse grammar"),
        ("grammar", 'root ::= root "a"', "failed to parse grammar"),
        ("json_schema", '{"not": {}}', "it has 'not'"),
        ("json_schema", '{"$ref": "http://127.0.0.1:1/x"}', "never fetched"),
        ("regex", "(?=a)b", "a look-ahead"),
        ("regex", "(a?b?){0,1}" * 300, "parts that may be left out"),
    ],
)
def test_what_it_cannot_do_is_refused_and_the_server_lives(
    kind: str, source: str, named: str, ask: Ask, server: LlamaServerChild
) -> None:
    with pytest.raises(ConstraintNotSupported) as caught:
        ask(kind, source, PROMPTS[0])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.process.poll() is None


def test_accepted_without_it_the_run_says_so(ask: Ask) -> None:
    result = ask("regex", "(?=a)b", PROMPTS[0], accept="unsupported", params={"max_tokens": 3})
    assert result.not_honoured == ("constraint",)
    assert result.text
