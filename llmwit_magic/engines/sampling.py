"""Logits to a token, with its log-probability.

The order of the steps is that of Spin's host and of Hugging Face's generate:
repeat penalty, temperature, top-k, softmax, top-p, draw. Everything is decided
in float64 from the logits and the seed alone, so that the same seed over the
same logits gives the same tokens in any process.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import PCG64
from numpy.typing import NDArray

from ..errors import EngineFailed
from ..wit import InferencingParams

Logits = NDArray[np.float32]
Scores = NDArray[np.floating[Any]]

ZERO_WEIGHT = -746.0
"""Of this and of all below, the exponential is 0 in float64."""
BLANK_RANGE = 1e-3
"""Logits that differ by less are taken for equal: a trained model's differ by 10 and more."""


def candidates(
    logits: Logits, context: Sequence[int], params: InferencingParams
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that may be drawn, and weights that their probabilities are proportional to.

    `logits` has shape (vocabulary,); `context` are the ids of the prompt and of
    what was generated, each below the size of the vocabulary. Returns ids and
    weights of shape (candidates,); likeliest first wherever top-k or top-p is
    on. Equal logits are taken in the order of their ids.
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


def _weights(scores: Scores, highest: float, temperature: float) -> NDArray[np.float64]:
    """What the softmax makes of the scores, before it divides by their sum.

    The highest score is taken off first, and differences whose weight is 0 in
    any case are bounded: so even a tiny temperature overflows nowhere.
    """
    differences = np.subtract(scores, highest, dtype=np.float64)
    weights: NDArray[np.float64] = np.exp(
        np.maximum(differences, ZERO_WEIGHT * temperature) / temperature
    )
    return weights


def _reaching(weights: NDArray[np.float64], p: float, total: float | None = None) -> int:
    """How many of the likeliest tokens reach the probability p (Holtzman et al., 2020).

    Never none. A sum just short by rounding counts as reached. `total` is the
    weight of all tokens where these are not all.
    """
    cumulative = weights.cumsum()
    whole = cumulative[-1] if total is None else total
    return int(cumulative.searchsorted((p - 1e-12) * whole)) + 1


def _nucleus(
    logits: Logits, context: Sequence[int], params: InferencingParams
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The smallest set of likeliest tokens that reaches top-p, with no top-k before it.

    Sorting the whole vocabulary would take most of a token's time, and few
    tokens hold most of the probability: the set is looked for among ever more.
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

    A positive logit is divided by the penalty and a negative one multiplied,
    once for each token among the last n, however often it occurs. In float64,
    so that no two logits become equal; a tiny penalty ends at its largest number.
    """
    recent = _recent(context, params)
    if not recent:
        return logits
    changed = logits.astype(np.float64)
    for token in recent:
        changed[token] = _with_penalty(float(logits[token]), params.repeat_penalty)
    return changed


def _recent(context: Sequence[int], params: InferencingParams) -> set[int]:
    """The ids that the penalty is for."""
    n = params.repeat_penalty_last_n_token_count
    return set() if n == 0 or params.repeat_penalty == 1 else set(context[-n:])


def _with_penalty(logit: float, penalty: float) -> float:
    return min(logit / penalty, sys.float_info.max) if logit > 0 else logit * penalty


def _likeliest(
    logits: Logits, context: Sequence[int], params: InferencingParams, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and penalised scores of the k likeliest tokens, the likeliest first.

    Equal ones stand in the order of their ids. Only the tokens that can be
    among them are penalised and sorted: those of the highest logits, of which
    as many can drop out as there are recent tokens.

    Each token's evaluation has pushed numpy out of the processor's caches, so
    that the number of its functions counts here, more than what they do.
    """
    recent = _recent(context, params)
    among = logits >= _bound(logits, min(k + len(recent), logits.size))
    if recent and params.repeat_penalty < 1:  # it raises them, from wherever they are
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

    Of groups of the values, the k-th highest maximum is such a bound; finding
    it costs a pass over the values and no sorting of them.
    """
    width = values.size // (4 * k)
    if width >= 2:
        whole = values.size // width * width
        values = values[:whole].reshape(width, -1).max(axis=0)
    return float(np.sort(values)[-k])


def refuse_blank(logits: Logits) -> None:
    """Raise `EngineFailed` where no token is likelier than another.

    Where the last tensors are zeros all logits are, at every position: asking
    once a run is enough.
    """
    if logits.size > 1 and float(logits.max()) - float(logits.min()) < BLANK_RANGE:
        raise EngineFailed(
            "the model finds all tokens equally likely: its weights are zeros or its header is "
            "wrong, as in an unfinished download; fetch the file again"
        )


class Sampler:
    """Draws the tokens of one run.

    The n-th token uses the n-th output of PCG64 seeded with `params.seed`,
    whatever happened before; numpy keeps that stream stable between versions.
    """

    def __init__(self, params: InferencingParams) -> None:
        if params.seed is None:
            raise ValueError("the seed must be drawn before sampling, so that it can be recorded")
        self.params = params
        self._bits = PCG64(params.seed)
        self._raw: list[int] = []  # drawn ahead, the next one last: a call a token costs more

    def quantile(self) -> float:
        """The next uniform number in [0, 1): the upper 53 bits of the generator's output."""
        if not self._raw:
            self._raw = self._bits.random_raw(64).tolist()[::-1]
        return (self._raw.pop() >> 11) * 2.0**-53

    def next(self, logits: Logits, context: Sequence[int]) -> int:
        """The id of the next token; see `distribution` for logits and context.

        Raises `EngineFailed` on logits that are no numbers.
        """
        # The maximum of anything with a NaN is NaN; minus infinity forbids a token, and may stand.
        if not math.isfinite(logits.max()):
            raise EngineFailed(
                "the model computed NaN or infinite logits: its file is damaged; fetch it again"
            )
        ids, weights = candidates(logits, context, self.params)
        if self.params.temperature == 0:
            return int(ids[0])
        cumulative = weights.cumsum()
        place = int(cumulative.searchsorted(self.quantile() * cumulative[-1], side="right"))
        return int(ids[min(place, ids.size - 1)])


def log_probabilities(
    logits: Logits, token: int, top: int
) -> tuple[float, int, list[tuple[int, float]]]:
    """A token's log-probability and rank in the model's own distribution, and the top ones.

    Natural logarithm of the softmax of the unchanged logits. The rank counts
    the likelier tokens (0 is the likeliest); `top` pairs are (id, logprob),
    likeliest first; equal logits stand in the order of their ids.
    """
    values = logits.astype(np.float64)
    # Two steps: in one sum a huge logit would swallow the logarithm.
    differences = values - values.max()
    logprobs = differences - np.log(np.exp(differences).sum())
    rank = int((values > values[token]).sum() + (values[:token] == values[token]).sum())
    best = []
    if top:
        likely = (values >= _bound(values, min(top, values.size))).nonzero()[0]
        best = likely[(-values[likely]).argsort(kind="stable")][:top].tolist()
    return float(logprobs[token]), rank, [(i, float(logprobs[i])) for i in best]
