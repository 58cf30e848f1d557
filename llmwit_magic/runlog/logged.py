"""A run of the log, as an object again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import PrivateAttr

from ..errors import InvalidInput, LogError
from ..protocol import Request
from ..wit import InferencingResult
from .log import RunLog
from .rows import Row, request_of, result_values


class LoggedRun(InferencingResult):
    """The result of a run as it was, with what was asked, and a person's opinion of it.

    `runs[12]` makes one. It shows as the run did.
    """

    _log: RunLog = PrivateAttr()
    _request: Request = PrivateAttr()

    @classmethod
    def of(cls, log: RunLog, row: Mapping[str, Any]) -> LoggedRun:
        """The run of a row as the log reads it. Raises `LogError` where the row is damaged."""
        try:
            run = cls(**result_values(row))
            run._log, run._request = log, request_of(row)
        except (InvalidInput, ValueError, TypeError) as error:
            raise LogError(f"run {row['run_id']} of the log is damaged: {error}") from None
        return run

    @property
    def request(self) -> Request:
        """What was asked; content filters that were functions are not in it."""
        return self._request

    @property
    def log(self) -> RunLog:
        """The log that the run is in."""
        return self._log

    @property
    def row(self) -> Row:
        """All columns of the log, as they are now: rating, note and tags too."""
        assert self.run_id is not None
        return self._log.row(self.run_id)

    def rate(self, rating: int | None) -> None:
        """Keep an opinion: 1 good, -1 bad, None none. Raises `InvalidInput`."""
        assert self.run_id is not None
        self._log.rate(self.run_id, rating)

    def note(self, text: str | None) -> None:
        """Keep a note about the run; None takes it away."""
        assert self.run_id is not None
        self._log.annotate(self.run_id, note=text)

    def tag(self, **tags: str) -> None:
        """Add tags, or change their values; an empty value takes a tag away."""
        assert self.run_id is not None
        kept = {**(self.row["tags"] or {}), **{key: str(value) for key, value in tags.items()}}
        self._log.annotate(self.run_id, tags={key: value for key, value in kept.items() if value})
