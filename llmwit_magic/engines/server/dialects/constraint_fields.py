"""How each kind of server is told what the answer must be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....contract.constraint import Constraint
from ....contract.request import Request
from ....errors import ConstraintNotSupported
from ..answers import Facts
from .expression_grammar import of_regex
from .gbnf import of_choices
from .schema_checks import check_known_to_llama_server, strict_objection


@dataclass(frozen=True, slots=True)
class Told:
    """What is sent to a server for a constraint."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    not_honoured: tuple[str, ...] = ()


Telling = Callable[[Constraint, Request, Facts], Told]
"""What one kind of server is sent. Raises `ConstraintNotSupported` for what it does not know."""


def told(request: Request, facts: Facts, kind: str, kinds: Mapping[str, Telling]) -> Told:
    """What a server of this kind is sent for the request's constraint.

    `kinds` has the kinds of constraint that it knows. For what it does not know this raises
    `ConstraintNotSupported`. Where a person accepts that, nothing is sent.
    """
    constraint = request.constraint
    if constraint is None:
        return Told()
    try:
        if constraint.kind not in kinds:
            known = ", ".join(kinds) or "none"
            raise ConstraintNotSupported(f"{kind} cannot be told it (it knows: {known})")
        return kinds[constraint.kind](constraint, request, facts)
    except ConstraintNotSupported as error:
        return refused_or_accepted(request, str(error))


def refused_or_accepted(request: Request, why: str) -> Told:
    """What is sent where a constraint cannot be: nothing, if a person accepts that.

    Raises `ConstraintNotSupported` with the reason.
    """
    if request.constraint is None or "unsupported" in request.accept:
        return Told(not_honoured=("constraint",))
    raise ConstraintNotSupported(
        f"constraint {request.constraint.kind}: {why}; --accept unsupported runs without it, and "
        "checks the answer here"
    )


def _schema(constraint: Constraint) -> Any:
    """The schema. One that allows everything is an empty one: some servers want an object."""
    schema = json.loads(constraint.source)
    return {} if schema is True else schema


def is_gbnf(grammar: str) -> bool:
    """Whether a grammar is written in GBNF. Rules of Lark have a colon and no equals sign."""
    return "::=" in grammar and not grammar.lstrip().startswith("%llguidance")


# llama-server ---------------------------------------------------------------------

_LAYOUT = {
    "coerce_one_of": True, "whitespace_flexible": False,
    "item_separator": ", ", "key_separator": ": ",
}  # fmt: skip
"""For a server that was built with llguidance, which would refuse `oneOf`, and allow white space
without an end. Another one passes over this, and has a layout of its own."""


def _llama_choices(constraint: Constraint, request: Request, facts: Facts) -> Told:
    return Told({"grammar": of_choices(constraint.choices)})


def _llama_regex(constraint: Constraint, request: Request, facts: Facts) -> Told:
    return Told({"grammar": of_regex(constraint.source)})


def _llama_schema(constraint: Constraint, request: Request, facts: Facts) -> Told:
    schema = _schema(constraint)
    check_known_to_llama_server(schema)
    # llama.cpp itself knows a schema without any keyword, and refuses one with unknown ones alone.
    return Told({"json_schema": {**schema, "x-guidance": _LAYOUT} if schema else {}})


def _gbnf_of(constraint: Constraint, kind: str) -> str:
    """The grammar in GBNF. Raises `ConstraintNotSupported` for one of Lark."""
    if not is_gbnf(constraint.source):
        raise ConstraintNotSupported(f"{kind} takes GBNF, and this is a grammar of Lark")
    return constraint.source


def _llama_grammar(constraint: Constraint, request: Request, facts: Facts) -> Told:
    # A server that was built without llguidance aborts at a grammar of Lark.
    return Told({"grammar": _gbnf_of(constraint, "llama-server")})


LLAMA_SERVER: Mapping[str, Telling] = {
    "choices": _llama_choices, "regex": _llama_regex, "json_schema": _llama_schema,
    "grammar": _llama_grammar,
}  # fmt: skip


# vLLM -----------------------------------------------------------------------------

