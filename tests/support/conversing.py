"""Conversations over a fake engine, for tests of them in Python and in cells."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.events import Emit, End, Prepared
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingUsage
from llmwit_magic.errors import PromptTooLong
from llmwit_magic.magics import infer
from llmwit_magic.running import conversations
from tests.support.fake import FakeEngine, FakeSession, prepared


class Counting(FakeEngine):
    """A token for each message and ten for each text: a context of 100 tokens is soon full."""

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        count = 10 * len(request.messages)
        if count >= 100:
            raise PromptTooLong(
                f"the prompt has {count} tokens and the context holds 100{request.without_oldest}"
            )
        return replace(prepared(request, count), context_length=100)

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        ready = self.prepare(request, emit, cancel)
        usage = InferencingUsage(
            prompt_token_count=ready.prompt_token_count, generated_token_count=2
        )

        def counted(event: Any) -> None:
            event = ready if isinstance(event, Prepared) else event
            emit(replace(event, usage=usage) if isinstance(event, End) else event)

        super().run(request, counted, cancel)


@contextmanager
def conversing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[FakeSession]:
    """A session with a log in the folder, which conversations and cells have as theirs."""
    session = FakeSession(FakeEngine(), folder / "runs.sqlite3")
    monkeypatch.setattr(conversations, "current_session", lambda: session)
    monkeypatch.setattr(infer, "current_session", lambda: session)
    yield session
    session.close()


def asked(session: FakeSession) -> list[list[str]]:
    """The texts of the messages of each request."""
    return [[one.content for one in request.messages] for request in session.engine.requests]
