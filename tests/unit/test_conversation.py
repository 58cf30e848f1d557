"""What a kernel makes of a child's answers to one command."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from llmwit_magic.contract.events import Cancelled, Chunk, Progress
from llmwit_magic.contract.request import Request
from llmwit_magic.engines.local import conversation
from llmwit_magic.engines.local.conversation import BrokenDown, Conversation, Gone, Unusable
from llmwit_magic.engines.local.wire import (
    Broken,
    Cancel,
    Constraining,
    Done,
    Failed,
    Prepare,
    Rendering,
    Started,
)
from llmwit_magic.errors import ConstraintNotSupported, ModelDamaged, ModelNotSupported
from tests.support.fake_child import LOAD, FakeChild, carried_out

COMMAND = Prepare(Request(model="m", prompt="p"))


def conversing(child: FakeChild, command: Any = COMMAND, **how: Any) -> Conversation:
    return Conversation(child, command, "m", how.pop("cancel", threading.Event()), **how)


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "CANCEL_SECONDS", 0.2)
    monkeypatch.setattr(conversation, "TEMPLATE_SECONDS", 0.2)
    monkeypatch.setattr(conversation, "CONSTRAINT_SECONDS", 0.2)


def test_the_answers_come_up_to_the_last_one() -> None:
    """Answers about the conversation itself are kept back.

    Answers after the last one stay in the queue.
    """
    own = (Rendering(True), Rendering(False), Constraining(True), Constraining(False))
    said = (Progress("load"), *own, Chunk("a", 1))
    child = FakeChild(lambda command: (*carried_out(*said), Chunk("of the next", 1)))
    talk = conversing(child)
    assert list(talk) == [Progress("load"), Chunk("a", 1)]
    assert talk.begun
    assert child.commands == [COMMAND]
    assert child.answers.qsize() == 1


def test_an_error_is_raised_by_its_class() -> None:
    """An error of the child is raised as the same error here."""
    child = FakeChild(lambda command: (Started(), Failed("ModelDamaged", "m: cut off")))
    with pytest.raises(ModelDamaged, match=r"^m: cut off$"):
        list(conversing(child))


def test_a_child_of_no_more_use() -> None:
    """A child that broke down says why. One that has gone may have begun the command or not."""
    with pytest.raises(BrokenDown, match="KeyError"):
        list(conversing(FakeChild(lambda command: (Started(), Broken("KeyError: 1")))))
    for answers, begun in (((None,), False), ((Started(), None), True)):
        talk = conversing(FakeChild(lambda command, answers=answers: answers))
        with pytest.raises(Gone):
            list(talk)
        assert talk.begun is begun


def test_a_cancellation_is_passed_on() -> None:
    """The child gets one cancellation and ends the command. Its last answers still count."""
    cancel = threading.Event()

    def script(command: Any) -> tuple[Any, ...]:
        return (
            (Chunk("last", 2), Done())
            if isinstance(command, Cancel)
            else (Started(), Chunk("a", 1))
        )

    child = FakeChild(script)
    texts = []
    for answer in conversing(child, cancel=cancel):
        assert isinstance(answer, Chunk)
        texts.append(answer.text)
        cancel.set()
    assert texts == ["a", "last"]
    assert child.told(Cancel) == [Cancel()]


def test_a_cancellation_before_the_child_began_is_sent_again() -> None:
    """The child forgets a cancellation that came before it took up the command."""
    cancel = threading.Event()
    cancel.set()

    def script(command: Any) -> tuple[Any, ...]:
        if not isinstance(command, Cancel):
            return ()
        return (Started(),) if len(child.told(Cancel)) == 1 else (Done(),)

    child = FakeChild(script)
    assert list(conversing(child, cancel=cancel)) == []
    assert child.told(Cancel) == [Cancel(), Cancel()]


def test_a_child_that_does_not_heed_a_cancellation() -> None:
    """After the grace time the child must be ended. Its caller gets `Cancelled`."""
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Unusable) as caught:
        list(conversing(FakeChild(lambda command: (Started(),)), cancel=cancel))
    assert isinstance(caught.value.cause, Cancelled)


def test_loading_is_not_waited_for() -> None:
    """Native code that loads does not notice a cancellation.

    So a loading child is given up at once.
    """
    cancel = threading.Event()
    cancel.set()
    child = FakeChild(lambda command: (Started(),))
    with pytest.raises(Cancelled):
        list(conversing(child, LOAD, cancel=cancel))
    assert child.commands == [LOAD]


@pytest.mark.parametrize(
    ("begun", "cancelled", "cause"),
    [
        (Rendering(True), False, ModelNotSupported),
        (Rendering(True), True, Cancelled),
        (Constraining(True), False, ConstraintNotSupported),
        (Constraining(True), True, Cancelled),
    ],
)
def test_a_template_or_a_constraint_that_does_not_end(
    begun: Rendering | Constraining,
    cancelled: bool,
    cause: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The child must be ended.

    A caller who was cancelled before that hears nothing of the template.
    """
    cancel = threading.Event()
    if cancelled:
        cancel.set()
        monkeypatch.setattr(conversation, "CANCEL_SECONDS", 60)
    child = FakeChild(lambda command: () if isinstance(command, Cancel) else (Started(), begun))
    with pytest.raises(Unusable) as caught:
        list(conversing(child, cancel=cancel))
    assert isinstance(caught.value.cause, cause)


def test_the_caller_may_give_up_at_any_time() -> None:
    """What `check` raises ends the conversation, even where the child does not answer."""

    def check() -> None:
        raise Unusable(ValueError("unloaded"))

    with pytest.raises(Unusable, match="unloaded"):
        list(conversing(FakeChild(lambda command: ()), check=check))
