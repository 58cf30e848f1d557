"""What each kind of server is told of a constraint, and what becomes of its answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.engines.server.answers import Facts
from llmwit_magic.engines.server.dialects.constraint_fields import LLAMA_SERVER, VLLM, told
from llmwit_magic.engines.server.dialects.openai_style import OPENAI
from llmwit_magic.engines.server.dialects.schema_checks import (
    check_known_to_llama_server,
    strict_objection,
)
from llmwit_magic.errors import ConstraintNotSupported, EngineFailed, InferenceError, InvalidInput
from llmwit_magic.running.session import Session
from tests.support.speaking import SpeakingHandler, SpeakingServer, speaking

__all__ = ["speaking"]
Start = Callable[[str], SpeakingServer]
Ask = Callable[..., InferencingResult]

OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
STRICT = {**OPEN, "additionalProperties": False}
GBNF = 'root ::= "a" [0-9]+'
LARK = 'start: "a" /[0-9]+/'
CHOICES = Constraint(kind="choices", source=json.dumps(["yes", "no.", "a|b"]))
REGEX = Constraint(kind="regex", source=r"\d{3}")
SCHEMA = Constraint(kind="json_schema", source=json.dumps(OPEN))
GRAMMAR = Constraint(kind="grammar", source=GBNF)


@pytest.fixture
def ask(session: Session) -> Ask:
    """Runs a prompt with a constraint on a server. Raises what the run raises."""

    def run(server: SpeakingServer, constraint: Constraint, **values: Any) -> Any:
        session.servers = {"lab": {"url": server.url, "kind": server.kind}}
        params = {"temperature": 0, "max_tokens": 20, **values.pop("params", {})}
        request = Request(
            model="lab::m", prompt="The", params=params, constraint=constraint, **values
        )
        with session.run(request) as done:
            assert done.wait(20)
            done.raise_failure()
            return done.result

    return run


def response_format(schema: Any, strict: bool = True) -> dict[str, Any]:
    described = {"name": "answer", "schema": schema, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


COMPLETIONS = {
    "vllm": [
        (CHOICES, {"structured_outputs": {"choice": ["yes", "no.", "a|b"]}}),
        (REGEX, {"structured_outputs": {"regex": r"\d{3}"}}),
        (SCHEMA, {"structured_outputs": {"json": OPEN}}),
        (GRAMMAR, {"structured_outputs": {"grammar": GBNF}}),
    ],
    "sglang": [
        (CHOICES, {"regex": r"(yes|no\.|a\|b)"}),
        (REGEX, {"regex": r"\d{3}"}),
        (SCHEMA, {"json_schema": json.dumps(OPEN)}),
        (GRAMMAR, {"ebnf": GBNF}),
    ],
    "ollama": [(SCHEMA, {"format": OPEN})],
    "lmstudio": [],
    "openai": [],
    "other": [(SCHEMA, response_format(OPEN))],
}
CHATS = COMPLETIONS | {
    "sglang": [*COMPLETIONS["sglang"][:2], (SCHEMA, response_format(OPEN)), (GRAMMAR, {"ebnf": GBNF})],
    "lmstudio": [(SCHEMA, response_format(OPEN))],
    "openai": [(SCHEMA, response_format(OPEN, strict=False))],
}  # fmt: skip
FIELDS = (
    "structured_outputs", "regex", "json_schema", "ebnf", "format", "response_format", "grammar",
    "guided_json",
)  # fmt: skip


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", COMPLETIONS)
def test_each_kind_is_told_in_its_own_words_or_refuses(
    kind: str, chat: bool, speaking: Start, ask: Ask
) -> None:
    """What it cannot be told is refused before anything is sent, or run without and said."""
    server = speaking(kind)
    sent = dict((CHATS if chat else COMPLETIONS)[kind])
    for constraint in (CHOICES, REGEX, SCHEMA, GRAMMAR):
        before = len([path for path, _ in server.asked if path in server.vicious])
        if constraint in sent:
            result = ask(server, constraint, chat=chat)
            assert {name: server.body[name] for name in FIELDS if name in server.body} == sent[
                constraint
            ]
            assert "constraint" not in result.not_honoured
            continue
        with pytest.raises(ConstraintNotSupported, match=rf"constraint {constraint.kind}: {kind} "):
            ask(server, constraint, chat=chat)
        assert len([path for path, _ in server.asked if path in server.vicious]) == before
        result = ask(server, constraint, chat=chat, accept="unsupported")
        assert "constraint" in result.not_honoured
        assert not any(name in server.body for name in FIELDS)


def test_without_a_constraint_nothing_is_sent(speaking: Start, session: Session) -> None:
    for kind in COMPLETIONS:
        server = speaking(kind)
        session.servers = {"lab": {"url": server.url, "kind": kind}}
        request = Request(model="lab::m", prompt="The", params={"temperature": 0, "max_tokens": 3})
        with session.run(request) as run:
            assert run.wait(20)
        assert not any(name in server.body for name in FIELDS)


@pytest.mark.parametrize(
    ("version", "field"),
    [("0.10.2", "guided_json"), ("0.9.0", "guided_json"), ("0.11.0", "structured_outputs"),
     ("0.32.0", "structured_outputs"), ("1.0.0", "structured_outputs"),
     ("0.1.dev1+g12", "structured_outputs"), ("", "structured_outputs")],
)  # fmt: skip
def test_an_older_vllm_is_told_by_its_older_fields(version: str, field: str) -> None:
    """Each version passes silently over the fields of the other ones."""
    request = Request(model="m", prompt="p", constraint=SCHEMA)
    assert set(told(request, Facts(version, "m"), "vllm", VLLM).fields) == {field}


def test_what_llama_server_is_told() -> None:
    """Choices and expressions as GBNF. The layout is for a server that was built with llguidance."""

    def sent(constraint: Constraint, **values: Any) -> Any:
        request = Request(model="m", prompt="p", constraint=constraint, **values)
        return told(request, Facts("", "m"), "llama-server", LLAMA_SERVER)

    layout = {
        "coerce_one_of": True, "whitespace_flexible": False,
        "item_separator": ", ", "key_separator": ": ",
    }  # fmt: skip
    assert sent(CHOICES).fields == {"grammar": r'root ::= "a\x7Cb" | "no\x2E" | "yes"'}
    assert sent(REGEX).fields == {"grammar": "root ::= [0-9]{3}"}
    assert sent(SCHEMA).fields == {"json_schema": {**OPEN, "x-guidance": layout}}
    assert sent(Constraint(kind="json_schema", source="true")).fields == {"json_schema": {}}
    assert sent(GRAMMAR).fields == {"grammar": GBNF}
    # A server that was built without llguidance would abort at these.
    for source in (LARK, "%llguidance {}\nstart ::= a"):
        with pytest.raises(ConstraintNotSupported, match="llama-server takes GBNF"):
            sent(Constraint(kind="grammar", source=source))
    accepted = sent(Constraint(kind="grammar", source=LARK), accept="unsupported")
    assert (accepted.fields, accepted.not_honoured) == ({}, ("constraint",))


def test_a_grammar_of_lark_is_for_vllm_only(speaking: Start, ask: Ask) -> None:
    lark = Constraint(kind="grammar", source=LARK)
    vllm = speaking("vllm")
    assert ask(vllm, lark).text
    assert vllm.body["structured_outputs"] == {"grammar": LARK}
    with pytest.raises(ConstraintNotSupported, match="sglang takes GBNF"):
        ask(speaking("sglang"), lark)


def test_what_is_not_promised_is_said(speaking: Start, ask: Ask) -> None:
    other = ask(speaking("other"), SCHEMA)
    assert other.notices == ("whether this server holds answers to a schema is not known",)
    hint = ask(speaking("openai"), SCHEMA, chat=True)
    assert hint.notices == (
        "the server takes the schema as a hint only: an object in it allows other properties "
        "(additionalProperties)",
    )
    server = speaking("openai")
    strict = ask(server, Constraint(kind="json_schema", source=json.dumps(STRICT)), chat=True)
    assert strict.notices == ()
    assert server.body["response_format"]["json_schema"]["strict"] is True
    assert OPENAI.constraints.keys() == {"json_schema"}


@pytest.mark.parametrize(
    ("schema", "objection"),
    [
        (STRICT, None),
        ({"type": "array", "items": STRICT}, "not of one object"),
        ({**STRICT, "required": []}, "may be left out"),
        ({**STRICT, "properties": {"a": OPEN}}, "other properties"),
        ({**STRICT, "$defs": {"b": OPEN}}, "other properties"),
        ({**STRICT, "properties": {"a": {"allOf": [STRICT]}}}, "it has allOf"),
        ({**STRICT, "properties": {"a": {"enum": [OPEN, {"not": 1}]}}}, None),
        ({**STRICT, "properties": {"a": True}}, "true or false"),
        (True, "not of one object"),
    ],
)
def test_which_schemas_openai_takes_as_strict(schema: Any, objection: str | None) -> None:
    found = strict_objection(schema)
    assert (found is None) == (objection is None)
    assert (objection or "") in (found or "")


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"not": {}}, "'not'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"contains": {}}, "'contains'"),
        ({"if": {}, "then": {}}, "'if'"),
        ({"propertyNames": {"pattern": "a"}}, "'propertyNames'"),
        ({"$ref": "http://127.0.0.1:1/x.json"}, "never fetched"),
        ({"$ref": "file:///etc/hostname"}, "never fetched"),
        ({"type": "text"}, "the type 'text'"),
        ({"type": "string", "format": "colour"}, "the format 'colour'"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": r"(a)\1"}, "back-reference"),
        ({"patternProperties": {"(?<!a)b": {}}}, "look-around"),
        (False, "allows nothing"),
    ],
)
def test_what_llama_server_passes_over_is_refused_by_name(part: Any, named: str) -> None:
    """It would answer without any constraint."""
    for schema in (part, {"properties": {"x": part}}, {"anyOf": [{"items": part}]},
                   {"$defs": {"x": {"prefixItems": [part]}}}):  # fmt: skip
        with pytest.raises(ConstraintNotSupported, match=named):
            check_known_to_llama_server(schema)
    # Data is no schema.
    check_known_to_llama_server({"enum": [part], "default": part, "const": part})
    check_known_to_llama_server({"type": "object", "uniqueItems": False, **STRICT})


def test_a_server_that_refuses_the_schema_is_one_line(speaking: Start, ask: Ask) -> None:
    """Of the error's own class where it is about the constraint, and else as any refusal."""
    server = speaking("vllm")

    def refuse(words: str) -> None:
        def vice(handler: SpeakingHandler) -> None:
            handler.json({"error": {"message": words, "code": 400}}, 400)

        server.vice = vice

    refuse("Failed to compile the grammar:\n unknown keyword 'foo'")
    with pytest.raises(ConstraintNotSupported, match="the grammar: unknown keyword 'foo'"):
        ask(server, SCHEMA)
    refuse("temperature must be\n below 2")
    with pytest.raises(InvalidInput) as caught:
        ask(server, SCHEMA)
    assert type(caught.value) is InvalidInput
    assert "\n" not in str(caught.value)


