"""The gate: who may ask, and the line about each request."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .refusal import Refusal

OPEN_PATHS = ("/health", "/ready")
"""The paths that need no token: they tell nothing but whether the server is there."""
PATHS = (
    *OPEN_PATHS, "/infer", "/embed", "/v1/models", "/v1/completions", "/v1/chat/completions",
    "/v1/embeddings",
)  # fmt: skip
"""The paths that stand in the line about a request. Another one may be anything, even a key."""


class Gate:
    """Lets requests through to `app`, or refuses them. `say` gets a line about each."""

    def __init__(
        self, app: ASGIApp, say: Callable[[str], None], token: str | None, on_loopback: bool
    ) -> None:
        self._app, self._say, self._token, self._on_loopback = app, say, token, on_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began, status = time.perf_counter(), 0
        scope["llmwit"] = {}

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._check(scope)
                await self._app(scope, receive, noted)
            except Refusal as refusal:
                await refuse(refusal)(scope, receive, noted)
            except Exception as error:  # a defect: the client is told nothing of it
                scope["llmwit"]["defect"] = type(error).__name__
        finally:
            self._say(_line(scope, status, time.perf_counter() - began))

    def _check(self, scope: Scope) -> None:
        """Raise `Refusal` for a request that may not come in."""
        headers = Headers(scope=scope)
        host = _hostname(f"//{headers.get('host', '')}")
        # A page of another site may lead its own name to this machine (DNS rebinding).
        if self._on_loopback and not _is_this_machine(host):
            raise Refusal(403, "the Host header does not name this machine", "wrong_host")
        origin = headers.get("origin")
        if origin is not None and _hostname(origin) != host:
            raise Refusal(403, "pages of other sites may not ask this server", "wrong_origin")
        if self._token is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._token.encode())
        if scheme.lower() != "bearer" or not same:
            raise Refusal(401, "the token is missing or wrong: send it as Authorization: Bearer",
                          "invalid_api_key")  # fmt: skip


def refuse(refusal: Refusal) -> JSONResponse:
    """The response that tells a client of a refusal."""
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _line(scope: Scope, status: int, seconds: float) -> str:
    """The line about a request: no prompt, no key, nothing that a client wrote."""
    path = scope["path"] if scope["path"] in PATHS else "(another path)"
    method = scope["method"] if scope["method"] in ("GET", "POST") else "(another method)"
    words = [(scope.get("client") or ("?",))[0], method, path, str(status or "-")]
    known = scope["llmwit"]
    if run := known.get("run"):
        usage = run.result.usage
        words.append(f"run {run.run_id or '-'} {run.status}")
        words.append(f"{usage.prompt_token_count}+{usage.generated_token_count} tokens")
        if run.log_problem:
            words.append(f"not logged: {run.log_problem}")
    if known.get("gone"):
        words.append("the client went away")
    if defect := known.get("defect"):
        words.append(f"defect: {defect}")
    return " ".join([*words, f"{seconds:.2f} s"])