_VLLM_NAMES = {"choices": "choice", "regex": "regex", "json_schema": "json", "grammar": "grammar"}


def _vllm(constraint: Constraint, request: Request, facts: Facts) -> Told:
    """From version 0.11 on the fields stand in `structured_outputs`; 0.12 drops the older ones.

    Source: vllm/entrypoints/openai/completion/protocol.py and vllm/sampling_params.py of vLLM.
    """
    value: Any = constraint.source
    if constraint.kind == "choices":
        value = list(constraint.choices)
    elif constraint.kind == "json_schema":
        value = _schema(constraint)
    name = _VLLM_NAMES[constraint.kind]
    version = re.match(r"(\d+)\.(\d+)", facts.version)
    # A version of 0.0 or 0.1.dev is one that somebody has built.
    if version and (0, 1) < (int(version[1]), int(version[2])) < (0, 11):
        return Told({f"guided_{name}": value})
    return Told({"structured_outputs": {name: value}})


VLLM: Mapping[str, Telling] = dict.fromkeys(_VLLM_NAMES, _vllm)


# SGLang ---------------------------------------------------------------------------
# Source: python/sglang/srt/entrypoints/openai/protocol.py of SGLang.


def _sglang_choices(constraint: Constraint, request: Request, facts: Facts) -> Told:
    # All three libraries that SGLang may have for this know expressions.
    escaped = (re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text) for text in constraint.choices)
    return Told({"regex": f"({'|'.join(escaped)})"})


def _sglang_regex(constraint: Constraint, request: Request, facts: Facts) -> Told:
    return Told({"regex": constraint.source})


def _sglang_schema(constraint: Constraint, request: Request, facts: Facts) -> Told:
    schema = _schema(constraint)
    if not request.is_chat:
        return Told({"json_schema": json.dumps(schema, ensure_ascii=False)})
    return Told(_response_format(schema))


def _sglang_grammar(constraint: Constraint, request: Request, facts: Facts) -> Told:
    return Told({"ebnf": _gbnf_of(constraint, "sglang")})


SGLANG: Mapping[str, Telling] = {
    "choices": _sglang_choices, "regex": _sglang_regex, "json_schema": _sglang_schema,
    "grammar": _sglang_grammar,
}  # fmt: skip


# Servers that know JSON schemas only ----------------------------------------------


def _response_format(schema: Any, strict: bool = True) -> dict[str, Any]:
    described = {"name": "answer", "schema": schema, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def _ollama_schema(constraint: Constraint, request: Request, facts: Facts) -> Told:
    """Source: server/routes.go and llm/llama_server.go of Ollama, which runs a llama-server."""
    schema = _schema(constraint)
    if schema is False:
        raise ConstraintNotSupported("ollama takes a schema that is an object")
    return Told({"format": schema})


def _lm_studio_schema(constraint: Constraint, request: Request, facts: Facts) -> Told:
    if not request.is_chat:
        raise ConstraintNotSupported("lmstudio takes it for chats only: give --chat")
    return Told(_response_format(_schema(constraint)))


def _openai_schema(constraint: Constraint, request: Request, facts: Facts) -> Told:
    if not request.is_chat:
        raise ConstraintNotSupported("openai takes it for chats only: give --chat")
    schema = _schema(constraint)
    objection = strict_objection(schema)
    said = f"the server takes the schema as a hint only: {objection}"
    return Told(_response_format(schema, objection is None), (said,) if objection else ())


def _our_schema(constraint: Constraint, request: Request, facts: Facts) -> Told:
    return Told(_response_format(_schema(constraint)))


def _other_schema(constraint: Constraint, request: Request, facts: Facts) -> Told:
    said = "whether this server holds answers to a schema is not known"
    return Told(_response_format(_schema(constraint)), (said,))


OLLAMA: Mapping[str, Telling] = {"json_schema": _ollama_schema}
LM_STUDIO: Mapping[str, Telling] = {"json_schema": _lm_studio_schema}
OPENAI: Mapping[str, Telling] = {"json_schema": _openai_schema}
LLMWIT_MAGIC: Mapping[str, Telling] = {"json_schema": _our_schema}
OTHER: Mapping[str, Telling] = {"json_schema": _other_schema}
