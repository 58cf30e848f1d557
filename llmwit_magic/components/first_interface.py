"""The imports `llmwit:llm@0.1.0` and `fermyon:spin/llm`, which differ in a few fields.

Sources: `wit/llm.wit`; wit/deps/spin@2.0.0/llm.wit of Spin 4, and its unversioned form with the same
text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wasmtime.component import Record, Variant

from ..errors import InferenceError
from .answers_to_guests import (
    ALL_COUNTS,
    HostFunction,
    error_value,
    f32,
    field,
    record,
    usage,
    word,
)
from .guest_call import GuestCall

_NUMBERS = ("repeat_penalty", "temperature", "top_p")
_COUNTS = ("max_tokens", "repeat_penalty_last_n_token_count", "top_k")


def infer(call: GuestCall, model: str, prompt: str, params: Record | None) -> Record | Variant:
    """`infer` of `llmwit:llm@0.1.0`."""
    stop = {"stop": tuple(field(params, "stop"))} if params is not None else {}
    return _infer(call, model, prompt, params, stop, True)


def spin_infer(call: GuestCall, model: str, prompt: str, params: Record | None) -> Record | Variant:
    """`infer` of Spin, which has neither stops nor finish reasons."""
    return _infer(call, model, prompt, params, {}, False)


def generate_embeddings(call: GuestCall, model: str, texts: list[str]) -> Record | Variant:
    """`generate-embeddings`, which is the same in all versions."""
    try:
        vectors, count = call.embed(model, texts)
    except InferenceError as error:
        return error_value(call, error, model)
    return record(embeddings=vectors, usage=record(prompt_token_count=count))


def _infer(
    call: GuestCall, model: str, prompt: str, params: Record | None, more: Mapping[str, Any],
    ours: bool,
) -> Record | Variant:  # fmt: skip
    values: dict[str, Any] | None = None
    try:
        if params is not None:
            values = {name: f32(field(params, name)) for name in _NUMBERS}
            values |= {name: field(params, name) for name in _COUNTS}
            values |= more
        result = call.ended(call.start(call.request(model, params=values, prompt=prompt)))
    except InferenceError as error:
        return error_value(call, error, model)
    if not ours:
        return record(text=result.text, usage=usage(result.usage, *ALL_COUNTS[:2]))
    return record(
        text=result.text, finish_reason=word(result.finish_reason),
        usage=usage(result.usage, *ALL_COUNTS),
    )  # fmt: skip


LLMWIT_0_1: Mapping[str, HostFunction] = {
    "infer": infer,
    "generate-embeddings": generate_embeddings,
}
SPIN: Mapping[str, HostFunction] = {"infer": spin_infer, "generate-embeddings": generate_embeddings}
"""The functions of each interface. A value of an error variant is the error of a `result`."""
