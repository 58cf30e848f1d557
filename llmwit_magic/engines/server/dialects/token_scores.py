"""How each kind of server says the log-probabilities of tokens that are given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from ....contract.request import Request
from ....contract.tokens import TokenAlternative, TokenInfo
from ....errors import EngineFailed, InvalidInput
from ..addresses import Address
from ..answers import Facts
from ..http_client import HttpClient
from .dialect import messages_of, refuse_mark, refuse_marks, token_info

_MANY, _ALL = 1_000, 1_000_000
"""How many tokens are asked for where the likeliest few do not do. A vocabulary has fewer than all;
one of 49,152 tokens takes 4.7 MB."""
_ENDS = (
    "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>",
    "<|return|>", "<|call|>", "<end_of_turn>", "<turn|>", "</s>", "<eos>", "<EOT>",
    "<｜end▁of▁sentence｜>", "<|eot|>", "<|end_of_turn|>", "<end_of_utterance>",
)  # fmt: skip
"""Names of tokens that may end a text. The server is asked for each whether it does."""
_FORCED = 1000.0
"""A bias that makes a token the likeliest one whatever its logit is."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of a server, and what asks it."""

    http: HttpClient
    address: Address
    facts: Facts
    known: dict[tuple[int, ...], TokenInfo] = field(default_factory=dict)
    """What was said of the last one of these tokens. Choices may begin with the same ones."""

    async def json(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return await self.http.json(self.address, path, body)


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A text as the server's tokenizer writes it."""

    ids: tuple[int, ...]
    text: bytes = b""
    """Empty where it is not known."""
    shown: tuple[bytes, ...] = ()
    """The bytes of each token; empty where the server does not say them with the ids."""


class TokenScores(Protocol):
    """What one kind of server says of tokens that are given."""

    most_top: int
    """The most alternatives that it gives with a token."""
    at_once: int
    """How many texts are asked for at once."""

    async def prompt(
        self, model: ServedModel, request: Request
    ) -> tuple[str, list[int], list[str]]:
        """The prompt, its token ids, and notices. Raises `InvalidInput`."""
        ...

    async def text(self, model: ServedModel, request: Request, text: str) -> WrittenText:
        """A text that follows the prompt. It is data, and tokenized by itself."""
        ...

    async def ends(self, model: ServedModel) -> dict[int, str]:
        """The tokens that are known to end a text, each with its name; none where the server does
        not say any."""
        ...

    async def beginning(self, model: ServedModel) -> list[int]:
        """The token that stands for an empty prompt, where the tokenizer puts none in front of a
        text; none where the server does not say it."""
        ...

    def infos(
        self, model: ServedModel, before: Sequence[int], written: WrittenText, top: int
    ) -> AsyncIterator[TokenInfo]:
        """The tokens of a text, each after all tokens before it, with `top` alternatives.

        `before` are the ids in front of the text. Where there are none, the text's first token is
        left out, since it follows nothing. The bytes of the tokens make up the end of the text.
        Raises `EngineFailed` for an answer that has not what was asked for.
        """
        ...


class LlamaServerScores:
    """Each token is made the one that llama-server chooses, by a bias. What it says of the token is
    its log-probability without that. A request has a token less than a whole text, so the server
    has the rest in its cache.

    Source: tools/server/README.md of llama.cpp (`n_probs`, `logit_bias`).
    """

    most_top = 100
    at_once = 1  # its slots do not share what they have read

    def __init__(
        self,
        prompt: Callable[..., Awaitable[tuple[str, list[int], list[str]]]],
    ) -> None:
        """`prompt` gives the ids of a request's prompt, as for a run that generates."""
        self._prompt = prompt

    async def prompt(
        self, model: ServedModel, request: Request
    ) -> tuple[str, list[int], list[str]]:
        return await self._prompt(model.http, model.address, model.facts, request)

    async def text(self, model: ServedModel, request: Request, text: str) -> WrittenText:
        body = {
            "content": text, "add_special": False, "with_pieces": True,
            "parse_special": request.control_tokens == "all",
        }  # fmt: skip
        tokens = (await model.json("/tokenize", body))["tokens"]
        # A token that is no whole text stands there as a list of its bytes.
        pieces = (token["piece"] for token in tokens)
        shown = (piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces)
        return WrittenText(tuple(int(token["id"]) for token in tokens), text.encode(), tuple(shown))

    async def ends(self, model: ServedModel) -> dict[int, str]:
        own = (await model.json("/props")).get("eos_token")
        names = dict.fromkeys([*([own] if own and isinstance(own, str) else []), *_ENDS])
        known = await self._named(model, names)
        found = {}
        for token, name in known.items():
            answer = await model.json("/completion", self._body([token], token, 1))
            if answer.get("stop_type") == "eos":
                found[token] = name
        return found

    async def beginning(self, model: ServedModel) -> list[int]:
        props = await model.json("/props")
        for name in (props.get("bos_token"), props.get("eos_token")):
            if name and (ids := list(await self._named(model, [str(name)]))):
                return ids
        return []

    async def _named(self, model: ServedModel, names: Iterable[str]) -> dict[int, str]:
        """The control tokens of these names, by their ids, as far as the vocabulary has them."""
        body = {
            "content": "".join(names), "add_special": False, "parse_special": True,
            "with_pieces": True,
        }  # fmt: skip
        tokens = (await model.json("/tokenize", body))["tokens"]
        return {
            int(token["id"]): token["piece"] for token in tokens if token["piece"] in list(names)
        }

    async def infos(
        self, model: ServedModel, before: Sequence[int], written: WrittenText, top: int
    ) -> AsyncIterator[TokenInfo]:
        for place in range(0 if before else 1, len(written.ids)):
            wanted = written.ids[place]
            key = (*before, *written.ids[: place + 1])
            if key in model.known:
                yield model.known[key]
                continue
            item = await self._said(model, key[:-1], wanted, top + 1)
            if item is None or item.get("id") != wanted:
                item = await self._among_others(model, key[:-1], wanted)
            # The server leaves the bytes of some tokens out.
            shown = written.shown[place] if written.shown else bytes(item.get("bytes") or ())
            model.known[key] = token_info({**item, "bytes": list(shown)}, top)
            yield model.known[key]

    async def _said(
        self, model: ServedModel, before: Sequence[int], forced: int, count: int
    ) -> dict[str, Any] | None:
        """What the server says of a token that it was forced to choose, with the `count` likeliest
        ones; None where it says nothing."""
        answer = await model.json("/completion", self._body(before, forced, count))
        return next(iter(answer.get("completion_probabilities") or ()), None)

    def _body(self, before: Sequence[int], forced: int, count: int) -> dict[str, Any]:
        return {
            "prompt": before, "n_predict": 1, "stream": False, "temperature": 0.0,
            "samplers": ["temperature"], "dynatemp_range": 0.0, "mirostat": 0,
            "logit_bias": [[forced, _FORCED]], "n_probs": count, "post_sampling_probs": False,
            "cache_prompt": True, "grammar": "", "stop": [], "ignore_eos": False, "n_keep": 0,
        }  # fmt: skip

    async def _among_others(
        self, model: ServedModel, before: Sequence[int], wanted: int
    ) -> dict[str, Any]:
        """The same of a token that ends within a character, of which the server is silent.

        It says something of the token where another one is chosen, and all are listed.
        """
        whole = (await model.json("/tokenize", {"content": "a", "add_special": False}))["tokens"]
        for count in (_MANY, _ALL):
            said = await self._said(model, before, int(whole[-1]), count)
            listed = (said or {}).get("top_logprobs") or ()
            if found := next((item for item in listed if item.get("id") == wanted), None):
                return {**found, "top_logprobs": listed}
        raise _unsaid(model)


class _OfWholeTexts:
    """What servers have in common that score a text in one request."""

    most_top = 20
    at_once = 8
    tokenize: ClassVar[str]
    """Where the server tokenizes."""

    async def text(self, model: ServedModel, request: Request, text: str) -> WrittenText:
        if request.control_tokens != "all":
            refuse_mark(text, "the text to score")
        body = {"model": model.facts.model, "prompt": text, "add_special_tokens": False}
        ids = tuple((await model.json(self.tokenize, body))["tokens"])
        return WrittenText(ids, text.encode())

    async def ends(self, model: ServedModel) -> dict[int, str]:
        return {}

    async def beginning(self, model: ServedModel) -> list[int]:
        return []


class VllmScores(_OfWholeTexts):
    """One request for a text: vLLM says the log-probabilities of a prompt's tokens, with ranks.

    Source: `prompt_logprobs` in vllm/entrypoints/openai/completion/, and serve/tokenize/ of vLLM.
    """

    tokenize = "/tokenize"

    async def prompt(
        self, model: ServedModel, request: Request
    ) -> tuple[str, list[int], list[str]]:
        refuse_marks(request)
        body: dict[str, Any] = {"model": model.facts.model}
        if request.is_chat:
            body |= {"messages": messages_of(request), "add_generation_prompt": True}
            if request.template_options:
                body["chat_template_kwargs"] = dict(request.template_options)
        else:
            body["prompt"] = request.prompt
        return request.prompt, list((await model.json(self.tokenize, body))["tokens"]), []

    async def infos(
        self, model: ServedModel, before: Sequence[int], written: WrittenText, top: int
    ) -> AsyncIterator[TokenInfo]:
        ids = [*before, *written.ids]
        body = {
            "model": model.facts.model, "prompt": ids, "max_tokens": 1, "temperature": 0.0,
            "prompt_logprobs": max(top, 1), "stream": False,
        }  # fmt: skip
        found = (await model.json("completions", body))["choices"][0].get("prompt_logprobs")
        if not isinstance(found, list) or len(found) != len(ids):
            raise _unsaid(model)
        made = []
        for token, items in list(zip(ids, found, strict=True))[len(before) or 1 :]:
            if (own := (items or {}).get(str(token))) is None:
                raise _unsaid(model)
            others = sorted(items.items(), key=lambda item: item[1]["rank"])
            made.append(
                TokenInfo(
                    id=token, bytes=_said(own.get("decoded_token")), logprob=own["logprob"],
                    rank=own["rank"] - 1,
                    top=tuple(
                        TokenAlternative(
                            id=int(other), bytes=_said(item.get("decoded_token")),
                            logprob=item["logprob"],
                        )
                        for other, item in others if item["rank"] <= top
                    ),
                )
            )  # fmt: skip
        for info in _aligned(made, written.text):
            yield info


class SglangScores(_OfWholeTexts):
    """One request for a text, by SGLang's own `/generate`. It says no ranks.

    Source: `return_logprob` in python/sglang/srt/managers/io_struct.py of SGLang.
    """

    tokenize = "tokenize"

    async def prompt(
        self, model: ServedModel, request: Request
    ) -> tuple[str, list[int], list[str]]:
        if request.is_chat:
            raise InvalidInput("chat: sglang does not say the tokens of a chat: leave it out")
        refuse_marks(request)
        body = {"model": model.facts.model, "prompt": request.prompt}
        return request.prompt, list((await model.json(self.tokenize, body))["tokens"]), []

    async def infos(
        self, model: ServedModel, before: Sequence[int], written: WrittenText, top: int
    ) -> AsyncIterator[TokenInfo]:
        ids = [*before, *written.ids]
        body = {
            "input_ids": ids, "return_logprob": True, "logprob_start_len": 0,
            "top_logprobs_num": top, "return_text_in_logprobs": True, "stream": False,
            "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
        }  # fmt: skip
        meta = (await model.json("/generate", body))["meta_info"]
        found = meta.get("input_token_logprobs")
        tops = meta.get("input_top_logprobs") or [None] * len(ids)
        if not isinstance(found, list) or not len(found) == len(tops) == len(ids):
            raise _unsaid(model)
        made = []
        said = list(zip(ids, found, tops, strict=True))[len(before) or 1 :]
        for wanted, (logprob, token, text), listed in said:
            if token != wanted or logprob is None:
                raise _unsaid(model)
            others = tuple(
                TokenAlternative(id=other, bytes=_said(name), logprob=value)
                for value, other, name in listed or ()
            )
            rank = next((i for i, each in enumerate(others) if each.id == token), None)
            made.append(
                TokenInfo(id=token, bytes=_said(text), logprob=logprob, rank=rank, top=others[:top])
            )
        for info in _aligned(made, written.text):
            yield info


def _said(text: Any) -> bytes:
    return str(text or "").encode("utf-8", "replace")


def _aligned(infos: list[TokenInfo], text: bytes) -> list[TokenInfo]:
    """The tokens with bytes that make up the end of the text, where the text is known.

    These servers say tokens as texts. One that ends within a character has no text of its own, so
    its bytes stand with a token before it.
    """
    if not text:
        return infos
    aligned = []
    for info in reversed(infos):
        own = info.bytes if text.endswith(info.bytes) else b""
        text = text[: len(text) - len(own)]
        aligned.append(info.model_copy(update={"bytes": own}))
    return aligned[::-1]


def _unsaid(model: ServedModel) -> EngineFailed:
    return EngineFailed(
        f"{model.address.host} did not say the log-probabilities of the tokens that were given: its "
        "version may be too old"
    )
