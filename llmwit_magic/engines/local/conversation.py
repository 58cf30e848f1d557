"""One command to a child, and the child's answers, up to the last one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from ...contract.events import Cancelled, Chunk, End, Prepared, Progress
from ...errors import ConstraintNotSupported, ModelNotSupported, error_named
from .wire import (
    Answer,
    Broken,
    Cancel,
    Command,
    Constraining,
    Done,
    Failed,
    Judge,
    Load,
    Rendering,
    Started,
    Vectors,
)

CANCEL_SECONDS = 5.0
"""How long a cancelled child may go on. Then it is killed.

The child notices a cancellation before the next part of the prompt and before the next token."""
TEMPLATE_SECONDS = 5.0
"""How long a chat template may run. It is a program from the model file, and takes milliseconds."""
CONSTRAINT_SECONDS = 20.0
"""How long a constraint may be prepared. Most take milliseconds. The library's own limits do not
bound all: the time to intersect expressions may double with each one."""
POLL_SECONDS = 0.05
"""How often a conversation that waits for an answer looks for a cancellation."""


Given = Judge | Progress | Prepared | Chunk | End | Vectors
"""The answers that a conversation hands to its caller."""


class Child(Protocol):
    """What a conversation needs of a child process; see `pipe.ChildProcess`."""

    answers: queue.SimpleQueue[Answer | None]

    def send(self, command: Command) -> None:
        """Send a command, without waiting for the child."""
        ...


class Gone(Exception):
    """The child has closed its pipe. It is dead, or is about to be."""


class BrokenDown(Exception):
    """The child raised an unexpected exception. The text is the child's report of it."""


class Unusable(Exception):
    """The child must be ended. `cause` is the exception to raise after that."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Conversation:
    """A command to a child. Iterating sends it and gives its answers, until it is carried out.

    Answers that are about the conversation itself are not given. A cancellation is passed on to
    the child at once. Iterating raises:

    - an `InferenceError` that the child reports;
    - `Cancelled` where the child is cancelled while it loads its model;
    - `Gone`, `BrokenDown` or `Unusable` where the child is of no more use. `Unusable` is also
      raised where the child does not heed a cancellation in time, and where its chat template
      or the making of its constraint does not end;
    - whatever `check` raises.
    """

    def __init__(
        self, child: Child, command: Command, name: str, cancel: threading.Event,
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`name` is the model's, for errors. `check()` is called now and then, and may raise."""
        self.begun = False
        """Whether the child has taken up the command."""
        self._child, self._command, self._name = child, command, name
        self._cancel, self._check = cancel, check
        self._cancelled_until: float | None = None
        self._template_until: float | None = None
        self._constraint_until: float | None = None

    def __iter__(self) -> Iterator[Given]:
        self._child.send(self._command)
        while True:
            waiting, answer = False, None
            try:
                answer = self._child.answers.get(timeout=POLL_SECONDS)
            except queue.Empty:
                waiting = True
            self._pass_cancellation_on()
            self._check()
            if answer is None and not waiting:
                raise Gone
            match answer:
                case Done():
                    return
                case Failed(kind, message):
                    raise error_named(kind, message)
                case Broken(said):
                    raise BrokenDown(said)
                case Started():
                    self.begun = True
                    # The child forgets a cancellation that came before it took up the command.
                    if self._cancelled_until is not None:
                        self._child.send(Cancel())
                case Rendering(running):
                    now = time.monotonic()
                    self._template_until = now + TEMPLATE_SECONDS if running else None
                case Constraining(running):
                    now = time.monotonic()
                    self._constraint_until = now + CONSTRAINT_SECONDS if running else None
                case Judge() | Progress() | Prepared() | Chunk() | End() | Vectors():
                    yield answer
            self._keep_deadlines()

    def _pass_cancellation_on(self) -> None:
        if self._cancel.is_set() and self._cancelled_until is None:
            self._cancelled_until = time.monotonic() + CANCEL_SECONDS
            if isinstance(self._command, Load):
                raise Cancelled
            self._child.send(Cancel())

    def _keep_deadlines(self) -> None:
        now = time.monotonic()
        late = [until for until in (self._template_until, self._constraint_until) if until]
        if late and now > min(late) and self._cancelled_until is not None:
            raise Unusable(Cancelled())
        if self._constraint_until is not None and now > self._constraint_until:
            raise Unusable(
                ConstraintNotSupported(
                    f"the constraint was not ready after {CONSTRAINT_SECONDS:.0f} s: write a simpler "
                    "one, with fewer expressions that must match the same text"
                )
            )
        if self._template_until is not None and now > self._template_until:
            raise Unusable(
                ModelNotSupported(
                    f"the chat template of {self._name} had not ended after "
                    f"{TEMPLATE_SECONDS:.0f} s: leave out --chat and --system, and write the "
                    "prompt in the model's form"
                )
            )
        if self._cancelled_until is not None and now > self._cancelled_until:
            raise Unusable(Cancelled())
