"""The child, in this process: commands in, answers out, with a fake backend."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmwit_magic.contract.events import Chunk, End, Prepared, Progress
from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.contract.wit import FinishDetail, ModelInfo
from llmwit_magic.engines.local import child
from llmwit_magic.engines.local.wire import (
    Broken,
    Cancel,
    Command,
    Done,
    Exit,
    Failed,
    Judge,
    Load,
    Prepare,
    Run,
    Started,
    Verdict,
    decoded,
    encoded,
)
from llmwit_magic.errors import ModelNotSupported
from tests.support.fake_model import FakeBackend

LOAD = Load(
    ModelInfo(name="m"),
    "fake",
    "/m.gguf",
    "/f.gguf",
    ModelSpec(model="m"),
    2,
    {"LLMWIT_TEST": "told"},
)
REQUEST = Request(
    model="m", prompt="hi", threads=1,
    params={"temperature": 0, "repeat_penalty": 1, "seed": 1},  # type: ignore[arg-type]
)  # fmt: skip


class Served:
    """A child that serves in a thread, with the kernel's ends of its pipe."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._read = os.fdopen(commands, "rb")
        self.left = threading.Semaphore(0)
        """Released by each thread that would end the process."""
        self.child = child.Child(self._read, os.fdopen(answers, "wb"), parent=os.getppid())
        self._lines = os.fdopen(self._answers, "rb")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self.child.serve()
        self.child._outbox._pipe.close()

    def send(self, command: Command) -> None:
        os.write(self._commands, encoded(command))

    def next(self) -> Any:
        return decoded(self._lines.readline())

    def told(self, command: Command) -> list[Any]:
        """All answers to the command."""
        self.send(command)
        answers = [self.next()]
        while not isinstance(answers[-1], Done | Failed | Broken):
            answers.append(self.next())
        return answers

    def end(self) -> None:
        self.send(Exit())
        self._thread.join(5)
        assert not self._thread.is_alive()
        assert self._lines.readline() == b""
        os.close(self._commands)
        for _ in range(2):  # the thread that serves, and the one that reads
            assert self.left.acquire(timeout=5)
        self._read.close()
        self._lines.close()


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def served(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    def leave(code: int) -> None:
        served.left.release()

    monkeypatch.setattr(child.os, "_exit", leave)
    monkeypatch.setattr(child, "backend_named", {"fake": backend}.__getitem__)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    served = Served(backend)
    yield served
    served.end()


def test_a_model_is_loaded_as_told(served: Served) -> None:
    """The backend gets both paths, the spec and the number of prompts to keep."""
    assert served.told(LOAD) == [Started(), Done()]
    ((source, file, spec, kept_prompts),) = served.backend.opened
    assert (str(source), str(file), kept_prompts) == ("/m.gguf", "/f.gguf", 2)
    assert spec == LOAD.spec
    assert os.environ.pop("LLMWIT_TEST") == "told"


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (ModelNotSupported("m: why"), Failed("ModelNotSupported", "m: why")),
        (MemoryError(), Failed("OutOfMemory", "the engine ran out of memory")),
        (KeyError("x"), Broken("KeyError: 'x'")),
    ],
)
def test_a_failure_is_an_answer(error: Exception, answer: Any, served: Served) -> None:
    """An `InferenceError` is told with its class, an unexpected one with its text.

    The child lives.
    """
    served.backend.error = error
    assert served.told(LOAD) == [Started(), answer]
    served.backend.error = None
    assert served.told(LOAD) == [Started(), Done()]


def test_nothing_runs_without_a_model(served: Served) -> None:
    """A command before `Load` gets an error that says that no model is loaded."""
    assert served.told(Prepare(REQUEST)) == [
        Started(),
        Failed("InvalidInput", "no model is loaded"),
    ]


def test_a_run_says_all_that_happens(served: Served) -> None:
    """The answers are the prepared request, the progress of the prompt, the chunks and the end."""
    served.told(LOAD)
    started, prepared, *events, done = served.told(Run(REQUEST, 0))
    assert (started, done) == (Started(), Done())
    assert isinstance(prepared, Prepared)
    assert (prepared.prompt_token_count, prepared.model.name) == (2, "m")
    assert isinstance(events[0], Progress)
    assert "".join(event.text for event in events if isinstance(event, Chunk)) == "hello world"
    assert isinstance(events[-1], End)
    assert events[-1].finish_detail is FinishDetail.EOS


def test_prepare_is_the_beginning_of_a_run(served: Served) -> None:
    """`Prepare` gets the answer with which a run begins. Nothing is evaluated."""
    served.told(LOAD)
    assert served.told(Prepare(REQUEST))[1:-1] == served.told(Run(REQUEST, 0))[1:2]


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"prompt": ""}, "InvalidInput", "the prompt is empty"),
        ({"prompt": "x" * 1000}, "PromptTooLong", "the prompt has 1,000 tokens"),
    ],
)
def test_a_prompt_that_cannot_be_run(
    changes: dict[str, Any], kind: str, said: str, served: Served
) -> None:
    """Nothing is evaluated, and the next request is answered."""
    served.told(LOAD)
    _, failed = served.told(Run(REQUEST.model_copy(update=changes), 0))
    assert (failed.type, said in failed.message) == (kind, True)
    assert isinstance(served.told(Run(REQUEST, 0))[-1], Done)


def test_a_filter_of_the_kernel_is_asked(served: Served) -> None:
    """The child waits for the verdict, and cuts the text there."""
    served.told(LOAD)
    served.send(Run(REQUEST, 1))
    text = ""
    while not isinstance(answer := served.next(), End):
        if isinstance(answer, Judge):
            assert answer.filter == 0
            place = answer.text.find("lo")
            served.send(Verdict(None if place < 0 else place))
        elif isinstance(answer, Chunk):
            text += answer.text
    assert (text, answer.finish_detail) == ("hel", FinishDetail.CONTENT_FILTER)
    assert served.next() == Done()


def test_a_cancelled_run_keeps_its_text(served: Served) -> None:
    """The run ends before the next token, without a reason.

    A cancellation from before it does not count.
    """
    served.backend.script = b"x" * 400
    served.told(LOAD)
    served.send(Cancel())
    request = REQUEST.with_params(max_tokens=None)
    served.send(Run(request, 1))
    count = 0
    while not isinstance(answer := served.next(), End):
        if isinstance(answer, Judge):
            count += 1
            if count == 3:
                served.send(Cancel())
            served.send(Verdict(None))
    assert answer.finish_detail is None
    assert 2 <= (answer.usage.generated_token_count or 0) <= 4
    assert served.next() == Done()


def test_a_command_that_is_none_ends_the_child(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    """As that of another version: its last words say why, and nobody waits for an answer."""
    os.write(served._commands, b'{"kind": "Tomorrow", "value": {}}\n')
    assert served.left.acquire(timeout=5)
    assert "KeyError: 'Tomorrow'" in capfd.readouterr().err
    served.child._pending.put(Exit())  # nobody reads the pipe any more
