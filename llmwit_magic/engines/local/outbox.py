"""The child's answers on their way to the kernel: at once, or quick chunks joined into one."""

from __future__ import annotations

import os
import time
from typing import BinaryIO

from ...contract.events import Chunk
from .wire import Answer, encoded

GATHERING_SECONDS = 0.08
"""The shortest time between two chunks. What the model writes meanwhile becomes one chunk.

Each chunk wakes the kernel. It takes a core from a thread that evaluates, and the other threads
wait for that one. So a chunk for each token costs a small model some hundredths of its speed.
"""


class Outbox:
    """Writes answers into the pipe. A pipe that is closed ends the process."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._gathered: Chunk | None = None
        self._next = 0.0
        """When the next chunk may go out; the time is monotonic."""

    def send(self, answer: Answer) -> None:
        """Write an answer. It goes out at once, unless it is a chunk soon after another one."""
        if isinstance(answer, Chunk):
            first = self._gathered
            self._gathered = answer if first is None else self._joined(first, answer)
            self.send_gathered()
        else:
            self._let_go()
            self._next = 0.0
            self._write(answer)

    def send_gathered(self) -> None:
        """Let the gathered chunk go out, if it is time. It is called when an evaluation has ended.

        The threads that evaluate are idle until the next token is chosen. What the kernel does
        meanwhile takes nothing from them.
        """
        if self._gathered is not None and (now := time.monotonic()) >= self._next:
            self._next = now + GATHERING_SECONDS
            self._let_go()

    def _joined(self, first: Chunk, second: Chunk) -> Chunk:
        """Both chunks as one. A chunk's reasoning comes before its text, so not all can be joined;
        then the first one goes out."""
        if first.text and second.reasoning:
            self._write(first)
            return second
        return Chunk(
            first.text + second.text,
            second.generated_token_count,
            first.tokens + second.tokens,
            first.reasoning + second.reasoning,
            second.reasoning_token_count,
            first.prompt_tokens + second.prompt_tokens,
        )

    def _let_go(self) -> None:
        chunk, self._gathered = self._gathered, None
        if chunk is not None:
            self._write(chunk)

    def _write(self, answer: Answer) -> None:
        try:
            self._pipe.write(encoded(answer))
            self._pipe.flush()
        except OSError:  # the pipe is closed, for which only POSIX has BrokenPipeError
            os._exit(0)
