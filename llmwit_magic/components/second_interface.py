"""The imports of `llmwit:llm@0.2.0`. Source: `wit/0.2.0/llm.wit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wasmtime.component import Record, ResourceHost, Variant

from ..contract.constraint import Constraint
from ..contract.request import Request
from ..contract.wit import InferencingResult
from ..errors import InferenceError, InvalidInput
from .answers_to_guests import (
    ALL_COUNTS,
    HostFunction,
    error_value,
    f32,
    field,
    record,
    tokens,
    usage,
    word,
)
from .first_interface import generate_embeddings
from .guest_call import GuestCall
from .text_streams import GuestStream

STREAM_TYPE = 1
"""The number of the type `inferencing-stream`."""

_NUMBERS = ("repeat_penalty", "temperature", "top_p")
_COUNTS = ("repeat_penalty_last_n_token_count", "top_k", "seed")


def infer(call: GuestCall, request: Record) -> Record | Variant:
    """`infer`: a request carried out."""
    model = field(request, "model")
    try:
        result = call.ended(call.start(_request(call, request)))
    except InferenceError as error:
        return error_value(call, error, model)
    return _result(request, result)


def infer_many(call: GuestCall, requests: list[Record]) -> list[Record | Variant]:
    """`infer-many`: requests carried out, each with its own outcome."""
    outcomes = call.results([lambda each=each: _request(call, each) for each in requests])  # type: ignore[misc]
    return [
        error_value(call, outcome, field(request, "model"))
        if isinstance(outcome, InferenceError)
        else _result(request, outcome)
        for request, outcome in zip(requests, outcomes, strict=True)
    ]


def infer_stream(call: GuestCall, request: Record) -> ResourceHost | Variant:
    """`infer-stream`: a stream of the answer."""
    model = field(request, "model")
    try:
        call.check_streams()
        run = call.start(_request(call, request))
    except InferenceError as error:
        return error_value(call, error, model)
    echoed = field(request, "prompt") if field(request, "echo") else ""
    stream = _Stream(GuestStream(call, run, model), echoed)
    return ResourceHost.own(call.keep(stream), STREAM_TYPE)


def next_event(call: GuestCall, number: int) -> Variant:
    """`inferencing-stream.next`."""
    stream: _Stream = call.streams[number]
    return stream.next_event()


class _Stream:
    """A stream, and the prompt that is still to come before its first chunk."""

    def __init__(self, chunks: GuestStream, echoed: str) -> None:
        self._chunks, self._echoed = chunks, echoed

    def next_event(self) -> Variant:
        chunks = self._chunks
        if chunks.is_over:
            return Variant("ok", None)
        if self._echoed:
            text, self._echoed = self._echoed, ""
            return Variant("ok", Variant("chunk", record(text=text, reasoning="", tokens=[])))
        try:
            chunk = chunks.next_chunk()
        except InferenceError as error:
            chunks.is_over = True
            return Variant("err", error_value(chunks.call, error, chunks.model))
        if chunk is not None:
            said = record(text=chunk.text, reasoning=chunk.reasoning, tokens=tokens(chunk.tokens))
            return Variant("ok", Variant("chunk", said))
        chunks.is_over = True
        return Variant("ok", Variant("end", _end(chunks.run.result)))

    def close(self) -> None:
        self._chunks.close()


def _end(result: InferencingResult) -> Record:
    return record(
        finish_reason=word(result.finish_reason), usage=usage(result.usage, *ALL_COUNTS),
        seed=result.params.seed or 0,
    )  # fmt: skip


def _result(request: Record, result: InferencingResult) -> Record:
    echoed = field(request, "prompt") if field(request, "echo") else ""
    return record(
        text=echoed + result.text, finish_reason=word(result.finish_reason),
        usage=usage(result.usage, *ALL_COUNTS), reasoning=result.reasoning,
        tokens=tokens(result.tokens or ()), seed=result.params.seed or 0,
    )  # fmt: skip


def _request(call: GuestCall, request: Record) -> Request:
    """The request of a record. Raises `InferenceError`."""
    prompt, schema = field(request, "prompt"), field(request, "json_schema")
    given: dict[str, Any] = {}
    if isinstance(prompt, str):
        given["prompt"] = prompt
    else:
        if field(request, "echo"):
            raise InvalidInput("echo: it goes with a prompt that is a text, not with a chat")
        given["messages"] = [{"role": each.role, "content": each.content} for each in prompt]
    if schema is not None:
        given["constraint"] = Constraint(kind="json_schema", source=schema)
    return call.request(
        field(request, "model"), params=_params(field(request, "params")),
        top_logprobs=top_logprobs(field(request, "logprobs")), **given,
    )  # fmt: skip


def _params(params: Record | None) -> dict[str, Any] | None:
    if params is None:
        return None
    given = {name: field(params, name) for name in (*_NUMBERS, *_COUNTS)}
    values = {name: value for name, value in given.items() if value is not None}
    values |= {name: f32(values[name]) for name in _NUMBERS if name in values}
    # Without a number there is no limit, as in the first version.
    return values | {
        "max_tokens": field(params, "max_tokens"), "stop": tuple(field(params, "stop")),
    }  # fmt: skip


def top_logprobs(wanted: Variant) -> int | None:
    """How many alternatives of each token `logprobs` asks for; None where it asks for nothing."""
    if wanted.tag == "top":
        return int(wanted.payload or 0)
    return 0 if wanted.tag == "sampled" else None


LLMWIT_0_2: Mapping[str, HostFunction] = {
    "infer": infer, "infer-many": infer_many, "infer-stream": infer_stream,
    "generate-embeddings": generate_embeddings,
    "[method]inferencing-stream.next": next_event,
}  # fmt: skip
RESOURCES = {"inferencing-stream": STREAM_TYPE}
