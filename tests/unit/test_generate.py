"""The loop with a model whose logits are a script: what it evaluates, counts and gives out."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from llmwit_magic.contract.events import Chunk, End, Event, Progress
from llmwit_magic.contract.wit import FinishDetail, FinishReason, InferencingParams
from llmwit_magic.engines.sampling import log_probabilities
from llmwit_magic.engines.sequence import generate
from llmwit_magic.engines.text_parts import TextParts
from llmwit_magic.engines.threads import Threads
from llmwit_magic.errors import EngineFailed
from tests.support.fake_model import SLICE, VOCABULARY, FakeEvaluator, FakeTokenizer


class Outcome:
    """All events of a run, and what the model evaluated for it."""

    def __init__(self, model: FakeEvaluator, events: list[Event], reports: list[Progress]) -> None:
        self.model = model
        self.reports = reports
        self.chunks = [event for event in events if isinstance(event, Chunk)]
        self.text = "".join(chunk.text for chunk in self.chunks)
        self.end = events[-1]
        assert isinstance(self.end, End)
        assert len(self.chunks) == len(events) - 1
        self.usage = self.end.usage
        self.finish = self.end.finish_detail
        self.tokens = [token for chunk in self.chunks for token in chunk.tokens]


def run(
    script: bytes = b"hello world\0",
    prompt: Sequence[int] = (1, 2, 3),
    *,
    context_length: int = 1000,
    cached: int = 0,
    filters: Sequence[Any] = (),
    top_logprobs: int | None = None,
    threads: Threads = lambda: 3,
    cancelled: Callable[[FakeEvaluator], bool] = lambda model: False,
    **params: Any,
) -> Outcome:
    model = FakeEvaluator(script, context_length, cached)
    settings = InferencingParams(**{"temperature": 0, "repeat_penalty": 1, "seed": 1} | params)
    reports: list[Progress] = []
    events = generate(
        model,
        FakeTokenizer(),  # type: ignore[arg-type]
        prompt,
        settings,
        TextParts(settings.stop, filters),
        threads=threads,
        top_logprobs=top_logprobs,
        report=reports.append,
        cancelled=lambda: cancelled(model),
    )
    return Outcome(model, list(events), reports)


def test_no_tokens_wanted_evaluates_nothing() -> None:
    """`max_tokens=0` ends at once. The prompt is counted, and the model is not used."""
    result = run(max_tokens=0, cached=2)
    assert (result.model.prompts, result.model.evaluated, result.reports) == ([], [], [])
    assert (result.text, result.chunks) == ("", [])
    assert result.finish is FinishDetail.MAX_TOKENS
    assert result.usage.model_dump() == {
        "prompt_token_count": 3, "generated_token_count": 0, "cached_token_count": 0,
        "reasoning_token_count": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "text", "evaluated", "finish"),
    [
        ({}, "hello world", b"hello world", FinishDetail.EOS),
        ({"script": b"hi\xff"}, "hi", b"hi", FinishDetail.EOS),
        ({"script": b"\0"}, "", b"", FinishDetail.EOS),
        ({"max_tokens": 1}, "h", b"", FinishDetail.MAX_TOKENS),
        ({"max_tokens": 5}, "hello", b"hell", FinishDetail.MAX_TOKENS),
        ({"max_tokens": None, "context_length": 8}, "hello", b"hell", FinishDetail.CONTEXT_FULL),
        ({"context_length": 4}, "h", b"", FinishDetail.CONTEXT_FULL),
        ({"stop": "lo w"}, "hel", b"hello ", FinishDetail.STOP_SEQUENCE),
        ({"stop": "h"}, "", b"", FinishDetail.STOP_SEQUENCE),
        ({"filters": ["wor"]}, "hello ", b"hello wor", FinishDetail.CONTENT_FILTER),
        ({"filters": [lambda text: text.find("l") if "l" in text else None]},
         "he", b"he", FinishDetail.CONTENT_FILTER),
    ],
)  # fmt: skip
def test_why_a_run_ends_and_what_it_evaluated(
    options: dict[str, Any], text: str, evaluated: bytes, finish: FinishDetail
) -> None:
    """Each reason to end gives its own text. The token that gave the reason is never evaluated."""
    result = run(**options)
    assert result.text == text
    assert bytes(result.model.evaluated) == evaluated
    assert result.finish is finish
    assert result.model.prompts == [[1, 2, 3]]
    generated = len(evaluated) + (finish is not FinishDetail.EOS)
    assert result.usage.generated_token_count == generated
    assert len([chunk for chunk in result.chunks if chunk.text or chunk.tokens]) <= generated + 1
    assert set(result.model.threads) == {3}


def test_threads_are_asked_for_before_each_evaluation() -> None:
    """The number of threads is asked for before each block of the prompt and before each token."""
    numbers = itertools.count(1)
    result = run(prompt=[1] * (2 * SLICE + 1), max_tokens=4, threads=lambda: next(numbers))
    assert result.model.threads == [1, 2, 3, 4, 5, 6]


def test_the_reasons_of_the_contract() -> None:
    """The contract has three reasons for our details; without one, a server's stop is unknown."""
    assert {detail.value: detail.reason for detail in FinishDetail} == {
        "eos": FinishReason.STOP,
        "stop_sequence": FinishReason.STOP,
        "max_tokens": FinishReason.LENGTH,
        "context_full": FinishReason.LENGTH,
        "content_filter": FinishReason.CONTENT_FILTER,
        "constraint": FinishReason.STOP,
        "scored": FinishReason.STOP,
        "unknown": FinishReason.STOP,
    }


