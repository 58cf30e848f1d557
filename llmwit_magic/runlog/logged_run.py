"""A run of the log as an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from ..contract.request import Request
from ..contract.wit import InferencingResult
from ..errors import InvalidInput, LogError
from .rows import Row, request_of, result_values

if TYPE_CHECKING:
    from .log import RunLog


class LoggedRun(InferencingResult):
    """The result of a run, read from the log, with its request and a person's opinion of it.

    `runs[12]` makes one. It is displayed as the run was.
    """

    _log: RunLog = PrivateAttr()
    _request: Request = PrivateAttr()

    @classmethod
    def of(cls, log: RunLog, row: Mapping[str, Any]) -> LoggedRun:
        """The run of a row, as the log reads rows. Raises `LogError` where the row is damaged."""
        try:
            run = cls(**result_values(row))
            run._log, run._request = log, request_of(row)
        except (InvalidInput, ValueError, TypeError) as error:
            raise LogError(f"run {row['run_id']} of the log is damaged: {error}") from None
        return run

    @property
    def request(self) -> Request:
        """The request of the run, without content filters that were functions."""
        return self._request

    @property
    def log(self) -> RunLog:
        """The log that the run is in."""
        return self._log

    @property
    def row(self) -> Row:
        """All columns of the run as they are in the log now, with rating, note, tags and metrics."""
        assert self.run_id is not None
        return self._log.row(self.run_id)

    def rate(self, rating: int | None) -> None:
        """Keep an opinion: 1 good, -1 bad, None for none. Raises `InvalidInput`."""
        assert self.run_id is not None
        self._log.rate(self.run_id, rating)

    def note(self, text: str | None) -> None:
        """Keep a note about the run. None removes it."""
        assert self.run_id is not None
        self._log.annotate(self.run_id, note=text)

    def tag(self, **tags: str) -> None:
        """Add tags, or change their values. An empty value removes a tag."""
        assert self.run_id is not None
        kept = {**(self.row["tags"] or {}), **{key: str(value) for key, value in tags.items()}}
        self._log.annotate(self.run_id, tags={key: value for key, value in kept.items() if value})

    def metrics(self, **numbers: float | None) -> dict[str, float]:
        """Add numbers that judge the answer, such as `accuracy=0.8`; all that the run has now.

        None removes one. True is 1 and False is 0. Raises `InvalidInput` for what is no finite
        number.
        """
        assert self.run_id is not None
        if numbers:
            self._log.add_metrics({self.run_id: numbers})
        return dict(self.row["metrics"] or {})
