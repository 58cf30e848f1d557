"""The imports of `pharia:skill/inference`.

Source: the file skill.wit in the PyPI package pharia-skill 0.20.0, version 0.3.11 of the interface.

It has no errors: where a request fails, the guest ends, and whoever called the component gets the
error. It has no repeat penalty, so that is off. It asks for special tokens in the text by default,
and a text of ours has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wasmtime.component import Record, ResourceHost, Variant

from ..contract.request import Request
from ..contract.tokens import TokenInfo
from ..contract.wit import NO_PENALTY, InferencingResult
from ..errors import InferenceError, InvalidInput
from .answers_to_guests import HostFunction, field, record, word
from .guest_call import GuestCall
from .second_interface import top_logprobs
from .text_streams import GuestStream

COMPLETION_TYPE, CHAT_TYPE = 2, 3
"""The numbers of the types `completion-stream` and `chat-stream`."""


def complete(call: GuestCall, requests: list[Record]) -> list[Record]:
    """`complete`: the completions of some requests."""
    return [_completion(result, "") for result in _results(call, requests)]


def complete_v2(call: GuestCall, requests: list[Record]) -> list[Record]:
    """`complete-v2`, which has the prompt in front of the text where `echo` asks for it."""
    return [
        _completion(result, field(request, "prompt") if field(request, "params").echo else "")
        for request, result in zip(requests, _results(call, requests), strict=True)
    ]


def chat(call: GuestCall, requests: list[Record]) -> list[Record]:
    """`chat`: the answers to some chats."""
    return [
        record(
            message=record(role="assistant", content=result.text),
            finish_reason=word(result.finish_reason), logprobs=_distributions(result.tokens or ()),
            usage=_usage(result),
        )
        for result in _results(call, requests)
    ]  # fmt: skip


def _results(call: GuestCall, requests: list[Record]) -> list[InferencingResult]:
    found = call.results([lambda each=each: _request(call, each) for each in requests])  # type: ignore[misc]
    results = []
    for each in found:
        if isinstance(each, InferenceError):
            raise each
        results.append(each)
    return results


def _request(call: GuestCall, request: Record) -> Request:
    params = field(request, "params")
    for name in ("frequency_penalty", "presence_penalty"):
        if field(params, name):
            raise InvalidInput(f"{name}: this host does not have it: leave it out")
    values: dict[str, Any] = {
        "max_tokens": field(params, "max_tokens"), "repeat_penalty": NO_PENALTY,
    }  # fmt: skip
    for name in ("temperature", "top_k", "top_p"):
        if (value := getattr(params, name.replace("_", "-"), None)) is not None:
            values[name] = value
    if hasattr(params, "stop"):
        values["stop"] = tuple(params.stop)
    given: dict[str, Any] = {}
    if hasattr(request, "messages"):
        given["messages"] = [
            {"role": each.role, "content": each.content} for each in request.messages
        ]
    else:
        given["prompt"] = field(request, "prompt")
    return call.request(
        field(request, "model"), params=values, top_logprobs=top_logprobs(params.logprobs), **given
    )


def _completion(result: InferencingResult, echoed: str) -> Record:
    return record(
        text=echoed + result.text, finish_reason=word(result.finish_reason),
        logprobs=_distributions(result.tokens or ()), usage=_usage(result),
    )  # fmt: skip


def _usage(result: InferencingResult) -> Record:
    used = result.usage
    return record(prompt=used.prompt_token_count or 0, completion=used.generated_token_count or 0)


def _distributions(found: Sequence[TokenInfo]) -> list[Record]:
    """The tokens of an answer. Reasoning is not among its text."""
    return [
        record(
            sampled=record(token=token.bytes, logprob=token.logprob),
            top=[record(token=other.bytes, logprob=other.logprob) for other in token.top],
        )
        for token in found
        if not token.reasoning
    ]


class _Stream:
    """A stream: what comes before the text, the text, and what comes after it."""

    def __init__(self, chunks: GuestStream, chat: bool) -> None:
        self._chunks, self._chat = chunks, chat
        self._waiting = [Variant("message-begin", "assistant")] if chat else []

    def next_event(self) -> Variant | None:
        if self._waiting:
            return self._waiting.pop(0)
        if self._chunks.is_over:
            return None
        while (chunk := self._chunks.next_chunk()) is not None:
            found = _distributions(chunk.tokens)
            if not (chunk.text or found):
                continue  # reasoning, for which the interface has no place
            if self._chat:
                return Variant("message-append", record(content=chunk.text, logprobs=found))
            return Variant("append", record(text=chunk.text, logprobs=found))
        self._chunks.is_over = True
        result = self._chunks.run.result
        self._waiting = [Variant("usage", _usage(result))]
        return Variant("message-end" if self._chat else "end", word(result.finish_reason))

    def close(self) -> None:
        self._chunks.close()


def new_completion(call: GuestCall, request: Record) -> ResourceHost:
    """The constructor of `completion-stream`."""
    return _new(call, request, False)


def new_chat(call: GuestCall, request: Record) -> ResourceHost:
    """The constructor of `chat-stream`."""
    return _new(call, request, True)


def _new(call: GuestCall, request: Record, is_chat: bool) -> ResourceHost:
    call.check_streams()
    run = call.start(_request(call, request))
    stream = _Stream(GuestStream(call, run, field(request, "model")), is_chat)
    return ResourceHost.own(call.keep(stream), CHAT_TYPE if is_chat else COMPLETION_TYPE)


def next_event(call: GuestCall, number: int) -> Variant | None:
    """`next` of both streams."""
    stream: _Stream = call.streams[number]
    return stream.next_event()


PHARIA: Mapping[str, HostFunction] = {
    "complete": complete, "complete-v2": complete_v2, "chat": chat,
    "[constructor]completion-stream": new_completion, "[constructor]chat-stream": new_chat,
    "[method]completion-stream.next": next_event, "[method]chat-stream.next": next_event,
}  # fmt: skip
RESOURCES = {"completion-stream": COMPLETION_TYPE, "chat-stream": CHAT_TYPE}
