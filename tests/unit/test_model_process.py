"""A model's process as its callers see it: who may use it, what they hear, how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from llmwit_magic.contract.engine import Texts
from llmwit_magic.contract.events import Cancelled, Chunk, Event, Progress, Vectors
from llmwit_magic.contract.request import Request
from llmwit_magic.engines.local import conversation
from llmwit_magic.engines.local.model_process import ModelProcess
from llmwit_magic.engines.local.wire import (
    Answer,
    Broken,
    Cancel,
    Command,
    Embed,
    Failed,
    Judge,
    Load,
    Prepare,
    Run,
    Started,
    Verdict,
)
from llmwit_magic.errors import EngineDied, EngineFailed, InvalidInput, ModelNotSupported
from tests.support.fake import end, prepared
from tests.support.fake_child import LOAD, FakeChild, Script, carried_out, obedient

REQUEST = Request(model="m", prompt="p")
ANSWER: list[Event] = [prepared(REQUEST), Chunk("a", 1), end(1)]


def answering(*answers: Answer | None) -> Script:
    """A child that loads a model, and answers every other command with these answers."""
    return lambda command: carried_out() if isinstance(command, Load) else answers


class Children:
    """Starts the children of a test, one for each script.

    The last script is used again and again.
    """

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.started: list[FakeChild] = []

    def __call__(self) -> Any:
        script = self.scripts[min(len(self.started), len(self.scripts) - 1)]
        self.started.append(FakeChild(script))
        return self.started[-1]

    @property
    def fates(self) -> list[str]:
        return [child.fate for child in self.started]


def process_of(*scripts: Script, child: Any = None) -> tuple[ModelProcess, Children]:
    children = Children(*scripts)
    return ModelProcess(LOAD, child, children), children


def events_of(process: ModelProcess, request: Request = REQUEST, **how: Any) -> list[Event]:
    events: list[Event] = []
    process.run(request, events.append, how.pop("cancel", threading.Event()))
    return events


def test_a_run_loads_the_model_once() -> None:
    """The first run says that it loads the model. The second run finds the child with the model."""
    process, children = process_of(answering(*carried_out(*ANSWER)))
    assert events_of(process) == [Progress("load", note="m"), *ANSWER]
    assert events_of(process) == ANSWER
    (child,) = children.started
    assert [type(command) for command in child.commands] == [Load, Run, Run]
    assert (process.alive, process.pid) == (True, child.pid)


def test_a_child_that_was_started_ahead_is_taken() -> None:
    """No other child is started."""
    ahead: Any = FakeChild(answering(*carried_out(*ANSWER)))
    process, children = process_of(obedient, child=ahead)
    events_of(process)
    assert children.started == []
    assert process.pid == ahead.pid


def test_what_only_the_kernel_has_stays_here() -> None:
    """Functions and tags stay in the kernel. Patterns go to the child."""
    process, children = process_of(answering(*carried_out(*ANSWER)))
    request = REQUEST.model_copy(
        update={"content_filters": ("bad", lambda text: None), "tags": {"a": "b"}}
    )
    events_of(process, request)
    (command,) = children.started[0].told(Run)
    assert command.function_count == 1
    assert command.request.content_filters == ("bad",)
    assert command.request.tags == {}


def test_a_filter_of_the_kernel_gives_a_verdict() -> None:
    """The child asks for the verdict, and goes on with it."""

    def script(command: Command) -> Iterable[Answer]:
        if isinstance(command, Load):
            return carried_out()
        if isinstance(command, Verdict):
            return (*ANSWER[1:], *carried_out()[1:])  # type: ignore[return-value]
        return Started(), ANSWER[0], Judge(0, "some text")  # type: ignore[return-value]

    process, children = process_of(script)
    request = REQUEST.model_copy(update={"content_filters": (lambda text: text.index("text"),)})
    assert events_of(process, request)[1:] == ANSWER
    assert children.started[0].told(Verdict) == [Verdict(5)]


def test_a_filter_that_fails_ends_the_run_and_not_the_child() -> None:
    """The text is cut at its beginning, the child's run ends, and then the error is raised."""

    def script(command: Command) -> Iterable[Answer]:
        if isinstance(command, Run):
            return Started(), ANSWER[0], Judge(0, "text")  # type: ignore[return-value]
        return carried_out() if isinstance(command, Load) else (end(1), *carried_out()[1:])

    process, children = process_of(script)
    request = REQUEST.model_copy(update={"content_filters": (lambda text: 1 / 0,)})
    events: list[Event] = []
    with pytest.raises(InvalidInput, match="raised ZeroDivisionError"):
        process.run(request, events.append, threading.Event())
    assert children.started[0].told(Verdict) == [Verdict(0)]
    assert end(1) not in events
    assert process.alive


def test_prepare_and_embed_give_their_answers() -> None:
    """Both go the same way as a run."""
    process, _ = process_of(answering(*carried_out(prepared(REQUEST))))
    assert process.prepare(REQUEST, lambda event: None, threading.Event()) == prepared(REQUEST)
    answers = prepared(REQUEST), Vectors(bytes(4), 1, 2), end(0, None)
    process, children = process_of(answering(*carried_out(*answers)))
    events: list[Event] = []
    process.embed(REQUEST, Texts(("a",), (7,), True), events.append, threading.Event())
    assert events[-3:] == [*answers]
    assert children.started[0].commands[-1] == Embed(REQUEST, ("a",), (7,), True)


