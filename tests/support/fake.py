"""An engine that says what a test wants, for the code above engines."""

from __future__ import annotations

import re
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from llmwit_magic.contract.engine import Capabilities, Texts
from llmwit_magic.contract.events import Chunk, Emit, End, Event, Prepared, Progress, Vectors
from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.contract.wit import (
    DeviceInfo,
    FinishDetail,
    InferencingUsage,
    ModelInfo,
)
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session

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
        device=DeviceInfo(threads=1, library="avx2", reason="a test", exact=request.exact),
    )


def end(
    generated: int, detail: FinishDetail | None = FinishDetail.EOS, stop: str | None = None,
    thought: int = 0,
) -> End:  # fmt: skip
    usage = InferencingUsage(
        prompt_token_count=5, generated_token_count=generated, reasoning_token_count=thought
    )
    return End(detail, usage, stop, {"prompt": 0.1, "decode": 0.2})


class FakeEngine:
    """Says `thoughts`, then `chunks`, and ends with `last`: an `End`, or an exception to raise."""

    capabilities = Capabilities()

    def __init__(
        self, chunks: Iterable[str] = ("Hello", " world"), last: End | Exception | None = None,
        pause: float = 0.0, thoughts: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.chunks, self.thoughts = list(chunks), list(thoughts)
        self.last = last
        self.pause = pause
        self.model = MODEL
        self.requests: list[Request] = []
        self.embedded: list[str] = []

    def serves(self, spec: ModelSpec) -> bool:
        return True

    def find(self, spec: ModelSpec, emit: Emit, cancel: threading.Event) -> ModelInfo:
        return self.model

    def embed(self, request: Request, texts: Texts, emit: Emit, cancel: threading.Event) -> None:
        """A vector of two numbers for each text: how long it is, and 1."""
        emit(prepared(request, len(texts)))
        count = 0
        for text in texts.texts:
            if cancel.is_set():
                break
            if isinstance(self.last, Exception) and text == "bad":
                raise self.last
            emit(Vectors(struct.pack("<2f", len(text), 1), 2, 1))
            self.embedded.append(text)
            count += 1
            time.sleep(self.pause)
        emit(End(None, InferencingUsage(prompt_token_count=count)))

    def count(
        self, spec: ModelSpec, texts: Sequence[str], emit: Emit, cancel: threading.Event
    ) -> list[int]:
        """Each word is a token, with the white space after it."""
        return [len(re.findall(r"\S+\s*|\s+", text)) for text in texts]

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        self.requests.append(request)
        emit(Progress("load", note="fake"))
        emit(prepared(request))
        thought = len(self.thoughts)
        for number, text in enumerate((*self.thoughts, *self.chunks), 1):
            if cancel.is_set():
                emit(end(number - 1, None))
                return
            if number > thought:
                emit(Chunk(text, number, (), "", thought))
            else:
                emit(Chunk("", number, (), text, number))
            time.sleep(self.pause)
        if isinstance(self.last, Exception):
            raise self.last
        emit(self.last or end(thought + len(self.chunks), thought=thought))

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        return prepared(request)

    def close(self) -> None:
        pass


class Meanwhile(FakeEngine):
    """Something happens between the start of a run and its end."""

    def __init__(self, happens: Callable[[], Any]) -> None:
        super().__init__()
        self.happens = happens

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        self.happens()
        self.happens = lambda: None
        super().run(request, emit, cancel)


class FakeSession(Session):
    """A real session with a log and the test's `engine`, which may be replaced."""

    def __init__(self, engine: FakeEngine, log_path: Path | str = ":memory:") -> None:
        super().__init__(log_path, engines=[engine])

    @property
    def engine(self) -> Any:
        return self.engines[0]

    @engine.setter
    def engine(self, engine: FakeEngine) -> None:
        engine.model = self.engine.model
        self.engines = (engine, self.local)

    @property
    def model(self) -> ModelInfo:
        """The model that the engine finds."""
        return self.engine.model

    @model.setter
    def model(self, model: ModelInfo) -> None:
        self.engine.model = model

    def finish(self, request: Request) -> Run:
        """The run of the request after its end."""
        run = self.run(request)
        assert run.wait(10)
        return run


def run_of(events: Iterable[Event], request: Request | None = None) -> Run:
    """A finished run with these events."""
    run = Run(request or Request(model="fake", prompt="p"))

    def work(emit: Emit, cancel: threading.Event) -> None:
        for event in events:
            if isinstance(event, Exception):
                raise event
            emit(event)

    run.start(work)
    assert run.wait(10)
    return run
