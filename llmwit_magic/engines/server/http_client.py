"""HTTP to servers: one client, in an event loop of its own, that any number of runs share.

A run waits in a thread of its own. So a cancellation ends a request at once, whatever it is doing:
connecting, waiting for the first byte, or reading.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ...base.printable import on_one_line
from ...contract.events import Cancelled, Progress, Report
from ...errors import EngineFailed, InvalidInput, ModelNotFound, ServerUnreachable
from .addresses import Address

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

MOST_BYTES = 64 * 2**20
"""The longest answer that is read whole, and the longest line of a stream."""
ATTEMPTS = 8
LONGEST_WAIT_SECONDS = 60.0
"""A server that wants a longer pause than this before the next attempt is given up."""
POLL_SECONDS = 0.05
_BUSY = (429, 503)
_SAID = 300
"""The most characters of a server's own words in an error."""


class HttpClient:
    """Asks servers. Its calls block, and each may be cancelled by an event."""

    def __init__(self) -> None:
        self.connect_seconds = 10.0
        """How long connecting may take."""
        self.silence_seconds = 300.0
        """How long a server may say nothing."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None
        self._closed = False

    def run(self, work: Coroutine[Any, Any, T], cancel: threading.Event) -> T:
        """The result of `work`, which runs in the client's loop. Raises `Cancelled`."""
        future = asyncio.run_coroutine_threadsafe(work, self._running_loop())
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        while not done.wait(POLL_SECONDS):
            if cancel.is_set():
                future.cancel()
        try:
            return future.result()
        except CancelledError:
            raise Cancelled from None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise EngineFailed("the session is closed: nothing can be asked of servers")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_serve, args=[self._loop], name="llmwit-servers", daemon=True
                ).start()
            return self._loop

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
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            self._client = httpx.AsyncClient(
                limits=limits, follow_redirects=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "llmwit-magic"},
            )  # fmt: skip
        return self._client

    def close(self) -> None:
        """Break all requests off and close the connections."""
        with self._lock:
            if self._closed:
                return
            self._closed, loop = True, self._loop
        if loop is None:
            return

        async def end() -> None:
            own = asyncio.current_task()
            for task in asyncio.all_tasks():
                if task is not own:
                    task.cancel()
            if self._client is not None:
                await self._client.aclose()

        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(end(), loop).result(2.0)
        loop.call_soon_threadsafe(loop.stop)

    # In the loop ------------------------------------------------------------------

    async def json(
        self, address: Address, path: str, body: Mapping[str, Any] | None = None,
        report: Report | None = None,
    ) -> Any:  # fmt: skip
        """The server's answer as JSON; with `body`, the request is a POST.

        Raises `ServerUnreachable`, and for an answer that says an error what `refusal` makes of it.
        """
        response = await self._send(address, path, body, report)
        try:
            data = await _bounded_body(response, address)
        finally:
            await response.aclose()
        try:
            return json.loads(data)
        except ValueError:
            raise EngineFailed(
                f"{address.host} answered {path} with something else than JSON: "
                f"{_words(data, address)} - is this the address of a model's server?"
            ) from None

    async def maybe(self, address: Address, path: str) -> Any:
        """The server's answer as JSON, or None where it has none at that place."""
        try:
            return await self.json(address, path)
        except ServerUnreachable:
            raise
        except (EngineFailed, InvalidInput, ModelNotFound):
            return None

    async def events(
        self, address: Address, path: str, body: Mapping[str, Any], report: Report
    ) -> AsyncIterator[Any]:
        """The events of a streamed answer, each as JSON: server-sent ones, or one a line.

        Only what comes before the first byte is tried again. Raises `EngineFailed` where the
        stream breaks.
        """
        import httpx
        from httpx_sse import EventSource

        from .bounded_lines import BoundedLines

        response = await self._send(address, path, body, report)
        try:
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            if kind not in ("text/event-stream", "application/x-ndjson"):
                data = await _bounded_body(response, address)
                raise EngineFailed(
                    f"{address.host} answered {path} without a stream: {_words(data, address)}"
                )
            response.stream = BoundedLines(response.stream, MOST_BYTES, _too_long(address))
            if kind == "text/event-stream":
                async for event in EventSource(response).aiter_sse():
                    if event.data == "[DONE]":
                        return
                    if event.data:
                        yield _event(event.data, address)
            else:
                async for line in response.aiter_lines():
                    if line.strip():
                        yield _event(line, address)
        except httpx.HTTPError as error:
            raise _broken(error, address, self.silence_seconds) from None
        finally:
            await response.aclose()

    async def _send(
        self, address: Address, path: str, body: Mapping[str, Any] | None, report: Report | None
    ) -> httpx.Response:
        """The beginning of an answer. What is refused or busy is asked again, after a pause."""
        import httpx

        client = self._http()
        url = (address.root if path.startswith("/") else f"{address.url}/") + path
        timeout = httpx.Timeout(self.silence_seconds, connect=self.connect_seconds, pool=None)
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        request = client.build_request(
            "GET" if body is None else "POST", url, headers=headers, timeout=timeout,
            json=body,
        )  # fmt: skip
        for attempt in range(1, ATTEMPTS + 1):
            pause = min(0.25 * 2**attempt, 15.0)
            try:
                response = await client.send(request, stream=True)
            except httpx.ConnectError as error:
                if attempt == ATTEMPTS or not _may_come(error):
                    raise _unreachable(error, address) from None
                why = "no connection"
            except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                raise _unreachable(error, address) from None
            except httpx.HTTPError as error:
                raise _broken(error, address, self.silence_seconds) from None
            else:
                if response.status_code == 200:
                    return response
                try:
                    data = await _bounded_body(response, address)
                finally:
                    await response.aclose()
                if response.status_code not in _BUSY or attempt == ATTEMPTS:
                    raise refusal(response.status_code, response.headers, data, path, address)
                pause = _asked_pause(response.headers.get("retry-after")) or pause
                if pause > LONGEST_WAIT_SECONDS:
                    raise refusal(response.status_code, response.headers, data, path, address)
                why = f"busy ({response.status_code})"
            if report is not None:
                report(Progress("server", note=f"{address.host}: {why}, again in {pause:.1f} s"))
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _bounded_body(response: httpx.Response, address: Address) -> bytes:
    import httpx

    parts, size = [], 0
    try:
        async for data in response.aiter_bytes():
            parts.append(data)
            size += len(data)
            if size > MOST_BYTES:
                raise _too_long(address)
    except httpx.HTTPError as error:
        raise _broken(error, address, 0) from None
    return b"".join(parts)