def test_a_server_that_ignores_the_constraint_ends_as_it_says(speaking: Start, ask: Ask) -> None:
    """Nothing is taken for an end by the constraint that the server does not call one."""
    server = speaking("vllm")
    result = ask(server, CHOICES)
    assert (result.text, result.finish_reason, result.finish_detail) == (
        " Paris. It is big.", "stop", "eos",
    )  # fmt: skip
    assert result.value is None
    assert (result.value_error or "").startswith("not valid")
    server.text = ["no", "."]
    assert (ask(server, CHOICES).value, ask(server, CHOICES).finish_detail) == ("no.", "eos")


def test_half_a_record_is_a_length_or_an_error(speaking: Start, ask: Ask) -> None:
    server = speaking("vllm")
    server.text = ['{"a"', ": 1", "2}"]
    cut = ask(server, SCHEMA, params={"max_tokens": 2})
    assert (cut.text, cut.finish_reason, cut.finish_detail) == ('{"a": 1', "length", "max_tokens")
    assert (cut.value, cut.value_error) == (None, "cut by max tokens")
    whole = ask(server, SCHEMA)
    assert (whole.value, whole.value_error) == ({"a": 12}, None)
    server.cut = 0.3
    with pytest.raises(EngineFailed, match="the text so far is kept"):
        ask(server, SCHEMA)


def test_hostile_sources_are_refused_in_no_time(speaking: Start, ask: Ask) -> None:
    """A wide schema is looked through once, and what is data in it is not."""
    wide = {"properties": {f"p{i}": {"type": "integer"} for i in range(20_000)}}
    check_known_to_llama_server(wide)
    with pytest.raises(InferenceError) as caught:
        check_known_to_llama_server({"type": "x" * 100_000})
    assert len(str(caught.value)) < 200
