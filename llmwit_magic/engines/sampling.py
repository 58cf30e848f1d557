"""Logits to a token, with its log-probability.

The order of the steps is that of Spin's host and of Hugging Face's generate:
repeat penalty, temperature, top-k, softmax, top-p, draw. Everything is decided
in float64 from the logits and the seed alone, so that the same seed over the
same logits gives the same tokens in any process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineFailed
from ..wit import InferencingParams

Logits = NDArray[np.float32]
Scores = NDArray[np.floating[Any]]


def distribution(
    logits: Logits, context: Sequence[int], params: InferencingParams
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that may be drawn and their probabilities.

    `logits` has shape (vocabulary,); `context` are the ids of the prompt and
    what was generated. Returns ids and probabilities of shape (candidates,),
    summing to 1; likeliest first wherever top-k or top-p is on. Equal logits
    are taken in the order of their ids.
    """
    if params.temperature == 0:
        return np.array([int(penalised(logits, context, params).argmax())]), np.ones(1)
    k = params.top_k or logits.size
    if k >= logits.size and params.top_p < 1:
        return _nucleus(logits, context, params)
    if k >= logits.size:
        ids, scores = np.arange(logits.size), penalised(logits, context, params)
    else:
        ids, scores = _likeliest(logits, context, params, k)
    probabilities = _weights(scores, scores.max(), params.temperature)
    probabilities /= probabilities.sum()
    if params.top_p < 1:
        kept = _reaching(probabilities, params.top_p)
        ids, probabilities = ids[:kept], probabilities[:kept]
        probabilities /= probabilities.sum()
    return ids, probabilities


def _weights(scores: Scores, highest: float, temperature: float) -> NDArray[np.float64]:
    """What the softmax makes of the scores, before it divides by their sum.

    The highest score is taken off before the division: a tiny temperature then
    gives minus infinity (weight 0), never NaN.
    """
    with np.errstate(over="ignore"):
        weights: NDArray[np.float64] = np.exp((scores.astype(np.float64) - highest) / temperature)
    return weights


def _reaching(probabilities: NDArray[np.float64], p: float) -> int:
    """How many of the likeliest tokens reach the probability p (Holtzman et al., 2020).

    Never none. A sum just short by rounding counts as reached.
    """
    return int(np.searchsorted(np.cumsum(probabilities), p - 1e-12)) + 1


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
        probabilities = _weights(likeliest, highest, params.temperature) / total
        kept = _reaching(probabilities, params.top_p)
        if kept <= k or k == logits.size:
            ids, probabilities = ids[:kept], probabilities[:kept]
            return ids, probabilities / probabilities.sum()


def penalised(logits: Logits, context: Sequence[int], params: InferencingParams) -> Scores:
    """The logits with recent tokens made less likely, as in CTRL (Keskar et al., 2019).

    A positive logit is divided by the penalty and a negative one multiplied,
    once for each token among the last n, however often it occurs. In float64,
    so that no two logits become equal; a tiny penalty ends at its largest number.
    """
    recent = _recent(logits, context, params)
    if not recent.size:
        return logits
    changed = logits.astype(np.float64)
    changed[recent] = _with_penalty(changed[recent], params)
    return changed


def _recent(logits: Logits, context: Sequence[int], params: InferencingParams) -> NDArray[np.int64]:
    """The ids that the penalty is for, each once."""
    n = params.repeat_penalty_last_n_token_count
    if n == 0 or params.repeat_penalty == 1:
        return np.empty(0, dtype=np.int64)
    recent = np.unique(np.asarray(context[-n:], dtype=np.int64))
    return recent[recent < logits.size]


def _with_penalty(values: NDArray[np.float64], params: InferencingParams) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        raised = np.minimum(values / params.repeat_penalty, np.finfo(np.float64).max)
    return np.where(values > 0, raised, values * params.repeat_penalty)


def _likeliest(
    logits: Logits, context: Sequence[int], params: InferencingParams, k: int
) -> tuple[NDArray[np.int64], Scores]:
    """Ids and penalised scores of the k likeliest tokens, the likeliest first.

    Equal ones stand in the order of their ids. Only the tokens that can be
    among them are penalised and sorted: those of the highest logits, of which
    as many can drop out as there are recent tokens, and the recent tokens.
    """
    recent = _recent(logits, context, params)
    ids = np.union1d(_highest(logits, min(k + recent.size, logits.size)), recent)
    scores = logits[ids].astype(np.float64)
    if recent.size:
        places = np.searchsorted(ids, recent)
        scores[places] = _with_penalty(scores[places], params)
    order = np.lexsort((ids, -scores))[:k]
    return ids[order], scores[order]


def _highest(values: Scores, k: int) -> NDArray[np.int64]:
    """Ids that hold the k highest values, all equal ones with them, and perhaps some more.

    Of groups of the values, the k-th highest maximum is a bound that at least k
    values reach; finding it costs a pass over the values and no sorting of them.
    """
    width = values.size // (4 * k)
    if width < 2:
        bound = np.partition(values, values.size - k)[values.size - k]
    else:
        whole = values.size // width * width
        maxima = values[:whole].reshape(width, -1).max(axis=0)
        bound = np.partition(maxima, maxima.size - k)[maxima.size - k]
    return np.flatnonzero(values >= bound)


class Sampler:
    """Draws the tokens of one run.

    The n-th token uses the n-th output of PCG64 seeded with `params.seed`,
    whatever happened before; numpy keeps that stream stable between versions.
    """

    def __init__(self, params: InferencingParams) -> None:
        if params.seed is None:
            raise ValueError("the seed must be drawn before sampling, so that it can be recorded")
        self.params = params
        self._bits = np.random.PCG64(params.seed)

    def quantile(self) -> float:
        """The next uniform number in [0, 1): the upper 53 bits of the generator's output."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def next(self, logits: Logits, context: Sequence[int]) -> int:
        """The id of the next token. Raises `EngineFailed` on logits that are no numbers."""
        # argmax finds a NaN before any number, and infinities at the ends.
        if not np.isfinite(logits.max()):
            raise EngineFailed(
                "the model computed NaN or infinite logits: its file is damaged; fetch it again"
            )
        ids, probabilities = distribution(logits, context, self.params)
        if self.params.temperature == 0:
            return int(ids[0])
        cumulative = np.cumsum(probabilities)
        place = int(np.searchsorted(cumulative, self.quantile() * cumulative[-1], side="right"))
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
    best = _highest(values, min(top, values.size)) if top else np.empty(0, dtype=np.int64)
    best = best[np.lexsort((best, -values[best]))][:top]
    return float(logprobs[token]), rank, [(int(i), float(logprobs[i])) for i in best]
