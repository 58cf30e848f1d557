"""Scores: log-probabilities of texts that were given, and of choices.

A log-probability is the natural logarithm of a probability in the model's own distribution, which
is the softmax of the unchanged logits. Its unit is the nat. That of a text is the sum over its
tokens, each after all tokens before it. A score is this log-probability and nothing else; a
judgement of an answer is a metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from .record import Record
from .tokens import TokenInfo

Normalization = Literal["sum", "token", "empty-prompt"]
EndOfText = Literal["auto", "always", "never"]


class Score(Record):
    """The score of a text. Its tokens are those of the result that has the score."""

    logprob: float = Field(description="log-probability of the text: the sum over its tokens, nats")
    token_count: int = Field(description="tokens that have a log-probability")
    exact: bool = Field(
        default=True,
        description="whether the log-probability of each token is the model's own; a server may "
        "tell those of the likeliest tokens alone",
    )

    @property
    def perplexity(self) -> float | None:
        """exp(−logprob / token_count), which is 1 or more; None for a text without tokens.

        It is the reciprocal of the geometric mean of the tokens' probabilities (Jelinek et al.,
        1977). It is infinite where a float cannot hold it.
        """
        if not self.token_count:
            return None
        try:
            return math.exp(-self.logprob / self.token_count)
        except OverflowError:
            return math.inf


def score_of(tokens: Sequence[TokenInfo], exact: bool) -> Score:
    """The score of a text with these tokens. The sum is rounded once (`fsum`)."""
    return Score(
        logprob=math.fsum(token.logprob for token in tokens), token_count=len(tokens), exact=exact
    )


class ChoiceScore(Record):
    """A choice as a continuation of the prompt."""

    choice: str
    probability: float = Field(description="among the choices of the call, from 0 to 1")
    logprob: float = Field(
        description="log-probability: the sum over the tokens, and the end of text where it belongs "
        "to the choices, nats"
    )
    tokens: tuple[TokenInfo, ...] = ()
    end_logprob: float | None = Field(
        default=None,
        description="log-probability that the text ends after the choice, by any token that ends a "
        "text; None where the end does not belong to the choices",
    )
    empty_prompt_logprob: float | None = Field(
        default=None,
        description="what logprob is after an empty prompt; None unless it was asked for",
    )


class ChoiceProbabilities(Record):
    """The probability of each choice as a continuation, in the order in which they were given.

    The probabilities are the softmax of the choices' values, and sum to 1. `normalize` says what
    the value of a choice is:

    - `sum`: its log-probability
    - `token`: its log-probability over its number of tokens, the end of text among them where it
      belongs to the choices (length normalisation)
    - `empty-prompt`: its log-probability less the one that it has after an empty prompt (pointwise
      mutual information; Holtzman et al., 2021)
    """

    scores: tuple[ChoiceScore, ...]
    normalize: Normalization = "sum"
    end_of_text: bool = Field(
        default=False, description="whether the end of text belongs to each choice"
    )
    exact: bool = Field(default=True, description="as in `Score`")

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each choice."""
        return {each.choice: each.probability for each in self.scores}

    @property
    def logprobs(self) -> dict[str, float]:
        """The log-probability of each choice in nats, before any normalisation."""
        return {each.choice: each.logprob for each in self.scores}

    @property
    def best(self) -> str:
        """The most probable choice. Of equal ones it is the first in the order of their texts, so
        that the order in which they were given does not matter."""
        return min(self.scores, key=lambda each: (-each.probability, each.choice)).choice


def choice_probabilities(
    scores: tuple[ChoiceScore, ...],
    normalize: Normalization,
    *,
    end_of_text: bool,
    exact: bool = True,
) -> ChoiceProbabilities:
    """The probabilities of choices whose log-probabilities are known.

    `ChoiceScore.probability` of the argument is not read. Where no choice has a probability at all,
    all are equally probable.
    """
    values = [_value(each, normalize) for each in scores]
    highest = max(values)
    # The greatest is subtracted first. Else each could underflow to 0.
    weights = [1.0 if value == highest else math.exp(value - highest) for value in values]
    # `fsum` rounds once, so the order of the choices does not matter.
    total = math.fsum(weights)
    return ChoiceProbabilities(
        scores=tuple(
            each.model_copy(update={"probability": weight / total})
            for each, weight in zip(scores, weights, strict=True)
        ),
        normalize=normalize,
        end_of_text=end_of_text,
        exact=exact,
    )


def _value(score: ChoiceScore, normalize: Normalization) -> float:
    if normalize == "token":
        return score.logprob / (len(score.tokens) + (score.end_logprob is not None))
    if normalize == "empty-prompt" and score.logprob > -math.inf:
        assert score.empty_prompt_logprob is not None
        return score.logprob - score.empty_prompt_logprob
    return score.logprob
