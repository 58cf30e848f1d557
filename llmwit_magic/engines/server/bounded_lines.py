"""A stream of bytes whose lines fit into memory. Its import brings httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx


class BoundedLines(httpx.AsyncByteStream):
    """The bytes of a stream, up to a line that is longer than `most` bytes: then `error` is raised."""

    def __init__(self, stream: Any, most: int, error: Exception) -> None:
        self._stream, self._most, self._error = stream, most, error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for data in self._stream:
            end = max(data.rfind(b"\n"), data.rfind(b"\r"))
            length = length + len(data) if end < 0 else len(data) - end
            if length > self._most:
                raise self._error
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()


async def lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """The lines of a stream, ended by line feeds alone.

    `aiter_lines` of httpx takes any of Unicode's line ends, which may stand within JSON.
    """
    begun: list[bytes] = []
    async for data in response.aiter_bytes():
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield b"".join((*begun, line))
            begun.clear()
        begun.append(rest)
    yield b"".join(begun)
