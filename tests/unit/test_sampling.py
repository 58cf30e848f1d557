"""From logits to tokens: compared with a slow reference, and draws with their distribution."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import special, stats

from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.sampling import (
    Sampler,
    candidates,
    log_probabilities,
    penalised,
    refuse_blank,
)
from llmwit_magic.errors import EngineFailed

F32_MAX = float(np.finfo(np.float32).max)
DRAWS = 4000

floats = st.floats(-40, 40, width=32) | st.integers(-2, 2).map(float)
huge = st.sampled_from([F32_MAX, -F32_MAX, 1e30, -1e30, 1e-40, 0.0, -0.0, 3.5])


@st.composite
def logit_lists(draw: st.DrawFn) -> list[float]:
    """Three or more logits with ties, -inf and huge values. At least one is finite."""
    values = draw(st.lists(floats | huge | st.just(-math.inf), min_size=2, max_size=12))
    return [*values, draw(floats | huge)]


def all_params(**fixed: st.SearchStrategy[object]) -> st.SearchStrategy[InferencingParams]:
    chosen: dict[str, st.SearchStrategy[object]] = {
        "temperature": st.sampled_from([0, 1e-6, 1, 1e6, 3e38]) | st.floats(0, 5),
        "top_k": st.integers(0, 15) | st.just(2**32 - 1),
        "top_p": st.sampled_from([1, 1e-30, 1e-9, 0.5]) | st.floats(1e-6, 1),
        "repeat_penalty": st.sampled_from([1, 1.1, 1e-30, 3e38, 0.5]) | st.floats(0.01, 10),
        "repeat_penalty_last_n_token_count": st.integers(0, 6) | st.just(2**32 - 1),
        "seed": st.integers(0, 2**63 - 1),
    }
    return st.builds(InferencingParams, **(chosen | fixed))


contexts = st.lists(st.integers(0, 2), max_size=10)


def slow_scores(
    logits: Sequence[float], context: Sequence[int], params: InferencingParams
) -> list[float]:
    """The repeat penalty, applied token by token."""
    n = params.repeat_penalty_last_n_token_count
    recent = set(context[max(len(context) - n, 0) :])
    scores = []
    for token, logit in enumerate(logits):
        if token in recent and logit > 0:
            logit = min(logit / params.repeat_penalty, sys.float_info.max)
        elif token in recent:
            logit = logit * params.repeat_penalty
        scores.append(logit)
    return scores


def distribution(
    logits: np.ndarray, context: Sequence[int], params: InferencingParams
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be drawn, and their probabilities."""
    ids, weights = candidates(logits, context, params)
    return ids, weights / weights.sum()


def slow_distribution(
    logits: Sequence[float], context: Sequence[int], params: InferencingParams
) -> dict[int, float]:
    """Penalty, temperature, top-k, softmax and top-p, each in a plain step."""
    scores = slow_scores(logits, context, params)
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if params.temperature == 0:
        return {order[0]: 1.0}
    if params.top_k:
        order = order[: params.top_k]
    highest = scores[order[0]]
    weights = [math.exp((scores[token] - highest) / params.temperature) for token in order]
    total = math.fsum(weights)
    kept: dict[int, float] = {}
    for token, weight in zip(order, weights, strict=True):
        kept[token] = weight / total
        # Sums that differ only by rounding count as equal, as documented.
        if params.top_p < 1 and math.fsum(kept.values()) >= params.top_p - 1e-12:
            break
    total = math.fsum(kept.values())
    return {token: probability / total for token, probability in kept.items()}


def array(logits: Sequence[float]) -> np.ndarray:
    return np.array(logits, dtype=np.float32)


