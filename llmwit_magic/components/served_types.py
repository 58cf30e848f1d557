"""The types of the functions that components may import, in the words of `type_name`.

A component may name an interface and mean other types by it. Its values would then not be those that
the functions here take and give. So each type is compared before a function is linked.

Sources: `wit/llm.wit`, `wit/0.2.0/llm.wit`, and for the others those of `first_interface` and
`pharia_interface`. Names of parameters are left out, since values come by their places.
"""

from __future__ import annotations

from collections.abc import Mapping

Types = Mapping[str, tuple[tuple[str, ...], str]]
"""The types of the parameters and of the result of each function."""


def _record(*fields: str) -> str:
    return f"record {{ {', '.join(fields)} }}"


def _variant(*cases: str) -> str:
    return f"variant {{ {', '.join(cases)} }}"


def _result(good: str) -> str:
    return f"result {{ ok({good}), err({_ERROR}) }}"


_ERROR = _variant("model-not-supported", "runtime-error(string)", "invalid-input(string)")
_REASON = "enum { stop, length, content-filter }"
_LOGPROBS = _variant("no", "sampled", "top(u8)")

# llmwit:llm@0.1.0 and Spin

_PROMPT_COUNT, _COUNT = "prompt-token-count: u32", "generated-token-count: u32"
_USAGE = _record(_PROMPT_COUNT, _COUNT, "cached-token-count: u32")
_PENALTY = ("repeat-penalty: f32", "repeat-penalty-last-n-token-count: u32")
_CHOICE = ("temperature: f32", "top-k: u32", "top-p: f32")
_EMBEDDINGS = (
    ("string", "list<string>"),
    _result(_record("embeddings: list<list<f32>>", f"usage: {_record(_PROMPT_COUNT)}")),
)

LLMWIT_0_1: Types = {
    "infer": (
        (
            "string", "string",
            f"option<{_record('max-tokens: option<u32>', *_PENALTY, 'stop: list<string>', *_CHOICE)}>",
        ),
        _result(_record("text: string", f"finish-reason: {_REASON}", f"usage: {_USAGE}")),
    ),
    "generate-embeddings": _EMBEDDINGS,
}  # fmt: skip
SPIN: Types = {
    "infer": (
        ("string", "string", f"option<{_record('max-tokens: u32', *_PENALTY, *_CHOICE)}>"),
        _result(_record("text: string", f"usage: {_record(_PROMPT_COUNT, _COUNT)}")),
    ),
    "generate-embeddings": _EMBEDDINGS,
}

# llmwit:llm@0.2.0

_MESSAGE = _record("role: enum { system, user, assistant }", "content: string")
_PARAMS_0_2 = _record(
    "max-tokens: option<u32>", "repeat-penalty: option<f32>",
    "repeat-penalty-last-n-token-count: option<u32>", "stop: list<string>",
    "temperature: option<f32>", "top-k: option<u32>", "top-p: option<f32>", "seed: option<u64>",
)  # fmt: skip
_REQUEST = _record(
    "model: string", f"prompt: {_variant('text(string)', f'chat(list<{_MESSAGE}>)')}",
    f"params: option<{_PARAMS_0_2}>", "json-schema: option<string>", f"logprobs: {_LOGPROBS}",
    "echo: bool",
)  # fmt: skip
_TOKEN = ("id: option<u32>", "bytes: list<u8>", "logprob: f64")
_TOKENS = f"tokens: list<{_record(*_TOKEN, 'rank: option<u32>', f'top: list<{_record(*_TOKEN)}>')}>"
_RESULT_0_2 = _result(_record(
    "text: string", f"finish-reason: {_REASON}", f"usage: {_USAGE}", "reasoning: string", _TOKENS,
    "seed: u64",
))  # fmt: skip
_EVENT = _variant(
    f"chunk({_record('text: string', 'reasoning: string', _TOKENS)})",
    f"end({_record(f'finish-reason: {_REASON}', f'usage: {_USAGE}', 'seed: u64')})",
)

LLMWIT_0_2: Types = {
    "infer": ((_REQUEST,), _RESULT_0_2),
    "infer-many": ((f"list<{_REQUEST}>",), f"list<{_RESULT_0_2}>"),
    "infer-stream": ((_REQUEST,), _result("own<inferencing-stream>")),
    "generate-embeddings": _EMBEDDINGS,
    "[method]inferencing-stream.next": (
        ("borrow<inferencing-stream>",), _result(f"option<{_EVENT}>"),
    ),
}  # fmt: skip

# pharia:skill/inference@0.3

_LOGPROB = _record("token: list<u8>", "logprob: f64")
_LISTED = f"logprobs: list<{_record(f'sampled: {_LOGPROB}', f'top: list<{_LOGPROB}>')}>"
_PHARIA_USAGE = _record("prompt: u32", "completion: u32")
_PENALTIES = (
    "frequency-penalty: option<f64>", "presence-penalty: option<f64>", f"logprobs: {_LOGPROBS}",
)  # fmt: skip
_COMPLETION_PARAMS = (
    "max-tokens: option<u32>", "temperature: option<f64>", "top-k: option<u32>",
    "top-p: option<f64>", "stop: list<string>", "return-special-tokens: bool", *_PENALTIES,
)  # fmt: skip
_ASKED = ("model: string", "prompt: string")
_COMPLETION_REQUEST = _record(*_ASKED, f"params: {_record(*_COMPLETION_PARAMS)}")
_COMPLETION_REQUEST_2 = _record(*_ASKED, f"params: {_record(*_COMPLETION_PARAMS, 'echo: bool')}")
_COMPLETION = _record(
    "text: string", f"finish-reason: {_REASON}", _LISTED, f"usage: {_PHARIA_USAGE}"
)
_SAID = _record("role: string", "content: string")
_CHAT_PARAMS = _record(
    "max-tokens: option<u32>", "temperature: option<f64>", "top-p: option<f64>", *_PENALTIES
)
_CHAT_REQUEST = _record("model: string", f"messages: list<{_SAID}>", f"params: {_CHAT_PARAMS}")
_CHAT = _record(
    f"message: {_SAID}", f"finish-reason: {_REASON}", _LISTED, f"usage: {_PHARIA_USAGE}"
)
_COMPLETION_EVENT = _variant(
    f"append({_record('text: string', _LISTED)})", f"end({_REASON})", f"usage({_PHARIA_USAGE})"
)
_CHAT_EVENT = _variant(
    "message-begin(string)", f"message-append({_record('content: string', _LISTED)})",
    f"message-end({_REASON})", f"usage({_PHARIA_USAGE})",
)  # fmt: skip

PHARIA: Types = {
    "complete": ((f"list<{_COMPLETION_REQUEST}>",), f"list<{_COMPLETION}>"),
    "complete-v2": ((f"list<{_COMPLETION_REQUEST_2}>",), f"list<{_COMPLETION}>"),
    "chat": ((f"list<{_CHAT_REQUEST}>",), f"list<{_CHAT}>"),
    "[constructor]completion-stream": ((_COMPLETION_REQUEST,), "own<completion-stream>"),
    "[constructor]chat-stream": ((_CHAT_REQUEST,), "own<chat-stream>"),
    "[method]completion-stream.next": (
        ("borrow<completion-stream>",), f"option<{_COMPLETION_EVENT}>",
    ),
    "[method]chat-stream.next": (("borrow<chat-stream>",), f"option<{_CHAT_EVENT}>"),
}  # fmt: skip
