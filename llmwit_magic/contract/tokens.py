"""Tokens with their log-probabilities."""

from __future__ import annotations

from .record import Record


class TokenAlternative(Record):
    """A token that could have been chosen. `id` is None where a server does not say it."""

    id: int | None
    bytes: bytes
    logprob: float


class TokenInfo(Record):
    """A token of a text, generated or scored. A result has the tokens whose text is part of its text
    or its reasoning.

    A token of a stop sequence or of what a filter cut is left out. `bytes` has what of the token
    is part of the text: a mark of reasoning, and the white space beside it, are no part of it. So
    the bytes of the tokens make up the text. `reasoning` says in which of the two parts they stand.
    `logprob` is the natural logarithm of the token's probability in the model's own distribution,
    which is the softmax of the logits before penalty, temperature, top-k and top-p. `rank` is the
    token's place in that distribution; the likeliest token has rank 0. `id` and `rank` are None
    where a server does not say them. A constraint changes none of these. `masked_logprob` is the
    natural logarithm of the token's probability among the tokens that the constraint left, before
    penalty, temperature, top-k and top-p too; it is None for a token that no constraint had a say
    in.
    """

    id: int | None
    bytes: bytes
    logprob: float
    rank: int | None
    top: tuple[TokenAlternative, ...] = ()
    reasoning: bool = False
    masked_logprob: float | None = None
