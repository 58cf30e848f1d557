"""The engine of servers: a request goes out over HTTP, and what the server does becomes events."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from ...contract.engine import Capabilities
from ...contract.events import Cancelled, Chunk, Emit, End, Prepared, Progress
from ...contract.request import ContentFilter, ModelSpec, Request
from ...contract.wit import (
    DeviceInfo,
    EmbeddingsResult,
    EmbeddingsUsage,
    FinishDetail,
    FinishReason,
    InferencingUsage,
    ModelInfo,
    TokenInfo,
)
from ...errors import EngineFailed, InvalidInput
from ..judging import judgement
from ..stopping import SafeText
from .addresses import OWN, Address, ServerConfig, address_of, names_server, own_servers
from .answers import Ask, Facts, Part
from .detection import dialect_of
from .dialects.dialect import Dialect
from .http_client import HttpClient
from .own_servers import OwnServers

FACTS_SECONDS = 30.0
"""How long what a server says of itself is believed: it may be started again with another model."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a server's model, and since when."""

    dialect: Dialect
    facts: Facts
    since: float = field(default_factory=time.monotonic)

    def info(self, address: Address) -> ModelInfo:
        return ModelInfo(
            name=address.given,
            path=f"{address.url}#{self.facts.model}",
            quantisation=self.facts.quantisation,
            engine=self.dialect.kind,
        )

    def device(self, address: Address) -> DeviceInfo:
        return DeviceInfo(
            name=address.host, library=self.facts.version, threads=None, gpu_layers=None,
            reason="a server", exact=False,
        )  # fmt: skip


