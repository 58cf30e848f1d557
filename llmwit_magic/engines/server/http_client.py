"""HTTP to servers: one client, in an event loop of its own, that any number of runs share.

A run waits in a thread of its own. So a cancellation ends a request at once, whatever it is doing:
connecting, waiting for the first byte, or reading.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from ...contract.events import Cancelled, Progress, Report
from ...errors import EngineFailed, InvalidInput, ModelNotFound, ServerUnreachable
from .addresses import LOOPBACK, Address
from .refusals import (
    BUSY,
    broken,
    is_refused,
    parsed,
    refusal,
    said,
    silent,
    too_long,
    unreachable,
    words,
)

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

MOST_BYTES = 64 * 2**20
"""The longest answer that is read whole, and the longest line of a stream."""
ATTEMPTS = 8
LONGEST_PAUSE_SECONDS = 8.0
"""The longest pause that we choose: a server that refuses connections is given up after 32 s."""
LONGEST_WAIT_SECONDS = 60.0
"""A server that wants a longer pause than this before the next attempt is given up."""
POLL_SECONDS = 0.05
REPORT: ContextVar[Report | None] = ContextVar("llmwit-report", default=None)
"""Who is told in a task why a request waits, where a call names nobody."""
REST_SECONDS = 0.1
"""How long the end of an answer may take after its last event."""
IDLE_CONNECTIONS = 20
"""How many connections without a request are kept. For each request, httpcore looks at all
connections once for each of these. With a hundred of them, that takes longer than the request."""
IDLE_SECONDS = 2.0
"""How long a connection without a request is kept. Some servers, such as those on uvicorn, close
one after 5 s, and a request that is sent at that moment would break."""


class HttpClient:
    """Asks servers. Its calls block, and each may be cancelled by an event."""

    def __init__(self) -> None:
        self.connect_seconds = 10.0
        """How long connecting may take."""
        self.silence_seconds = 300.0
        """How long a server may say nothing."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: httpx.AsyncClient | None = None
        self._closed = False
        self._cancels: dict[asyncio.Task[Any], threading.Event] = {}
        """What goes on in the loop and is not cancelled yet, each with the event that ends it."""
        self._watching = False

    def run(self, work: Coroutine[Any, Any, T], cancel: threading.Event) -> T:
        """The result of `work`, which runs in the client's loop. Raises `Cancelled`."""
        outcome: Future[T] = Future()

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(work)
            self._cancels[task] = cancel
            task.add_done_callback(lambda task: self._ended(task, outcome))
            self._watch()

        with self._lock:  # what begins before the client is closed is cancelled then
            if self._closed:
                work.close()
                raise EngineFailed("the session is closed: nothing can be asked of servers")
            self._running_loop().call_soon_threadsafe(begin)
        return outcome.result()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_serve, args=[self._loop], name="llmwit-servers", daemon=True
            )
            self._thread.start()
        return self._loop

    def _ended(self, task: asyncio.Task[T], outcome: Future[T]) -> None:
        self._cancels.pop(task, None)
        if task.cancelled():
            outcome.set_exception(Cancelled())
        elif (error := task.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(task.result())

    def _watch(self) -> None:
        """Look at all cancellations from time to time, as long as anything goes on.

        One look in the loop costs less than a waiting thread for each run that wakes up for it.
        """
        if self._watching:
            return
        self._watching = True

        def look() -> None:
            for task, cancel in list(self._cancels.items()):
                if cancel.is_set():  # once: a second time would break the closing of its stream off
                    del self._cancels[task]
                    task.cancel()
            self._watching = bool(self._cancels)
            if self._watching:
                loop.call_later(POLL_SECONDS, look)

        loop = asyncio.get_running_loop()
        loop.call_later(POLL_SECONDS, look)

    def _http(self) -> httpx.AsyncClient:
        """The client. It is made at the first use, since importing httpx takes long."""
        if self._client is None:
            try:
                import httpx
            except ImportError:
                raise EngineFailed(
                    'a server needs httpx: pip install "llmwit-magic[servers]"'
                ) from None
            # Answers of one server must not wait for a free connection behind those of another.
            limits = httpx.Limits(
                max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS,
                keepalive_expiry=IDLE_SECONDS,
            )  # fmt: skip
            transport = httpx.AsyncHTTPTransport(limits=limits)
            hosts = [f"[{host}]" if ":" in host else host for host in LOOPBACK]
            direct = {f"all://{host}": transport for host in hosts}
            self._client = httpx.AsyncClient(
                limits=limits, follow_redirects=False, mounts=direct,
                headers={"Accept-Encoding": "identity", "User-Agent": "llmwit-magic"},
            )  # fmt: skip
        return self._client

    def close(self) -> None:
        """Break all requests off and close the connections."""
        with self._lock:
            if self._closed:
                return
            self._closed, loop, thread = True, self._loop, self._thread
        if loop is None or thread is None:
            return

        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._client is not None:
                await self._client.aclose()
            # What was read in part is closed by tasks of its own, which must end before the loop does.
            await asyncio.get_running_loop().shutdown_asyncgens()
            late = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*late, return_exceptions=True)

        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(end(), loop).result(2.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(2.0)

    # In the loop ------------------------------------------------------------------

    async def json(
        self, address: Address, path: str, body: Mapping[str, Any] | None = None,
        report: Report | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The server's answer, a JSON object; with `body`, the request is a POST.

        Raises `ServerUnreachable`, and for an answer that says an error what `refusal` makes of it.
        """
        response = await self._send(address, path, body, report)
        try:
            data = await self._body(response, address)
        finally:
            await response.aclose()
        return parsed(data, path, address)

    async def maybe(
        self, address: Address, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The server's answer, which is empty where it has none at that place."""
        try:
            return await self.json(address, path, body)
        except ServerUnreachable:
            raise
        except (EngineFailed, InvalidInput, ModelNotFound):
            return {}

    async def events(
        self, address: Address, path: str, body: Mapping[str, Any], report: Report
    ) -> AsyncIterator[Any]:
        """The events of a streamed answer, each as JSON: server-sent ones, or one a line.

        Only what comes before the first byte is tried again. Raises `EngineFailed` where the
        stream breaks.
        """
        import httpx
        from httpx_sse import EventSource

        from .bounded_lines import BoundedLines, lines

        response = await self._send(address, path, body, report)
        try:
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            if kind not in ("text/event-stream", "application/x-ndjson"):
                data = await self._body(response, address)
                raise EngineFailed(
                    f"{address.host} answered {path} without a stream: {words(data, address)}"
                )
            response.stream = BoundedLines(
                response.stream, MOST_BYTES, too_long(address, MOST_BYTES)
            )
            if kind == "text/event-stream":
                events = EventSource(response).aiter_sse()
                async for event in events:
                    if event.data == "[DONE]":
                        await read_out(events)
                        return
                    if event.data:
                        yield _event(event.data, path, address)
            else:
                async for line in lines(response):
                    if line.strip():
                        yield _event(line, path, address)
        except httpx.ReadTimeout:
            raise silent(address, self.silence_seconds) from None
        except httpx.HTTPError as error:
            raise broken(error, address) from None
        finally:
            await response.aclose()

    async def _send(
        self, address: Address, path: str, body: Mapping[str, Any] | None, report: Report | None
    ) -> httpx.Response:
        """The beginning of an answer. What is refused or busy is asked again, after a pause."""
        import httpx

        client, report = self._http(), report or REPORT.get()
        url = _url((address.root if path.startswith("/") else f"{address.url}/") + path)
        timeout = httpx.Timeout(self.silence_seconds, connect=self.connect_seconds, pool=None)
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        request = client.build_request(
            "GET" if body is None else "POST", url, headers=headers, timeout=timeout,
            json=body,
        )  # fmt: skip
        for attempt in range(1, ATTEMPTS + 1):
            pause = min(0.25 * 2**attempt, LONGEST_PAUSE_SECONDS)
            try:
                response = await client.send(request, stream=True)
            except httpx.ConnectError as error:
                if attempt == ATTEMPTS or not is_refused(error):
                    raise unreachable(error, address) from None
                why = "no connection"
            except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                raise unreachable(error, address) from None
            except httpx.ReadTimeout:
                raise silent(address, self.silence_seconds) from None
            except httpx.HTTPError as error:
                raise broken(error, address) from None
            else:
                await _check_encoding(response, address)
                if response.status_code == 200:
                    return response
                try:
                    data = await self._body(response, address)
                finally:
                    await response.aclose()
                if response.status_code not in BUSY or attempt == ATTEMPTS:
                    raise refusal(response.status_code, response.headers, data, path, address)
                asked = _asked_pause(response.headers.get("retry-after"))
                pause = pause if asked is None else asked
                if pause > LONGEST_WAIT_SECONDS:
                    raise refusal(response.status_code, response.headers, data, path, address)
                why = f"busy ({response.status_code})"
            if report is not None:
                report(Progress("server", note=f"{address.host}: {why}, again in {pause:.1f} s"))
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _body(self, response: httpx.Response, address: Address) -> bytes:
        """The whole answer. Raises `EngineFailed` for one without an end."""
        import httpx

        parts, size = [], 0
        try:
            async for data in response.aiter_bytes():
                parts.append(data)
                size += len(data)
                if size > MOST_BYTES:
                    raise too_long(address, MOST_BYTES)
        except httpx.ReadTimeout:
            raise silent(address, self.silence_seconds) from None
        except httpx.HTTPError as error:
            raise broken(error, address) from None
        return b"".join(parts)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


@lru_cache
def _url(text: str) -> httpx.URL:
    """The address as httpx has it. To read the text anew would take a tenth of a short request."""
    import httpx

    return httpx.URL(text)


async def read_out(events: AsyncIterator[Any]) -> None:
    """Read what follows the last event, which is mostly the end of the answer, and is there already.

    Only a connection whose answer was read to its end can be used again.
    """
    import httpx

    with suppress(TimeoutError, EngineFailed, httpx.HTTPError):
        async with asyncio.timeout(REST_SECONDS):
            async for _ in events:
                pass


async def _check_encoding(response: httpx.Response, address: Address) -> None:
    """Raise `EngineFailed` for compressed bytes, whose number says nothing of their text's size."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        await response.aclose()
        raise EngineFailed(
            f"{address.host} sent an answer that is compressed ({words(encoding, address)[:40]}), "
            "which was not asked for: switch the compression of the server or its proxy off"
        )


def _event(data: bytes | str, path: str, address: Address) -> dict[str, Any]:
    event = parsed(data, path, address)
    if event.get("error"):
        raise EngineFailed(f"{address.host}: {said(event, address)}")
    return event


def _asked_pause(value: str | None) -> float | None:
    """The seconds of a header `Retry-After`, which may be a number or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        from datetime import UTC, datetime
        from email.utils import parsedate_to_datetime

        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None
