"""What a client is told where its request is not carried out."""

from __future__ import annotations

import re
from typing import Any

from ..errors import (
    ConstraintNotSupported,
    DownloadFailed,
    InferenceError,
    InvalidInput,
    OutOfMemory,
    PromptTooLong,
    ServerUnreachable,
)

RETRY_SECONDS = 5
"""What a client is told to wait where the server is full."""

_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error",
}  # fmt: skip


class Refusal(Exception):
    """A request that is refused, or a run that failed, with the HTTP status that says so."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with the status."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {"retry-after": str(RETRY_SECONDS)} if self.status in (429, 503) else {}

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object. Spin's `/infer` and `/embed` get it too."""
        kind = _TYPES.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        field = re.match(r"([a-z_]+)[:\[]", self.message)
        param = field[1] if field and self.status == 400 else None
        return {"error": {"message": self.message, "type": kind, "param": param, "code": self.code}}


def full() -> Refusal:
    """The refusal of a request that finds no place to wait."""
    return Refusal(429, "too many requests are waiting: try again later", "queue_full")


def ending() -> Refusal:
    """The refusal of a server that was told to end."""
    return Refusal(503, "the server is ending: try again later", "shutting_down")


def refusal_of(error: InferenceError, target: str, public: str, run_id: int | None) -> Refusal:
    """What a client is told of an error.

    Only what is wrong with its own request is told as it is. Other messages may have paths of this
    machine in them: they are in the run's row. `target` is the model's name here, and `public` the
    one that clients know.
    """
    if isinstance(error, InvalidInput):
        code = "context_length_exceeded" if isinstance(error, PromptTooLong) else None
        if isinstance(error, ConstraintNotSupported):
            code = "constraint_not_supported"
        return Refusal(400, str(error).replace(target, public), code)
    status = 500
    if isinstance(error, OutOfMemory):
        status = 503
    elif isinstance(error, ServerUnreachable | DownloadFailed):
        status = 502
    where = f"run {run_id} of the server's log says why" if run_id else "the server's log says why"
    return Refusal(status, f"the model cannot answer ({type(error).__name__}): {where}")