class ServerEngine:
    """Runs models on servers. See `contract.engine.Engine` for its methods."""

    capabilities = Capabilities(exact_seeds=False, runs_at_once=1024)

    def __init__(self) -> None:
        self._servers: Mapping[str, ServerConfig] = {}
        self.own = OwnServers()
        self.http = HttpClient()
        self._known: dict[Address, _Known] = {}

    @property
    def servers(self) -> Mapping[str, ServerConfig]:
        """All servers by name: the user's, which can be set, and our own."""
        return {**self._servers, **self.own.configs}

    @servers.setter
    def servers(self, servers: Mapping[str, ServerConfig]) -> None:
        self._servers = servers

    def serves(self, spec: ModelSpec) -> bool:
        return names_server(spec.model)

    def find(self, spec: ModelSpec, emit: Emit, cancel: threading.Event) -> ModelInfo:
        address = address_of(spec.model, self.servers)
        with self.own.watched(address, emit) as emit:
            return self.http.run(self._look(address, emit), cancel).info(address)

    def slots(self, spec: ModelSpec, emit: Emit, cancel: threading.Event) -> int | None:
        """How many requests the server carries out at once; None where it does not say so."""
        address = address_of(spec.model, self.servers)
        return self.http.run(self._look(address, emit), cancel).facts.slots

    def models(self, name: str, cancel: threading.Event) -> list[str]:
        """The names of the models of a server, given as `lab::` or as a URL.

        `local::` stands for all servers of our own.
        """
        if name == f"{OWN}::":
            return [server.removeprefix(name) for server in own_servers(self.servers)]
        address = address_of(name, self.servers)
        answer = self.http.run(self.http.json(address, "models"), cancel)
        found = answer.get("data") if isinstance(answer, dict) else None
        return [str(item.get("id")) for item in found or () if isinstance(item, dict)]

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        address = address_of(request.model, self.servers)
        with self.own.watched(address, emit) as emit:
            return self.http.run(self._prepare(address, request, emit), cancel)[0]

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        address = address_of(request.model, self.servers)
        answer = _Answer(request, emit, cancel)
        try:
            with self.own.watched(address, emit) as emit:
                self.http.run(self._run(address, request, emit, answer), cancel)
        except Cancelled:
            if not answer.prepared:
                raise
        answer.end()

    def embed(
        self, request: Request, texts: list[str], truncate: bool, emit: Emit,
        cancel: threading.Event,
    ) -> EmbeddingsResult:  # fmt: skip
        if truncate:
            raise InvalidInput("truncate: a server is not told to cut texts: cut them before")
        address = address_of(request.model, self.servers)
        with self.own.watched(address, emit) as emit:
            return self.http.run(self._embed(address, texts, emit), cancel)

    def close(self) -> None:
        self.http.close()
        self.own.close()

    # In the client's loop ---------------------------------------------------------

    async def _look(self, address: Address, emit: Emit) -> _Known:
        known = self._known.get(address)
        if known is None or time.monotonic() > known.since + FACTS_SECONDS:
            emit(Progress("server", note=address.host))
            dialect = await dialect_of(self.http, address)
            known = _Known(dialect, await dialect.facts(self.http, address))
            self._known[address] = known
        return known

    async def _prepare(
        self, address: Address, request: Request, emit: Emit
    ) -> tuple[Prepared, Ask, Dialect]:
        _refuse_local_settings(request)
        known = await self._look(address, emit)
        unmet = known.dialect.not_honoured(request)
        _refuse_unhonoured(request, unmet, known.dialect.kind)
        ask = await known.dialect.ask(self.http, address, known.facts, request)
        prepared = Prepared(
            prompt=ask.prompt,
            prompt_token_count=ask.prompt_token_count,
            cached_token_count=None,
            context_length=ask.context_length,
            params=request.params,
            model=known.info(address),
            device=known.device(address),
            data_spans=() if request.is_chat else request.data_spans,
            notices=ask.notices,
            not_honoured=tuple(unmet),
        )
        return prepared, ask, known.dialect

    async def _run(self, address: Address, request: Request, emit: Emit, answer: _Answer) -> None:
        prepared, ask, dialect = await self._prepare(address, request, emit)
        emit(prepared)
        answer.begin(prepared)
        if request.params.max_tokens == 0:  # some servers make one token, and others refuse it
            answer.take(Part(generated_token_count=0, finish_detail=FinishDetail.MAX_TOKENS))
            return
        events = self.http.events(address, ask.path, ask.body, emit)
        try:
            async for event in events:
                await answer.take_in_loop(dialect.part(event, request))
                if answer.complete:
                    return
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        if not answer.finished:
            raise EngineFailed(
                f"{address.host} ended its answer without saying why: the connection may have been "
                "cut; the text so far is kept"
            )

    async def _embed(self, address: Address, texts: list[str], emit: Emit) -> EmbeddingsResult:
        known = await self._look(address, emit)
        body = {"model": known.facts.model, "input": texts, "encoding_format": "float"}
        answer = await self.http.json(address, "embeddings", body, emit)
        try:
            items = sorted(answer["data"], key=lambda item: item["index"])
            vectors = tuple(tuple(map(float, item["embedding"])) for item in items)
            count = answer["usage"]["prompt_tokens"]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFailed(
                f"{address.host} answered with no vectors ({type(error).__name__}: {error})"
            ) from None
        if len(vectors) != len(texts):
            raise EngineFailed(f"{address.host} made {len(vectors)} vectors of {len(texts)} texts")
        return EmbeddingsResult(embeddings=vectors, usage=EmbeddingsUsage(prompt_token_count=count))


def _refuse_local_settings(request: Request) -> None:
    """Raise `InvalidInput` for a setting that is about loading a model here."""
    fields = ("model_type", "engine", "context_length", "gpu_layers", "threads", "chat_template")
    for name in fields:
        if getattr(request, name) != Request.model_fields[name].default:
            raise InvalidInput(
                f"{name}: a server has loaded its model already, and cannot honour it: leave it out"
            )


def _refuse_unhonoured(request: Request, unmet: list[str], kind: str) -> None:
    """Raise `InvalidInput` for a setting that a person gave and the server cannot honour.

    A value that is the contract's default was not asked for by a person. The row of the log says
    that it was not honoured.
    """
    if "unsupported" in request.accept:
        return
    standard = type(request.params)(temperature=request.params.temperature)
    for name in unmet:
        given = name == "top_logprobs" or getattr(request.params, name) != getattr(standard, name)
        if given:
            raise InvalidInput(
                f"{name}: {kind} cannot honour it: leave it out, or --accept unsupported runs "
                "without it"
            )


