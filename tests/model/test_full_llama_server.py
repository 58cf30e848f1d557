"""A batch, a sweep and an event loop over a real llama-server with four slots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest

from llmwit_magic import ainfer, api, astream
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.running.session import Session
from llmwit_magic.running.window import Ahead, default_size
from tests.support.llama_server import running_llama_server

GREEDY = {"temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def url(default_model_source: Path) -> Iterator[str]:
    with running_llama_server(default_model_source, slots=4) as server:
        yield server.url


@pytest.fixture(autouse=True)
def own_session(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "current_session", lambda: session)


def test_a_batch_takes_twice_the_slots(session: Session, url: str) -> None:
    """Each answer stands in its row, as if it were asked for alone."""
    assert default_size(session, Request(model=url, prompt="")) == 8
    frame = pandas.DataFrame({"country": ["France", "Italy", "Japan", "Spain", "France"] * 3})
    found = api.infer_frame(frame, "The capital of {{country}} is", url, GREEDY, progress=False)
    assert set(found["infer_status"]) == {"ok"}
    assert found["infer_run_id"].nunique() == 4
    for country, city in (("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo")):
        texts = set(found["infer_text"][found["country"] == country])
        assert len(texts) == 1
        assert city in texts.pop()


def test_the_runs_of_a_sweep_share_the_slots(session: Session, url: str) -> None:
    """They come in the order of the values."""
    requests = [
        Request(model=url, prompt="Once", params=InferencingParams(temperature=0, max_tokens=n))
        for n in range(1, 7)
    ]
    with Ahead(session, requests, 7) as ahead:
        counts = []
        for run in ahead:
            run.follow()
            counts.append(run.result.usage.generated_token_count)
    assert counts == [1, 2, 3, 4, 5, 6]


def test_an_event_loop_asks_it(session: Session, url: str) -> None:
    """Answers side by side; and cancelled tasks leave the slots free."""

    async def ask() -> None:
        results = await asyncio.gather(
            *(ainfer(url, f"The capital of {name} is", GREEDY) for name in ("France", "Japan"))
        )
        assert "Paris" in results[0].text
        assert "Tokyo" in results[1].text

        async def consume() -> None:
            async for _ in astream(url, "Once upon a time", {"max_tokens": 400, "seed": 1}):
                begun.set()

        begun = asyncio.Event()
        tasks = [asyncio.create_task(consume()) for _ in range(4)]
        await begun.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        began = time.monotonic()
        await ainfer(url, "One", {"max_tokens": 1})
        assert time.monotonic() - began < 5

    asyncio.run(ask())
    assert [row["status"] for row in session.log.rows()].count("interrupted") == 4
