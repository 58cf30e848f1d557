"""The servers that speak OpenAI's HTTP: one table for what tells them apart.

Sources: the API reference of OpenAI; vLLM's and SGLang's protocol.py; LM Studio's documentation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....contract.request import Request
from ....contract.wit import FinishDetail, FinishReason, TokenAlternative, TokenInfo
from ....errors import InvalidInput
from ..addresses import Address
from ..answers import Ask, Facts, Part
from ..http_client import HttpClient
from . import constraint_fields
from .constraint_fields import Telling, told
from .dialect import (
    SEEDS_OF_32_BITS,
    OpenAIEmbeddings,
    empty_prompt,
    listed,
    messages_of,
    named_or_only,
    refuse_marks,
    refuse_too_long,
    token_info,
    uncounted,
    unhonoured_params,
)
from .token_scores import SglangScores, TokenScores, VllmScores

_NEUTRAL = {"min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""What the model's own defaults may set, switched off."""


TEMPLATE_TOKENS = 512
"""More tokens than a chat template adds to a system message and one of the user."""
MESSAGE_TOKENS = 32
"""More tokens than it adds to a further message."""


@dataclass(frozen=True, slots=True)
class OpenAIStyle(OpenAIEmbeddings):
    """A kind of server that speaks OpenAI's HTTP. None stands for what it does not have."""

    kind: str
    top_k: str | None = None
    """The field for top-k."""
    top_k_off: int = 0
    """Its value that switches it off."""
    penalty: str | None = None
    """The field for the repeat penalty."""
    penalty_window: str | None = None
    """The field for how many tokens the penalty looks at."""
    neutral: Mapping[str, float] = field(default_factory=dict)
    """Further fields, each with the value that changes nothing."""
    most_stops: int | None = None
    """How many stop sequences it takes. They are sent only where it says which one it reached."""
    stop_place: str | None = None
    """Where a choice says which stop sequence was reached."""
    most_seed: int = SEEDS_OF_32_BITS
    counts_end_of_text: bool = False
    running_usage: bool = False
    """Whether it counts tokens in each event, where it is asked to."""
    completions: bool = True
    """Whether it continues a plain text."""
    unlimited: int | None = None
    """The max tokens that stand for no limit."""
    tokenizer: str | None = None
    """The path of its tokenizer."""
    tokenizes_chats: bool = False
    spare: int = 0
    """How many tokens of the context must stay free beside prompt and max tokens."""
    most_logprobs: int | None = 20
    """How many alternatives it gives; None: it has no log-probabilities."""
    most_completion_logprobs: int | None = None
    """The same for completions, where that differs."""
    raw_logprobs: bool = True
    """Whether its log-probabilities are those before the temperature, as far as that is known."""
    template_options: str | None = None
    """The field for variables of the chat template."""
    limit: str = "max_tokens"
    """The field of a chat for max tokens."""
    about: tuple[str, ...] = ("/version",)
    """The paths where it may say its version and its slots. The first one that is there counts."""
    constraints: Mapping[str, Telling] = field(default_factory=dict)
    """The kinds of constraint that it knows, each with how the server is told of it."""
    scores: TokenScores | None = None
    """How it says the log-probabilities of tokens that are given; None: it does not."""
    says_seeds: bool = False
    """Whether it says there that it honours seeds: it does not unless it says so."""

    @property
    def loads(self) -> Collection[str]:
        return ()

    def not_honoured(self, request: Request, facts: Facts) -> list[str]:
        params = request.params
        honoured = {"top_p", "stop", *(["top_k"] if self.top_k else [])}
        honoured |= {"repeat_penalty"} if self.penalty else set()
        honoured |= {"repeat_penalty_last_n_token_count"} if self.penalty_window else set()
        wanted = unhonoured_params(params, honoured)
        # At temperature 0 nothing is drawn.
        if (params.seed or 0) > self.most_seed or not (facts.seeds or params.temperature == 0):
            wanted.append("seed")
        most = self._most_logprobs(request)
        if request.top_logprobs is not None and (most is None or request.top_logprobs > most):
            wanted.append("top_logprobs")
        if request.template_options and self.template_options is None:
            wanted.append("template_options")
        return wanted

    def _most_logprobs(self, request: Request) -> int | None:
        if request.is_chat or self.most_completion_logprobs is None:
            return self.most_logprobs
        return self.most_completion_logprobs

    async def models(self, http: HttpClient, address: Address) -> list[str]:
        return [str(model["id"]) for model in listed(await http.json(address, "models"), address)]

    async def facts(self, http: HttpClient, address: Address) -> Facts:
        models = listed(await http.json(address, "models"), address)
        name = named_or_only([str(model.get("id")) for model in models], address)
        found = next((model for model in models if model.get("id") == name), {})
        length = found.get("max_model_len") or found.get("context_length")
        about: dict[str, Any] = {}
        for path in self.about:
            about = about or await http.maybe(address, path)
        slots = about.get("max_running_requests")
        return Facts(
            version=str(about.get("version") or ""),
            model=name,
            context_length=length if isinstance(length, int) else None,
            slots=slots if isinstance(slots, int) else None,
            seeds=not self.says_seeds or about.get("enable_deterministic_inference") is True,
        )

    async def ask(self, http: HttpClient, address: Address, facts: Facts, request: Request) -> Ask:
        refuse_marks(request)
        held = told(request, facts, self.kind, self.constraints)
        if not request.is_chat and not self.completions:
            raise InvalidInput(f"{address.host} has chats only: give --chat")
        if not request.prompt and not request.is_chat:
            raise empty_prompt()
        count = await self._token_count(http, address, facts, request)
        if count is not None:
            refuse_too_long(request, count, facts.context_length)
        params = request.params
        body: dict[str, Any] = {
            "model": facts.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": params.temperature,
            "top_p": params.top_p,
            **self.neutral,
            **held.fields,
        }
        if self.running_usage:
            body["stream_options"]["continuous_usage_stats"] = True
        if self.top_k:
            body[self.top_k] = params.top_k or self.top_k_off
        if self.penalty:
            body[self.penalty] = params.repeat_penalty
        if self.penalty_window:
            body[self.penalty_window] = params.repeat_penalty_last_n_token_count
        if params.seed is not None and params.seed <= self.most_seed:
            body["seed"] = params.seed
        if self.sends_stops(request):
            body["stop"] = list(params.stop)
        most = self._most_tokens(address, facts, request, count)
        if most is not None:
            body[self.limit if request.is_chat else "max_tokens"] = most
        notices = (*self._notices(request), *held.notices)
        known = (request.prompt, count, facts.context_length, notices, None, held.not_honoured)
        if request.is_chat:
            body |= self._chat(request)
            if request.top_logprobs is not None and self.most_logprobs is not None:
                body |= {"logprobs": True, "top_logprobs": self._logprobs(request)}
            return Ask("chat/completions", body, *known)
        body["prompt"] = request.prompt
        if request.top_logprobs is not None and self.most_logprobs is not None:
            body["logprobs"] = self._logprobs(request)
        return Ask("completions", body, *known)

    def _chat(self, request: Request) -> dict[str, Any]:
        """The messages, and the variables of the template where they can be sent."""
        chat: dict[str, Any] = {"messages": messages_of(request)}
        if request.template_options and self.template_options is not None:
            chat[self.template_options] = dict(request.template_options)
        return chat

    async def _token_count(
        self, http: HttpClient, address: Address, facts: Facts, request: Request
    ) -> int | None:
        """The number of tokens of the prompt, where the server tells it before the run.

        It is asked only where the number matters. That saves a request for each row of a batch.
        """
        if request.params.max_tokens is not None and _fits(request, facts.context_length):
            return None
        return await self.prompt_token_count(http, address, facts, request)

    async def prompt_token_count(
        self, http: HttpClient, address: Address, facts: Facts, request: Request
    ) -> int | None:
        if self.tokenizer is None or (request.is_chat and not self.tokenizes_chats):
            return None
        body: dict[str, Any] = {"model": facts.model}
        if request.is_chat:
            body |= self._chat(request)
        else:
            body["prompt"] = request.prompt
        count = (await http.maybe(address, self.tokenizer, body)).get("count")
        return count if isinstance(count, int) else None

    async def token_count(self, http: HttpClient, address: Address, facts: Facts, text: str) -> int:
        if self.tokenizer is None:
            raise uncounted(self.kind)
        body = {"model": facts.model, "prompt": text, "add_special_tokens": False}
        count: int = (await http.json(address, self.tokenizer, body))["count"]
        return count

    def _most_tokens(
        self, address: Address, facts: Facts, request: Request, count: int | None
    ) -> int | None:
        """The limit of tokens to send; None where the server has none of its own."""
        most, room = request.params.max_tokens, None
        if count is not None and facts.context_length is not None:
            room = max(facts.context_length - count - self.spare, 1)
        if most is not None:
            return most if room is None else min(most, room)
        if room is not None or self.unlimited is not None:
            return self.unlimited if room is None else room
        if request.is_chat or "unsupported" in request.accept:
            return None
        raise InvalidInput(
            f"max_tokens: {address.host} would end the answer after a few tokens without a limit: "
            "give --max-tokens, or --accept unsupported takes the server's own limit"
        )

    def _notices(self, request: Request) -> tuple[str, ...]:
        if self.raw_logprobs or request.top_logprobs is None:
            return ()
        if request.params.temperature in (0, 1):
            return ()
        return ("the log-probabilities are those after the temperature",)

    def _logprobs(self, request: Request) -> int:
        return min(request.top_logprobs or 0, self._most_logprobs(request) or 0)

    def sends_stops(self, request: Request) -> bool:
        """Whether the server looks for the stop sequences. We look for them in any case.

        In a chat it might find them in the marks of the reasoning, which it keeps apart.
        """
        if request.is_chat:
            return False
        stops = request.params.stop
        return bool(stops and self.stop_place and len(stops) <= (self.most_stops or len(stops)))

    def part(self, event: Any, request: Request) -> Part:
        usage = event.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        counts: dict[str, Any] = {
            "prompt_token_count": usage.get("prompt_tokens"),
            "cached_token_count": cached,
            "generated_token_count": usage.get("completion_tokens"),
            "reasoning_token_count": (usage.get("completion_tokens_details") or {}).get(
                "reasoning_tokens"
            ),
        }
        choices = event.get("choices") or ()
        if not choices:
            return Part(**counts)
        choice = choices[0]
        delta = choice.get("delta") or {}
        text = choice["text"] if "text" in choice else delta.get("content")
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


