"""The answer to one request: its run, told whole or as it goes on. A client that goes away ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from ..contract.events import Chunk
from ..running.run import Run
from ..running.session import Session
from ..running.streams import Changes
from .asked import Asked
from .refusal import Refusal, ending, refusal_of
from .served_models import ServedModels
from .waiting_line import Turn, WaitingLine

SEND_SECONDS = 30.0
"""How long a client may take to read before it counts as gone."""


@dataclass
class Service:
    """What all requests share."""

    session: Session
    models: ServedModels
    line: WaitingLine
    spin_penalty: bool = False
    runs: set[Run] = field(default_factory=set)
    drop: Callable[[Any], None] = lambda client: None
    """Breaks the connection of a client, given as host and port."""

    def stop(self) -> None:
        """Take no further request. Runs go on."""
        self.line.stop()

    def end_runs(self) -> None:
        """Cancel the runs that go on."""
        for run in list(self.runs):
            run.cancel()


class _TooSlow(Exception):
    """The client does not read its answer."""


class Answering:
    """The answer to one request, as an ASGI application."""

    def __init__(self, service: Service, asked: Asked) -> None:
        self._service, self._asked = service, asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_disconnected(receive))
        work = asyncio.create_task(self._work(scope, send))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                with suppress(_TooSlow):
                    work.result()
            else:
                scope["llmwit"]["gone"] = True
        finally:
            for task in (gone, work):
                task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await work  # its run has ended then

    async def _work(self, scope: Scope, send: Send) -> None:
        service, asked = self._service, self._asked
        host = (scope.get("client") or ("",))[0]
        at_once = service.session.runs_at_once(asked.request)
        turn = await service.line.take(asked.public, host, at_once)
        try:
            run = asked.start(service.session)
        except BaseException:
            turn.release()
            raise
        scope["llmwit"]["run"] = run
        service.runs.add(run)
        changes = Changes(run)
        _release_at_end(run, turn)
        try:
            if asked.stream:
                await self._stream(run, changes, scope, send)
            else:
                await changes.until(lambda: run.done)
                self._check(run)
                data = json.dumps(asked.form.whole(run), ensure_ascii=False).encode()
                await self._send_whole(data, scope, send)
        finally:
            await changes.end()
            turn.release()
            service.runs.discard(run)

    def _check(self, run: Run) -> None:
        """Raise `Refusal` for a run that has not ended well."""
        if run.error is not None:
            raise refusal_of(run.error, self._asked.request.model, self._asked.public, run.run_id)
        if run.status != "ok":
            raise ending()

    async def _send_whole(self, data: bytes, scope: Scope, send: Send) -> None:
        headers = [
            (b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()),
        ]  # fmt: skip
        await self._send(send, scope, {
            "type": "http.response.start", "status": 200, "headers": headers,
        })  # fmt: skip
        await self._send(send, scope, {"type": "http.response.body", "body": data})

    async def _stream(self, run: Run, changes: Changes, scope: Scope, send: Send) -> None:
        """Send the chunks as they come.

        The status is sent with the first one, so an error before it has a status of its own.
        """
        place, begun = 0, False
        while True:
            known = place  # the closure must not see a later value
            await changes.until(lambda known=known: run.done or len(run.events) > known)  # type: ignore[misc]
            if place == len(run.events):
                break
            event = run.events[place]
            place += 1
            if not isinstance(event, Chunk):
                continue
            if not begun:
                begun = True
                await self._begin(scope, send)
            for each in self._asked.form.part(event):
                await self._event(scope, send, each)
        if not begun:
            self._check(run)
            await self._begin(scope, send)
        try:
            self._check(run)
        except Refusal as refusal:
            await self._event(scope, send, refusal.body)
        else:
            for each in self._asked.form.last(run):
                await self._event(scope, send, each)
            await self._data(scope, send, "[DONE]")
        await self._send(send, scope, {"type": "http.response.body", "body": b""})

    async def _begin(self, scope: Scope, send: Send) -> None:
        await self._send(send, scope, {
            "type": "http.response.start", "status": 200,
            "headers": [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
            ],
        })  # fmt: skip
        for each in self._asked.form.first():
            await self._event(scope, send, each)

    async def _event(self, scope: Scope, send: Send, value: dict[str, Any]) -> None:
        await self._data(scope, send, json.dumps(value, ensure_ascii=False))

    async def _data(self, scope: Scope, send: Send, text: str) -> None:
        body = f"data: {text}\n\n".encode()
        await self._send(
            send, scope, {"type": "http.response.body", "body": body, "more_body": True}
        )

    async def _send(self, send: Send, scope: Scope, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)
        except TimeoutError:
            scope["llmwit"]["gone"] = True
            self._service.drop(scope.get("client"))
            raise _TooSlow from None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _release_at_end(run: Run, turn: Turn) -> None:
    """Give the turn back when the run ends: a client may read its answer for longer."""
    loop = asyncio.get_running_loop()

    def tell() -> None:
        if run.done:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(turn.release)

    run.watch(tell)
