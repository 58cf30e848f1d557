"""The parent's side of the child process: start, stream, cancel, report a death."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import (
    EngineDied,
    EngineFailed,
    InferenceError,
    InvalidInput,
    ModelNotSupported,
    error_named,
)
from ..protocol import Cancelled, Chunk, Emit, End, Event, Prepared, Progress, Request
from ..wit import ModelInfo
from .death import broken, dead
from .judging import judgement
from .messages import event_of
from .pipe import ChildProcess
from .turns import Turns

GRACE_SECONDS = 5.0
"""How long a cancelled child may take to the next slice or token before it is killed."""
TEMPLATE_SECONDS = 5.0
"""How long a chat template, which is a program from the model file, may run: it takes milliseconds."""


class EngineProcess:
    """A model in its own process. One run at a time; further callers wait their turn."""

    def __init__(
        self, *, info: ModelInfo, source: Path, loaded: Path, model_type: str | None,
        context_length: int | None, gpu_layers: int | str, anyway: bool = False,
        kept_prompts: int = 1,
        child: ChildProcess | None = None,
    ) -> None:  # fmt: skip
        """`child` is one that has been started ahead; without it, `load` starts one."""
        self._spec = {
            "info": info.model_dump(mode="json"),
            "source": str(source),
            "loaded": str(loaded),
            "model_type": model_type,
            "context_length": context_length,
            "gpu_layers": gpu_layers,
            "anyway": anyway,
            "kept_prompts": kept_prompts,
        }
        self.name = info.name
        self._turns = Turns()
        self._child = child
        self._opened = False  # whether the child has been given its model
        self._doing = "starting"
        self._begun = False  # whether the child has taken up what it was told last
        self._closed = False
        self.users = 0
        """How many are about to use the engine or do; kept by the pool."""
        self.unused_since = time.monotonic()
        """When the last of them had done; kept by the pool."""

    @property
    def alive(self) -> bool:
        """Whether the child is there and can run again."""
        child = self._child  # read once: another thread may release it
        return child is not None and self._opened and child.alive

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        child = self._child
        return child.pid if child else None

    def load(self, emit: Emit, cancel: threading.Event) -> None:
        """Start the child and load the model, if that is not done yet."""
        if self.alive and not self._closed:
            return  # what is being loaded by another caller will be when this one has its turn
        with self._my_turn(emit, cancel):
            self._ensure_loaded(emit, cancel)

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        """Carry a request out; its events go to `emit`. See `protocol.Engine`."""
        functions = [item for item in request.content_filters if callable(item)]
        command = self._request_command("run", request) | {
            "patterns": [item for item in request.content_filters if isinstance(item, str)],
            "functions": len(functions),
            "top_logprobs": request.top_logprobs,
        }
        objections: list[InvalidInput] = []

        def answer(kind: str, value: Any) -> bool:
            if kind == "judge":
                try:
                    cut = self._ask(functions, value, cancel)
                except InvalidInput as error:
                    # The child waits for a verdict: let it end, then raise.
                    objections.append(error)
                    cut = 0
                self._send({"do": "verdict", "cut": cut})
                return False
            if objections and kind == "End":
                raise objections[0]
            event = event_of(kind, value)
            emit(event)
            self._doing = _activity(event, self._doing)
            return isinstance(event, End)

        self._carry_out("reading the prompt", command, answer, emit, cancel)

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        """What `run` would begin with, with nothing evaluated."""
        found: list[Prepared] = []

        def answer(kind: str, value: Any) -> bool:
            event = event_of(kind, value)
            assert isinstance(event, Prepared)
            found.append(event)
            return True

        command = self._request_command("prepare", request)
        self._carry_out("reading the prompt", command, answer, emit, cancel)
        return found[0]

    def embed(
        self, texts: list[str], truncate: bool, threads: int | str, emit: Emit,
        cancel: threading.Event,
    ) -> tuple[list[list[float]], int]:  # fmt: skip
        """One vector for each text, and the number of tokens of all texts."""
        found: list[dict[str, Any]] = []

        def answer(kind: str, value: Any) -> bool:
            found.append(value)
            return True

        command = {"do": "embed", "texts": texts, "truncate": truncate, "threads": threads}
        self._carry_out("computing embeddings", command, answer, emit, cancel)
        if cancel.is_set():
            raise Cancelled
        return found[0]["vectors"], found[0]["tokens"]

    def close(self) -> None:
        """End the child; its memory is given back when this returns."""
        self._closed = True  # whoever has the turn notices, and gives it up
        with self._turns.taken():
            child, self._child = self._child, None
            if child is not None:
                child.close()

    def __del__(self) -> None:
        self._release()  # a child whose engine is let go finds its pipe closed, and ends

    # One turn -----------------------------------------------------------------

    @contextmanager
    def _my_turn(self, emit: Emit, cancel: threading.Event) -> Iterator[None]:
        """Wait for the engine, unless cancelled meanwhile; only its holder touches the child."""
        said = False

        def waiting() -> None:
            nonlocal said
            if cancel.is_set():
                raise Cancelled
            if not said:
                emit(Progress("wait"))
                said = True

        with self._turns.taken(waiting):
            yield

    def _ask(
        self,
        functions: list[Callable[[str], int | None]],
        value: Mapping[str, Any],
        cancel: threading.Event,
    ) -> int | None:
        """Ask a content filter of this process, and do not wait for ever when cancelled."""
        deadline: float | None = None

        def give_up() -> bool:
            nonlocal deadline
            if deadline is None and (cancel.is_set() or self._closed):
                deadline = time.monotonic() + GRACE_SECONDS
            return deadline is not None and time.monotonic() > deadline

        try:
            return judgement(functions[value["filter"]], value["text"], give_up)
        except Cancelled:
            self._kill()
            raise

    def _request_command(self, what: str, request: Request) -> dict[str, Any]:
        return {
            "do": what,
            "prompt": request.prompt,
            "params": request.params.model_dump(mode="json"),
            "chat": request.is_chat,
            "system": request.system,
            "chat_template": request.chat_template,
            "control_tokens": request.control_tokens,
            "data_spans": request.data_spans,
            "threads": request.threads,
        }

    def _carry_out(
        self, doing: str, command: Mapping[str, Any], answer: Callable[[str, Any], bool],
        emit: Emit, cancel: threading.Event,
    ) -> None:  # fmt: skip
        """Converse in a turn of one's own, with a child that has the model.

        Where it turns out to have died while it had nothing to do, nothing has
        begun yet: another one takes its place, once.
        """
        with self._my_turn(emit, cancel):
            self._ensure_loaded(emit, cancel)
            self._doing = doing
            try:
                self._converse(command, answer, cancel)
            except EngineDied:
                if self._begun:
                    raise
                self._ensure_loaded(emit, cancel)
                self._doing = doing
                self._converse(command, answer, cancel)

    def _ensure_loaded(self, emit: Emit, cancel: threading.Event) -> None:
        if self._closed:
            raise self._unloaded("", cancel)
        if self.alive:
            return
        emit(Progress("load", note=self.name))
        ahead = self._child is not None and self._child.alive
        try:
            self._load(cancel)
        except EngineDied:
            # One that was started ahead may have died while it waited, as any idle one may.
            if not ahead or self._begun:
                raise
            self._load(cancel)

    def _load(self, cancel: threading.Event) -> None:
        """Give the child its model; a new child, where there is none."""
        self._doing = "loading the model"
        if self._child is None or not self._child.alive:
            self._release()
            self._child = ChildProcess()
        self._opened = True

        def answer(kind: str, value: Any) -> bool:
            return kind == "done"

        try:
            self._converse({"do": "load", **self._spec}, answer, cancel)
        except BaseException:
            self._kill()  # a child without its model is of no use
            raise

    def _send(self, command: Mapping[str, Any]) -> ChildProcess:
        child = self._child
        if child is None:
            raise EngineDied(f"the engine of {self.name} is not running")
        child.send(command)
        return child

    def _converse(
        self,
        command: Mapping[str, Any],
        answer: Callable[[str, Any], bool],
        cancel: threading.Event,
    ) -> None:
        """Send a command and take its answers until `answer` says that one was the last.

        A cancellation is passed on at once; a child that does not heed it in
        time is killed, and so is one whose chat template does not end. Raises
        what the child reports, or its death.
        """
        self._begun = False
        child = self._send(command)
        deadline: float | None = None
        template_deadline: float | None = None
        while True:
            try:
                message = child.answers.get(timeout=0.05)
            except queue.Empty:
                message = {}
            if cancel.is_set() and deadline is None:
                deadline = time.monotonic() + GRACE_SECONDS
                if command["do"] == "load":
                    raise Cancelled
                self._send({"do": "cancel"})
            if self._closed:
                self._kill()
                raise self._unloaded(f" while it was {self._doing}", cancel)
            if message is None:
                raise self._death()
            if message:
                with self._unbroken():
                    kind, value = message["kind"], message["value"]
                    if kind == "error":
                        raise error_named(value["type"], value["message"])
                    if kind == "broken":
                        raise self._break_up(value)
                    if kind == "started":
                        self._begun = True
                        # A cancellation sent before the child took the command up would be lost.
                        if deadline is not None:
                            self._send({"do": "cancel"})
                    elif kind == "rendering":
                        template_deadline = time.monotonic() + TEMPLATE_SECONDS if value else None
                    elif answer(kind, value):
                        return
            if template_deadline is not None and time.monotonic() > template_deadline:
                self._kill()
                if deadline is not None:
                    raise Cancelled
                raise ModelNotSupported(
                    f"the chat template of {self.name} had not ended after {TEMPLATE_SECONDS:.0f} "
                    "s: leave out --chat and --system, and write the prompt in the model's form"
                )
            if deadline is not None and time.monotonic() > deadline:
                self._kill()
                raise Cancelled

    @contextmanager
    def _unbroken(self) -> Iterator[None]:
        """Where something unexpected breaks the conversation off, the child is of no use."""
        try:
            yield
        except (InferenceError, Cancelled):
            raise
        except Exception as error:
            raise self._break_up(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self._kill()
            raise

    def _unloaded(self, when: str, cancel: threading.Event) -> Exception:
        """What an engine that is being closed raises; a cancelled run has ended before."""
        if cancel.is_set():
            return Cancelled()
        return EngineFailed(f"{self.name} was unloaded{when}")

    # The end of a child ---------------------------------------------------------

    def _kill(self) -> None:
        child, self._child, self._opened = self._child, None, False
        if child is not None:
            child.kill()

    def _break_up(self, said: str) -> EngineFailed:
        """End a child that raised an unexpected exception: its state is unknown."""
        self._kill()
        return broken(self.name, self._doing, said)

    def _death(self) -> EngineDied:
        """What is known of a child that ended by itself."""
        assert self._child is not None
        code, output = self._child.ending()
        self._release()
        return dead(self.name, self._doing, code, output)

    def _release(self) -> None:
        child, self._child, self._opened = self._child, None, False
        if child is not None:
            child.release()


def _activity(event: Event, before: str) -> str:
    """What the child was doing, in words for a death report."""
    if isinstance(event, Progress | Prepared):
        return "evaluating the prompt"
    if isinstance(event, Chunk):
        return f"generating token {event.generated_token_count + 1}"
    return before
