"""Spin's `remote_http` in its default form: `/infer` and `/embed`.

Source: crates/llm-remote-http/src/default.rs of Spin 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.events import Chunk
from ..contract.request import Request
from ..contract.wit import InferencingParams
from ..running.run import Run
from .asked import Asked
from .asked_vectors import embedding_asked, sums
from .bodies import rounded
from .refusal import Refusal
from .served_models import ServedModels

_OPTIONS = {
    "maxTokens": "max_tokens", "repeatPenalty": "repeat_penalty",
    "repeatPenaltyLastNTokenCount": "repeat_penalty_last_n_token_count",
    "temperature": "temperature", "topK": "top_k", "topP": "top_p",
}  # fmt: skip


def infer_asked(body: Mapping[str, Any], models: ServedModels) -> Asked:
    """The request of `/infer`. Raises `Refusal` and `InvalidInput`."""
    _only(body, ("model", "prompt", "options"))
    public, target = models.target(body.get("model"))
    prompt, options = body.get("prompt"), body.get("options")
    if not isinstance(prompt, str):
        raise Refusal(400, "prompt: it must be a text")
    if options is not None and not isinstance(options, Mapping):
        raise Refusal(400, "options: it must be an object")
    _only(options or {}, tuple(_OPTIONS), "options.")
    params = {
        _OPTIONS[name]: rounded(value)
        for name, value in (options or {}).items()
        if value is not None
    }
    request = Request(
        model=target, prompt=prompt, params=InferencingParams(**params), tags={"http": "/infer"}
    )
    return Asked(public, request, lambda session: session.run(request), SpinText())


def embed_asked(body: Mapping[str, Any], models: ServedModels) -> Asked:
    """The request of `/embed`. Raises `Refusal` and `InvalidInput`."""
    _only(body, ("model", "input"))
    return embedding_asked(body, models, "/embed", SpinVectors())


def _only(body: Mapping[str, Any], names: tuple[str, ...], before: str = "") -> None:
    for name, value in body.items():
        if name not in names and value is not None:
            raise Refusal(400, f"{before}{name[:60]!a}: this server does not know it: leave it out")


class SpinText:
    """The answer of `/infer`. Spin reads `text` and `usage`; the rest is for others."""

    def whole(self, run: Run) -> dict[str, Any]:
        result = run.result
        return {
            "text": result.text,
            "usage": {
                # Spin takes whole numbers only. A server may not say a count.
                "promptTokenCount": result.usage.prompt_token_count or 0,
                "generatedTokenCount": result.usage.generated_token_count or 0,
            },
            "finishReason": result.finish_reason,
            "finishDetail": result.finish_detail,
            "seed": run.request.params.seed,
            "runId": run.run_id,
        }

    def first(self) -> list[dict[str, Any]]:
        return []

    def part(self, chunk: Chunk) -> list[dict[str, Any]]:
        return []

    def last(self, run: Run) -> list[dict[str, Any]]:
        return []


class SpinVectors(SpinText):
    """The answer of `/embed`."""

    def whole(self, run: Run) -> dict[str, Any]:
        vectors, count = sums(run)
        return {"embeddings": vectors.tolist(), "usage": {"promptTokenCount": count}}