@given(logit_lists(), contexts, all_params())
@example([1.0, 1.0, 1.0], [], InferencingParams(top_p=1 / 3, temperature=1))
@example([0.1, 0.2, 0.3, 0.4], [0], InferencingParams(top_k=2, top_p=1, temperature=1e-6))
@example([1e30, 5.0, 1.0], [0, 1], InferencingParams(repeat_penalty=1e-30, temperature=1))
@example([-5.0, -1.0], [0, 1], InferencingParams(repeat_penalty=3e38, temperature=1))
@example([0.0, -0.0, -math.inf], [0, 1, 2], InferencingParams(repeat_penalty=1e-300))
@example([1.0, 1.0000001], [0, 1], InferencingParams(repeat_penalty=7.3, temperature=0))
@settings(max_examples=200)
def test_the_distribution_equals_the_reference(
    logits: list[float], context: list[int], params: InferencingParams
) -> None:
    """The same tokens may be drawn, with probabilities that agree to twelve digits."""
    logits = array(logits).tolist()
    ids, probabilities = distribution(array(logits), context, params)
    wanted = slow_distribution(logits, context, params)
    assert sorted(ids.tolist()) == sorted(wanted)
    assert dict(zip(ids.tolist(), probabilities.tolist(), strict=True)) == pytest.approx(
        wanted, rel=1e-9, abs=1e-12
    )
    assert math.fsum(probabilities) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.8, 2.0])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.9999, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 40, 1_000])
def test_a_large_vocabulary_gives_the_reference_too(
    top_k: int, top_p: float, temperature: float
) -> None:
    """Of thousands of logits, with equal ones among them, not all are sorted.

    The choice is the same.
    """
    random = np.random.default_rng(top_k + int(10 * top_p + 100 * temperature))
    for rounded in (False, True):
        logits = (3 * random.normal(size=5_000)).astype(np.float32)
        logits = np.round(logits) if rounded else logits
        likely = logits.argsort()[-30:].tolist()  # which the penalty takes out of the top
        params = InferencingParams(
            top_k=top_k, top_p=top_p, temperature=temperature, repeat_penalty=1.7
        )
        ids, probabilities = distribution(logits, likely, params)
        wanted = slow_distribution(logits.tolist(), likely, params)
        assert dict(zip(ids.tolist(), probabilities.tolist(), strict=True)) == pytest.approx(
            wanted, rel=1e-9, abs=1e-12
        )


@given(logit_lists(), contexts, all_params())
@settings(max_examples=100)
def test_candidates_come_likeliest_first_wherever_there_is_an_order(
    logits: list[float], context: list[int], params: InferencingParams
) -> None:
    """With top-k or top-p on, probabilities fall. Equal scores come in the order of their ids."""
    ids, probabilities = distribution(array(logits), context, params)
    if params.top_p < 1 or 0 < params.top_k < len(logits):
        scores = slow_scores(array(logits).tolist(), context, params)
        keys = [(-scores[token], token) for token in ids.tolist()]
        assert keys == sorted(keys)
        assert (np.diff(probabilities) <= 0).all()


@given(logit_lists(), contexts, all_params(temperature=st.just(0)))
@settings(max_examples=100)
def test_greedy_is_the_argmax_after_the_penalty(
    logits: list[float], context: list[int], params: InferencingParams
) -> None:
    """Temperature 0 takes the highest score, whatever the other params are.

    Of equal scores it takes the smallest id.
    """
    scores = slow_scores(array(logits).tolist(), context, params)
    assert Sampler(params).next(array(logits), context) == scores.index(max(scores))


@given(logit_lists(), contexts, all_params())
@settings(max_examples=100)
def test_a_draw_is_the_quantile_of_the_distribution(
    logits: list[float], context: list[int], params: InferencingParams
) -> None:
    """The drawn token is the one whose part of [0, 1) has the next number of the seed."""
    ids, probabilities = distribution(array(logits), context, params)
    quantile = Sampler(params).quantile()
    token = Sampler(params).next(array(logits), context)
    place = ids.tolist().index(token)
    assert probabilities[place] > 0
    below = math.fsum(probabilities[:place])
    assert below - 1e-9 <= quantile <= below + probabilities[place] + 1e-9


@given(logit_lists(), contexts.filter(bool), st.floats(0.1, 5))
@settings(max_examples=100)
def test_last_n_zero_switches_the_penalty_off(
    logits: list[float], context: list[int], penalty: float
) -> None:
    """`repeat_penalty_last_n_token_count=0` penalises no token, and not all of them."""
    off = InferencingParams(repeat_penalty=penalty, repeat_penalty_last_n_token_count=0)
    assert (penalised(array(logits), context, off) == array(logits)).all()


