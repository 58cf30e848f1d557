"""The answer of a run for a program: whole or chunk by chunk, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress

from ..base.background import STOP_SECONDS
from ..contract.events import Chunk
from ..contract.wit import InferencingResult
from ..errors import warn_unlogged
from .run import Run


def result_of(run: Run) -> InferencingResult:
    """Wait for the end of a run, and return its result. Raises the error of a failed run."""
    with run:
        run.follow()
    warn_unlogged(run.log_problem)
    return run.result


class TextStream:
    """The chunks of a run as they come. It is an iterator and a context manager.

    The run is cancelled when the stream is closed, or when nothing refers to it any more.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._events = iter(run)
        self._finalizer = weakref.finalize(self, run.cancel)

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> str:
        """The text of the next chunk.

        At the end of a failed run this raises its error, and `Interrupted` for an interrupted one.
        """
        try:
            for event in self._events:
                if isinstance(event, Chunk) and event.text:
                    return event.text
        except KeyboardInterrupt:
            self.run.stop()
            raise self.run.interrupted() from None
        self.run.raise_failure()
        raise StopIteration

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the run if it still goes on, and wait for its end."""
        self.run.stop()

    @property
    def result(self) -> InferencingResult:
        """The result. This waits for the end of the run, and raises the error of a failed one.

        The result of a cancelled run has the text so far.
        """
        try:
            self.run.wait()
        except KeyboardInterrupt:
            self.run.stop()
            raise self.run.interrupted() from None
        if self.run.error is not None:
            raise self.run.error
        return self.run.result


# In an event loop ---------------------------------------------------------------------


async def result_in_loop(run: Run) -> InferencingResult:
    """As `result_of`, without blocking the event loop. A cancelled task cancels the run."""
    changes = Changes(run)
    try:
        await changes.until(lambda: run.done)
    finally:
        await changes.end()
    run.raise_failure()
    warn_unlogged(run.log_problem)
    return run.result


class AsyncTextStream:
    """The chunks of a run as they come, for `async for` and `async with`.

    The run is cancelled when the stream is closed, when the task that iterates is cancelled, or
    when nothing refers to the stream any more.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._place = 0
        self._changes: Changes | None = None
        self._finalizer = weakref.finalize(self, run.cancel)

    def __aiter__(self) -> AsyncTextStream:
        return self

    async def __anext__(self) -> str:
        """The text of the next chunk.

        At the end of a failed run this raises its error, and `Interrupted` for an interrupted one.
        """
        while True:
            await self._until(lambda: self.run.done or len(self.run.events) > self._place)
            if self._place == len(self.run.events):
                break
            event = self.run.events[self._place]
            self._place += 1
            if isinstance(event, Chunk) and event.text:
                return event.text
        self.run.raise_failure()
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncTextStream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the run if it still goes on, and wait for its end."""
        await self._watched().end()

    async def result(self) -> InferencingResult:
        """The result. This waits for the end of the run, and raises the error of a failed one.

        The result of a cancelled run has the text so far.
        """
        await self._until(lambda: self.run.done)
        if self.run.error is not None:
            raise self.run.error
        return self.run.result

    async def _until(self, come: Callable[[], bool]) -> None:
        try:
            await self._watched().until(come)
        except BaseException:
            await self._watched().end()
            raise

    def _watched(self) -> Changes:
        """The run's changes. They are watched from the first use on, when the loop is known."""
        if self._changes is None:
            self._changes = Changes(self.run)
        return self._changes


class Changes:
    """The changes of a run, which another thread makes, for the tasks of this event loop."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        run.watch(self._tell)

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._changed.set)

    async def until(self, come: Callable[[], bool]) -> None:
        """Wait until `come()` is true, which is asked after each change."""
        while not come():
            self._changed.clear()
            if not come():  # the change may have come before `clear`
                await self._changed.wait()

    async def end(self) -> None:
        """Cancel the run if it still goes on, and wait for its end, `STOP_SECONDS` at most."""
        if self._run.done:
            return
        self._run.cancel()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.until(lambda: self._run.done), STOP_SECONDS)
        finally:
            self._run.leave()
