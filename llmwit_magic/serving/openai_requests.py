"""Requests in OpenAI's form. What they ask and we do not have is refused by name.

Source: the API reference of OpenAI. `top_k`, `repeat_penalty` and `repeat_last_n` are
llama-server's names for what OpenAI does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.record import shown
from ..contract.request import Request
from ..contract.wit import InferencingParams
from ..requests.shapes import with_constraint
from .asked import Asked
from .asked_vectors import embedding_asked
from .bodies import rounded
from .openai_answers import OpenAIForm, OpenAIVectors
from .refusal import Refusal
from .served_models import ServedModels

COMPLETION_TOKENS = 16
"""OpenAI's limit of a completion that gives none. A chat without one has no limit."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,),
    "logit_bias": ({},), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "parallel_tool_calls": (True, False), "echo": (False,),
    "suffix": ("",), "store": (False,), "metadata": ({},), "modalities": (["text"],),
    "service_tier": ("auto", "default"), "min_p": (0,),
}  # fmt: skip
"""Fields that we do not have, with the values that ask for nothing."""
_PARAMS = ("temperature", "top_p", "top_k", "repeat_penalty", "seed", "stop")
_LIMITS = ("max_tokens", "max_completion_tokens")
_WINDOWS = ("repeat_last_n", "repeat_penalty_last_n")
_OTHERS = (
    "model", "messages", "prompt", "stream", "stream_options", "logprobs", "top_logprobs",
    "response_format", "user", "chat_template_kwargs",
)  # fmt: skip


def text_asked(
    body: Mapping[str, Any], models: ServedModels, chat: bool, spin_penalty: bool = False
) -> Asked:
    """The request of a chat or of a completion. Raises `Refusal` and `InvalidInput`.

    With `spin_penalty`, `frequency_penalty` is a repeat penalty, as Spin's `open_ai` means it.
    """
    given = {name: value for name, value in body.items() if value is not None}
    if spin_penalty and "frequency_penalty" in given:
        given.setdefault("repeat_penalty", rounded(given.pop("frequency_penalty")))
    _refuse_unknown(given, chat)
    public, target = models.target(given.get("model"))
    path = "/v1/chat/completions" if chat else "/v1/completions"
    values: dict[str, Any] = {"messages": _messages(given)} if chat else {"prompt": _prompt(given)}
    if "user" in given and not isinstance(given["user"], str):
        raise Refusal(400, "user: it must be a text")
    top = _top_logprobs(given, chat)
    request = Request(
        model=target,
        params=_params(given, chat),
        top_logprobs=top,
        template_options=given.get("chat_template_kwargs", {}),
        tags={"http": path} | ({"user": given["user"]} if "user" in given else {}),
        **values,
        **_constraint(given),
    )
    stream, with_usage = _streaming(given)
    form = OpenAIForm(public, chat, with_usage, top)
    return Asked(public, request, lambda session: session.run(request), form, stream)


def vectors_asked(body: Mapping[str, Any], models: ServedModels) -> Asked:
    """The request of `/v1/embeddings`. Raises `Refusal` and `InvalidInput`."""
    given = {name: value for name, value in body.items() if value is not None}
    for name in given:
        if name not in ("model", "input", "encoding_format", "user"):
            raise _unknown(name)
    encoding = given.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise Refusal(400, f"encoding_format: {shown(encoding)} is not float or base64")
    form = OpenAIVectors(models.target(given.get("model"))[0], encoding == "base64")
    return embedding_asked(given, models, "/v1/embeddings", form)


def _refuse_unknown(given: Mapping[str, Any], chat: bool) -> None:
    elsewhere = ("prompt",) if chat else (
        "messages", "top_logprobs", "max_completion_tokens", "chat_template_kwargs",
    )  # fmt: skip

    known = {*_PARAMS, *_LIMITS, *_WINDOWS, *_OTHERS} - {*elsewhere}
    for name, value in given.items():
        if name in known:
            continue
        if name not in _NEUTRAL:
            raise _unknown(name)
        # True is 1 to Python, and no number to OpenAI.
        neutral = [
            each for each in _NEUTRAL[name] if isinstance(each, bool) == isinstance(value, bool)
        ]
        if value not in neutral:
            spin = ""
            if name == "frequency_penalty":
                spin = ", use repeat_penalty, or start the server with --spin-open-ai for Spin"
            raise Refusal(400, f"{name}: this server does not have it: leave it out{spin}",
                          "unsupported_parameter")  # fmt: skip