def test_the_penalty_looks_at_the_last_n_tokens_once_each() -> None:
    """Older tokens are not penalised. A token that occurs twice is penalised once."""
    params = InferencingParams(repeat_penalty=2, repeat_penalty_last_n_token_count=3)
    scores = penalised(array([4, 4, -4, 4]), [3, 0, 0, 2], params)
    assert scores.tolist() == [2, 4, -8, 4]


def test_the_penalty_leaves_the_logits_as_they_were() -> None:
    """The logits are a view of the engine's memory, and are never written to."""
    logits = array([1, 2, 3])
    logits.flags.writeable = False
    params = InferencingParams(repeat_penalty=2, seed=1, temperature=1)
    assert Sampler(params).next(logits, [0, 1, 2]) in (0, 1, 2)
    assert logits.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        ({"top_k": 1, "top_p": 1}, [1]),
        ({"top_k": 2, "top_p": 1}, [1, 2]),
        ({"top_k": 0, "top_p": 1}, [0, 1, 2, 3]),
        ({"top_k": 4, "top_p": 1}, [0, 1, 2, 3]),
        ({"top_k": 2**32 - 1, "top_p": 1}, [0, 1, 2, 3]),
        ({"top_k": 0, "top_p": 1e-30}, [1]),
        ({"top_k": 0, "top_p": 0.5}, [1, 2]),
        ({"top_k": 0, "top_p": 0.8}, [1, 2]),
        ({"top_k": 0, "top_p": 0.81}, [0, 1, 2]),
    ],
)
def test_which_tokens_stay(params: dict[str, float], tokens: list[int]) -> None:
    """What top-k and top-p leave of the probabilities 0.1, 0.4, 0.4, 0.1. Ties go by id."""
    logits = np.log(np.array([0.1, 0.4, 0.4, 0.1])).astype(np.float64)
    ids, _ = distribution(logits, [], InferencingParams(temperature=1, **params))
    assert sorted(ids.tolist()) == tokens


@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize(
    ("p", "count"),
    [(0.5, 1), (0.5 + 0.7e-12, 1), (0.5 + 1.5e-12, 2), (0.75 + 0.7e-12, 2), (0.75 + 1.5e-12, 3)],
)
def test_how_far_from_top_p_counts_as_reached(p: float, count: int, top_k: int) -> None:
    """A sum that is short of top-p by 1e-12 counts as reaching it, since rounding may cause it.

    A larger gap does not.
    """
    logits = np.array([math.log(4), math.log(2), math.log(2), -100.0])  # 0.5, 0.25, 0.25
    params = InferencingParams(temperature=1, top_k=top_k, top_p=p)
    assert len(distribution(logits, [], params)[0]) == count


def test_top_p_is_applied_after_temperature_and_top_k() -> None:
    """Top-p applies to probabilities after the temperature, and to those that top-k leaves."""
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1]))
    cold = InferencingParams(temperature=0.25, top_k=0, top_p=0.7)
    assert distribution(logits, [], cold)[0].tolist() == [0]
    # The first token has 0.571 of the sum 0.4 + 0.3.
    two = InferencingParams(temperature=1, top_k=2, top_p=0.55)
    assert distribution(logits, [], two)[0].tolist() == [0]


def draws(seed: int, logits: np.ndarray, count: int, **params: object) -> list[int]:
    sampler = Sampler(InferencingParams(seed=seed, **params))
    return [sampler.next(logits, []) for _ in range(count)]


def test_equal_seeds_give_equal_draws() -> None:
    """Two samplers with the same seed agree in every draw. With another seed they differ."""
    logits = array(range(20)) / 10
    first = draws(7, logits, 100, temperature=1)
    assert first == draws(7, logits, 100, temperature=1)
    assert first != draws(8, logits, 100, temperature=1)


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1])
def test_the_nth_draw_depends_on_seed_and_n_alone(seed: int) -> None:
    """The n-th number does not depend on earlier logits and params. Greedy tokens use no number."""
    logits = array([0, 1, 2, 3, 4])
    params = InferencingParams(seed=seed, temperature=1.5)
    wanted = draws(seed, logits, 10, temperature=1.5)
    sampler = Sampler(params)
    for n in range(10):
        if n == 9:
            assert sampler.next(logits, []) == wanted[9]
        else:
            sampler.next(array([0] * (n + 1)), [0] * n)


