"""Samples from a real prompt's logits follow the exact distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.sampling import Sampler
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.running.session import Session
from tests.support.engine import logits_of

PROMPT = "My favourite season is the"
SAMPLES = 4000


@pytest.fixture(scope="module")
def prompt_ids(default_model_source: Path) -> list[int]:
    return build_tokenizer(read_header(default_model_source).metadata).encode(PROMPT)


@pytest.fixture(scope="module")
def logits(default_model_loaded: Path, prompt_ids: list[int]) -> np.ndarray:
    return logits_of(default_model_loaded, prompts=[(prompt_ids, [])])[-1]


def exact(logits: np.ndarray, context: list[int], params: InferencingParams) -> np.ndarray:
    """The distribution over the whole vocabulary, by the definition and slowly."""
    scores = logits.astype(np.float64)
    n = params.repeat_penalty_last_n_token_count
    for token in set(context[-n:] if n else []):
        penalty = params.repeat_penalty
        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    scores /= params.temperature
    order = np.argsort(-scores, kind="stable")
    kept = order[: params.top_k] if params.top_k else order
    weights = np.exp(scores[kept] - scores[kept].max())
    weights /= weights.sum()
    if params.top_p < 1:
        count = int(np.searchsorted(np.cumsum(weights), params.top_p)) + 1
        kept, weights = kept[:count], weights[:count] / weights[:count].sum()
    probabilities = np.zeros(len(scores))
    probabilities[kept] = weights
    return probabilities


SETTINGS = {
    "all off": {"temperature": 1, "top_k": 0, "top_p": 1, "repeat_penalty": 1},
    "temperature": {"temperature": 0.7, "top_k": 0, "top_p": 1, "repeat_penalty": 1},
    "top-k": {"temperature": 1, "top_k": 12, "top_p": 1, "repeat_penalty": 1},
    "top-p": {"temperature": 1, "top_k": 0, "top_p": 0.8, "repeat_penalty": 1},
    "penalty": {"temperature": 1, "top_k": 0, "top_p": 1, "repeat_penalty": 1.5},
    "all on": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "repeat_penalty": 1.1},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_frequencies_follow_the_distribution(
    name: str, logits: np.ndarray, prompt_ids: list[int]
) -> None:
    """4,000 one-token samples pass a chi-square test against the exact probabilities."""
    params = [InferencingParams(seed=seed, **SETTINGS[name]) for seed in range(SAMPLES)]
    drawn = np.bincount(
        [Sampler(item).next(logits, prompt_ids) for item in params], minlength=logits.size
    )
    expected = exact(logits, prompt_ids, params[0]) * SAMPLES
    assert drawn[expected == 0].sum() == 0
    common = expected >= 5
    observed = [*drawn[common], drawn[~common].sum()]
    wanted = [*expected[common], expected[~common].sum()]
    if wanted[-1] < 5:  # too rare for a cell of its own
        observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
    result = stats.chisquare(observed, wanted, sum_check=False)
    print(f"{name}: {len(wanted)} cells, p = {result.pvalue:.3f}")
    assert result.pvalue > 0.001


def test_the_engine_draws_what_the_sampler_draws(
    session: Session, default_model_source: Path, logits: np.ndarray, prompt_ids: list[int]
) -> None:
    """One-token runs through the whole way give the sampler's tokens for the same seeds."""
    for seed in range(40):
        params = InferencingParams(seed=seed, max_tokens=1, **SETTINGS["all on"])
        run = session.run(Request(
            model=str(default_model_source), prompt=PROMPT, params=params, top_logprobs=0,
        ))  # fmt: skip
        assert run.wait(60)
        assert run.result.tokens is not None
        assert run.result.tokens[0].id == Sampler(params).next(logits, prompt_ids)


def test_draws_of_a_real_run_are_independent(
    session: Session, default_model_source: Path, default_model_loaded: Path, prompt_ids: list[int]
) -> None:
    """The quantile at which each token of a run was drawn is uniform, whatever was drawn before.

    The logits of every step are computed again; each token's share of the
    distribution must hold the number that the seed gives for that step.
    """
    drawn: list[float] = []
    for seed in (77, 78, 79, 80, 81, 82):
        params = InferencingParams(
            seed=seed, max_tokens=80, temperature=1, top_k=0, top_p=1, repeat_penalty=1
        )
        run = session.run(Request(
            model=str(default_model_source), prompt=PROMPT, params=params, top_logprobs=0,
        ))  # fmt: skip
        assert run.wait(50)
        ids = [token.id for token in run.result.tokens or ()]
        # One after the other, as the run evaluated them.
        logits = logits_of(default_model_loaded, ids=ids[:-1], prompts=[(prompt_ids, [])])
        sampler = Sampler(params)
        for row, token in zip(logits, ids, strict=True):
            weights = np.exp(row.astype(np.float64) - row.max())
            cumulative = np.cumsum(weights) / weights.sum()
            quantile = sampler.quantile()
            low = cumulative[token - 1] if token else 0.0
            assert low - 1e-9 <= quantile <= cumulative[token] + 1e-9
            drawn.append(quantile)
    print(f"{len(drawn)} draws")
    assert len(drawn) > 150
    assert stats.kstest(drawn, "uniform").pvalue > 0.001
    assert stats.kstest(np.diff(drawn) % 1, "uniform").pvalue > 0.001
