"""What a component asks and gets is bounded, whoever wrote it and whatever a notebook gives it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic import Component
from llmwit_magic.components import component as module
from llmwit_magic.components import guest_call
from llmwit_magic.components.sandbox import Printed
from llmwit_magic.errors import ComponentFailed, InvalidInput
from llmwit_magic.running.session import Session
from tests.support.wat_guests import SLEEPER, forwarder, runaway
from tests.support.wat_interfaces import SECOND

PARAMS = {
    "max_tokens": 1, "temperature": 0.0, "repeat_penalty": 1.0, "top_k": 1, "top_p": 1.0,
    "stop": [], "seed": 1,
}  # fmt: skip


def request(prompt: str, model: str = "m") -> dict[str, Any]:
    return {
        "model": model, "prompt": {"text": prompt}, "params": PARAMS, "logprobs": "no",
        "echo": False,
    }  # fmt: skip


def many(session: Session, model: Any, **options: Any) -> Component:
    return Component(forwarder(SECOND).encode(), session=session, model=model, **options)


# What it asks --------------------------------------------------------------------------


def test_a_large_request_is_refused_before_it_is_logged(
    session: Session, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a guest could fill the disk with what it asks; so could many small requests."""
    monkeypatch.setattr(guest_call, "LARGEST_REQUEST", 1000)
    monkeypatch.setattr(guest_call, "LARGEST_CALL", 5000)
    guest = many(session, tiny_model)
    small, large = guest.call("infer-many", [request("a"), request("b" * 1001)])
    assert small["ok"]["usage"]["generated_token_count"] == 1
    assert large == {
        "err": {"invalid-input": "the request has 1,001 characters, and 1,000 at most"}
    }
    assert len(session.log) == 1
    with pytest.raises(ComponentFailed, match="more than 5,000 characters in one call"):
        guest.call("infer-many", [request("b" * 1001)] * 6)
    assert len(session.log) == 1


def test_refused_requests_end_with_the_time(session: Session) -> None:
    """Requests that need no run are looked at only until the time is over."""
    guest = many(session, ["other"], seconds=0.3)
    began = time.monotonic()
    with pytest.raises(ComponentFailed, match=r"ended after 0\.3 s"):
        guest.call("infer-many", [request("a")] * 40_000)
    assert time.monotonic() - began < 20


def test_a_refused_first_request_leaves_the_others_side_by_side(
    session: Session, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many go on at once is asked of the first request that can be made."""
    asked = []

    def size(session: Session, made: Any) -> int:
        asked.append(made.prompt)
        return 1

    monkeypatch.setattr(guest_call, "default_size", size)
    guest = many(session, {"m": tiny_model})
    refused, *good = guest.call("infer-many", [request("a", "x"), request("b"), request("c")])
    assert refused == {"err": "model-not-supported"}
    assert all("ok" in each for each in good)
    assert asked == ["b"]


def test_a_guest_is_told_of_its_own_model(session: Session, tmp_path: Path) -> None:
    """The name of the model here is no part of another word of the message."""
    wrong = request("a") | {"params": {**PARAMS, "temperature": -1.0}}
    (said,) = many(session, "e").call("infer-many", [wrong])
    assert said["err"]["invalid-input"].startswith("temperature: -1.0 is not valid")


# What it holds -------------------------------------------------------------------------


def test_calls_that_wait_for_a_clock_are_bounded(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can end them, and each holds a thread: so no further call begins."""
    monkeypatch.setattr(module, "_left_behind", [])
    monkeypatch.setattr(module, "MOST_LEFT_BEHIND", 1)
    guest = Component(SLEEPER.encode(), session=session, seconds=0.2)
    with pytest.raises(ComponentFailed, match=r"ended after 0\.2 s"):
        guest.call("go")
    with pytest.raises(ComponentFailed, match="1 calls that were ended still wait for a clock"):
        guest.call("go")


def test_tables_have_a_limit_too(session: Session) -> None:
    """Memory is not all that a guest can fill."""
    core = '(table 1000000 funcref) (func (export "go"))'
    with pytest.raises(ComponentFailed, match="has trapped"):
        Component(runaway(core).encode(), session=session).call("go")


def test_a_sign_may_come_in_two_parts() -> None:
    """A guest's write may end within a character."""
    shown: list[str] = []
    printed = Printed(shown.append)
    printed("日本".encode()[:4])
    printed("日本".encode()[4:])
    assert "".join(shown) == "日本"


# What a notebook gives -----------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"memory": 2**63}, {"memory": 0}, {"memory": 1.5}, {"memory": True},
        {"seconds": 10**400}, {"seconds": float("nan")}, {"seconds": 0}, {"seconds": "1"},
        {"dirs": ["a"]}, {"dirs": {"/x": None}}, {"dirs": {"/x": (".", "r", 1)}},
        {"dirs": {"\ud800": "."}}, {"dirs": {"/x": "\0"}}, {"dirs": {1: "."}},
        {"env": ["A"]}, {"env": {"A": None}}, {"env": {"A=B": "c"}}, {"env": {"A": "\0"}},
        {"env": {"": "c"}}, {"env": {"A": "\ud800"}}, {"model": 5}, {"model": [5]},
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(session: Session, options: dict[str, Any]) -> None:
    """The line begins with the name of the option."""
    with pytest.raises(InvalidInput, match=f"^{next(iter(options))}: ") as caught:
        Component(SLEEPER.encode(), session=session, **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("file", [None, 5, "a\0b", "\ud800", object()])
def test_what_is_no_file_is_one_line(file: Any) -> None:
    """Neither a path nor bytes."""
    with pytest.raises(InvalidInput, match=r"neither a path nor the bytes|cannot be read"):
        Component(file)


def test_models_by_their_paths(session: Session, tiny_model: Path) -> None:
    """A list of models may have paths; the guest uses their texts."""
    guest = many(session, [tiny_model])
    (found,) = guest.call("infer-many", [request("a", str(tiny_model))])
    assert "ok" in found
    with pytest.raises(InvalidInput, match="is not exported"):
        guest.call(None)  # type: ignore[arg-type]
