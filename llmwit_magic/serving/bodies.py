"""The body of a request: read within bounds, and strict JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ..contract.record import shown
from ..requests.expressions import NotValid
from ..requests.json_schemas import parsed
from .refusal import Refusal

MOST_BYTES = 4 * 2**20
"""Bytes that a body may have."""
BODY_SECONDS = 30.0
"""How long a client may take to send it."""


async def json_body(request: Request) -> Mapping[str, Any]:
    """The JSON object that a client sent, whatever content type it names.

    Raises `Refusal`: 413 for too many bytes, 408 for a slow client, 400 for anything but an object.
    """
    data = await _bytes(request)
    try:
        value = await asyncio.to_thread(lambda: parsed(data.decode()))
    except UnicodeDecodeError:
        raise Refusal(400, "the body is not UTF-8") from None
    except NotValid as error:
        raise Refusal(400, f"the body cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(400, f"the body is no JSON object: {shown(value)}")
    return value


async def _bytes(request: Request) -> bytes:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > MOST_BYTES:
        raise _too_large()
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > MOST_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_SECONDS:.0f} seconds") from None
    except ClientDisconnect:
        raise Refusal(400, "the client went away") from None
    return bytes(data)


def _too_large() -> Refusal:
    return Refusal(413, f"the body has more than {MOST_BYTES:,} bytes", "too_large")


def rounded(value: Any) -> Any:
    """A number that was a 32-bit float, as it was written: 7 digits. Another value unchanged.

    Spin widens its floats: 1.1 arrives as 1.100000023841858.
    """
    return float(f"{value:.7g}") if isinstance(value, float) else value
