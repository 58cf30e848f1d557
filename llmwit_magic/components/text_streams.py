"""A text that is generated while a guest reads it."""

from __future__ import annotations

from ..contract.events import Chunk
from ..running.run import Run
from .guest_call import GuestCall


class GuestStream:
    """The chunks of a run, one after another. Closing it ends the run."""

    def __init__(self, call: GuestCall, run: Run, model: str) -> None:
        self.call, self.run, self.model = call, run, model
        self.is_over = False
        """Whether the guest has had the end, or an error."""
        self._events = iter(run)

    def next_chunk(self) -> Chunk | None:
        """The next chunk that says something; None at the end of a run that has ended well.

        Raises the error of the run, and `WasmtimeError` where the call ends.
        """
        for event in self._events:
            self.call.check()
            if isinstance(event, Chunk) and (event.text or event.reasoning or event.tokens):
                return event
        self.call.ended(self.run)
        return None

    def close(self) -> None:
        """End the run, if it still goes on."""
        self.call.stop(self.run)
