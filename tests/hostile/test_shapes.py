"""Hostile constraints: each ends in one line or in an answer, in bounded time and memory."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.local import conversation
from llmwit_magic.errors import ConstraintFailed, ConstraintNotSupported, InvalidInput
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.report import Report

pytestmark = pytest.mark.timeout(230)

SECONDS = 30.0
"""The most that one may take, on a machine that does other work too. Most take milliseconds."""
MEGABYTES = 1500
"""The most memory of the child after all of them."""


def schema(value: Any) -> tuple[str, str]:
    return "json_schema", json.dumps(value)


def nested(kind: str, levels: int) -> Any:
    value: Any = {"type": "integer"}
    for _ in range(levels):
        value = {kind: [value, {"type": "null"}]}
    return value


HOSTILE: dict[str, tuple[str, str]] = {
    "nested counts": ("regex", "((a{1,1000}){1,1000}){1,1000}"),
    "huge count": ("regex", "a{1000000000}"),
    "huge count of a group": ("regex", "(ab|cd){999999}"),
    "exponential for backtracking": ("regex", "(a|a)*" * 200 + "b"),
    "exponential states": ("regex", "(.*a.{20}|.*b.{21}|.*c.{22})z"),
    "deep parentheses": ("regex", "(" * 100_000 + "a" + ")" * 100_000),
    "a megabyte": ("regex", "a" * 999_000),
    "many words": ("regex", "|".join(f"w{number}" for number in range(120_000))),
    "all of Unicode": ("regex", r"[\u{0}-\u{10ffff}]{10000}"),
    "not closed": ("regex", "[" * 10_000),
    "flags": ("regex", "(?i)" * 10_000 + "ß"),
    "zero": ("regex", "\0\0*"),
    "itself": ("grammar", "start: start"),
    "left-recursive": ("grammar", 'start: start start | start | "a" |'),
    "ambiguous": ("grammar", 'start: x*\nx: "a" | "a" x | x x |'),
    "repeated": ("grammar", 'start: ("a" "b"){1000000}'),
    "deep Lark": ("grammar", "start: " + "(" * 100_000 + '"a"' + ")" * 100_000),
    "deep GBNF": ("grammar", "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000),
    "many rules": ("grammar", "start: r0\n" + "\n".join(
        f'r{n}: "{n}" r{n + 1} | "x"' for n in range(30_000)) + '\nr30000: "e"\n'),
    "doubling rules": ("grammar", "\n".join(
        ["start: r0"] + [f"r{n}: r{n + 1} r{n + 1}" for n in range(60)] + ['r60: "a"'])),
    "complements": ("grammar", "start: A\nA: ~(/.*a.{12}b.*/) & ~(/.*c.{12}d.*/) & /.*e.{12}f/"),
    "an import of a file": ("grammar", "%import /etc/passwd.X\nstart: X"),
    "a GBNF of one sign": ("grammar", "::="),
    "many choices": ("choices", json.dumps([f"choice {number}" for number in range(40_000)])),
    "long choices": ("choices", json.dumps(["a" * 400_000, "a" * 400_001])),
    "choices of all signs": ("choices", json.dumps([chr(n) for n in range(1, 0xD800, 7)])),
    "a schema that is itself": schema({"$ref": "#"}),
    "schemas in a circle": schema({"$ref": "#/$defs/a", "$defs": {
        "a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
    "all of itself": schema({"allOf": [{"$ref": "#"}], "type": "object"}),
    "an endless list": schema({"$ref": "#/$defs/a", "$defs": {
        "a": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1}}}),
    "exponential choices": schema({"allOf": [{"anyOf": [
        {"properties": {f"p{i}_{j}": {"type": "string"}}} for j in range(6)]} for i in range(40)]}),
    "exponential references": schema({"$ref": "#/$defs/d0", "$defs": {
        **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"anyOf": [
            {"$ref": f"#/$defs/d{n + 1}"}, {"required": [f"x{n}"]}]}]} for n in range(30)},
        "d30": {"type": "object"}}}),
    "a chain of references": schema({"$ref": "#/$defs/0", "$defs": {
        **{str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(25_000)}, "25000": {"type": "null"}}}),
    "a chain of properties": schema({"$ref": "#/$defs/0", "$defs": {
        **{str(n): {"properties": {"a": {"$ref": f"#/$defs/{n + 1}"}}} for n in range(8000)},
        "8000": {"type": "null"}}}),
    "a deep schema": schema(nested("anyOf", 60)),
    "a deep intersection": schema(nested("allOf", 60)),
    "many properties": schema({"type": "object", "properties": {
        f"p{n}": {"type": "integer"} for n in range(20_000)}}),
    "many patterns": schema({"type": "object", "patternProperties": {
        f"^p{n}.*z$": {"type": "integer"} for n in range(300)}}),
    "patterns together": schema({"type": "string", "allOf": [
        {"pattern": f"a.{{{n}}}b"} for n in range(40)]}),
    "a long text": schema({"type": "string", "minLength": 10**8}),
    "a long list": schema({"type": "array", "minItems": 10**9}),
    "many values": schema({"enum": [f"v{number}" for number in range(80_000)]}),
    "an odd multiple": schema({"type": "number", "multipleOf": 1e-300}),
    "no multiple": schema({"type": "number", "multipleOf": 0}),
    "multiples together": schema({"type": "integer", "allOf": [
        {"multipleOf": n} for n in (997, 991, 983, 977, 971)]}),
    "huge bounds": schema({"type": "number", "minimum": -1e308, "maximum": 1e308}),
    "a count that is none": schema({"type": "array", "minItems": -1}),
    "a type that is none": schema({"type": {"a": []}, "properties": 3, "required": "a"}),
    "lists in place of schemas": schema({"properties": [1], "items": "a", "anyOf": {"a": 1}}),
    "a file": schema({"$ref": "file:///etc/passwd"}),
}  # fmt: skip


def asked(session: Session, model: Path, kind: str, source: str) -> Run:
    return session.run(
        Request(
            model=str(model),
            prompt="Once",
            params=InferencingParams(max_tokens=12, seed=1),
            constraint=Constraint(kind=kind, source=source),  # type: ignore[arg-type]
        )
    )


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        yield server


def test_each_ends_in_time(
    session: Session, spm: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, or in an answer. The memory of the child stays bounded."""
    slowest = ("", 0.0)
    monkeypatch.setattr(conversation, "CONSTRAINT_SECONDS", 10.0)
    for name, (kind, source) in HOSTILE.items():
        began = time.monotonic()
        run = asked(session, spm, kind, source)
        assert run.wait(SECONDS), name
        slowest = max(slowest, (name, time.monotonic() - began), key=lambda pair: pair[1])
        ended = "an answer"
        if run.error is not None:
            assert isinstance(run.error, ConstraintNotSupported | ConstraintFailed), (
                name,
                run.error,
            )
            ended = type(run.error).__name__
            assert "constraint" in str(run.error), name
            assert "\n" not in str(run.error)
            assert len(str(run.error)) < 500
        report.tried("constraints", ended)
    print(f"slowest: {slowest[0]}, {slowest[1]:.1f} s")
    ((_, pid),) = session.local.pool.loaded_models()
    assert psutil.Process(pid).memory_info().rss < MEGABYTES * 2**20
    healthy = asked(session, spm, "choices", '["yes", "no"]')
    assert healthy.wait(SECONDS)
    assert healthy.result.text in ("yes", "no")