def _unknown(name: str) -> Refusal:
    # A client's own text is escaped: it may be anything.
    return Refusal(400, f"{ascii(name[:60])[1:-1]}: this server does not know it: leave it out",
                   "unknown_parameter")  # fmt: skip


def _one_of(given: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the one field that is given. Raises `Refusal` for two that differ."""
    values = [given[name] for name in names if name in given]
    if len(values) > 1 and values[0] != values[1]:
        raise Refusal(400, f"{names[1]}: {names[0]} says another value: give one of them")
    return values[0] if values else None


def _params(given: Mapping[str, Any], chat: bool) -> InferencingParams:
    params: dict[str, Any] = {name: given[name] for name in _PARAMS if name in given}
    limit = _one_of(given, _LIMITS)
    if limit is None:
        limit = -1 if chat else COMPLETION_TOKENS
    unlimited = isinstance(limit, int) and not isinstance(limit, bool) and limit == -1
    params["max_tokens"] = None if unlimited else limit
    if (window := _one_of(given, _WINDOWS)) is not None:
        params["repeat_penalty_last_n_token_count"] = window
    return InferencingParams(**params)


def _top_logprobs(given: Mapping[str, Any], chat: bool) -> Any:
    wanted = given.get("logprobs")
    if not chat:
        return wanted
    if wanted not in (None, True, False) or not isinstance(wanted, bool | None):
        raise Refusal(400, "logprobs: it must be true or false")
    if not wanted:
        if given.get("top_logprobs"):
            raise Refusal(400, "top_logprobs: it needs logprobs to be true")
        return None
    return given.get("top_logprobs", 0)


def _streaming(given: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether to stream, and whether with the usage at the end."""
    stream, options = given.get("stream", False), given.get("stream_options", {})
    if not isinstance(stream, bool):
        raise Refusal(400, "stream: it must be true or false")
    if not isinstance(options, Mapping):
        raise Refusal(400, "stream_options: it must be an object")
    if options and not stream:
        raise Refusal(400, "stream_options: it needs stream to be true")
    for name, value in options.items():
        if name != "include_usage" and value not in (None, False):
            raise _unknown(f"stream_options.{name}")
    with_usage = options.get("include_usage") or False
    if not isinstance(with_usage, bool):
        raise Refusal(400, "stream_options: include_usage must be true or false")
    return stream, with_usage


def _prompt(given: Mapping[str, Any]) -> str:
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise Refusal(400, "prompt: it must be one text: lists and token ids are not taken")
    return prompt


def _messages(given: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages: it must be a list with at least one message")
    return [_message(item, place) for place, item in enumerate(messages)]


def _message(item: Any, place: int) -> dict[str, str]:
    where = f"messages[{place}]"
    if not isinstance(item, Mapping):
        raise Refusal(400, f"{where}: it must be an object")
    for name, value in item.items():
        if name not in ("role", "content") and value not in (None, []):
            raise Refusal(
                400, f"{where}: {name[:60]!a} is not taken: leave it out",
                "unsupported_parameter",
            )  # fmt: skip
    role = item.get("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise Refusal(400, f"{where}: the role {shown(role)!a} is not taken")
    return {
        "role": "system" if role == "developer" else role,
        "content": _content(item.get("content"), where),
    }


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise Refusal(400, f"{where}: content must be a text, or parts of the type text")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(text, str):
            raise Refusal(
                400, f"{where}: a part of the type {shown(kind)!a} is not taken: texts are",
                "unsupported_parameter",
            )  # fmt: skip
        texts.append(text)
    return "".join(texts)


def _constraint(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request for `response_format`."""
    wanted = given.get("response_format", {"type": "text"})
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return with_constraint({"returns": {"type": "object"}})
    described = wanted.get("json_schema") if kind == "json_schema" else None
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        raise Refusal(
            400, "response_format: it must be of the type text, json_object, or json_schema with a "
            "schema",
        )  # fmt: skip
    return with_constraint({"returns": dict(schema)})
