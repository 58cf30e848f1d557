"""The HTTP server in this process over a real socket on loopback, with any session."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llmwit_magic.running.session import Session
from llmwit_magic.serving.answering import Service
from llmwit_magic.serving.app import application
from llmwit_magic.serving.http_command import HttpServer, configured, opened
from llmwit_magic.serving.served_models import ServedModels
from llmwit_magic.serving.waiting_line import WaitingLine
from tests.support.fake import FakeEngine, FakeSession

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


class Served:
    """A server that runs in a thread. `lines` has what it says of each request."""

    def __init__(self, session: Session, names: dict[str, str], places: int, **how: Any) -> None:
        self.lines: list[str] = []
        self.service = Service(session, ServedModels(names), WaitingLine(places))
        self.service.spin_penalty = how.pop("spin_penalty", False)
        self.service.models.found = True
        app = application(self.service, self.lines.append, **how)
        self.server = HttpServer(configured(app, 5))
        self.service.drop = self.server.drop
        self._socket = opened(socket.AF_INET, ("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self.server.serve(sockets=[self._socket])

        asyncio.run(serve())

    def server_loop(self, call: Callable[[], None]) -> None:
        """Have the server's event loop call it."""
        self._loop.call_soon_threadsafe(call)

    def close(self) -> None:
        self.server.should_exit = True
        self.service.end_runs()
        self._thread.join(20)
        self._socket.close()
        assert not self._thread.is_alive()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(
        self, path: str, body: Any = None, method: str = "", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers. A body that is no text and no bytes is sent as JSON."""
        connection = self.connect()
        try:
            sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), path, sent, named)
            answer = connection.getresponse()
            data = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, json.loads(data) if data else None, found
        finally:
            connection.close()

    def events(self, path: str, body: Any) -> list[Any]:
        """The events of a stream; the last one is `[DONE]` where the stream is whole."""
        connection = self.connect()
        try:
            connection.request("POST", path, json.dumps({**body, "stream": True}).encode())
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            texts = answer.read().decode().split("\n\n")
        finally:
            connection.close()
        said = [text.removeprefix("data: ") for text in texts if text]
        return [text if text == "[DONE]" else json.loads(text) for text in said]


@contextmanager
def served(session: Session, places: int = 64, **how: Any) -> Iterator[Served]:
    """The server with the session's model under the name `m`."""
    server = Served(session, how.pop("names", {"m": "fake"}), places, **how)
    try:
        yield server
    finally:
        server.close()


def until(true: Callable[[], Any], seconds: float = 5.0) -> float:
    """Wait until it is true. Returns the seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + seconds, "it does not become true"
        time.sleep(0.005)
    return time.monotonic() - began


@pytest.fixture
def fake_session() -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine())
    yield session
    session.close()


@pytest.fixture
def server(fake_session: FakeSession) -> Iterator[Served]:
    with served(fake_session) as server:
        yield server
