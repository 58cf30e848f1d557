"""The loop of a score: what is evaluated, what the figures are, how it ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from llmwit_magic.contract.events import Chunk, End, Event, Progress
from llmwit_magic.contract.scores import (
    ChoiceProbabilities,
    ChoiceScore,
    Score,
    choice_probabilities,
)
from llmwit_magic.contract.wit import FinishDetail
from llmwit_magic.engines.sampling import log_probabilities, log_probability_of_any
from llmwit_magic.engines.scoring import GivenChoices, GivenText, Scorer
from tests.support.fake_model import EOS, OTHER_EOS, VOCABULARY, FakeTokenizer


def logits_after(context: Sequence[int]) -> np.ndarray:
    """The logits of a model that looks at all tokens before."""
    return np.random.default_rng(list(context)).normal(0, 3, VOCABULARY).astype(np.float32)


class Model:
    """Evaluates tokens, and keeps a record of them. It may be unable to go back."""

    context_length = 1000

    def __init__(self, rewinds: bool = True) -> None:
        self.rewinds = rewinds
        self.context: list[int] = []
        self.evaluated: list[int] = []
        self.prompts: list[list[int]] = []

    @property
    def reusable_length(self) -> int:
        return 0

    @property
    def logits(self) -> np.ndarray:
        return logits_after(self.context)

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        return 0

    def evaluate_prompt(
        self, tokens: Sequence[int], threads: Any, progress: Callable[[int], bool]
    ) -> bool:
        self.context = list(tokens)
        self.prompts.append(list(tokens))
        return progress(len(tokens))

    def evaluate_next(self, token: int, threads: int) -> None:
        self.context.append(token)
        self.evaluated.append(token)

    def go_back(self, length: int) -> bool:
        assert length <= len(self.context)
        if length < len(self.context) and not self.rewinds:
            self.context = []
            return False
        del self.context[length:]
        return True

    def best_for(self, tokens: Sequence[int]) -> Model:
        return self


def scorer(
    model: Model, prompt: Sequence[int] = b"ab", top: int = 0,
    cancelled: Callable[[], bool] = lambda: False, reports: list[Progress] | None = None,
) -> Scorer:  # fmt: skip
    heard = [] if reports is None else reports
    return Scorer(
        model, FakeTokenizer(), prompt, threads=lambda: 1, top=top, report=heard.append,
        cancelled=cancelled,
    )  # fmt: skip


def stop_after(count: int) -> Callable[[], bool]:
    """Says that the run is cancelled, when it has been asked that so often."""
    calls = itertools.count()
    return lambda: next(calls) >= count


def given(text: str) -> GivenText:
    return GivenText(tuple(text.encode()), tuple(bytes([byte]) for byte in text.encode()))


def parts(events: list[Event]) -> tuple[list[Chunk], End]:
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert isinstance(events[-1], End)
    return chunks, events[-1]


def choices_of(
    *texts: str, end: bool = False, normalize: Any = "sum", model: Model | None = None,
    empty: bytes = b"",
) -> ChoiceProbabilities:  # fmt: skip
    asked = GivenChoices(
        {text: tuple(text.encode()) for text in texts}, end, normalize, tuple(empty)
    )
    model = model or Model()
    chunks, last = parts(list(scorer(model).choices(asked, model)))
    assert last.choices
    assert [chunk.text for chunk in chunks] == [last.choices.best]
    return last.choices


def alone(prompt: bytes, text: str, end: bool = False) -> float:
    """The log-probability of a text, computed from the logits after each of its beginnings."""
    context, total = list(prompt), 0.0
    for token in text.encode():
        values = logits_after(context).astype(np.float64)
        total += values[token] - np.log(np.exp(values).sum())
        context.append(token)
    if end:
        values = logits_after(context).astype(np.float64)
        total += np.log(np.exp(values[[EOS, OTHER_EOS]]).sum() / np.exp(values).sum())
    return float(total)


def test_each_token_is_scored_after_all_before_it() -> None:
    """The last token is never evaluated: nothing follows it."""
    model = Model()
    chunks, last = parts(list(scorer(model, top=3).text(given("xyz"))))
    assert "".join(chunk.text for chunk in chunks) == "xyz"
    tokens = [token for chunk in chunks for token in chunk.tokens]
    for place, token in enumerate(tokens):
        context = [*b"ab", *b"xyz"[:place]]
        logprob, rank, best = log_probabilities(logits_after(context), token.id or 0, 3)
        assert (token.logprob, token.rank) == (logprob, rank)
        assert [(item.id, item.logprob) for item in token.top] == best
    assert math.fsum(token.logprob for token in tokens) == pytest.approx(alone(b"ab", "xyz"))
    assert model.prompts == [[*b"ab"]]
    assert bytes(model.evaluated) == b"xy"
    assert last.finish_detail is FinishDetail.SCORED
    assert (last.usage.prompt_token_count, last.usage.generated_token_count) == (2, 0)


def test_characters_of_several_tokens_come_whole() -> None:
    """A token that ends within a character is given with the one that completes it."""
    chunks, _ = parts(list(scorer(Model()).text(given("aé€"))))
    assert [chunk.text for chunk in chunks if chunk.text] == ["a", "é", "€"]
    assert sum(len(chunk.tokens) for chunk in chunks) == 6


def test_a_text_that_follows_nothing_has_no_figure_for_its_first_token() -> None:
    """It is the prompt of the others. The text is whole all the same."""
    model = Model()
    chunks, last = parts(list(scorer(model, prompt=b"").text(given("xyz"))))
    assert "".join(chunk.text for chunk in chunks) == "xyz"
    assert b"".join(token.bytes for chunk in chunks for token in chunk.tokens) == b"yz"
    assert model.prompts == [[*b"x"]]
    assert last.usage.prompt_token_count == 0


def test_the_tokens_of_the_prompt_are_scored_where_that_is_asked_for() -> None:
    """All but the first. The prompt is evaluated once more after that, as for an answer."""
    model, reports = Model(), list[Progress]()
    prompt = bytes(range(40, 110))
    events = list(scorer(model, prompt, reports=reports).text(given("x"), with_prompt=True))
    chunks, _ = parts(events)
    tokens = [token for chunk in chunks for token in chunk.prompt_tokens]
    assert bytes(token.id or 0 for token in tokens) == prompt[1:]
    assert tokens[4].logprob == log_probabilities(logits_after(prompt[:5]), prompt[5], 0)[0]
    assert model.prompts == [[prompt[0]], [*prompt]]
    assert Progress("score", 69, 70) in reports


def test_a_score_can_be_stopped_at_each_token() -> None:
    """What was scored so far stays, and there is no finish detail."""
    for after in range(6):
        events = list(scorer(Model(), cancelled=stop_after(after)).text(given("xyz")))
        chunks, last = parts(events)
        assert "xyz".startswith("".join(chunk.text for chunk in chunks))
        scored = [token for chunk in chunks for token in chunk.tokens]
        assert (last.finish_detail is None) == (len(scored) < 3)


def test_a_stop_among_choices_gives_no_probabilities() -> None:
    """Half of the choices cannot be compared."""
    for after in range(5):
        asked = GivenChoices({"xy": tuple(b"xy"), "xyz": tuple(b"xyz")}, True, "sum")
        stopped = scorer(Model(), cancelled=stop_after(after))
        chunks, last = parts(list(stopped.choices(asked)))
        assert (chunks, last.finish_detail, last.choices) == ([], None, None)


def test_choices_are_what_each_is_alone() -> None:
    """The log-probability of a choice does not depend on the others."""
    found = choices_of("cat", "cab", "dog", "c", end=True)
    for score in found.scores:
        assert score.logprob == pytest.approx(alone(b"ab", score.choice, end=True), abs=1e-12)
    total = sum(math.exp(alone(b"ab", text, end=True)) for text in found.probabilities)
    for text, probability in found.probabilities.items():
        assert probability == pytest.approx(math.exp(alone(b"ab", text, True)) / total, abs=1e-12)
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("end", [False, True])
def test_what_choices_begin_with_is_evaluated_once(end: bool) -> None:
    """The prompt once, and each beginning that something follows once."""
    model, texts = Model(), ("cat", "cab", "car", "dog", "dot")
    choices_of(*texts, end=end, model=model)
    beginnings = {text[:length] for text in texts for length in range(1, len(text) + end)}
    assert model.prompts == [[*b"ab"]]
    assert len(model.evaluated) == len(beginnings)


def test_a_model_that_cannot_go_back_gives_the_same() -> None:
    """Its prompt is evaluated again for each choice."""
    model = Model(rewinds=False)
    assert choices_of("cat", "cab", "dog", end=True, model=model) == choices_of(
        "cat", "cab", "dog", end=True
    )
    assert len(model.prompts) > 1


def test_the_order_of_choices_does_not_matter() -> None:
    """Not to the last bit, and not for which one is the best."""
    texts = ("cat", "cab", "dog", "c")
    first = choices_of(*texts, end=True)
    for order in itertools.permutations(texts):
        other = choices_of(*order, end=True)
        assert other.probabilities == first.probabilities
        assert other.best == first.best
        assert list(other.probabilities) == list(order)


def test_one_choice_has_the_probability_one() -> None:
    """Whatever its log-probability is."""
    assert choices_of("cat").probabilities == {"cat": 1.0}


def test_the_ways_to_normalise() -> None:
    """Per token, the end of text counts as one. Against an empty prompt, each is less its own."""
    texts = ("cat", "d")
    plain = {text: alone(b"ab", text, True) for text in texts}
    before = {text: alone(b"q", text, True) for text in texts}
    for normalize, values in (
        ("sum", plain),
        ("token", {text: plain[text] / (len(text) + 1) for text in texts}),
        ("empty-prompt", {text: plain[text] - before[text] for text in texts}),
    ):
        empty = b"q" if normalize == "empty-prompt" else b""
        found = choices_of(*texts, end=True, normalize=normalize, empty=empty)
        total = sum(math.exp(value) for value in values.values())
        for text in texts:
            assert found.probabilities[text] == pytest.approx(math.exp(values[text]) / total)
        assert found.logprobs == pytest.approx(plain)
        wanted = before if empty else dict.fromkeys(texts)
        assert {each.choice: each.empty_prompt_logprob for each in found.scores} == (
            pytest.approx(wanted)
        )


@pytest.mark.parametrize(
    ("logprobs", "probabilities"),
    [
        ((-1e4, -1e4), (0.5, 0.5)),
        ((-1e5, -1e4), (0, 1)),
        ((-math.inf, -1), (0, 1)),
        ((-math.inf, -math.inf), (0.5, 0.5)),
        ((0, -math.log(3)), (0.75, 0.25)),
    ],
)
def test_probabilities_of_extreme_figures(
    logprobs: tuple[float, float], probabilities: tuple[float, float]
) -> None:
    """Nothing underflows, and nothing is divided by zero."""
    scores = tuple(
        ChoiceScore(choice=name, probability=0, logprob=value)
        for name, value in zip("ab", logprobs, strict=True)
    )
    found = choice_probabilities(scores, "sum", end_of_text=False)
    assert tuple(found.probabilities.values()) == pytest.approx(probabilities)


def test_any_of_several_tokens() -> None:
    """The probability of the end is that of all tokens that end a text."""
    logits = logits_after([1])
    powers = np.exp(logits.astype(np.float64))
    wanted = math.log((powers[3] + powers[9]) / powers.sum())
    assert log_probability_of_any(logits, {3, 9}) == pytest.approx(wanted, abs=1e-12)
    logits[[3, 9]] = -np.inf
    assert log_probability_of_any(logits, {3, 9}) == -math.inf


def test_perplexity() -> None:
    """exp(−mean log-probability); no number for no tokens; infinite where it is too large."""
    assert Score(logprob=-2 * math.log(8), token_count=2).perplexity == pytest.approx(8)
    assert Score(logprob=0, token_count=0).perplexity is None
    assert Score(logprob=-1e4, token_count=1).perplexity == math.inf
    assert Score(logprob=-math.inf, token_count=1).perplexity == math.inf
