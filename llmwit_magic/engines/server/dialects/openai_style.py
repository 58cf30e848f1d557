"""The servers that speak OpenAI's HTTP: one table for what tells them apart.

Sources: the API reference of OpenAI; vLLM's and SGLang's protocol.py; LM Studio's documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....contract.request import Request
from ....contract.wit import FinishDetail, FinishReason, TokenAlternative, TokenInfo
from ....errors import InvalidInput, ModelNotFound
from ..addresses import Address
from ..answers import Ask, Facts, Part
from ..http_client import HttpClient
from .dialect import SEEDS_OF_32_BITS, messages_of, refuse_marks, token_info, unhonoured_params


@dataclass(frozen=True, slots=True)
class OpenAIStyle:
    """A kind of server that speaks OpenAI's HTTP. None stands for what it does not have."""

    kind: str
    top_k: str | None = None
    """The field for top-k."""
    top_k_off: int = 0
    """Its value that switches it off."""
    penalty: str | None = None
    """The field for the repeat penalty. None of these servers has a window for it."""
    most_stops: int | None = None
    """How many stop sequences it takes. They are sent only where it says which one it reached."""
    stop_place: str | None = None
    """Where a choice says which stop sequence was reached."""
    most_seed: int = SEEDS_OF_32_BITS
    running_usage: bool = False
    """Whether it counts tokens in each event, where it is asked to."""
    completions: bool = True
    """Whether it continues a plain text."""
    silent_limit: bool = True
    """Whether a completion without max tokens ends after a few tokens."""
    most_logprobs: int = 20
    limit: str = "max_tokens"
    """The field of a chat for max tokens."""

    def not_honoured(self, request: Request) -> list[str]:
        params = request.params
        honoured = {"top_p", "stop", *(["top_k"] if self.top_k else [])}
        honoured |= {"repeat_penalty"} if self.penalty else set()
        wanted = unhonoured_params(params, honoured)
        if (params.seed or 0) > self.most_seed:
            wanted.append("seed")
        if (request.top_logprobs or 0) > self.most_logprobs:
            wanted.append("top_logprobs")
        return wanted

    async def facts(self, http: HttpClient, address: Address) -> Facts:
        version = await http.maybe(address, "/version")
        answer = await http.json(address, "models")
        models = [item for item in answer.get("data") or () if isinstance(item, dict)]
        name = address.model or _only_model(models, address)
        found = next((item for item in models if item.get("id") == name), {})
        length = found.get("max_model_len") or found.get("context_length")
        return Facts(
            version=str(version.get("version", "")) if isinstance(version, dict) else "",
            model=name,
            context_length=length if isinstance(length, int) else None,
        )

    async def ask(self, http: HttpClient, address: Address, facts: Facts, request: Request) -> Ask:
        refuse_marks(request)
        if not request.is_chat and not self.completions:
            raise InvalidInput(f"{address.host} has chats only: give --chat")
        if not request.prompt and not request.is_chat:
            raise InvalidInput(
                "the prompt is empty: the model needs at least one token to continue"
            )
        params = request.params
        body: dict[str, Any] = {
            "model": facts.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": params.temperature,
            "top_p": params.top_p,
        }
        if self.running_usage:
            body["stream_options"]["continuous_usage_stats"] = True
        if self.top_k:
            body[self.top_k] = params.top_k or self.top_k_off
        if self.penalty:
            body[self.penalty] = params.repeat_penalty
        if params.seed is not None and params.seed <= self.most_seed:
            body["seed"] = params.seed
        if self.sends_stops(request):
            body["stop"] = list(params.stop)
        limit = self.limit if request.is_chat else "max_tokens"
        if params.max_tokens is not None:
            body[limit] = params.max_tokens
        elif self.silent_limit and not request.is_chat and "unsupported" not in request.accept:
            raise InvalidInput(
                f"max_tokens: {address.host} would end the answer after a few tokens without a "
                "limit: give --max-tokens, or --accept unsupported takes the server's own limit"
            )
        if request.is_chat:
            body["messages"] = messages_of(request)
            if request.top_logprobs is not None:
                body |= {"logprobs": True, "top_logprobs": self._logprobs(request)}
            return Ask("chat/completions", body, request.prompt, None, facts.context_length)
        body["prompt"] = request.prompt
        if request.top_logprobs is not None:
            body["logprobs"] = self._logprobs(request)
        return Ask("completions", body, request.prompt, None, facts.context_length)

    def _logprobs(self, request: Request) -> int:
        return min(request.top_logprobs or 0, self.most_logprobs)

    def sends_stops(self, request: Request) -> bool:
        """Whether the server looks for the stop sequences. We look for them in any case."""
        stops = request.params.stop
        return bool(stops and self.stop_place and len(stops) <= (self.most_stops or len(stops)))

    def part(self, event: Any, request: Request) -> Part:
        usage = event.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        counts: dict[str, Any] = {
            "prompt_token_count": usage.get("prompt_tokens"),
            "cached_token_count": cached,
            "generated_token_count": usage.get("completion_tokens"),
        }
        choices = event.get("choices") or ()
        if not choices:
            return Part(**counts)
        choice = choices[0]
        delta = choice.get("delta") or {}
        text = choice.get("text") if "text" in choice else delta.get("content")
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        return Part(
            text=text or "",
            reasoning=reasoning or "",
            tokens=_tokens(choice, request),
            **counts,
            **self._ending(choice, request),
        )

    def _ending(self, choice: Mapping[str, Any], request: Request) -> dict[str, Any]:
        match choice.get("finish_reason"):
            case None:
                return {}
            case "length":
                return {"finish_reason": FinishReason.LENGTH}
            case "content_filter":
                return {
                    "finish_reason": FinishReason.CONTENT_FILTER,
                    "finish_detail": FinishDetail.CONTENT_FILTER,
                }
            case "stop":
                stop = choice.get(self.stop_place) if self.stop_place else None
                if isinstance(stop, str) and stop in request.params.stop:
                    return {
                        "finish_reason": FinishReason.STOP,
                        "finish_detail": FinishDetail.STOP_SEQUENCE,
                        "stop_sequence": stop,
                    }
                # Where the server looks for no stop sequences, only the end of text is left.
                return {"finish_reason": FinishReason.STOP, "finish_detail": FinishDetail.EOS}
        return {"finish_reason": FinishReason.STOP, "finish_detail": FinishDetail.UNKNOWN}