class _Answer:
    """The answer of one run as it comes: safe text, tokens, counts, and why it ended."""

    def __init__(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        self._request, self._emit, self._cancel = request, emit, cancel
        self._filters_ask = any(callable(item) for item in request.content_filters)
        self.prepared: Prepared | None = None
        self.finished = False
        """Whether the server has said why the answer ended."""
        self._withheld: list[tuple[int, TokenInfo]] = []
        self._counts: dict[str, int | None] = {}
        self._texts = 0
        self._ending = Part()
        self._seconds: dict[str, float] = {}
        self._asked = self._first = 0.0

    def begin(self, prepared: Prepared) -> None:
        self.prepared = prepared
        filters: list[ContentFilter] = [
            partial(self._judged, item) if callable(item) else item
            for item in self._request.content_filters
        ]
        self._stream = SafeText(prepared.params.stop, filters)
        self._counts["prompt"] = prepared.prompt_token_count
        self._counts["cached"] = None
        self._counts["generated"] = 0
        self._asked = time.perf_counter()

    def _judged(self, function: Callable[[str], int | None], text: str) -> int | None:
        return judgement(function, text, self._cancel.is_set)

    @property
    def complete(self) -> bool:
        """Whether nothing more is wanted of the server."""
        most = self._request.params.max_tokens
        # A server that sends more than it was asked for would never end.
        over = most is not None and self._texts > most + 1
        return self._stream.ended is not None or self._ending.last or over

    async def take_in_loop(self, part: Part) -> None:
        """Take a part in. A person's own function must not hold up other runs."""
        if self._filters_ask:
            await asyncio.to_thread(self.take, part)
        else:
            self.take(part)

    def take(self, part: Part) -> None:
        now = time.perf_counter()
        for name in ("prompt", "cached", "generated"):
            if (count := getattr(part, f"{name}_token_count")) is not None:
                self._counts[name] = count
        if part.text or part.tokens:
            if not self._first:
                self._first = now
                self._seconds["prompt"] = now - self._asked
            self._texts += bool(part.text)
            self._seconds["decode"] = now - self._first
            safe = self._stream.push(part.text.encode("utf-8", "replace"))
            self._withheld += ((self._stream.read_count, token) for token in part.tokens)
            if part.generated_token_count is None:
                self._counts["generated"] = None
            self._emit(Chunk(safe, self._counts["generated"], self._released()))
        if part.finish_reason or part.finish_detail:
            self.finished, self._ending = True, part

    def _released(self) -> tuple[TokenInfo, ...]:
        given = self._stream.given_count
        released = [token for end, token in self._withheld if end <= given]
        del self._withheld[: len(released)]
        return tuple(released)

    def end(self) -> None:
        """Say the rest of the text, and the end. An answer that has not ended was cancelled."""
        rest = self._stream.finish()
        reason, detail, stop = self._why()
        if rest:
            self._emit(Chunk(rest, self._counts["generated"], self._released()))
        usage = InferencingUsage(
            prompt_token_count=self._counts["prompt"],
            generated_token_count=self._counts["generated"],
            cached_token_count=self._counts["cached"],
        )
        self._emit(End(detail, usage, stop, self._seconds, reason))

    def _why(self) -> tuple[FinishReason | None, FinishDetail | None, str | None]:
        if self._stream.ended is not None:
            return None, self._stream.ended, self._stream.stop_sequence
        ending, most = self._ending, self._request.params.max_tokens
        if ending.finish_detail is not None:
            return ending.finish_reason, ending.finish_detail, ending.stop_sequence
        generated, prompt = self._counts["generated"], self._counts["prompt"]
        if ending.finish_reason is FinishReason.LENGTH:
            room = self.prepared.context_length if self.prepared else None
            if most is not None and (generated is None or generated >= most):
                return None, FinishDetail.MAX_TOKENS, None
            if None not in (room, generated, prompt) and prompt + generated >= room:  # type: ignore[operator]
                return None, FinishDetail.CONTEXT_FULL, None
            return FinishReason.LENGTH, FinishDetail.UNKNOWN, None
        if most is not None and self._texts > most:
            return None, FinishDetail.MAX_TOKENS, None
        return None, None, None
