"""The engine of servers: a request goes out over HTTP, and what the server does becomes events."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ...contract.constraint import CONSTRAINT_KINDS
from ...contract.engine import Capabilities, Texts
from ...contract.events import Cancelled, Emit, End, Prepared, Progress, Vectors, as_bytes
from ...contract.request import ModelSpec, Request
from ...contract.wit import (
    DeviceInfo,
    FinishDetail,
    InferencingUsage,
    ModelInfo,
)
from ...errors import EngineFailed, InvalidInput
from .addresses import OWN, Address, ServerConfig, address_of, names_server, own_servers
from .answers import Ask, Embeddings, Facts, Part
from .detection import dialect_of
from .dialects.dialect import Dialect
from .dialects.token_scores import ServedModel
from .http_client import REPORT, HttpClient, read_out
from .own_servers import OwnServers
from .server_scores import ServerScore
from .streamed_answer import StreamedAnswer
from .unmet_settings import about_the_constraint, refuse_local_settings, refuse_unhonoured

LATE_SECONDS = 5.0
"""How long a server may take for its counts after the end of its answer."""
BLOCK_TEXTS = 32
"""How many texts are sent at once to be made vectors of. A stop loses the vectors of these."""
COUNTS_AT_ONCE = 8
"""How many texts a server is given at once to count their tokens."""
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
            sha256=address.model_sha256,
            quantisation=self.facts.quantisation,
            engine=self.dialect.kind,
        )

    def device(self, address: Address) -> DeviceInfo:
        return DeviceInfo(
            name=address.host, library=self.facts.version, threads=None, gpu_layers=None,
            reason="a server", exact=False,
        )  # fmt: skip

    def prepared(
        self, address: Address, request: Request, ask: Ask, not_honoured: tuple[str, ...]
    ) -> Prepared:
        return Prepared(
            prompt=ask.prompt,
            prompt_token_count=ask.prompt_token_count,
            cached_token_count=None,
            context_length=ask.context_length,
            params=request.params,
            model=self.info(address),
            device=self.device(address),
            data_spans=() if request.is_chat else request.data_spans,
            notices=ask.notices,
            not_honoured=not_honoured,
        )


class ServerEngine:
    """Runs models on servers. See `contract.engine.Engine` for its methods."""

    capabilities = Capabilities(
        exact_seeds=False, runs_at_once=1024, scores=True,
        constraints=frozenset(CONSTRAINT_KINDS),  # the dialects refuse what they cannot do
    )  # fmt: skip

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

    def models(self, name: str, emit: Emit, cancel: threading.Event) -> list[str]:
        """The names of the models of a server, given as `lab::` or as a URL.

        `local::` stands for all servers of our own.
        """
        if name == f"{OWN}::":
            return [server.removeprefix(name) for server in own_servers(self.servers)]
        address = address_of(name, self.servers)
        return self.http.run(self._models(address, emit), cancel)

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        address = address_of(request.model, self.servers)
        with self.own.watched(address, emit) as emit:
            if request.is_scored:
                return self.http.run(self._prepare_score(address, request, emit), cancel)[0]
            return self.http.run(self._prepare_counted(address, request, emit), cancel)

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        address = address_of(request.model, self.servers)
        if request.is_scored:
            self._run_score(address, request, emit, cancel)
            return
        answer = StreamedAnswer(request, emit, cancel)
        try:
            with self.own.watched(address, emit) as emit:
                self.http.run(self._run(address, request, emit, answer), cancel)
        except Cancelled:
            if not answer.prepared:
                raise
        answer.end()

    def _run_score(
        self, address: Address, request: Request, emit: Emit, cancel: threading.Event
    ) -> None:
        with self.own.watched(address, emit) as watched:
            prepared, score = self.http.run(self._prepare_score(address, request, watched), cancel)
            emit(prepared)
            try:
                self.http.run(self._score(address, score), cancel)
            except Cancelled:
                score.cancelled()

    def embed(self, request: Request, texts: Texts, emit: Emit, cancel: threading.Event) -> None:
        address = address_of(request.model, self.servers)
        if address.given in own_servers(self.servers):
            raise InvalidInput(
                f"{address.given} makes no vectors: name the model's file, as for a local engine"
            )
        with self.own.watched(address, emit) as emit:
            self.http.run(self._embed(address, request, texts, emit), cancel)

    def count(
        self, spec: ModelSpec, texts: Sequence[str], emit: Emit, cancel: threading.Event
    ) -> list[int]:
        address = address_of(spec.model, self.servers)
        with self.own.watched(address, emit) as emit:
            return self.http.run(self._count(address, texts, emit), cancel)

    def close(self) -> None:
        self.http.close()
        self.own.close()

    # In the client's loop ---------------------------------------------------------

    async def _look(self, address: Address, emit: Emit) -> _Known:
        REPORT.set(emit)
        known = self._known.get(address)
        if known is None or time.monotonic() > known.since + FACTS_SECONDS:
            emit(Progress("server", note=address.host))
            dialect = await dialect_of(self.http, address, emit)
            with _of_its_form(address):
                known = _Known(dialect, await dialect.facts(self.http, address))
            self._known[address] = known
        return known

    async def _models(self, address: Address, emit: Emit) -> list[str]:
        REPORT.set(emit)
        dialect = await dialect_of(self.http, address, emit)
        with _of_its_form(address):
            return await dialect.models(self.http, address)

    async def _prepare(
        self, address: Address, request: Request, emit: Emit
    ) -> tuple[Prepared, Ask, Dialect]:
        known = await self._look(address, emit)
        refuse_local_settings(request, known.dialect.loads)
        unmet = known.dialect.not_honoured(request, known.facts)
        refuse_unhonoured(request, unmet, known.dialect.kind)
        with _of_its_form(address):
            ask = await known.dialect.ask(self.http, address, known.facts, request)
        prepared = known.prepared(address, request, ask, (*unmet, *ask.not_honoured))
        return prepared, ask, known.dialect

    async def _prepare_score(
        self, address: Address, request: Request, emit: Emit
    ) -> tuple[Prepared, ServerScore]:
        known = await self._look(address, emit)
        refuse_local_settings(request, known.dialect.loads)
        scores = known.dialect.scores
        if scores is None:
            what = "probabilities" if request.probabilities else "continuation"
            raise InvalidInput(f"{known.dialect.kind} gives no scores: leave out {what}")
        too_many = (request.top_logprobs or 0) > scores.most_top
        refuse_unhonoured(request, ["top_logprobs"] if too_many else [], known.dialect.kind)
        score = ServerScore(request, ServedModel(self.http, address, known.facts), scores, emit)
        with _of_its_form(address):
            await score.prepare()
        ask = Ask("", {}, score.prompt, len(score.ids), known.facts.context_length,
                  tuple(score.notices))  # fmt: skip
        unmet = ("top_logprobs",) if too_many else ()
        return known.prepared(address, request, ask, unmet), score

    async def _score(self, address: Address, score: ServerScore) -> None:
        REPORT.set(score.emit)
        with _of_its_form(address):
            await score.run()

    async def _prepare_counted(self, address: Address, request: Request, emit: Emit) -> Prepared:
        """As `_prepare`, with the tokens of the prompt, also where no run would ask for them."""
        prepared, _, dialect = await self._prepare(address, request, emit)
        if prepared.prompt_token_count is not None:
            return prepared
        facts = (await self._look(address, emit)).facts
        count = await dialect.prompt_token_count(self.http, address, facts, request)
        return replace(prepared, prompt_token_count=count)

    async def _count(self, address: Address, texts: Sequence[str], emit: Emit) -> list[int]:
        known = await self._look(address, emit)
        turns = asyncio.Semaphore(COUNTS_AT_ONCE)

        async def count(text: str) -> int:
            async with turns:
                with _of_its_form(address):
                    return await known.dialect.token_count(self.http, address, known.facts, text)

        return list(await asyncio.gather(*map(count, texts)))

    async def _run(
        self, address: Address, request: Request, emit: Emit, answer: StreamedAnswer
    ) -> None:
        prepared, ask, dialect = await self._prepare(address, request, emit)
        emit(prepared)
        answer.begin(prepared, ask.splitter, address.secret, dialect.counts_end_of_text)
        if request.params.max_tokens == 0:  # some servers make one token, and others refuse it
            answer.take(Part(generated_token_count=0, finish_detail=FinishDetail.MAX_TOKENS))
            return
        events = self.http.events(address, ask.path, ask.body, emit)
        try:
            async with asyncio.timeout(None) as limit:
                async for event in events:
                    with _of_its_form(address):
                        part = dialect.part(event, request)
                    await answer.take_in_loop(part)
                    if answer.said_last:
                        await read_out(events)
                        return
                    if answer.complete:
                        return  # closing the stream ends the server's work
                    if answer.finished and limit.when() is None:
                        limit.reschedule(asyncio.get_running_loop().time() + LATE_SECONDS)
        except (EngineFailed, TimeoutError):
            if not answer.finished:  # else only counts are missing
                raise
        except InvalidInput as error:
            raise about_the_constraint(error, request, prepared) from None
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        if not answer.finished:
            raise EngineFailed(
                f"{address.host} ended its answer without saying why: the connection may have been "
                "cut; the text so far is kept"
            )

    async def _embed(self, address: Address, request: Request, texts: Texts, emit: Emit) -> None:
        known = await self._look(address, emit)
        refuse_local_settings(request, known.dialect.loads)
        for number, text in zip(texts.numbers, texts.texts, strict=True):
            if not text:
                raise InvalidInput(f"text {number} is empty: it has no embedding")
        emit(
            Prepared(
                prompt=request.prompt,
                prompt_token_count=None,
                cached_token_count=None,
                context_length=known.facts.context_length,
                params=request.params,
                model=known.info(address),
                device=known.device(address),
            )
        )
        began, count = time.monotonic(), 0
        for first in range(0, len(texts), BLOCK_TEXTS):
            block = list(texts.texts[first : first + BLOCK_TEXTS])
            path, body = known.dialect.embedding_ask(known.facts, request, block, texts.truncate)
            answer = await self.http.json(address, path, body, emit)
            with _of_its_form(address):
                found = known.dialect.embeddings(answer, address)
            emit(_packed(found, len(block), address))
            count += found.token_count
        seconds = {"prompt": time.monotonic() - began}
        emit(End(None, InferencingUsage(prompt_token_count=count), seconds=seconds))


def _packed(found: Embeddings, count: int, address: Address) -> Vectors:
    """The vectors that a server has sent, looked at. Raises `EngineFailed` where they are none."""
    vectors = found.vectors
    if len(vectors) != count:
        raise EngineFailed(f"{address.host} made {len(vectors)} vectors of {count} texts")
    if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise EngineFailed(f"{address.host} made vectors of different lengths, or empty ones")
    numbers = array("f", (number for vector in vectors for number in vector))
    if not all(map(math.isfinite, numbers)):
        raise EngineFailed(f"{address.host} sent vectors with NaN or infinite numbers")
    return Vectors(as_bytes(numbers), len(vectors[0]), found.token_count)


@contextmanager
def _of_its_form(address: Address) -> Iterator[None]:
    """Raise `EngineFailed` for an answer that has not the form that its kind of server has."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise EngineFailed(
            f"{address.host} sent an answer of an unknown form ({type(error).__name__}): is the "
            "kind of the server right?"
        ) from error
