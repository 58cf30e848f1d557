"""An engine that says what a test wants, for what stands above the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmwit_magic.protocol import (
    Chunk,
    Emit,
    End,
    Event,
    Prepared,
    Progress,
    Request,
)
from llmwit_magic.runlog.run import Run
from llmwit_magic.session import Session
from llmwit_magic.wit import DeviceInfo, FinishDetail, InferencingUsage, ModelInfo

MODEL = ModelInfo(name="fake", path="/fake.gguf", sha256="0" * 64, architecture="llama",
                  quantisation="F32")  # fmt: skip


def prepared(request: Request, tokens: int = 5) -> Prepared:
    return Prepared(
        prompt=request.prompt,
        prompt_token_count=tokens,
        cached_token_count=0,
        context_length=128,
        params=request.params,
        model=MODEL,
        device=DeviceInfo(threads=1, library="avx2", reason="a test"),
    )


def end(
    generated: int, detail: FinishDetail | None = FinishDetail.EOS, stop: str | None = None
) -> End:
    usage = InferencingUsage(prompt_token_count=5, generated_token_count=generated)
    return End(detail, usage, stop, {"prompt": 0.1, "decode": 0.2})


class FakeEngine:
    """Says `chunks`, then ends with `last`: an `End` or an exception."""

    name = "fake"
    pid = None

    def __init__(
        self, chunks: Iterable[str] = ("Hello", " world"), last: End | Exception | None = None,
        pause: float = 0.0,
    ) -> None:  # fmt: skip
        self.chunks = list(chunks)
        self.last = last
        self.pause = pause
        self.requests: list[Request] = []

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        self.requests.append(request)
        emit(Progress("load", note="fake"))
        emit(prepared(request))
        for number, text in enumerate(self.chunks, 1):
            if cancel.is_set():
                emit(end(number - 1, None))
                return
            emit(Chunk(text, number))
            time.sleep(self.pause)
        if isinstance(self.last, Exception):
            raise self.last
        emit(self.last or end(len(self.chunks)))

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        return prepared(request)

    def close(self) -> None:
        pass


class FakeSession(Session):
    """A real session and log over a fake engine."""

    def __init__(self, engine: FakeEngine, log_path: Path | str = ":memory:") -> None:
        super().__init__(log_path)
        self.engine = engine
        self.model = MODEL

    def find(self, request: Request, show: object = None) -> ModelInfo:
        return self.model

    def finish(self, request: Request) -> Run:
        """The run of the request, at its end."""
        run = self.run(request)
        assert run.wait(10)
        return run

    @contextmanager
    def _lease(  # type: ignore[override]
        self, request: Request, emit: Emit, cancel: threading.Event
    ) -> Iterator[FakeEngine]:
        yield self.engine


def run_of(events: Iterable[Event], request: Request | None = None) -> Run:
    """A finished run that had these events."""
    run = Run(request or Request(model="fake", prompt="p"))

    def work(run: Run, cancel: threading.Event) -> None:
        for event in events:
            if isinstance(event, Exception):
                raise event
            run.emit(event)

    run.start(work, lambda run, status: None)
    assert run.wait(10)
    return run
