"""Ollama, by its own functions: those that it has in OpenAI's form drop top-k and the penalty, and
put every prompt into the chat template.

Sources: api/types.go, server/routes.go and llm/llama_server.go of Ollama.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....contract.request import Request
from ....contract.wit import FinishDetail, FinishReason, InferencingParams
from ..addresses import Address
from ..answers import Ask, Embeddings, Facts, Part
from ..http_client import HttpClient
from . import constraint_fields
from .constraint_fields import told
from .dialect import (
    SEEDS_OF_32_BITS,
    empty_prompt,
    messages_of,
    named_or_only,
    refuse_marks,
    token_info,
    uncounted,
    unhonoured_params,
)

MOST_LOGPROBS = 20
DEFAULT_CONTEXT = 4096
"""The context of a model of which the server does not say it, in tokens."""


class Ollama:
    """Everything of the contract but seeds of more than 32 bits, and which stop was reached.

    It says no more than `stop` for an end, so it is told of no stop sequences: ours are found
    here, and those of a Modelfile are switched off. Only an end-of-text token is left.
    """

    kind = "ollama"
    counts_end_of_text = True
    loads = ("context_length",)
    constraints = constraint_fields.OLLAMA
    scores = None

    def not_honoured(self, request: Request, facts: Facts) -> list[str]:
        wanted = unhonoured_params(request.params, InferencingParams.model_fields)
        if (request.params.seed or 0) > SEEDS_OF_32_BITS:
            wanted.append("seed")
        if (request.top_logprobs or 0) > MOST_LOGPROBS:
            wanted.append("top_logprobs")
        if request.template_options:
            wanted.append("template_options")
        return wanted

    async def models(self, http: HttpClient, address: Address) -> list[str]:
        found = (await http.json(address, "/api/tags")).get("models")
        return [str(model["name"]) for model in found or ()]

    async def facts(self, http: HttpClient, address: Address) -> Facts:
        names = [] if address.model else await self.models(http, address)
        model = named_or_only(names, address)
        shown = await http.json(address, "/api/show", {"model": model})
        version = await http.maybe(address, "/api/version")
        return Facts(
            version=str(version.get("version", "")),
            model=model,
            context_length=await self._context(http, address, model),
            quantisation=(shown.get("details") or {}).get("quantization_level"),
        )

    async def _context(self, http: HttpClient, address: Address, model: str) -> int | None:
        """The context of a loaded model in tokens; None for one that is not loaded."""
        names = (model, f"{model}:latest")
        loaded = (await http.maybe(address, "/api/ps")).get("models") or ()
        lengths = (item.get("context_length") for item in loaded if item.get("name") in names)
        length = next(lengths, None)
        return length if isinstance(length, int) and length > 0 else None

    async def ask(self, http: HttpClient, address: Address, facts: Facts, request: Request) -> Ask:
        refuse_marks(request)
        held = told(request, facts, self.kind, self.constraints)
        if not request.prompt and not request.is_chat:
            raise empty_prompt()
        length = request.context_length or facts.context_length
        if length is None:  # a request without a prompt loads the model with its own context
            await http.json(address, "/api/generate", {"model": facts.model, "stream": False})
            length = await self._context(http, address, facts.model) or DEFAULT_CONTEXT
        params = request.params
        body: dict[str, Any] = {
            "model": facts.model,
            "stream": True,
            # A prompt that is too long is refused, and an answer that fills the context ends.
            "truncate": False,
            "shift": False,
            "options": {
                "num_ctx": length,
                "num_predict": -1 if params.max_tokens is None else params.max_tokens,
                "temperature": params.temperature,
                "top_k": params.top_k,
                "top_p": params.top_p,
                "repeat_penalty": params.repeat_penalty,
                "repeat_last_n": params.repeat_penalty_last_n_token_count,
                "seed": min(params.seed or 0, SEEDS_OF_32_BITS),
                "stop": [],
                # A Modelfile may set these.
                "min_p": 0.0, "typical_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            },
            **held.fields,
        }  # fmt: skip
        if request.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": min(request.top_logprobs, MOST_LOGPROBS)}
        if request.is_chat:
            body["messages"] = messages_of(request)
            return Ask(
                "/api/chat", body, request.prompt, None, length, not_honoured=held.not_honoured
            )
        # Without a template there are no thoughts to keep apart.
        body |= {"prompt": request.prompt, "raw": True, "think": False}
        return Ask(
            "/api/generate", body, request.prompt, None, length, not_honoured=held.not_honoured
        )

    async def token_count(self, http: HttpClient, address: Address, facts: Facts, text: str) -> int:
        raise uncounted(self.kind)

    async def prompt_token_count(
        self, http: HttpClient, address: Address, facts: Facts, request: Request
    ) -> int | None:
        return None

    def embedding_ask(
        self, facts: Facts, request: Request, texts: list[str], truncate: bool
    ) -> tuple[str, dict[str, Any]]:
        # The function in OpenAI's form cuts long texts, and does not say so.
        body: dict[str, Any] = {"model": facts.model, "input": texts, "truncate": truncate}
        if request.context_length is not None:
            body["options"] = {"num_ctx": request.context_length}
        return "/api/embed", body

    def embeddings(self, answer: Any, address: Address) -> Embeddings:
        return Embeddings(answer["embeddings"], answer.get("prompt_eval_count") or 0)

    def part(self, event: Mapping[str, Any], request: Request) -> Part:
        message = event.get("message") or {}
        items = () if request.top_logprobs is None else event.get("logprobs") or ()
        known: dict[str, Any] = {
            "text": event.get("response") or message.get("content") or "",
            "reasoning": event.get("thinking") or message.get("thinking") or "",
            "tokens": tuple(token_info(item, request.top_logprobs or 0) for item in items),
        }
        if not event.get("done"):
            return Part(**known)
        # A count of zero is left out by the server.
        known["prompt_token_count"] = event.get("prompt_eval_count")
        known["generated_token_count"] = event.get("eval_count")
        match event.get("done_reason"):
            case "length":
                ending: dict[str, Any] = {"finish_reason": FinishReason.LENGTH}
            case "stop":
                ending = {"finish_detail": FinishDetail.EOS}
            case _:
                ending = {"finish_detail": FinishDetail.UNKNOWN}
        return Part(**known, **ending, last=True)
