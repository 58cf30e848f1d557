"""Batches over an engine that says its prompt in capitals, and interrupts in their middle."""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
import time
from typing import Any

import pandas
import pytest

from llmwit_magic.contract.events import Chunk, Emit
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import DeviceInfo, InferencingParams
from llmwit_magic.errors import EngineDied
from llmwit_magic.running.batch import run_batch
from tests.support.fake import FakeEngine, FakeSession, end, prepared

REQUEST = Request(model="fake", prompt="", params=InferencingParams(temperature=0), group_id="b")
FRAME = pandas.DataFrame({"name": ["Ada", "Bob", "Cyd"], "n": [1, 2, 3]})


class Echo(FakeEngine):
    """Says the prompt in capitals. A prompt with `bad` fails. `at` is called with each prompt."""

    def __init__(self, at: Any = lambda prompt, cancel: None) -> None:
        super().__init__()
        self.at = at
        self.device: DeviceInfo | None = None
        """Where the model runs; None: where `prepared` says."""

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        self.requests.append(request)
        ready = prepared(request)
        emit(dataclasses.replace(ready, model=self.model, device=self.device or ready.device))
        self.at(request.prompt, cancel)
        if cancel.is_set():
            emit(end(0, None))
            return
        if "bad" in request.prompt:
            raise EngineDied("gone")
        emit(Chunk(request.prompt.upper(), 1))
        emit(end(1))

    @property
    def prompts(self) -> list[str]:
        return [request.prompt for request in self.requests]


def run(
    session: FakeSession, frame: pandas.DataFrame = FRAME, template: str = "Hi {{name}}", **options: Any
) -> pandas.DataFrame:  # fmt: skip
    options = {"request": REQUEST, "progress": False} | options
    return run_batch(session, frame, template, **options)


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


def interrupt() -> None:
    time.sleep(0.1)  # until the batch watches its run
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def interrupt_at(word: str) -> Any:
    """Something for `Echo.at`: a person's interrupt while that prompt runs for the first time."""
    waiting = [word]

    def at(prompt: str, cancel: threading.Event) -> None:
        if waiting and word in prompt:
            waiting.clear()
            interrupt()
            cancel.wait(5)

    return at
