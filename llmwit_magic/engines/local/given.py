"""From what a request gives to score to token ids: a text, or choices.

The ids of the prompt stay as they are, because an answer is generated from these. What follows it is
tokenized by itself. A text has several tokenizations, and its score is that of the tokenizer's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...contract.request import Request
from ...contract.spans import Spans
from ...errors import InvalidInput
from ..scoring import GivenChoices, GivenText

if TYPE_CHECKING:
    from ...models.tokenizers.native import NativeTokenizer
    from ...models.tokenizers.vocabulary import Tokenizer

    AnyTokenizer = Tokenizer | NativeTokenizer

_SHOWN = 40
"""How many characters of a choice an error shows."""


def given_text(
    tokenizer: AnyTokenizer, request: Request, follows: bool
) -> tuple[GivenText, list[str]]:
    """The continuation of the request, and notices about it.

    `follows`: whether a prompt with text is in front of it. Raises `InvalidInput` for a text of
    which nothing can be scored.
    """
    text = request.continuation or ""
    ids, notices = _ids(tokenizer, request, text, follows)
    first = 0 if follows or tokenizer.encode("") else 1
    if len(ids) <= first:
        raise InvalidInput(
            "continuation: it is one token, and nothing is in front of it: give a prompt"
            if ids
            else "continuation: the model's vocabulary has no token for it"
        )
    shown = [tokenizer.token_bytes(token) for token in ids]
    if b"".join(shown) == b" " + text.encode():
        if follows:
            notices.append("the model's vocabulary writes a space in front of the continuation")
        else:
            shown[0] = shown[0][1:]  # the space that SentencePiece puts in front of each text
    return GivenText(tuple(ids), tuple(shown)), notices


def given_choices(
    tokenizer: AnyTokenizer, request: Request, empty_prompt: Sequence[int]
) -> tuple[GivenChoices, list[str]]:
    """The choices of the request, and notices about them.

    `empty_prompt` are the ids of the prompt that an empty text makes. Raises `InvalidInput` for
    choices that cannot be told apart, and where there is no end of text that could be scored.
    """
    assert request.constraint is not None
    ids: dict[str, tuple[int, ...]] = {}
    notices: list[str] = []
    known: dict[tuple[int, ...], str] = {}
    for choice in request.constraint.choices:
        found, said = _ids(tokenizer, request, choice, True)
        notices += said
        tokens = tuple(found)
        if not tokens:
            raise InvalidInput(
                f"choice {_named(choice)}: the model's vocabulary has no token for it"
            )
        if tokens in known:
            raise InvalidInput(
                f"choice {_named(choice)}: the model's vocabulary writes it like the choice "
                f"{_named(known[tokens])}: leave one out"
            )
        known[tokens], ids[choice] = choice, tokens
    end = {"always": True, "never": False}.get(request.end_of_text)
    if end is None:
        end = _one_begins_another(ids) or _one_begins_another(ids.values())
    if end and not tokenizer.end_ids:
        raise InvalidInput("end_of_text: the model's vocabulary has no token that ends a text")
    before: tuple[int, ...] = ()
    if request.normalize == "empty-prompt":
        before = tuple(empty_prompt) or _beginning(tokenizer)
    return GivenChoices(ids, end, request.normalize, before), list(dict.fromkeys(notices))


def _ids(
    tokenizer: AnyTokenizer, request: Request, text: str, follows: bool
) -> tuple[list[int], list[str]]:
    """The ids of a text behind the prompt, and notices of control tokens that are text in it."""
    data: Spans = () if request.control_tokens == "all" else ((0, len(text)),)
    withheld = tokenizer.withheld(text, data)
    names = dict.fromkeys(text[start:end] for start, end in withheld)
    notices = [f"text, and no control token, in the data: {', '.join(names)}"] if names else []
    if follows:
        return tokenizer.encode_continuation(text, data), notices
    before = tokenizer.encode("")
    ids = tokenizer.encode(text, data)
    return (ids[len(before) :] if ids[: len(before)] == before else ids), notices


def _one_begins_another(choices: Iterable[Any]) -> bool:
    """Whether a text, or a tuple of ids, is the beginning of another one."""
    # In this order, what begins with a text follows it at once.
    return any(after[: len(one)] == one for one, after in pairwise(sorted(choices)))


def _beginning(tokenizer: AnyTokenizer) -> tuple[int, ...]:
    """The token that stands for an empty prompt where the vocabulary puts none in front of a text:
    that of the beginning of a text, or else one that ends a text."""
    if tokenizer.bos_id is not None:
        return (tokenizer.bos_id,)
    if not tokenizer.end_ids:
        raise InvalidInput(
            "normalize: the model's vocabulary has no token for an empty prompt: use sum or token"
        )
    return (min(tokenizer.end_ids),)


def _named(choice: str) -> str:
    return json.dumps(choice[:_SHOWN] + "…" * (len(choice) > _SHOWN), ensure_ascii=False)
