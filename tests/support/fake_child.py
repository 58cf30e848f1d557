"""A child process that is none: it answers as a test says, and remembers what befell it."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Iterable
from typing import Any

from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.contract.wit import ModelInfo
from llmwit_magic.engines.local.wire import Answer, Command, Done, Load, Started

LOAD = Load(ModelInfo(name="m"), "fake", "/m.gguf", "/m.adapted.gguf", ModelSpec(model="m"), 3, {})

Script = Callable[[Command], Iterable[Answer | None]]
"""What is answered to a command; None is the end of the pipe."""


def carried_out(*answers: Answer) -> tuple[Answer, ...]:
    """The answers to a command that goes well."""
    return Started(), *answers, Done()


def obedient(command: Command) -> Iterable[Answer]:
    """Does whatever it is told, and says nothing of it."""
    return carried_out()


class FakeChild:
    """Has the methods of `pipe.ChildProcess`."""

    _pids = itertools.count(100)

    def __init__(self, script: Script = obedient) -> None:
        self.script = script
        self.answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self.commands: list[Command] = []
        self.fate = ""
        """How it ended."""
        self.pid = next(self._pids)
        self.last_words: tuple[int | None, str] = (1, "")

    @property
    def alive(self) -> bool:
        return not self.fate

    def send(self, command: Command) -> None:
        self.commands.append(command)
        for answer in self.script(command):
            self.answers.put(answer)

    def kill(self) -> None:
        self.fate = self.fate or "killed"

    def close(self) -> None:
        self.fate = self.fate or "closed"

    def release(self) -> None:
        self.fate = self.fate or "released"

    def ending(self) -> tuple[int | None, str]:
        self.fate = self.fate or "died"
        return self.last_words

    def told(self, kind: type[Any]) -> list[Any]:
        """The commands of that kind."""
        return [command for command in self.commands if isinstance(command, kind)]
