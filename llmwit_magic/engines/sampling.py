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
    scores = penalised(logits, context, params)
    if params.temperature == 0:
        return np.array([int(scores.argmax())]), np.ones(1)
    ids = _candidates(scores, params)
    # The largest score is taken off before the division: a tiny temperature
    # then gives minus infinity (probability 0), never NaN.
    scores = scores[ids].astype(np.float64)
    with np.errstate(over="ignore"):
        probabilities = np.exp((scores - scores.max()) / params.temperature)
    probabilities /= probabilities.sum()
    if params.top_p < 1:
        # The smallest set of likeliest tokens that reaches top_p (Holtzman et
        # al., 2020); never empty. A sum just short by rounding counts as reached.
        cumulative = np.cumsum(probabilities)
        kept = int(np.searchsorted(cumulative, params.top_p - 1e-12)) + 1
        ids, probabilities = ids[:kept], probabilities[:kept]
        probabilities /= probabilities.sum()
    return ids, probabilities


def penalised(logits: Logits, context: Sequence[int], params: InferencingParams) -> Scores:
    """The logits with recent tokens made less likely, as in CTRL (Keskar et al., 2019).

    A positive logit is divided by the penalty and a negative one multiplied,
    once for each token among the last n, however often it occurs. In float64,
    so that no two logits become equal; a tiny penalty ends at its largest number.
    """
    n = params.repeat_penalty_last_n_token_count
    if n == 0 or params.repeat_penalty == 1 or not context:
        return logits
    recent = np.unique(np.asarray(context[-n:], dtype=np.int64))
    recent = recent[recent < logits.size]
    changed = logits.astype(np.float64)
    values = changed[recent]
    with np.errstate(over="ignore"):
        raised = np.minimum(values / params.repeat_penalty, np.finfo(np.float64).max)
    changed[recent] = np.where(values > 0, raised, values * params.repeat_penalty)
    return changed


def _candidates(scores: Scores, params: InferencingParams) -> NDArray[np.int64]:
    """Ids of the top-k, likeliest first; all ids, sorted only if top-p needs the order."""
    k = params.top_k or scores.size
    if k >= scores.size and params.top_p >= 1:
        return np.arange(scores.size)
    return _likeliest(scores, k)


def _likeliest(scores: Scores, k: int) -> NDArray[np.int64]:
    """Ids of the k highest scores, the highest first, equal ones in the order of their ids."""
    ids = np.arange(scores.size)
    if k < scores.size:
        # Everything at or above the k-th largest value, so that the choice
        # among equal logits is by id and not by the partition's whim.
        ids = np.flatnonzero(scores >= np.partition(scores, scores.size - k)[scores.size - k])
    return ids[np.lexsort((ids, -scores[ids]))][:k]


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
        if self.params.temperature == 0:
            return int(penalised(logits, context, self.params).argmax())
        ids, probabilities = distribution(logits, context, self.params)
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
    ids = _likeliest(values, top) if top else ()
    return float(logprobs[token]), rank, [(int(i), float(logprobs[i])) for i in ids]