def test_an_error_of_the_child_leaves_it_alive() -> None:
    """After an error the child can go on, and does."""
    answers = iter([(Started(), Failed("InvalidInput", "empty")), carried_out(*ANSWER)])  # type: ignore[arg-type]
    process, children = process_of(
        lambda command: carried_out() if isinstance(command, Load) else next(answers)
    )
    with pytest.raises(InvalidInput, match=r"^empty$"):
        events_of(process)
    assert events_of(process) == ANSWER
    assert children.fates == [""]


@pytest.mark.parametrize(
    ("answers", "said", "fate"),
    [
        ((Started(), None), "exited with code 1 while reading the prompt", "died"),
        ((Started(), *ANSWER[:2], None), "while generating token 2", "died"),
        (
            (Started(), Broken("KeyError: 'x'")),
            "failed while reading the prompt: .*KeyError",
            "killed",
        ),
    ],
)
def test_a_child_that_ends_in_its_work(answers: Any, said: str, fate: str) -> None:
    """The error says what the child was doing. The next run gets a new child."""
    process, children = process_of(answering(*answers), answering(*carried_out(*ANSWER)))
    with pytest.raises(EngineFailed, match=said):
        events_of(process)
    assert not process.alive
    assert events_of(process)[1:] == ANSWER
    assert children.fates == [fate, ""]


def test_a_child_that_died_while_it_was_idle() -> None:
    """The child had not begun the command.

    Another child takes its place, and the caller hears nothing.
    """
    process, children = process_of(answering(None), answering(*carried_out(*ANSWER)))
    assert events_of(process) == [Progress("load", note="m")] * 2 + ANSWER
    assert children.fates == ["died", ""]


def test_only_one_child_takes_the_place() -> None:
    """A second such death is an error."""
    process, children = process_of(answering(None))
    with pytest.raises(EngineDied):
        events_of(process)
    assert len(children.started) == 2


def test_a_child_that_cannot_load() -> None:
    """A child that cannot load is of no use and is ended. The error is the one that it reported."""
    process, children = process_of(lambda command: (Started(), Failed("ModelNotSupported", "no")))
    with pytest.raises(ModelNotSupported, match=r"^no$"):
        events_of(process)
    assert children.fates == ["killed"]
    assert not process.alive


def test_a_listener_that_fails_ends_the_child() -> None:
    """The child is ended, since its state is unknown: nobody heard what it said."""
    process, children = process_of(answering(*carried_out(*ANSWER)))

    def listen(event: Event) -> None:
        if isinstance(event, Chunk):
            raise ZeroDivisionError("in the view")

    with pytest.raises(EngineFailed, match="ZeroDivisionError: in the view"):
        process.run(REQUEST, listen, threading.Event())
    assert children.fates == ["killed"]


def test_one_caller_at_a_time() -> None:
    """A second caller waits, says so once, and can be cancelled while it waits."""
    release = threading.Event()

    def script(command: Command) -> Iterable[Answer]:
        if isinstance(command, Run):
            threading.Thread(
                target=lambda: release.wait(10) and child().answers.put(carried_out()[-1])
            ).start()
            return (Started(),)
        return carried_out()

    process, children = process_of(script)

    def child() -> FakeChild:
        return children.started[0]

    first = threading.Thread(target=events_of, args=(process,))
    first.start()
    until(lambda: bool(children.started and child().told(Run)))
    heard: list[Event] = []
    cancel = threading.Event()
    waiting = threading.Thread(target=lambda: expect_cancelled(process, heard, cancel))
    waiting.start()
    until(lambda: bool(heard))
    cancel.set()
    waiting.join(5)
    assert heard == [Progress("wait")]
    assert len(child().told(Run)) == 1
    release.set()
    first.join(5)
    assert not first.is_alive()


def expect_cancelled(process: ModelProcess, heard: list[Event], cancel: threading.Event) -> None:
    with pytest.raises(Cancelled):
        process.run(REQUEST, heard.append, cancel)


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_process_that_is_unloaded_in_its_work() -> None:
    """Its caller and later callers are told that the model was unloaded. The child has ended."""
    process, children = process_of(answering(Started()))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            events_of(process)
        except EngineFailed as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: bool(children.started and children.started[0].told(Run)))
    process.close()
    thread.join(5)
    assert [str(error) for error in errors] == ["m was unloaded while it was reading the prompt"]
    assert children.fates == ["killed"]
    with pytest.raises(EngineFailed, match=r"^m was unloaded$"):
        events_of(process)


def test_a_cancelled_run_is_given_up_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that does not notice the cancellation is killed. The next run gets another one."""
    monkeypatch.setattr(conversation, "CANCEL_SECONDS", 0.1)
    process, children = process_of(
        lambda command: carried_out() if isinstance(command, Load)
        else () if isinstance(command, Cancel) else (Started(),),
        answering(*carried_out(*ANSWER)),
    )  # fmt: skip
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        process.load(lambda event: None, cancel)
    assert children.fates == ["killed"]
    assert events_of(process)[1:] == ANSWER


def test_a_prepared_request_is_asked_for_as_such() -> None:
    """Nothing is run."""
    process, children = process_of(answering(*carried_out(prepared(REQUEST))))
    process.prepare(REQUEST, lambda event: None, threading.Event())
    assert [type(command) for command in children.started[0].commands] == [Load, Prepare]
