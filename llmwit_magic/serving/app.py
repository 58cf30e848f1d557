"""The HTTP server's paths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import InferenceError
from .answering import Answering, Service
from .asked import Asked
from .bodies import json_body
from .gate import Gate, refuse
from .openai_requests import text_asked, vectors_asked
from .refusal import Refusal, refusal_of
from .spin_protocol import embed_asked, infer_asked

Reader = Callable[[Mapping[str, Any]], Asked]


def application(
    service: Service, say: Callable[[str], None], token: str | None = None,
    on_loopback: bool = True,
) -> ASGIApp:  # fmt: skip
    """The whole server as an ASGI application. `say` gets a line about each request."""
    models = service.models

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        if service.line.stopping:
            raise Refusal(503, "the server is ending", "shutting_down")
        if not models.found:
            raise Refusal(503, "a model is not here yet, or cannot be run", "not_ready")
        if service.line.is_full:
            raise Refusal(503, "too many requests are waiting", "queue_full")
        return JSONResponse({"status": "ready"})

    async def listed(request: Request) -> Response:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "llmwit-magic"}
            for name in models.names
        ]
        return JSONResponse({"object": "list", "data": data})

    posts: dict[str, Reader] = {
        "/infer": lambda body: infer_asked(body, models),
        "/embed": lambda body: embed_asked(body, models),
        "/v1/completions": lambda body: text_asked(body, models, False, service.spin_penalty),
        "/v1/chat/completions": lambda body: text_asked(body, models, True, service.spin_penalty),
        "/v1/embeddings": lambda body: vectors_asked(body, models),
    }
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/ready", ready),
            Route("/v1/models", listed),
            *(Route(path, _Post(service, reader)) for path, reader in posts.items()),
        ],
        exception_handlers={
            Refusal: _refused,
            InferenceError: _refused,
            HTTPException: _refused,
            Exception: _refused,
        },
    )
    return Gate(app, say, token, on_loopback)


class _Post:
    """A path that takes a JSON body and answers with a run."""

    def __init__(self, service: Service, reader: Reader) -> None:
        self._service, self._reader = service, reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise Refusal(405, "this path takes POST only")
        if self._service.line.stopping:
            raise Refusal(503, "the server is ending: try again later", "shutting_down")
        body = await json_body(Request(scope, receive))
        scope["llmwit"]["names"] = _names(body, self._service)
        # A schema may take a second to check.
        asked = await asyncio.to_thread(self._reader, body)
        await Answering(self._service, asked)(scope, receive, send)


def _names(body: Mapping[str, Any], service: Service) -> tuple[str, str]:
    """The model's name here and the one that the client knows, for errors."""
    public, target = service.models.target(body.get("model"))
    return target, public


async def _refused(request: Request, error: Exception) -> Response:
    """Any error in OpenAI's form. Of a defect, a client is told nothing."""
    if isinstance(error, InferenceError):
        target, public = request.scope["llmwit"]["names"]
        error = refusal_of(error, target, public, None)
    elif isinstance(error, HTTPException):  # an unknown path or a wrong method
        error = Refusal(error.status_code, str(error.detail))
    elif not isinstance(error, Refusal):
        error = Refusal(500, "unexpected error")
    return refuse(error)
