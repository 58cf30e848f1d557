"""The command `python -m llmwit_magic http`."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ..base.printable import on_one_line
from ..errors import InferenceError, InvalidInput
from ..running.session import current_session
from .answering import Service
from .app import application
from .served_models import served_models
from .waiting_line import WaitingLine

MOST_CONNECTIONS = 256
"""With the largest bodies, these take about a gigabyte."""
GRACE_SECONDS = 10.0
"""How long runs may go on after a signal to end."""


def main(words: Sequence[str] | None = None) -> int:
    """Serve until a signal. Returns the exit status: 2 where the server cannot start."""
    parser = argparse.ArgumentParser(
        "python -m llmwit_magic http", description="Serve models over HTTP: Spin's and OpenAI's."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8199, help="port; 0: a free one (%(default)s)")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="a model that "
                        "clients may name, or PUBLIC=NAME; may be given several times")  # fmt: skip
    parser.add_argument("--token-env", metavar="NAME", help="environment variable with the token")
    parser.add_argument("--token-file", metavar="FILE", help="file with the token")
    parser.add_argument("--queue", type=int, default=64, metavar="N",
                        help="requests that may wait (%(default)s)")  # fmt: skip
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS, metavar="SECONDS",
                        help="how long runs may go on after SIGTERM (%(default)s)")  # fmt: skip
    parser.add_argument("--spin-open-ai", action="store_true", help="read frequency_penalty as the "
                        "repeat penalty, which Spin's open_ai mode means by it")  # fmt: skip
    chosen = parser.parse_args(words)
    try:
        asyncio.run(_serve(chosen))
    except (InferenceError, OSError) as error:
        print(f"cannot serve: {on_one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


async def _serve(chosen: argparse.Namespace) -> None:
    token = _token(chosen.token_env, chosen.token_file)
    models = served_models(chosen.model)
    listening = _listening(chosen.host, chosen.port, token)
    host, port = listening.getsockname()[:2]
    session = current_session()
    service = Service(session, models, WaitingLine(max(chosen.queue, 0)), chosen.spin_open_ai)
    app = application(service, _say, token, _is_loopback(host))
    server = HttpServer(configured(app, chosen.grace))
    service.drop = server.drop
    try:
        with _signals(server, service, max(chosen.grace, 0)):
            where = f"[{host}]" if ":" in host else host
            _say(f"serving {', '.join(models.names)} on http://{where}:{port}/v1")
            models.find(session, _say)
            await server.serve(sockets=[listening])
    finally:
        await asyncio.to_thread(session.close)
        _say("ended")


def configured(app: ASGIApp, grace: float) -> uvicorn.Config:
    """How uvicorn serves the application."""
    # A client must not say who it is by a header, and nothing but our own lines is printed.
    return uvicorn.Config(
        app, http="h11", ws="none", loop="asyncio", lifespan="off", access_log=False,
        log_config=None, log_level="critical", server_header=False, proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=int(grace) + 15,
    )  # fmt: skip


class HttpServer(uvicorn.Server):
    """The server without its own handling of signals: the process would end before its runs."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def drop(self, client: Any) -> None:
        """Break the connection of that client."""
        for each in list(self.server_state.connections):
            if getattr(each, "client", None) == client and client is not None:
                each.transport.abort()


@contextmanager
def _signals(server: uvicorn.Server, service: Service, grace: float) -> Iterator[None]:
    """End in order at SIGTERM and SIGINT: no new requests, some seconds for runs, then their end.

    A second signal ends the runs at once.
    """
    loop = asyncio.get_running_loop()

    def end() -> None:
        if server.should_exit:
            service.end_runs()
            return
        server.should_exit = True
        service.stop()
        loop.call_later(grace, service.end_runs)

    def handle(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(end)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _token(variable: str | None, path: str | None) -> str | None:
    """The token; None where neither a variable nor a file is named. Raises `InvalidInput`."""
    if variable is not None and path is not None:
        raise InvalidInput("--token-env and --token-file: give one of them")
    if variable is None and path is None:
        return None
    if variable is not None:
        token, where = os.environ.get(variable, ""), f"the variable of --token-env, {variable},"
    else:
        token, where = Path(str(path)).read_text(encoding="utf-8"), "the file of --token-file"
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(f"{where} has no token: it must be visible ASCII characters")
    return token


def _listening(host: str, port: int, token: str | None) -> socket.socket:
    """A socket that listens there. Raises `InvalidInput` for one that needs a token."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if not _is_loopback(str(address[0])) and token is None:
        raise InvalidInput(
            f"{host} can be reached from other machines: give a token by --token-env or --token-file"
        )
    return opened(family, address)


def opened(family: int, address: Any) -> socket.socket:
    """A listening socket.

    It says that it is one of TCP: else asyncio leaves Nagle's algorithm on for its connections,
    and each answer waits 40 ms for an acknowledgement of its headers.
    """
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows this would let another program take the port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError:
        made.close()
        raise
    return made


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _say(text: str) -> None:
    print(on_one_line(text), flush=True)
