"""From logits to a token and its log-probability.

The steps have the order of Spin's host and of Hugging Face's `generate`:
repeat penalty, temperature, top-k, softmax, top-p, draw. All numbers are
float64 and come from the logits, the params and the seed alone. So the same
seed over the same logits gives the same tokens in any process.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.random import PCG64
from numpy.typing import NDArray

from ..contract.wit import InferencingParams
from ..errors import ConstraintFailed, EngineFailed

Logits = NDArray[np.float32]
Scores = NDArray[np.floating[Any]]

ZERO_WEIGHT = -746.0
"""The exponential of this number and of any lower one is 0 in float64."""
LEAST_GROUPS = 256
BLANK_RANGE = 1e-3
"""Logits that differ by less count as equal. Those of a trained model differ by 10 and more."""


def candidates(
    logits: Logits, context: Sequence[int], params: InferencingParams
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that may be drawn, with weights proportional to their probabilities.

    `logits` has the shape (vocabulary,). `context` has the ids of the prompt and
    of the generated tokens, each below the size of the vocabulary. Returns ids
    and weights, both of the shape (candidates,). Where top-k or top-p is on, the
    likeliest token comes first. Equal logits come in the order of their ids.
    """
    if params.temperature == 0:
        return _likeliest(logits, context, params, 1)[0], np.ones(1)
    k = params.top_k or logits.size
    if k >= logits.size:
        if params.top_p < 1:
            return _nucleus(logits, context, params)
        scores = penalised(logits, context, params)
        return np.arange(logits.size), _weights(scores, scores.max(), params.temperature)
    ids, scores = _likeliest(logits, context, params, k)
    weights = _weights(scores, scores[0], params.temperature)
    kept = _reaching(weights, params.top_p) if params.top_p < 1 else k
    return ids[:kept], weights[:kept]


