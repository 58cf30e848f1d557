"""An HTTP server on this machine's loopback whose answers a test sets, and folders of the test's own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's table of paths; what is not in it is not found."""

    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        self.server.answers.get(path, not_found("EntryNotFound"))(self)

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def answer(
        self, body: bytes, status: int = 200, send: int | None = None, **headers: str
    ) -> None:
        """Send the body, or the first `send` bytes of it."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:send])
            self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, address: object) -> None:
        """Clients that are cut off or killed are what the tests are about."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    thread.join()


def not_found(code: str, status: int = 404) -> Answer:
    return lambda handler: handler.answer(b"", status, X_Error_Code=code)


def stalled(body: bytes, **headers: str) -> Answer:
    """The first half, and then nothing until the end of the test."""

    def answer(handler: Handler) -> None:
        handler.answer(body, send=len(body) // 2, **headers)
        if handler.command == "GET":
            handler.server.ended.wait(50)

    return answer


def cut(body: bytes, at: float = 0.5, **headers: str) -> Answer:
    """The first half (or that part), then the end of the connection; afterwards only that end."""
    sent = threading.Event()

    def answer(handler: Handler) -> None:
        if handler.command == "HEAD":
            handler.answer(body, **headers)
        elif not sent.is_set():
            sent.set()
            handler.answer(body, send=int(at * len(body)), **headers)
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            handler.connection.shutdown(socket.SHUT_RDWR)

    return answer


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith(("HF_", "PIP_"))]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
