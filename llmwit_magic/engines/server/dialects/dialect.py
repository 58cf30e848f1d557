"""How one kind of server spells the contract, and what of it that kind cannot do."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from ....contract.request import Request
from ....contract.wit import InferencingParams, TokenAlternative, TokenInfo
from ....errors import EngineFailed, InvalidInput, ModelNotFound, PromptTooLong
from ..addresses import Address
from ..answers import Ask, Facts, Part
from ..http_client import HttpClient

SEEDS_OF_32_BITS = 2**32 - 2
"""The greatest seed of servers that take 32 bits: the next one means a random seed."""

# What control tokens look like in the vocabularies of today. A server's own is not known here.
_MARKS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk)>"
    r"|</?(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)


class Dialect(Protocol):
    """One kind of server."""

    @property
    def kind(self) -> str:
        """The name of the kind, as a person gives it."""
        ...

    @property
    def counts_end_of_text(self) -> bool:
        """Whether the end-of-text token is among the tokens that it counts and lists."""
        ...

    @property
    def loads(self) -> Collection[str]:
        """The fields of `ModelSpec` that it honours: the others are about loading a model here."""
        ...

    def not_honoured(self, request: Request, facts: Facts) -> list[str]:
        """The fields of the request, or of its params, that this server cannot honour.

        A field whose value asks for nothing, such as a top-k of 0, is none of them.
        """
        ...

    async def models(self, http: HttpClient, address: Address) -> list[str]:
        """The names of the server's models."""
        ...

    async def facts(self, http: HttpClient, address: Address) -> Facts:
        """What the server says of itself and of the model."""
        ...

    async def ask(self, http: HttpClient, address: Address, facts: Facts, request: Request) -> Ask:
        """The request as it is sent. Raises `InvalidInput` for one that cannot be."""
        ...

    def part(self, event: Any, request: Request) -> Part:
        """An event of the stream as a part of the answer."""
        ...


def listed(answer: Mapping[str, Any], address: Address) -> list[dict[str, Any]]:
    """The models of an answer in OpenAI's form. Raises `EngineFailed` for another form."""
    models = answer.get("data")
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise EngineFailed(
            f"{address.host} lists no models: is this the address of a model's server?"
        )
    return models


def named_or_only(names: list[str], address: Address) -> str:
    """The model that is asked for: the one that is named, or the server's only one.

    Raises `ModelNotFound` where there is no name and the server has none or several.
    """
    if address.model:
        return address.model
    if len(names) == 1:
        return names[0]
    raise ModelNotFound(f"{address.host} has {_several(names)}: name one after {address.sign}")


def unknown_model(names: list[str], address: Address) -> ModelNotFound:
    """The error of a model that the server does not have."""
    return ModelNotFound(f"{address.host} has no model '{address.model}'; it has {_several(names)}")


def _several(names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return f"{len(names)} models ({shown or 'none'})" if len(names) != 1 else shown


def empty_prompt() -> InvalidInput:
    """The error of a prompt without a token."""
    return InvalidInput("the prompt is empty: the model needs at least one token to continue")


def refuse_too_long(request: Request, count: int, length: int | None) -> None:
    """Raise `PromptTooLong` for a prompt that leaves no room in a context of `length` tokens."""
    if length is not None and count >= length:
        raise PromptTooLong(
            f"the prompt has {count:,} tokens and the server's context holds {length:,}, answer "
            f"included: shorten it, or give the server a longer one{request.without_oldest}"
        )


def unhonoured_params(params: InferencingParams, honoured: Collection[str]) -> list[str]:
    """The params that ask for something and are not among `honoured`."""
    neutral: Mapping[str, Any] = {"repeat_penalty": 1.0, "top_k": 0, "top_p": 1.0, "stop": ()}
    wanted = [name for name, value in neutral.items() if getattr(params, name) != value]
    if params.repeat_penalty != 1.0 and params.repeat_penalty_last_n_token_count:
        wanted.append("repeat_penalty_last_n_token_count")
    return [name for name in wanted if name not in honoured]


def refuse_marks(request: Request) -> None:
    """Raise `InvalidInput` where data of the request looks like a control token.

    This kind of server cannot be told that a part of a text is none.
    """
    if request.control_tokens == "all":
        return
    if request.is_chat:
        texts = [message.content for message in request.messages]
    elif request.control_tokens == "none":
        texts = [request.prompt]
    else:
        texts = [request.prompt[start:end] for start, end in request.data_spans]
    for text in texts:
        if match := _MARKS.search(text):
            raise InvalidInput(
                f"the prompt's data has {match[0]!r}, which the server may take for a control "
                "token: take it out, or --control-tokens all sends it as it is"
            )


def messages_of(request: Request) -> list[dict[str, str]]:
    """The messages of a chat, as servers take them."""
    return [{"role": one.role, "content": one.content} for one in request.messages]


def token_info(item: Mapping[str, Any], most: int) -> TokenInfo:
    """A token with its log-probability in OpenAI's newer form, with at most `most` alternatives."""
    top = [
        TokenAlternative(id=other.get("id"), bytes=_bytes(other), logprob=other["logprob"])
        for other in item.get("top_logprobs") or ()
    ]
    token = _bytes(item)
    rank = next((i for i, other in enumerate(top) if _same(other, item, token)), None)
    return TokenInfo(
        id=item.get("id"), bytes=token, logprob=item["logprob"], rank=rank, top=tuple(top[:most])
    )


def _same(other: TokenAlternative, item: Mapping[str, Any], token: bytes) -> bool:
    return other.id == item["id"] if item.get("id") is not None else other.bytes == token


def _bytes(item: Mapping[str, Any]) -> bytes:
    data = item.get("bytes")
    return bytes(data) if data is not None else str(item.get("token", "")).encode()
