"""A model in a child process, as the kernel sees it: start, converse, cancel, report a death."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ...contract.engine import Texts
from ...contract.events import Cancelled, Chunk, Emit, End, Event, Prepared, Progress, Vectors
from ...contract.request import Request
from ...errors import EngineDied, EngineFailed, InferenceError, InvalidInput
from ..judging import Patience, judgement
from . import conversation
from .conversation import BrokenDown, Conversation, Given, Gone, Unusable
from .death import broken, dead
from .pipe import ChildProcess
from .turns import Turns
from .wire import Command, Count, Counts, Embed, Judge, Load, Prepare, Run, Verdict


class ModelProcess:
    """A model in a child process. It does one run at a time; further callers wait for their turn.

    Each call blocks until its work is done. See `contract.engine.Engine` for what it raises.
    """

    def __init__(
        self,
        load: Load,
        child: ChildProcess | None = None,
        start: Callable[[], ChildProcess] = ChildProcess,
    ) -> None:
        """`child` is one that was started in advance. Without it, `start` makes one when needed."""
        self._load_command = load
        self.name = load.info.name
        self._turns = Turns()
        self._child = child
        self._start = start
        self._opened = False  # whether the child has been given its model
        self._doing = "starting"
        self._begun = False  # whether the child has taken up its last command
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether there is a child that lives and has been given its model."""
        child = self._child  # read once: another thread may release it
        return child is not None and self._opened and child.alive

    @property
    def pid(self) -> int | None:
        """The child's process id; None where there is no child."""
        child = self._child
        return child.pid if child else None

    def load(self, emit: Emit, cancel: threading.Event) -> None:
        """Start the child and load the model, if that is not done yet."""
        if self.alive and not self._closed:
            return  # or another caller loads it, and is done when this caller gets its turn
        with self._my_turn(emit, cancel):
            self._ensure_loaded(emit, cancel)

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        """Carry out a request. Its events go to `emit`; the last one is an `End`."""
        functions = [item for item in request.content_filters if callable(item)]
        objection: InvalidInput | None = None
        command = Run(_for_child(request), len(functions))
        with self._conversation("reading the prompt", command, emit, cancel) as answers:
            for answer in answers:
                if isinstance(answer, Judge):
                    try:
                        cut = self._ask(functions, answer, cancel)
                    except InvalidInput as error:
                        # The child waits for a verdict. This one ends its run, and the error is
                        # raised after that.
                        objection, cut = objection or error, 0
                    self._send(Verdict(cut))
                elif not isinstance(answer, Counts) and not (objection and isinstance(answer, End)):
                    emit(answer)
                    self._doing = _activity(answer, self._doing)
        if objection:
            raise objection

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        """What `run` would begin with. Nothing is evaluated."""
        command = Prepare(_for_child(request))
        with self._conversation("reading the prompt", command, emit, cancel) as answers:
            return next(answer for answer in list(answers) if isinstance(answer, Prepared))

    def embed(self, request: Request, texts: Texts, emit: Emit, cancel: threading.Event) -> None:
        """Make one vector of each text. The events go to `emit`; the last one is an `End`."""
        command = Embed(_for_child(request), texts.texts, texts.numbers, texts.truncate)
        with self._conversation("computing embeddings", command, emit, cancel) as answers:
            for answer in answers:
                if isinstance(answer, Prepared | Vectors | End):
                    emit(answer)

    def count(self, texts: Sequence[str], emit: Emit, cancel: threading.Event) -> list[int]:
        """How many tokens each text has."""
        command = Count(tuple(texts))
        with self._conversation("counting tokens", command, emit, cancel) as answers:
            found = next(answer for answer in list(answers) if isinstance(answer, Counts))
        if len(found.counts) < len(texts):
            raise Cancelled
        return list(found.counts)

    def close(self) -> None:
        """End the child. Its memory has been given back when this returns."""
        self._closed = True  # whoever has the turn notices this, and gives the turn up
        with self._turns.taken():
            child, self._child = self._child, None
            if child is not None:
                child.close()

    def __del__(self) -> None:
        self._release()  # the child finds its pipe closed, and ends

    # One turn -----------------------------------------------------------------

    @contextmanager
    def _my_turn(self, emit: Emit, cancel: threading.Event) -> Iterator[None]:
        """Wait for the turn and hold it in the block. Only the holder of the turn uses the child.

        Raises `Cancelled` where the caller is cancelled while it waits.
        """
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

    @contextmanager
    def _conversation(
        self, doing: str, command: Command, emit: Emit, cancel: threading.Event
    ) -> Iterator[Iterator[Given]]:
        """A block that holds the turn, with the answers of a child that has the model.

        Where an unexpected exception breaks off the conversation, the child is of no more use and
        is ended.
        """
        with self._my_turn(emit, cancel):
            self._ensure_loaded(emit, cancel)
            try:
                yield self._answers(doing, command, emit, cancel)
            except (InferenceError, Cancelled):
                raise
            except Exception as error:
                raise self._break_up(f"{type(error).__name__}: {error}") from error
            except BaseException:
                self._kill()
                raise

    def _answers(
        self, doing: str, command: Command, emit: Emit, cancel: threading.Event
    ) -> Iterator[Given]:
        """The answers to a command.

        A child may have died while it had nothing to do. Then it has not begun the command, and
        another child takes its place, once.
        """
        self._doing = doing
        try:
            yield from self._converse(command, cancel)
        except EngineDied:
            if self._begun:
                raise
            self._ensure_loaded(emit, cancel)
            self._doing = doing
            yield from self._converse(command, cancel)

    def _converse(self, command: Command, cancel: threading.Event) -> Iterator[Given]:
        """The answers of the present child. What goes wrong with it is raised as an error."""
        self._begun = False
        child, check = self._running_child(), partial(self._check_open, cancel)
        talk = Conversation(child, command, self.name, cancel, check)
        try:
            yield from talk
        except Gone:
            raise self._death() from None
        except BrokenDown as error:
            raise self._break_up(str(error)) from None
        except Unusable as error:
            self._kill()
            raise error.cause from None
        finally:
            self._begun = talk.begun

    def _check_open(self, cancel: threading.Event) -> None:
        """Raise `Unusable` where the model has been unloaded."""
        if self._closed:
            said = f"{self.name} was unloaded while it was {self._doing}"
            raise Unusable(Cancelled() if cancel.is_set() else EngineFailed(said))

    def _ask(
        self,
        functions: list[Callable[[str], int | None]],
        asked: Judge,
        cancel: threading.Event,
    ) -> int | None:
        """Ask a content filter of this process.

        After a cancellation, wait no longer than `CANCEL_SECONDS` for the filter. Then end the child
        and raise `Cancelled`.
        """
        patience = Patience(lambda: cancel.is_set() or self._closed, conversation.CANCEL_SECONDS)
        try:
            return judgement(functions[asked.filter], asked.text, patience)
        except Cancelled:
            self._kill()
            raise

    # The child's life -----------------------------------------------------------

    def _ensure_loaded(self, emit: Emit, cancel: threading.Event) -> None:
        """Load the model where no child has it. Raises `EngineFailed` where it was unloaded."""
        if self._closed:
            if cancel.is_set():
                raise Cancelled
            raise EngineFailed(f"{self.name} was unloaded")
        if self.alive:
            return
        emit(Progress("load", note=self.name))
        ahead = self._child is not None and self._child.alive
        try:
            self._load(cancel)
        except EngineDied:
            # A child that was started in advance may have died while it had nothing to do.
            if not ahead or self._begun:
                raise
            self._load(cancel)

    def _load(self, cancel: threading.Event) -> None:
        """Give the child its model. Where there is no child, start one."""
        self._doing = "loading the model"
        if self._child is None or not self._child.alive:
            self._release()
            self._child = self._start()
        self._opened = True
        try:
            for _ in self._converse(self._load_command, cancel):
                pass
        except BaseException:
            self._kill()  # a child without its model is of no use
            raise

    def _running_child(self) -> ChildProcess:
        child = self._child
        if child is None:
            raise EngineDied(f"the engine of {self.name} is not running")
        return child

    def _send(self, command: Command) -> None:
        self._running_child().send(command)

    def _kill(self) -> None:
        child, self._child, self._opened = self._child, None, False
        if child is not None:
            child.kill()

    def _break_up(self, said: str) -> EngineFailed:
        """End a child that raised an unexpected exception: its state is unknown."""
        self._kill()
        return broken(self.name, self._doing, said)

    def _death(self) -> EngineDied:
        """The error of a child that ended by itself."""
        code, output = self._running_child().ending()
        self._release()
        return dead(self.name, self._doing, code, output, self._load_command.backend)

    def _release(self) -> None:
        child, self._child, self._opened = self._child, None, False
        if child is not None:
            child.release()


def _for_child(request: Request) -> Request:
    """The request without what stays in the kernel: content filters by functions, and tags."""
    patterns = tuple(item for item in request.content_filters if isinstance(item, str))
    return request.model_copy(update={"content_filters": patterns, "tags": {}})


def _activity(event: Event, before: str) -> str:
    """What the child does after this event, in words for the report of a death."""
    if isinstance(event, Progress | Prepared):
        return "evaluating the prompt"
    if isinstance(event, Chunk):
        return f"generating token {(event.generated_token_count or 0) + 1}"
    return before