def _candidates_among(
    allowed: NDArray[np.int64], logits: Logits, context: Sequence[int], params: InferencingParams
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """As `candidates`, over the ids in `allowed` alone. Only these are looked at."""
    among = logits[allowed]
    if not among.size or among.max() == -math.inf:
        raise ConstraintFailed("the model finds each token impossible that the constraint allows")
    places = []
    for token in _recent(context, params):
        place = int(allowed.searchsorted(token))
        if place < allowed.size and allowed[place] == token:
            places.append(place)
    # There are at most as many of them as the penalty looks at.
    ids, weights = candidates(among, places, params)
    return allowed[ids], weights


def _weights(scores: Scores, highest: float, temperature: float) -> NDArray[np.float64]:
    """The exponentials of the softmax, before they are divided by their sum.

    The highest score is subtracted first. Then a difference below the one whose
    weight is 0 is replaced by that one. So even a tiny temperature does not overflow.
    """
    differences = np.subtract(scores, highest, dtype=np.float64)
    weights: NDArray[np.float64] = np.exp(
        np.maximum(differences, ZERO_WEIGHT * temperature) / temperature
    )
    return weights


def _reaching(weights: NDArray[np.float64], p: float, total: float | None = None) -> int:
    """How many of the likeliest tokens reach the probability p (Holtzman et al., 2020).

    It is at least one, and more than there are weights where these do not reach p.
    A sum that is short of p by rounding alone counts as p. `total` is the weight
    of all tokens; it is given where `weights` are not those of all.
    """
    cumulative = weights.cumsum()
    whole = cumulative[-1] if total is None else total
    return int(cumulative.searchsorted((p - 1e-12) * whole)) + 1


def _nucleus(
    logits: Logits, context: Sequence[int], params: InferencingParams
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The smallest set of likeliest tokens that reaches top-p, where top-k is off.

    Sorting the whole vocabulary would take most of a token's time, and few tokens
    hold most of the probability. So the set is looked for among a few likely
    tokens first, and among eight times as many where these do not reach top-p.
    """
    scores = penalised(logits, context, params)
    highest = scores.max()
    total = _weights(scores, highest, params.temperature).sum()
    k = 256
    while True:
        k = min(8 * k, logits.size)
        ids, likeliest = _likeliest(logits, context, params, k)
        weights = _weights(likeliest, highest, params.temperature)
        kept = _reaching(weights, params.top_p, total)
        if kept <= k or k == logits.size:
            return ids[:kept], weights[:kept]


def penalised(logits: Logits, context: Sequence[int], params: InferencingParams) -> Scores:
    """The logits with recent tokens made less likely, as in CTRL (Keskar et al., 2019).

    For each token among the last n, a positive logit is divided by the penalty
    and a negative one is multiplied by it. A token that occurs several times is
    penalised once. The results are float64, so that no two logits become equal.
    A tiny penalty gives at most float64's largest number. Where no token is
    recent, the logits come back as they are.
    """
    recent = _recent(context, params)
    if not recent:
        return logits
    changed = logits.astype(np.float64)
    for token in recent:
        changed[token] = _with_penalty(float(logits[token]), params.repeat_penalty)
    return changed


def _recent(context: Sequence[int], params: InferencingParams) -> set[int]:
    """The ids of the tokens that the repeat penalty changes."""
    n = params.repeat_penalty_last_n_token_count
    return set() if n == 0 or params.repeat_penalty == 1 else set(context[-n:])


def _with_penalty(logit: float, penalty: float) -> float:
    return min(logit / penalty, sys.float_info.max) if logit > 0 else logit * penalty


def _likeliest(
    logits: Logits, context: Sequence[int], params: InferencingParams, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and penalised scores of the k likeliest tokens, the likeliest first.

    Equal scores come in the order of their ids. Only the tokens that can be among
    the k are penalised and sorted. These have the highest logits. They are k, and
    as many more as there are recent tokens, since each of those can drop out.

    The evaluation before has pushed numpy out of the processor's caches. So the
    number of numpy's functions that are called costs more than their work.
    """
    recent = _recent(context, params)
    among = logits >= _bound(logits, min(k + len(recent), logits.size))
    if recent and params.repeat_penalty < 1:  # it raises recent tokens, however low they were
        among[list(recent)] = True
    ids = among.nonzero()[0]
    values = logits[ids].tolist()
    for place, token in enumerate(ids.tolist()):
        if token in recent:
            values[place] = _with_penalty(values[place], params.repeat_penalty)
    scores = np.array(values)
    order = (-scores).argsort(kind="stable")[:k]
    return ids[order], scores[order]


def _bound(values: Scores, k: int) -> float:
    """A number that at least k of the values reach, and few more than k.

    The values are parted into groups. The k-th highest of the groups' maxima is
    such a number. It takes one pass over the values, and only the maxima are sorted.
    numpy is slow where the groups are few and long.
    """
    width = values.size // max(4 * k, LEAST_GROUPS)
    if width >= 2:
        whole = values.size // width * width
        values = values[:whole].reshape(width, -1).max(axis=0)
    return float(np.sort(values)[-k])


def refuse_blank(logits: Logits) -> None:
    """Raise `EngineFailed` where no token is likelier than another.

    Where the last tensors of a model are zeros, all its logits are zeros at every
    position. So one check in a run is enough.
    """
    if logits.size > 1 and float(logits.max()) - float(logits.min()) < BLANK_RANGE:
        raise EngineFailed(
            "the model finds all tokens equally likely: its weights are zeros or its header is "
            "wrong, as in an unfinished download; fetch the file again"
        )


class Sampler:
    """Draws the tokens of one run.

    The n-th token is drawn by the n-th output of PCG64 seeded with `params.seed`,
    whatever was drawn before it. numpy's versions all give the same outputs.
    """

    def __init__(self, params: InferencingParams) -> None:
        if params.seed is None:
            raise ValueError("the seed must be drawn before sampling, so that it can be recorded")
        self.params = params
        self._bits = PCG64(params.seed)
        # Outputs fetched in advance, the next one last. A call for each token would cost more.
        self._raw: list[int] = []

    def quantile(self) -> float:
        """The next uniform number in [0, 1): the upper 53 bits of the generator's output."""
        if not self._raw:
            self._raw = self._bits.random_raw(64).tolist()[::-1]
        return (self._raw.pop() >> 11) * 2.0**-53

    def next(
        self, logits: Logits, context: Sequence[int], allowed: NDArray[np.int64] | None = None
    ) -> int:
        """The id of the next token; see `candidates` for logits and context.

        `allowed` are the ids among which it is chosen, in ascending order; None allows all. The
        others count as impossible before penalty, temperature, top-k and top-p. Raises
        `EngineFailed` where the logits have a NaN or infinity, or no finite number, and
        `ConstraintFailed` where the model gives no allowed token a probability.
        """
        # The maximum is NaN if any logit is. Minus infinity may occur: it forbids a token.
        if not math.isfinite(logits.max()):
            raise EngineFailed(
                "the model computed NaN or infinite logits: its file is damaged; fetch it again"
            )
        if allowed is None:
            ids, weights = candidates(logits, context, self.params)
        else:
            ids, weights = _candidates_among(allowed, logits, context, self.params)
        if self.params.temperature == 0:
            return int(ids[0])
        cumulative = weights.cumsum()
        place = int(cumulative.searchsorted(self.quantile() * cumulative[-1], side="right"))
        return int(ids[min(place, ids.size - 1)])


def log_probability_of_any(logits: Logits, tokens: Collection[int]) -> float:
    """The log-probability that the next token is one of these, in the model's own distribution."""
    values = logits.astype(np.float64)
    differences = values - values.max()
    wanted = float(np.exp(differences[list(tokens)]).sum())
    return math.log(wanted / np.exp(differences).sum()) if wanted else -math.inf


def masked_log_probability(logits: Logits, token: int, allowed: NDArray[np.int64]) -> float:
    """The logarithm of the softmax over the logits of the allowed tokens alone, for one of them."""
    values = logits[allowed].astype(np.float64)
    highest = values.max()
    return float(logits[token] - highest - np.log(np.exp(values - highest).sum()))


def log_probabilities(
    logits: Logits, token: int, top: int
) -> tuple[float, int, list[tuple[int, float]]]:
    """A token's log-probability and rank in the model's own distribution, and the likeliest tokens.

    A log-probability is the natural logarithm of the softmax of the unchanged
    logits. The rank is the number of likelier tokens, 0 for the likeliest. The
    list has `top` pairs (id, log-probability), the likeliest first. Equal logits
    come in the order of their ids.
    """
    values = logits.astype(np.float64)
    # The maximum is subtracted first. Rounding would lose the logarithm beside a huge logit.
    differences = values - values.max()
    logprobs = differences - np.log(np.exp(differences).sum())
    rank = int((values > values[token]).sum() + (values[:token] == values[token]).sum())
    best = []
    if top:
        likely = (values >= _bound(values, min(top, values.size))).nonzero()[0]
        best = likely[(-values[likely]).argsort(kind="stable")][:top].tolist()
    return float(logprobs[token]), rank, [(i, float(logprobs[i])) for i in best]
