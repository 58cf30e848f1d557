"""Sessions with several engines: which of them runs a request, and what it can honour."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llmwit_magic import api
from llmwit_magic.contract.engine import Capabilities, Engine
from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.contract.wit import InferencingParams, InferencingUsage, ModelInfo
from llmwit_magic.engines.local.local_engine import LocalEngine
from llmwit_magic.errors import InvalidInput
from llmwit_magic.magics.infer import dry_run_text
from llmwit_magic.running.session import Session
from llmwit_magic.views.html import html_of
from llmwit_magic.views.text import plain
from tests.support.fake import FakeEngine, end, prepared


class Named(FakeEngine):
    """An engine for models whose names begin with its own."""

    def __init__(self, name: str, **capabilities: Any) -> None:
        super().__init__([name])
        self.name = name
        self.capabilities = Capabilities(**capabilities)

    def serves(self, spec: ModelSpec) -> bool:
        return spec.model.startswith(f"{self.name}::")


def test_both_engines_are_engines() -> None:
    """The fake engine has the methods of the real one, so a type checker accepts both."""
    engines: list[Engine] = [LocalEngine(), FakeEngine()]
    assert all(engine.serves(ModelSpec(model="anything")) for engine in engines)


def test_the_first_engine_that_serves_a_model_runs_it() -> None:
    """The local engine takes what none of the others serves."""
    session = Session(":memory:", engines=[Named("one"), Named("two")])
    for name in ("two", "one"):
        run = session.run(Request(model=f"{name}::m", prompt="p"))
        assert run.wait(10)
        assert run.text == name
    run = session.run(Request(model="three-m", prompt="p"))
    assert run.wait(10)
    assert "no model 'three-m'" in str(run.error)
    session.close()


@pytest.mark.parametrize(
    ("lacks", "params", "others", "word"),
    [
        ({"params": {"temperature"}}, {"top_k": 5}, {}, "top_k"),
        ({"params": {"temperature"}}, {"seed": 5}, {}, "seed"),
        ({"log_probabilities": False}, {}, {"top_logprobs": 0}, "top_logprobs"),
    ],
)
def test_what_an_engine_cannot_honour_is_refused(
    lacks: Any, params: Any, others: Any, word: str
) -> None:
    """The error is one line with the setting, and comes before anything is run or logged."""
    session = Session(":memory:", engines=[engine := Named("one", **lacks)])
    request = Request(model="one::m", prompt="p", params=params, **others)
    for call in (session.run, session.prepare):
        with pytest.raises(InvalidInput, match=rf"^{word}: the engine of one::m cannot honour it"):
            call(request)
    assert (engine.requests, len(session.log)) == ([], 0)


@pytest.mark.parametrize("params", [{}, {"temperature": 0.8}, {"temperature": 0}])
def test_a_default_asks_for_nothing(params: Any) -> None:
    """Only settings that differ from the contract's defaults count. A drawn seed does not."""
    session = Session(":memory:", engines=[Named("one", params={"temperature"})])
    run = session.run(Request(model="one::m", prompt="p", params=params))
    assert run.wait(10)
    assert run.status == "ok"


def test_an_engine_without_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the name of the model."""
    session = Session(":memory:", engines=[Named("one", embeddings=False)])
    monkeypatch.setattr(api, "current_session", lambda: session)
    with pytest.raises(InvalidInput, match="the engine of one::m has no embeddings"):
        api.generate_embeddings("one::m", ["a"])


class Unknowing(FakeEngine):
    """An engine that never knows a count, a hash or a path."""

    def run(self, request: Request, emit: Any, cancel: Any) -> None:
        emit(self.prepare(request, emit, cancel))
        emit(Chunk("text", None))
        unknown = InferencingUsage(
            prompt_token_count=None, generated_token_count=None, cached_token_count=None
        )
        last = end(1)
        emit(type(last)(last.finish_detail, unknown))

    def prepare(self, request: Request, emit: Any, cancel: Any) -> Any:
        known = prepared(request)
        return type(known)(
            request.prompt, None, None, None, request.params, ModelInfo(name="far"), known.device
        )


class Uncounting(Unknowing):
    """Goes on until it is cancelled, and says no count."""

    def run(self, request: Request, emit: Any, cancel: Any) -> None:
        emit(self.prepare(request, emit, cancel))
        emit(Chunk("text", None))
        assert cancel.wait(10)


def test_a_stopped_run_without_a_count() -> None:
    """Its text is kept, and nothing is said of tokens that nobody counted."""
    session = Session(":memory:", engines=[Uncounting()])
    run = session.run(Request(model="far", prompt="p"))
    while not run.text:
        time.sleep(0.01)
    run.stop()
    assert (run.status, run.result.usage.generated_token_count) == ("interrupted", None)
    assert str(run.interrupted()) == "stopped; the text is kept in run 1 of the log"


def test_an_engine_need_not_know_everything() -> None:
    """What it does not know is missing in the row, and shows as a question mark."""
    session = Session(":memory:", engines=[Unknowing()])
    run = session.run(Request(model="far", prompt="p"))
    assert run.wait(10)
    assert run.error is None
    result = run.result
    assert (result.usage.prompt_token_count, result.context_length) == (None, None)
    row = session.log.row(1)
    names = ("prompt_token_count", "generated_token_count", "cached_token_count", "model_path",
             "model_sha256", "architecture", "context_length")  # fmt: skip
    assert [row[name] for name in names] == [None] * len(names)
    assert "? + ? tokens" in plain(result)
    assert "? + ? tokens" in html_of(result)
    logged = session.log[1]
    assert logged.usage == result.usage
    said = dry_run_text(session.prepare(Request(model="far", prompt="p")), InferencingParams())
    assert "prompt tokens are not known before the run" in said