def test_the_end_says_which_stop_sequence() -> None:
    """The end names the stop sequence that was completed, and none for the other reasons."""
    assert run(stop=["world", "lo"]).end.stop_sequence == "lo"
    assert run(stop="lo", filters=["he"]).end.stop_sequence is None
    assert run(stop="xyz").end.stop_sequence is None


@pytest.mark.parametrize(
    ("options", "finish"),
    [
        ({"max_tokens": 5, "stop": "lo"}, FinishDetail.STOP_SEQUENCE),
        ({"context_length": 8, "stop": "lo"}, FinishDetail.STOP_SEQUENCE),
        ({"max_tokens": 5, "context_length": 8}, FinishDetail.MAX_TOKENS),
        ({"max_tokens": 5, "script": b"hello\0"}, FinishDetail.MAX_TOKENS),
        ({"max_tokens": 6, "script": b"hello\0"}, FinishDetail.EOS),
        ({"max_tokens": 5, "filters": ["lo"]}, FinishDetail.CONTENT_FILTER),
        ({"script": b"hello\0", "filters": ["lo"]}, FinishDetail.CONTENT_FILTER),
    ],
)
def test_which_reason_wins(options: dict[str, Any], finish: FinishDetail) -> None:
    """A reason in the text goes before the limits. A filter's match goes before all others."""
    assert run(**options).finish is finish


def test_text_that_was_held_back_comes_with_the_end() -> None:
    """Half a stop sequence and half a character are given out when nothing follows."""
    result = run(b"abc\0", stop="bcd")
    assert (result.text, result.finish) == ("abc", FinishDetail.EOS)
    result = run("é".encode(), max_tokens=1)
    assert (result.text, result.finish) == ("\ufffd", FinishDetail.MAX_TOKENS)


def test_the_seconds_are_those_that_it_took() -> None:
    """Each part takes some of the time. Together they take no more than all of it."""
    began = time.perf_counter()
    seconds = run(b"hello\0").end.seconds
    took = time.perf_counter() - began
    assert set(seconds) == {"prompt", "decode"}
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) <= took


def test_every_token_has_its_chunk() -> None:
    """Chunks count the tokens one by one, with or without text to show."""
    result = run("héy\0".encode())
    assert [(chunk.text, chunk.generated_token_count) for chunk in result.chunks] == [
        ("h", 1), ("", 2), ("é", 3), ("y", 4),
    ]  # fmt: skip


def test_the_prompt_reports_its_progress_from_the_cached_tokens_on() -> None:
    """Progress is in tokens of the prompt: first the cached ones, then more after each block."""
    result = run(prompt=range(1, 11), cached=2)
    assert [(p.stage, p.done, p.total) for p in result.reports] == [
        ("prompt", 2, 10), ("prompt", 6, 10), ("prompt", 10, 10),
    ]  # fmt: skip
    assert result.usage.prompt_token_count == 10
    assert result.usage.cached_token_count == 2


def test_a_cancellation_between_slices_of_the_prompt() -> None:
    """The run ends without text and without a finish detail. No token is drawn."""
    asked: list[FakeEvaluator] = []

    def after_the_first_slice(model: FakeEvaluator) -> bool:
        asked.append(model)
        return True

    result = run(prompt=range(1, 11), cancelled=after_the_first_slice)
    assert [p.done for p in result.reports] == [0, 4]
    assert len(asked) == 1
    assert (result.text, result.finish, result.model.evaluated) == ("", None, [])
    assert result.usage.prompt_token_count == 10
    assert result.usage.generated_token_count == 0


