"""A session and an engine whose every name and text is a hostile text."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.events import Chunk, Emit, Prepared, Progress
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import (
    FinishDetail,
    InferencingParams,
    InferencingResult,
    TokenAlternative,
    TokenInfo,
)
from llmwit_magic.running.replay import Replay
from llmwit_magic.running.run import Run
from tests.support.fake import MODEL, FakeEngine, FakeSession, end, prepared
from tests.support.hostile import HOSTILE

every_text = pytest.mark.parametrize("name", HOSTILE)
"""Runs a test with the name of each hostile text."""


class HostileEngine(FakeEngine):
    """An engine whose names, notes, reasoning and answers are the hostile text."""

    def __init__(self, said: str) -> None:
        super().__init__([said])
        self.said = said
        self.name = said

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        for stage in ("fetch", "adapt", "wait", "load"):
            emit(Progress(stage, 1, 2, self.said))  # type: ignore[arg-type]
        emit(self.prepare(request, emit, cancel))
        data = self.said.encode()
        other = TokenAlternative(id=2, bytes=data[:200], logprob=-1.0)
        token = TokenInfo(id=1, bytes=data, logprob=-0.5, rank=0, top=(other,))
        thought = token.model_copy(update={"reasoning": True})
        emit(Chunk("", 1, (thought,), self.said, 1))
        emit(Chunk(self.said, 2, (token,), "", 1))
        if isinstance(self.last, Exception):
            raise self.last
        emit(end(2, FinishDetail.STOP_SEQUENCE, self.said))

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        emit(Progress("load", 1, 2, self.said))
        plain = prepared(request)
        model = MODEL.model_copy(update={"name": self.said, "path": "/" + self.said})
        device = plain.device.model_copy(
            update={"name": self.said, "reason": self.said, "library": self.said}
        )
        return Prepared(
            plain.prompt, 5, 0, 128, plain.params, model, device,
        )  # fmt: skip


class HostileSession(FakeSession):
    """A session whose model, prompts, stop sequences, tags and notes are the hostile text."""

    def __init__(self, said: str, log_path: Path | str = ":memory:") -> None:
        super().__init__(HostileEngine(said), log_path)
        self.said = said
        self.model = MODEL.model_copy(update={"name": said})

    def request(self, **more: Any) -> Request:
        said = self.said
        return Request(
            model=said, prompt=said, system=said, tags={said: said}, top_logprobs=1,
            params=InferencingParams(stop=(said,), seed=1), **more,
        )  # fmt: skip

    def ended(self, **more: Any) -> Run:
        run = self.finish(self.request(**more))
        if run.run_id is not None:
            self.log.annotate(run.run_id, note=self.said)
        return run


def differing(run: Run) -> list[InferencingResult]:
    """Two results that differ in all that a sweep's table shows: model, stop and text."""
    first = run.result
    params = first.params.model_copy(update={"stop": ("x",), "temperature": 0.0})
    changed = {"text": "other " + first.text, "model": MODEL, "params": params}
    return [first, first.model_copy(update=changed)]


def replay_of(session: HostileSession, run: Run) -> Replay:
    """A replay that differs from its run, whose model file now has another name."""
    changed = run.result.model_copy(update={"text": "x", "stop_sequence": None})
    return Replay(session.log[run.run_id or 0], changed, ("stop",), f"the model {session.said}")
