"""The pipe to a child: what goes in, what comes out, and what is told of its end."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from llmwit_magic.contract.events import Progress
from llmwit_magic.engines.local import pipe
from llmwit_magic.engines.local.pipe import ChildProcess, Standby
from llmwit_magic.engines.local.wire import Broken, Cancel, Done, Exit, Started, encoded
from llmwit_magic.errors import EngineFailed
from tests.support.fake_child import FakeChild


def child_of(code: str, monkeypatch: pytest.MonkeyPatch) -> ChildProcess:
    """A child that runs this code instead of our program."""
    monkeypatch.setattr(pipe, "_CODE", code)
    return ChildProcess()


def says(*lines: bytes) -> str:
    return f"import sys\nsys.stdout.buffer.write({b''.join(lines)!r})\nsys.stdout.flush()\n"


def heard(child: ChildProcess) -> list[Any]:
    """All answers of the child, up to its end."""
    said = []
    while (answer := child.answers.get(timeout=20)) is not None:
        said.append(answer)
    return said


def test_answers_arrive_between_other_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python's start prints is no answer, and neither is a line that was cut off."""
    lines = (b"hello from sitecustomize\n", encoded(Started()), b'"text"\n', b"{}\n",
             encoded(Progress("prompt", 1, 2)), encoded(Done()), encoded(Started())[:-5])  # fmt: skip
    child = child_of(says(*lines), monkeypatch)
    assert heard(child) == [Started(), Progress("prompt", 1, 2), Done()]
    assert child.ending() == (0, "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[" * 100_000 + b"\n", "RecursionError"),
        (b'{"kind": "Chunk", "value": 5}\n', "TypeError"),
        (b'{"kind": "Nothing", "value": {}}\n', "KeyError"),
    ],
)
def test_an_answer_that_is_none_breaks_the_child(
    line: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its meaning is unknown. No answer after it counts."""
    child = child_of(says(line, encoded(Done())), monkeypatch)
    (broken,) = heard(child)
    assert isinstance(broken, Broken)
    assert broken.said.startswith(said)
    child.kill()


def test_commands_go_in_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands arrive in their order. `close` sends the last one."""
    code = "import sys\nfor line in sys.stdin:\n    sys.stderr.write(line[:-1] + ' ')\n    if 'Exit' in line: sys.exit(5)\n"
    child = child_of(code, monkeypatch)
    child.send(Cancel())
    child.send(Exit())
    code_of_exit, words = child.ending()
    assert code_of_exit == 5
    assert words == f"{encoded(Cancel()).decode().strip()} {encoded(Exit()).decode().strip()}"


def test_the_last_words_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the last line that the child wrote to its standard error, cut where it is long."""
    code = "import os, sys\nsys.stderr.write('first\\n' + 'x' * 5000 + '\\n\\n')\nsys.stderr.flush()\nos._exit(3)"
    child = child_of(code, monkeypatch)
    assert heard(child) == []
    assert child.ending() == (3, "x" * 300)


def test_a_child_that_closes_its_pipe_and_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is killed here. Its exit code would say nothing of what went wrong."""
    monkeypatch.setattr(pipe, "EXIT_SECONDS", 0.2)
    child = child_of("import os, time\nos.close(1)\ntime.sleep(60)", monkeypatch)
    assert heard(child) == []
    assert child.alive
    assert child.ending() == (None, "")
    assert not child.alive


def test_a_child_that_does_not_end_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is killed after a short time."""
    monkeypatch.setattr(pipe, "EXIT_SECONDS", 0.2)
    child = child_of("import time\ntime.sleep(60)", monkeypatch)
    child.close()
    assert not child.alive


def test_a_system_that_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says why. A child that was wanted only in advance is done without."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(pipe, "start", refuse)
    with pytest.raises(EngineFailed, match="could not be started: Resource temporarily"):
        ChildProcess()
    assert pipe.start_child() is None
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(EngineFailed, match=r"could not be started: .*sys\.executable"):
        ChildProcess()


def test_a_child_stands_by_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One child stands by at a time.

    It belongs to whoever takes it. One that nobody takes ends by itself.
    """
    monkeypatch.setattr(pipe, "STANDBY_SECONDS", 0.1)
    standby = Standby()
    assert standby.taken() is None
    children: list[Any] = [FakeChild() for _ in range(3)]
    standby.put(children[0])
    standby.put(children[1])
    assert [child.alive for child in children] == [False, True, True]
    assert standby.taken() is children[1]
    standby.put(children[2])
    deadline = time.monotonic() + 5
    while children[2].alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [child.alive for child in children] == [False, True, False]
    assert standby.taken() is None