def _too_long(address: Address) -> EngineFailed:
    return EngineFailed(
        f"{address.host} sent more than {MOST_BYTES // 2**20} MiB without an end: it is no server "
        "of models, or is broken"
    )


def _event(data: str, address: Address) -> Any:
    try:
        event = json.loads(data)
    except ValueError:
        raise EngineFailed(
            f"{address.host} sent an event that is no JSON: {_words(data.encode(), address)}"
        ) from None
    if isinstance(event, dict) and event.get("error"):
        raise EngineFailed(f"{address.host}: {_said(event, address)}")
    return event


def refusal(
    status: int, headers: Mapping[str, str], data: bytes, path: str, address: Address
) -> Exception:
    """The error that an answer with this status means."""
    try:
        said = _said(json.loads(data), address)
    except ValueError:
        said = _words(data, address)
    host = address.host
    if status in (401, 403):
        key = (
            "the key is not accepted" if address.key else "it wants a key: name it by 'api_key_env'"
        )
        return InvalidInput(f"{host} refuses the request ({status}): {key}; it said: {said}")
    if 300 <= status < 400:
        place = _scrubbed(headers.get("location", "?"), address)
        return EngineFailed(
            f"{host} sends on to {on_one_line(place)[:100]}, which is not followed: give that "
            "address, if it is the one that you mean"
        )
    if status == 404:
        return ModelNotFound(
            f"{host} has no {path.lstrip('/')} or no model '{address.model}': {said}"
        )
    if status in _BUSY:
        return ServerUnreachable(f"{host} is busy ({status}): {said}; try again later")
    if 400 <= status < 500:
        return InvalidInput(f"{host} refuses the request ({status}): {said}")
    return EngineFailed(f"{host} failed ({status}): {said}")


def _said(answer: Any, address: Address) -> str:
    """The server's own words in an answer that says an error."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return _words(str(error).encode(), address)


def _words(data: bytes, address: Address) -> str:
    text = on_one_line(" ".join(data[: 8 * _SAID].decode(errors="replace").split()))
    return _scrubbed(text, address)[:_SAID] or "nothing"


def _scrubbed(text: str, address: Address) -> str:
    """The text without the key, which some servers repeat."""
    return text.replace(address.key, "…") if address.key else text


def _may_come(error: Exception) -> bool:
    """Whether a server may be there soon: the machine is there, and refuses the connection."""
    text = str(error).lower()
    return "refused" in text or "all connection attempts failed" in text


def _unreachable(error: Exception, address: Address) -> ServerUnreachable:
    why = on_one_line(str(error)) or type(error).__name__
    return ServerUnreachable(
        f"{address.host} cannot be reached: {_scrubbed(why, address)} - is the server running, and "
        "is the address right?"
    )


def _broken(error: Exception, address: Address, silence: float) -> EngineFailed:
    import httpx

    if isinstance(error, httpx.ReadTimeout):
        return EngineFailed(
            f"{address.host} has said nothing for {silence:g} s: "
            "%config InferMagics.server_silence_seconds allows more"
        )
    why = on_one_line(str(error)) or type(error).__name__
    return EngineFailed(
        f"the connection to {address.host} broke: {_scrubbed(why, address)}; the text so far is kept"
    )


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
