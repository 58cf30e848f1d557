"""The child's answers on their way: quick chunks are joined, all else goes out at once."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from llmwit_magic.contract.events import Chunk, End, Progress
from llmwit_magic.contract.wit import FinishDetail, InferencingUsage, TokenInfo
from llmwit_magic.engines.local import outbox
from llmwit_magic.engines.local.outbox import GATHERING_SECONDS, Outbox
from llmwit_magic.engines.local.wire import decoded

END = End(FinishDetail.EOS, InferencingUsage(prompt_token_count=1, generated_token_count=3))


class Sent:
    """An outbox whose time a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(outbox, "time", SimpleNamespace(monotonic=lambda: self.now))
        self._pipe = io.BytesIO()
        self.outbox = Outbox(self._pipe)  # type: ignore[arg-type]

    def send(self, *answers: Any, after: float = 0.0) -> None:
        self.now += after
        for answer in answers:
            self.outbox.send(answer)

    def evaluated(self, after: float) -> None:
        self.now += after
        self.outbox.send_gathered()

    @property
    def answers(self) -> list[Any]:
        return [decoded(line) for line in self._pipe.getvalue().splitlines()]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


def token(number: int) -> TokenInfo:
    return TokenInfo(id=number, bytes=b"x", logprob=-1.0, rank=0)


def test_the_first_chunk_goes_out_at_once(sent: Sent) -> None:
    sent.send(Progress("prompt", 1, 1), Chunk("a", 1))
    assert sent.answers == [Progress("prompt", 1, 1), Chunk("a", 1)]


def test_slow_chunks_go_out_one_by_one(sent: Sent) -> None:
    for number in range(1, 4):
        sent.evaluated(GATHERING_SECONDS)
        sent.send(Chunk("a", number))
        assert len(sent.answers) == number


def test_quick_chunks_become_one(sent: Sent) -> None:
    first = Chunk("a", 1, (token(1),))
    sent.send(first)
    sent.send(Chunk("b", 2, (token(2),)), Chunk("", 3), Chunk("c", 4, (token(3), token(4))))
    sent.evaluated(GATHERING_SECONDS / 2)
    assert sent.answers == [first]
    sent.evaluated(GATHERING_SECONDS)
    assert sent.answers[1:] == [Chunk("bc", 4, (token(2), token(3), token(4)))]
    sent.send(Chunk("d", 5))
    assert len(sent.answers) == 2, "the time counts from the last chunk"


def test_what_was_gathered_goes_out_before_any_other_answer(sent: Sent) -> None:
    sent.send(Chunk("a", 1), Chunk("b", 2), Chunk("c", 3), END, Chunk("of the next run", 1))
    assert sent.answers == [Chunk("a", 1), Chunk("bc", 3), END, Chunk("of the next run", 1)]


def test_reasoning_and_the_answer_behind_it_are_joined(sent: Sent) -> None:
    sent.send(Chunk("", 1, reasoning="so", reasoning_token_count=1))
    sent.send(Chunk("", 2, reasoning=".", reasoning_token_count=2))
    sent.send(Chunk("yes", 3, reasoning_token_count=2), END)
    assert sent.answers[1:-1] == [Chunk("yes", 3, reasoning=".", reasoning_token_count=2)]


def test_an_answer_and_the_reasoning_behind_it_are_not_joined(sent: Sent) -> None:
    """In a chunk with both, the reasoning comes first."""
    sent.send(Chunk("a", 1), Chunk("b", 2), Chunk("", 3, reasoning="hm"), END)
    assert sent.answers[1:-1] == [Chunk("b", 2), Chunk("", 3, reasoning="hm")]


def test_tokens_of_a_prompt_are_joined_too(sent: Sent) -> None:
    sent.send(Chunk("", 0), *(Chunk("", 0, prompt_tokens=(token(n),)) for n in (1, 2)), END)
    assert sent.answers[1] == Chunk("", 0, prompt_tokens=(token(1), token(2)))


def test_a_closed_pipe_ends_the_process(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(line: bytes) -> None:
        raise OSError

    ended: list[int] = []
    monkeypatch.setattr(outbox.os, "_exit", ended.append)
    sent.outbox._pipe = SimpleNamespace(write=closed)  # type: ignore[assignment]
    sent.send(Chunk("a", 1))
    assert ended == [0]
