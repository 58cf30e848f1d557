"""The errors that a server's answers mean, in one line each and without the key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ...base.printable import on_one_line
from ...errors import (
    EngineFailed,
    InferenceError,
    InvalidInput,
    ModelNotFound,
    PromptTooLong,
    ServerUnreachable,
)
from .addresses import Address

BUSY = (429, 503)
"""The status of an answer that may be another one after a pause."""
_MOST_CHARACTERS = 300
"""The most characters of a server's own words in an error."""
_MOST_BYTES = 64 * 2**10
"""The most bytes that are looked at for its words."""
_TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")
"""The code of OpenAI and the type of llama-server for a prompt that is longer than the context."""


def scrubbed(text: str, address: Address) -> str:
    """The text without the key, which some servers repeat."""
    return text.replace(address.key, "…") if address.key else text


def words(data: bytes | str, address: Address) -> str:
    """The beginning of what a server wrote, on one line."""
    text = data[:_MOST_BYTES].decode(errors="replace") if isinstance(data, bytes) else data
    text = on_one_line(" ".join(scrubbed(text, address).split()))
    return text[:_MOST_CHARACTERS] or "nothing"


def said(answer: Any, address: Address) -> str:
    """The server's own words in an answer that says an error."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return words(str(error), address)


def parsed(data: bytes | str, what: str, address: Address) -> dict[str, Any]:
    """The JSON object that a server sent. A key in it is left out.

    Raises `EngineFailed` for anything else.
    """
    try:
        answer = json.loads(data)
        if address.secret:  # it may be escaped in the data in any way that JSON has
            text, secret = json.dumps(answer), json.dumps(address.secret)[1:-1]
            answer = json.loads(text.replace(secret, "…")) if secret in text else answer
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise EngineFailed(
            f"{address.host} answered {what} with something else than a JSON object: "
            f"{words(data, address)} - is this the address of a model's server?"
        )
    return answer


def refusal(
    status: int, headers: Mapping[str, str], data: bytes, path: str, address: Address
) -> InferenceError:
    """The error that an answer with this status means."""
    try:
        answer = json.loads(data)
        text = said(answer, address)
    except (ValueError, RecursionError):
        answer, text = None, words(data, address)
    host = address.host
    if status in (401, 403):
        why = "its key is not accepted" if address.key else "it wants a key: name it by api_key_env"
        return InvalidInput(f"{host} refuses the request ({status}): {why}; it said: {text}")
    if 300 <= status < 400:
        place = words(headers.get("location", "?"), address)[:100]
        return EngineFailed(
            f"{host} sends on to {place}, which is not followed: give that address, if it is the "
            "one that you mean"
        )
    if status == 404:
        return ModelNotFound(
            f"{host} has no {path.lstrip('/')}, or no model '{address.model}': {text}"
        )
    if status in BUSY:
        return ServerUnreachable(f"{host} is busy ({status}): {text}; try again later")
    if 400 <= status < 500:
        cls = PromptTooLong if _is_too_long(answer) else InvalidInput
        return cls(f"{host} refuses the request ({status}): {text}")
    return EngineFailed(f"{host} failed ({status}): {text}")


def _is_too_long(answer: Any) -> bool:
    error = answer.get("error") if isinstance(answer, dict) else None
    return isinstance(error, dict) and any(
        error.get(name) in _TOO_LONG for name in ("code", "type")
    )


def is_refused(error: BaseException) -> bool:
    """Whether the machine is there and refuses the connection: the server may come soon."""
    return any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):  # one for each address of the host
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__


def unreachable(error: Exception, address: Address) -> ServerUnreachable:
    """The error of a connection that could not be made."""
    if is_refused(error):
        why = "it refuses the connection"
    else:
        why = words(str(error) or type(error).__name__, address)
    if "CERTIFICATE_VERIFY_FAILED" in why:
        advice = (
            "the name in the address may be wrong; SSL_CERT_FILE names the certificates of your own"
        )
    else:
        advice = "is the server running, and is the address right?"
    return ServerUnreachable(f"{address.host} cannot be reached: {why} - {advice}")


def broken(error: Exception, address: Address) -> EngineFailed:
    """The error of a connection that ended in the middle of an answer."""
    why = words(str(error) or type(error).__name__, address)
    return EngineFailed(f"the connection to {address.host} broke: {why}; the text so far is kept")


def silent(address: Address, seconds: float) -> EngineFailed:
    """The error of a server that says nothing any more."""
    return EngineFailed(
        f"{address.host} has said nothing for {seconds:g} s: "
        "%config InferMagics.server_silence_seconds allows more"
    )


def too_long(address: Address, most: int) -> EngineFailed:
    """The error of an answer without an end."""
    return EngineFailed(
        f"{address.host} sent more than {most // 2**20} MiB without an end: it is no server of "
        "models, or is broken"
    )