def test_nothing_is_fetched(session: Session, spm: Path, listener: socket.socket) -> None:
    """A reference to a server is refused, and the server hears nothing."""
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"
    for part in (
        {"$ref": url},
        {"$id": url, "$ref": "other"},
        {"$schema": url},
        {"$dynamicRef": url},
    ):
        run = asked(session, spm, *schema(part))
        assert run.wait(SECONDS)
        assert isinstance(run.error, ConstraintNotSupported)
    run = asked(session, spm, "grammar", f'start: %json {{"$ref": "{url}"}}')
    assert run.wait(SECONDS)
    assert isinstance(run.error, ConstraintNotSupported)
    with pytest.raises(TimeoutError):
        listener.accept()


def test_stop_ends_the_making_of_a_grammar(session: Session, spm: Path) -> None:
    run = asked(session, spm, "choices", json.dumps([f"choice {n}" for n in range(50_000)]))
    time.sleep(0.2)
    run.cancel()
    assert run.wait(SECONDS)
    assert run.status in ("interrupted", "ok")
    assert run.error is None


@pytest.mark.parametrize("kind", ["choices", "regex", "json_schema", "grammar"])
def test_texts_that_are_no_constraint_are_refused_at_once(kind: str) -> None:
    """Too long, too deep, not JSON: the kernel itself says so."""
    taken = ["[" * 200_000, '{"a":' * 200_000, "[1"]  # may be an expression or a grammar
    for source in ("", "x" * 1_000_001, "[" * 200_000, '{"a":' * 200_000, "[1", "\ud800"):
        if kind in ("regex", "grammar") and source in taken:
            continue
        began = time.monotonic()
        with pytest.raises(InvalidInput) as caught:
            Constraint(kind=kind, source=source)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        assert time.monotonic() - began < 5
