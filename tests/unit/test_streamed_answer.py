"""The answer of a server as it comes: its two parts, their tokens, and a Stop."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from llmwit_magic.contract.events import Chunk, End, Event
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, TokenInfo
from llmwit_magic.engines.server.answers import Part
from llmwit_magic.engines.server.streamed_answer import StreamedAnswer
from tests.support.fake import prepared


def token(text: str) -> TokenInfo:
    return TokenInfo(id=None, bytes=text.encode(), logprob=-1.0, rank=0)


class Made:
    """An answer that has begun, and its events."""

    def __init__(self, **fields: Any) -> None:
        fields = {"model": "m", "prompt": "p", "chat": True, "params": {"max_tokens": 99}} | fields
        self.request = Request(**fields)
        self.events: list[Event] = []
        self.cancel = threading.Event()
        self.answer = StreamedAnswer(self.request, self.events.append, self.cancel)
        self.answer.begin(prepared(self.request), None, None, False)

    @property
    def tokens(self) -> list[tuple[bytes, bool]]:
        chunks = [event for event in self.events if isinstance(event, Chunk)]
        return [(item.bytes, item.reasoning) for chunk in chunks for item in chunk.tokens]

    @property
    def end(self) -> End:
        assert isinstance(self.events[-1], End)
        return self.events[-1]


def test_tokens_of_reasoning_belong_to_it() -> None:
    """A server lists them with the reasoning that it sends apart."""
    made = Made(top_logprobs=0)
    for text in ("Let", " me"):
        made.answer.take(Part(reasoning=text, tokens=(token(text),)))
    made.answer.take(Part(text="Yes", tokens=(token("Yes"),), generated_token_count=3))
    made.answer.take(Part(finish_detail=FinishDetail.EOS))
    made.answer.end()
    assert made.tokens == [(b"Let", True), (b" me", True), (b"Yes", False)]
    assert not made.end.notices


@pytest.mark.parametrize(("said", "counted"), [(None, None), (64, 64), (0, 0)])
def test_hidden_reasoning_is_counted_where_it_is_said(
    said: int | None, counted: int | None
) -> None:
    """A model may think without showing it. Without a number, nobody knows."""
    made = Made()
    made.answer.take(Part(text="Yes", generated_token_count=70, reasoning_token_count=said))
    made.answer.take(Part(finish_detail=FinishDetail.EOS))
    made.answer.end()
    assert made.end.usage.reasoning_token_count == counted
    assert Made(chat=False).answer._thinking_count == 0


def test_a_stop_waits_for_a_filter_that_judges() -> None:
    """The text that it lets pass is kept, and the run has its end."""

    def slow(text: str) -> int | None:
        time.sleep(0.3)
        return None

    made = Made(content_filters=(slow,))

    async def stopped() -> None:
        task = asyncio.create_task(made.answer.take_in_loop(Part(text="kept")))
        await asyncio.sleep(0.1)
        made.cancel.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(stopped())
    made.answer.end()
    assert "".join(event.text for event in made.events if isinstance(event, Chunk)) == "kept"
    assert made.end.finish_detail is None