def _fits(request: Request, context_length: int | None) -> bool:
    """Whether prompt and answer surely fit into the context, or nobody knows how long that is."""
    if context_length is None:
        return True
    # A token has a byte at least, except those that the template adds.
    said = [len(message.content.encode()) for message in request.messages]
    most = sum(said) + TEMPLATE_TOKENS + MESSAGE_TOKENS * len(request.history)
    return most + (request.params.max_tokens or 0) <= context_length


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
    "vllm", template_options="chat_template_kwargs", top_k="top_k",
    penalty="repetition_penalty", neutral=_NEUTRAL, most_stops=4,
    stop_place="stop_reason", most_seed=2**63 - 1, counts_end_of_text=True, running_usage=True,
    tokenizer="/tokenize", tokenizes_chats=True, constraints=constraint_fields.VLLM,
    scores=VllmScores(),
)  # fmt: skip
SGLANG = OpenAIStyle(
    "sglang", template_options="chat_template_kwargs", top_k="top_k", top_k_off=-1,
    penalty="repetition_penalty", neutral=_NEUTRAL,
    most_stops=32, stop_place="matched_stop", counts_end_of_text=True, running_usage=True,
    tokenizer="tokenize", spare=1, raw_logprobs=False, about=("/server_info", "/get_server_info"),
    says_seeds=True, constraints=constraint_fields.SGLANG, scores=SglangScores(),
)  # fmt: skip
LM_STUDIO = OpenAIStyle(
    "lmstudio", top_k="top_k", penalty="repeat_penalty", unlimited=-1, most_logprobs=None,
    neutral={"presence_penalty": 0.0, "frequency_penalty": 0.0},
    constraints=constraint_fields.LM_STUDIO,
)  # fmt: skip
OPENAI = OpenAIStyle(
    "openai", limit="max_completion_tokens", most_seed=2**63 - 1, most_completion_logprobs=5,
    constraints=constraint_fields.OPENAI,
)  # fmt: skip
LLMWIT_MAGIC = OpenAIStyle(
    "llmwit-magic", template_options="chat_template_kwargs", top_k="top_k",
    penalty="repeat_penalty", penalty_window="repeat_last_n", unlimited=-1,
    most_seed=2**63 - 1, most_logprobs=100, constraints=constraint_fields.LLMWIT_MAGIC,
)  # fmt: skip
"""Our own HTTP server, `python -m llmwit_magic http`."""
OTHER = OpenAIStyle("other", constraints=constraint_fields.OTHER)
