"""Answers in OpenAI's form. Its log-probability of what cannot be is -9999."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Sequence
from typing import Any

from ..contract.events import Chunk
from ..contract.tokens import TokenAlternative, TokenInfo
from ..contract.wit import InferencingUsage
from ..running.run import Run
from .asked_vectors import sums

LEAST_LOGPROB = -9999.0
"""JSON has no word for minus infinity."""


class OpenAIForm:
    """How the run of a chat or a completion is told, whole or as a stream."""

    def __init__(self, model: str, chat: bool, with_usage: bool, top_logprobs: int | None) -> None:
        self._model, self._chat = model, chat
        self._with_usage, self._tops = with_usage, top_logprobs
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._offset = 0
        """Where the next token begins in the text, in characters."""

    def whole(self, run: Run) -> dict[str, Any]:
        result = run.result
        choice: dict[str, Any] = {"index": 0, "finish_reason": result.finish_reason}
        choice["logprobs"] = self._logprobs(result.tokens or ())
        if self._chat:
            choice["message"] = {"role": "assistant", "content": result.text, "refusal": None}
            if result.reasoning:
                choice["message"]["reasoning_content"] = result.reasoning
        else:
            choice["text"] = result.text
        kind = "chat.completion" if self._chat else "text_completion"
        return self._event(kind, [choice]) | {"usage": _usage(result.usage), "llmwit": _ours(run)}

    def first(self) -> list[dict[str, Any]]:
        if not self._chat:
            return []
        return [self._streamed({"delta": {"role": "assistant", "content": ""}})]

    def part(self, chunk: Chunk) -> list[dict[str, Any]]:
        if not (chunk.text or chunk.tokens or chunk.reasoning):
            return []
        logprobs = self._logprobs(chunk.tokens)
        if not self._chat:
            return [self._streamed({"text": chunk.text, "logprobs": logprobs})]
        events = []
        if chunk.reasoning:  # it comes before the text
            events.append(self._streamed({"delta": {"reasoning_content": chunk.reasoning}}))
        if chunk.text or (logprobs and logprobs["content"]):
            said: dict[str, Any] = {"delta": {"content": chunk.text}, "logprobs": logprobs}
            events.append(self._streamed(said))
        return events

    def last(self, run: Run) -> list[dict[str, Any]]:
        result = run.result
        empty: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        events = [self._streamed({**empty, "finish_reason": result.finish_reason})]
        events[-1]["llmwit"] = _ours(run)
        if self._with_usage:
            kind = "chat.completion.chunk" if self._chat else "text_completion"
            events.append(self._event(kind, []) | {"usage": _usage(result.usage)})
        return events

    def _event(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id, "object": kind, "created": self._created, "model": self._model,
            "choices": choices,
        }  # fmt: skip

    def _streamed(self, choice: dict[str, Any]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        event = self._event(kind, [{"index": 0, "finish_reason": None, "logprobs": None, **choice}])
        return event | ({"usage": None} if self._with_usage else {})

    def _logprobs(self, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        if self._tops is None:
            return None
        if self._chat:  # the tokens of the answer: reasoning is not among its content
            content = [
                _token(token) | {"top_logprobs": [_token(other) for other in token.top]}
                for token in tokens
                if not token.reasoning
            ]
            return {"content": content, "refusal": None}
        texts = [_text(token.bytes) for token in tokens]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token.bytes.decode(errors="ignore"))
        return {
            "tokens": texts,
            "token_logprobs": [_number(token.logprob) for token in tokens],
            "top_logprobs": [
                {_text(other.bytes): _number(other.logprob) for other in token.top}
                for token in tokens
            ],
            "text_offset": offsets,
        }


class OpenAIVectors:
    """The answer of `/v1/embeddings`."""

    def __init__(self, model: str, base64_form: bool) -> None:
        self._model, self._base64 = model, base64_form

    def whole(self, run: Run) -> dict[str, Any]:
        vectors, count = sums(run)
        data = [
            {
                "object": "embedding", "index": index,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if self._base64
                else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ]  # fmt: skip
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "model": self._model, "usage": usage}

    def first(self) -> list[dict[str, Any]]:
        return []

    def part(self, chunk: Chunk) -> list[dict[str, Any]]:
        return []

    def last(self, run: Run) -> list[dict[str, Any]]:
        return []


def _usage(usage: InferencingUsage) -> dict[str, Any] | None:
    """None where the engine does not know the counts."""
    prompt, generated = usage.prompt_token_count, usage.generated_token_count
    if prompt is None or generated is None:
        return None
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": usage.cached_token_count},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_token_count},
    }


def _ours(run: Run) -> dict[str, Any]:
    """What OpenAI has no field for."""
    result = run.result
    return {
        "run_id": run.run_id, "seed": run.request.params.seed,
        "finish_detail": result.finish_detail, "stop_sequence": result.stop_sequence,
    }  # fmt: skip


def _token(token: TokenInfo | TokenAlternative) -> dict[str, Any]:
    return {
        "token": _text(token.bytes), "logprob": _number(token.logprob), "bytes": list(token.bytes),
    }  # fmt: skip


def _number(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def _text(data: bytes) -> str:
    """A token as a text. One that is no whole character is written as OpenAI writes it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