def test_the_stream_of_a_seed_is_the_one_that_was_recorded() -> None:
    """The numbers for seed 42 are PCG64's to the last bit, so a run can be repeated years later."""
    sampler = Sampler(InferencingParams(seed=42))
    numbers = [sampler.quantile() for _ in range(130)]
    assert numbers[:3] == [0.7739560485559633, 0.4388784397520523, 0.8585979199113825]
    assert numbers[63:66] == [0.7649988574160256, 0.6347183200005908, 0.5535794006579958]
    assert numbers == np.random.default_rng(42).random(130).tolist()


@pytest.mark.parametrize(
    ("quantile", "token"),
    [(0.0, 1), (0.25 - 2**-53, 1), (0.25, 3), (0.5, 4), (0.75 - 2**-53, 4), (0.75, 5), (1 - 2**-53, 5)],
)  # fmt: skip
def test_which_token_a_number_draws(
    monkeypatch: pytest.MonkeyPatch, quantile: float, token: int
) -> None:
    """A token with the probability p has a part [below, below + p).

    With the probability 0 it has none.
    """
    sampler = Sampler(InferencingParams(seed=1, temperature=1, top_k=0, top_p=1))
    monkeypatch.setattr(sampler, "quantile", lambda: quantile)
    assert sampler.next(array([-math.inf, 0, -math.inf, 0, 0, 0]), []) == token


def test_a_sampler_needs_a_seed() -> None:
    """A run with a seed that was not recorded could not be repeated."""
    with pytest.raises(ValueError, match="seed"):
        Sampler(InferencingParams())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers_are_an_error(
    bad: float, place: int, temperature: float
) -> None:
    """NaN or infinity in any place means that the model is broken. The error is one line."""
    logits = array([1, 2, 3])
    logits[place] = bad
    with pytest.raises(EngineFailed, match="NaN or infinite") as caught:
        Sampler(InferencingParams(seed=1, temperature=temperature)).next(logits, [])
    assert "\n" not in str(caught.value)


def test_logits_without_a_single_number_are_an_error() -> None:
    """A model that forbids every token leaves nothing to draw from."""
    with pytest.raises(EngineFailed):
        Sampler(InferencingParams(seed=1)).next(array([-math.inf] * 3), [])


@pytest.mark.parametrize("logits", [[0, 0, 0], [5, 5, 5], [-3e38, -3e38], [0, 1e-4, -2e-4]])
def test_logits_that_are_all_equal_are_an_error(logits: list[float]) -> None:
    """A model that finds all tokens equally likely has learnt nothing. One line says what to do."""
    with pytest.raises(EngineFailed, match="fetch the file again") as caught:
        refuse_blank(array(logits))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("logits", [[7], [0, 1], [0, -math.inf, 0], [-3e38, 3e38], [0, math.nan]])
def test_other_logits_are_not(logits: list[float]) -> None:
    """Forbidden tokens count as different ones.

    NaN has its own message. A single token is allowed.
    """
    refuse_blank(array(logits))


@given(logit_lists(), st.data())
@example([1.0] * 9, None)
@settings(max_examples=200)
def test_log_probabilities_equal_scipy_s(logits: list[float], data: st.DataObject | None) -> None:
    """Log-probabilities are the softmax of the unchanged logits.

    Rank and order go by logit, then id.
    """
    token = data.draw(st.integers(0, len(logits) - 1)) if data else 8
    top = data.draw(st.integers(0, len(logits) + 3)) if data else 4
    exact = special.log_softmax(array(logits).astype(np.float64)).tolist()
    order = sorted(range(len(logits)), key=lambda i: (-array(logits)[i], i))
    logprob, rank, best = log_probabilities(array(logits), token, top)
    assert logprob == pytest.approx(exact[token], rel=1e-12, abs=1e-12)
    assert rank == order.index(token)
    assert [i for i, _ in best] == order[:top]
    assert [value for _, value in best] == pytest.approx(
        [exact[i] for i in order[:top]], rel=1e-12, abs=1e-12
    )


# Draws compared with their distribution. The seeds are fixed, so each test always passes or always
# fails.