def test_a_cancellation_between_tokens_keeps_the_text() -> None:
    """All generated text is given out, held back or not. There is no finish detail."""
    result = run(cancelled=lambda model: len(model.evaluated) == 4, stop="lx")
    assert (result.text, result.finish) == ("hell", None)
    assert result.usage.generated_token_count == 4
    assert result.end.stop_sequence is None


def test_a_cancelled_run_does_not_let_a_filter_s_match_out() -> None:
    """The end of a cancelled text is judged like any other. The run still counts as cancelled."""
    result = run(cancelled=lambda model: len(model.evaluated) == 4, filters=["ll"])
    assert (result.text, result.finish) == ("he", None)


def test_the_prompt_is_penalised_and_so_is_what_was_generated() -> None:
    """The repeat penalty takes prompt and answer as one context."""

    class Rival(FakeEvaluator):
        """A second token with the logit 1, which is likelier than a logit of 5 divided by 10."""

        @property
        def logits(self) -> np.ndarray:
            values = super().logits
            values[ord("z")] = max(values[ord("z")], 1)
            return values

    def texts(prompt: list[int], penalty: float) -> str:
        params = InferencingParams(temperature=0, repeat_penalty=penalty, seed=1)
        events = generate(
            Rival(b"aba\0"), FakeTokenizer(), prompt, params, TextParts(),  # type: ignore[arg-type]
            threads=lambda: 1, top_logprobs=None, report=lambda p: None, cancelled=lambda: False,
        )  # fmt: skip
        return "".join(event.text for event in events if isinstance(event, Chunk))

    assert texts([1], 1) == "aba"
    assert texts([1], 10) == "abz"
    assert texts([ord("b")], 10) == "aza"


def test_logits_that_are_no_numbers_fail_the_run_after_its_text() -> None:
    """The chunks before the bad logits come out before the error is raised."""

    class Broken(FakeEvaluator):
        @property
        def logits(self) -> np.ndarray:
            return super().logits * (np.nan if len(self.evaluated) == 2 else 1)

    events = generate(
        Broken(b"abc"), FakeTokenizer(), [1], InferencingParams(temperature=0, seed=1),  # type: ignore[arg-type]
        TextParts(), threads=lambda: 1, top_logprobs=None,
        report=lambda p: None, cancelled=lambda: False,
    )  # fmt: skip
    assert [next(events).text, next(events).text] == ["a", "b"]  # type: ignore[union-attr]
    with pytest.raises(EngineFailed):
        next(events)


def test_tokens_are_recorded_only_where_asked() -> None:
    """None records nothing, 0 records each token's log-probability, and n its alternatives too."""
    assert run(top_logprobs=None).tokens == []
    plain = run(top_logprobs=0)
    assert b"".join(token.bytes for token in plain.tokens) == b"hello world"
    assert all(token.top == () for token in plain.tokens)
    with_top = run(top_logprobs=3)
    for token, letter in zip(with_top.tokens, b"hello world", strict=True):
        values = np.zeros(VOCABULARY, dtype=np.float32)
        values[letter] = 5
        logprob, rank, best = log_probabilities(values, letter, 3)
        assert (token.id, token.bytes, token.rank) == (letter, bytes([letter]), rank)
        assert token.logprob == logprob
        assert [(other.id, other.logprob) for other in token.top] == best
        assert [other.bytes for other in token.top] == [bytes([i]) for i, _ in best]


def test_the_parts_are_timed() -> None:
    """`seconds` has the prompt and the decoding, where they took place."""
    assert set(run().end.seconds) == {"prompt", "decode"}
    assert set(run(max_tokens=0).end.seconds) == set()
    assert all(value >= 0 for value in run().end.seconds.values())


@pytest.mark.parametrize("how", [{"stop": "lo"}, {"filters": ["lo"]}])
def test_tokens_of_what_is_left_out_are_not_recorded(how: dict[str, Any]) -> None:
    """Neither a stop sequence nor a filter's match can be read from the recorded tokens."""
    result = run(b"hello world", max_tokens=11, top_logprobs=1, **how)
    assert b"".join(token.bytes for token in result.tokens) == b"hel"
