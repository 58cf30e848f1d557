"""What servers say, in one form for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...contract.wit import FinishDetail, FinishReason, TokenInfo

if TYPE_CHECKING:
    from ..reasoning import Splitter


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself and of one of its models. None stands for what it does not say."""

    version: str
    model: str
    """The model's name at the server."""
    context_length: int | None = None
    """How many tokens prompt and answer may have together."""
    slots: int | None = None
    """How many requests it carries out at once."""
    quantisation: str | None = None
    seeds: bool = True
    """Whether it honours seeds."""
    template: str = ""
    """The model's chat template."""
    plain_tokens: set[tuple[bool, bool, int]] = field(default_factory=set, compare=False)
    """Token ids that plain texts had: each with whether it was the first one, and the last one."""

    def __post_init__(self) -> None:
        """Raise `TypeError` for what is no text or no count: a server may send anything."""
        texts = (self.version, self.model, self.template, self.quantisation or "")
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is none")
        if not all(
            count is None or type(count) is int for count in (self.context_length, self.slots)
        ):
            raise TypeError("a count is none")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as it is sent to a server."""

    path: str
    body: Mapping[str, Any]
    prompt: str
    """The prompt as far as it is known here."""
    prompt_token_count: int | None
    context_length: int | None
    notices: tuple[str, ...] = ()
    splitter: Splitter | None = None
    """What keeps the reasoning apart, where the server does not do it."""
    not_honoured: tuple[str, ...] = ()
    """The settings that turned out not to be honoured, beside those of `Dialect.not_honoured`."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a streamed answer. A count is of all so far, and None where the server is silent."""

    text: str = ""
    reasoning: str = ""
    tokens: tuple[TokenInfo, ...] = ()
    prompt_token_count: int | None = None
    cached_token_count: int | None = None
    generated_token_count: int | None = None
    reasoning_token_count: int | None = None
    finish_reason: FinishReason | None = None
    """Set once the server says why the answer ended."""
    finish_detail: FinishDetail | None = None
    """Set where the server says that as well."""
    stop_sequence: str | None = None
    held: bool = False
    """Set at the end where the server says that it held the answer to a grammar."""
    last: bool = False
    """Whether nothing follows."""

    def __post_init__(self) -> None:
        """Raise `TypeError` for what is no text or no count: a server may send anything."""
        counts = (
            self.prompt_token_count, self.cached_token_count, self.generated_token_count,
            self.reasoning_token_count,
        )  # fmt: skip
        if not isinstance(self.text, str) or not isinstance(self.reasoning, str):
            raise TypeError("a text is none")
        if not all(count is None or (type(count) is int and count >= 0) for count in counts):
            raise TypeError("a count is none")
