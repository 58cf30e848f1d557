"""A server of models with slots, on the loopback, that answers without a model.

    python -m tests.support.busy_server --slots 32 --seconds 0.2

It speaks OpenAI's HTTP as vLLM does, as far as a batch needs it. The first line of its output is
its URL. It counts, so that a test can see what a client did: `GET /counts`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHUNKS = 4
COMPLETIONS = "/v1/completions"


class BusyServer:
    """Answers `slots` requests at once, each in so many `seconds`; others wait."""

    def __init__(self, slots: int, seconds: float, unreachable_after: int | None) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._seconds = seconds
        self._last = unreachable_after
        self.counts = {"asked": 0, "open": 0, "most open": 0, "answered": 0, "closed early": 0,
                       "connections": 0}  # fmt: skip
        self.prompts: list[str] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_new = True
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                if is_new and path == COMPLETIONS:
                    self.counts["connections"] += 1
                    is_new = False
                fields = head.lower().partition(b"content-length:")[2]
                body = await reader.readexactly(int(fields.split(b"\r\n", 1)[0] or 0))
                await self._answer(path, body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, path: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if path == COMPLETIONS:
            await self._complete(json.loads(body), reader, writer)
            return
        answers: dict[str, Any] = {
            "/v1/models": {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]},
            "/version": {"version": "0"},
            "/counts": self.counts,
            "/prompts": self.prompts,
        }
        data = json.dumps(answers.get(path)).encode()
        writer.write(_head(200 if path in answers else 404, "application/json", len(data)) + data)
        await writer.drain()

    async def _complete(
        self, asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        counts = self.counts
        counts["asked"] += 1
        self.prompts.append(asked["prompt"])
        if self._last is not None and counts["asked"] > self._last:
            data = b'{"error": {"message": "no room"}}'
            writer.write(_head(429, "application/json", len(data), "Retry-After: 61\r\n") + data)
            await writer.drain()
            return
        counts["open"] += 1
        counts["most open"] = max(counts["most open"], counts["open"])
        gone = asyncio.ensure_future(reader.read(1))  # ends when the client closes the connection
        work = asyncio.ensure_future(self._stream(asked["prompt"], writer))
        try:
            await asyncio.wait((gone, work), return_when=asyncio.FIRST_COMPLETED)
            counts["answered" if work.done() else "closed early"] += 1
        finally:
            counts["open"] -= 1
            for task in (gone, work):
                task.cancel()
            await asyncio.gather(gone, work, return_exceptions=True)

    async def _stream(self, prompt: str, writer: asyncio.StreamWriter) -> None:
        async with self._slots:
            writer.write(_head(200, "text/event-stream"))
            for number in range(CHUNKS):
                await asyncio.sleep(self._seconds / CHUNKS)
                text = f"answer to {prompt}" if not number else f" {number}"
                ended = "length" if number == CHUNKS - 1 else None
                writer.write(_event({"text": text, "finish_reason": ended}))
            usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": CHUNKS}
            rest = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
            rest += b"data: [DONE]\n\n"
            writer.write(f"{len(rest):x}\r\n".encode() + rest + b"\r\n0\r\n\r\n")
            await writer.drain()


def _head(status: int, kind: str, length: int | None = None, more: str = "") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\n{size}\r\n{more}\r\n".encode()


def _event(choice: dict[str, Any]) -> bytes:
    data = b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Running:
    """A server in a process of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + path, timeout=10) as answer:
            return json.load(answer)

    @property
    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = self._get("/counts")
        return counts

    @property
    def prompts(self) -> list[str]:
        """The prompts in the order in which they came."""
        prompts: list[str] = self._get("/prompts")
        return prompts


@contextmanager
def busy_server(
    slots: int = 32, seconds: float = 0.2, unreachable_after: int | None = None
) -> Iterator[Running]:
    """A running server. After `unreachable_after` requests it has no room for a minute."""
    command = [sys.executable, "-m", "tests.support.busy_server",
               "--slots", str(slots), "--seconds", str(seconds)]  # fmt: skip
    if unreachable_after is not None:
        command += ["--unreachable-after", str(unreachable_after)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Running(process.stdout.readline().strip())
    finally:
        process.terminate()
        process.communicate()


async def _serve(arguments: argparse.Namespace) -> None:
    own = BusyServer(arguments.slots, arguments.seconds, arguments.unreachable_after)
    server = await asyncio.start_server(own.connected, "127.0.0.1", 0, limit=2**24, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--unreachable-after", type=int, default=None)
    asyncio.run(_serve(parser.parse_args()))
