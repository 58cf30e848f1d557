"""What a client asks for, once its body is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..contract.events import Chunk
from ..contract.request import Request
from ..running.run import Run
from ..running.session import Session


class Form(Protocol):
    """How a run is told to a client."""

    def whole(self, run: Run) -> dict[str, Any]:
        """The answer of a run that has ended well."""
        ...

    def first(self) -> list[dict[str, Any]]:
        """The events of a stream before the first chunk."""
        ...

    def part(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The events for a chunk."""
        ...

    def last(self, run: Run) -> list[dict[str, Any]]:
        """The events after the last chunk of a run that has ended well."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, how its run is started, and how that is told."""

    public: str
    """The model's name as clients know it."""
    request: Request
    start: Callable[[Session], Run]
    form: Form
    stream: bool = False