RANDOM_LOGITS = np.random.default_rng(5).normal(0, 2, 300).astype(np.float32)
SETTINGS = [
    {"temperature": 1, "top_k": 0, "top_p": 1},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    {"temperature": 2, "top_k": 7, "top_p": 1},
    {"temperature": 0.5, "top_k": 0, "top_p": 0.6},
]
Draw = Callable[[int, np.ndarray, int, dict[str, float]], list[int]]


def ours(seed: int, logits: np.ndarray, count: int, params: dict[str, float]) -> list[int]:
    return draws(seed, logits, count, **params)


def reseeded(seed: int, logits: np.ndarray, count: int, params: dict[str, float]) -> list[int]:
    """ctransformers' scheme: the generator is seeded again with the same seed for every token."""
    return [draws(seed, logits, 1, **params)[0] for _ in range(count)]


def chi_square(tokens: list[int], expected: dict[int, float]) -> float:
    """The p-value of a chi-square test.

    Tokens that are expected less than five times are put together.
    """
    counts = Counter(tokens)
    if set(counts) - set(expected):
        return 0.0
    if len(expected) == 1:
        return 1.0
    common = [token for token in expected if expected[token] * len(tokens) >= 5]
    observed = [counts[token] for token in common]
    wanted = [expected[token] * len(tokens) for token in common]
    rest = len(tokens) - sum(wanted)
    if rest > 1e-6:
        observed.append(len(tokens) - sum(observed))
        wanted.append(rest)
    return float(stats.chisquare(observed, wanted).pvalue)


@pytest.mark.parametrize("params", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("seed", "logits"),
    [(1, RANDOM_LOGITS), (2, array([0, 0, 0, 0, 0])), (3, array([3, 2, 1, 0, -math.inf]))],
    ids=["random", "ties", "steep"],
)
def test_draws_follow_the_distribution(
    seed: int, logits: np.ndarray, params: dict[str, float]
) -> None:
    """Chi-square of 4,000 draws against the exact probabilities, our own and the reference's."""
    tokens = ours(seed, logits, DRAWS, params)
    settings_ = InferencingParams(**params)
    ids, probabilities = distribution(logits, [], settings_)
    exact = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
    assert chi_square(tokens, exact) > 0.001
    assert chi_square(tokens, slow_distribution(logits.tolist(), [], settings_)) > 0.001


def uniform_p(numbers: Sequence[float]) -> float:
    return float(stats.kstest(numbers, "uniform").pvalue)


def lag_one(numbers: Sequence[float]) -> float:
    """The correlation of neighbours, and 1 where all numbers are equal."""
    values = np.asarray(numbers)
    if values.std() == 0:
        return 1.0
    return float(np.corrcoef(values[:-1], values[1:])[0, 1])


@pytest.mark.parametrize("seed", [1, 2, 3, 2**40])
def test_one_run_s_numbers_are_uniform_and_independent(seed: int) -> None:
    """The numbers are uniform by Kolmogorov-Smirnov, and neighbours are not correlated."""
    sampler = Sampler(InferencingParams(seed=seed))
    numbers = [sampler.quantile() for _ in range(DRAWS)]
    assert uniform_p(numbers) > 0.001
    assert abs(lag_one(numbers)) < 3.3 / math.sqrt(DRAWS)


def test_neighbouring_seeds_give_independent_numbers() -> None:
    """The first numbers of the seeds 0, 1, 2 … are a uniform sample.

    So a sweep over seeds is one too.
    """
    numbers = [Sampler(InferencingParams(seed=seed)).quantile() for seed in range(1000)]
    assert uniform_p(numbers) > 0.001
    assert abs(lag_one(numbers)) < 3.3 / math.sqrt(1000)


def test_the_same_tests_find_a_generator_that_is_seeded_at_every_token() -> None:
    """The negative control: ctransformers' scheme fails all three tests."""
    params = SETTINGS[0]
    exact = slow_distribution(RANDOM_LOGITS.tolist(), [], InferencingParams(**params))
    assert chi_square(ours(1, RANDOM_LOGITS, 500, params), exact) > 0.001
    assert chi_square(reseeded(1, RANDOM_LOGITS, 500, params), exact) < 1e-9
    numbers = [Sampler(InferencingParams(seed=1)).quantile() for _ in range(500)]
    assert uniform_p(numbers) < 1e-9
    assert lag_one(numbers) == 1