def _only_model(models: list[dict[str, Any]], address: Address) -> str:
    names = [str(item.get("id")) for item in models]
    if len(names) == 1:
        return names[0]
    known = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    raise ModelNotFound(
        f"{address.host} has {len(names)} models: name one after the {'#' if '#' not in address.given and '::' not in address.given else '::'} "
        f"({known or 'none'})"
    )


def _tokens(choice: Mapping[str, Any], request: Request) -> tuple[TokenInfo, ...]:
    if request.top_logprobs is None or not (found := choice.get("logprobs")):
        return ()
    if found.get("content") is not None:
        return tuple(token_info(item, request.top_logprobs) for item in found["content"])
    # The form of completions: lists side by side.
    made = []
    tops = found.get("top_logprobs") or [None] * len(found.get("tokens") or ())
    lists = zip(found.get("tokens") or (), found.get("token_logprobs") or (), tops, strict=False)
    for token, logprob, top in lists:
        others = sorted((top or {}).items(), key=lambda item: -item[1])
        rank = next((i for i, (text, _) in enumerate(others) if text == token), None)
        made.append(
            TokenInfo(
                id=None, bytes=str(token).encode(), logprob=logprob, rank=rank,
                top=tuple(
                    TokenAlternative(id=None, bytes=text.encode(), logprob=value)
                    for text, value in others[: request.top_logprobs]
                ),
            )
        )  # fmt: skip
    return tuple(made)


VLLM = OpenAIStyle(
    "vllm", top_k="top_k", penalty="repetition_penalty", most_stops=4, stop_place="stop_reason",
    most_seed=2**63 - 1, running_usage=True,
)  # fmt: skip
SGLANG = OpenAIStyle(
    "sglang", top_k="top_k", top_k_off=-1, penalty="repetition_penalty", most_stops=32,
    stop_place="matched_stop", running_usage=True,
)  # fmt: skip
LM_STUDIO = OpenAIStyle("lmstudio", top_k="top_k", penalty="repeat_penalty")
OPENAI = OpenAIStyle("openai", limit="max_completion_tokens", most_seed=2**63 - 1)
OTHER = OpenAIStyle("other")
