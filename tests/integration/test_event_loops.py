"""`ainfer` and `astream`: runs that an event loop waits for, with a real engine and a server."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic import ainfer, api, astream, infer
from llmwit_magic.errors import InferenceError, InvalidInput
from llmwit_magic.running.session import Session
from tests.support.busy_server import Running, busy_server
from tests.support.kernel import Once, running_kernel

LONG: dict[str, Any] = {"max_tokens": 4000, "temperature": 1.2, "seed": 3}


@pytest.fixture(autouse=True)
def own_session(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "current_session", lambda: session)


@pytest.fixture
def server() -> Iterator[Running]:
    with busy_server(slots=32, seconds=1) as server:
        yield server


@pytest.fixture(params=["local", "server"])
def model(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Any]:
    if request.param == "local":
        yield tiny_model
    else:
        with busy_server(slots=32, seconds=0.4) as server:
            yield server.url


def run_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llmwit-run"]


async def until_open(server: Running, count: int) -> None:
    """Wait until so many streams are open at the server."""
    while (await asyncio.to_thread(lambda: server.counts))["open"] != count:
        await asyncio.sleep(0.01)


def test_the_result_is_that_of_infer(model: Any) -> None:
    """Whole or chunk by chunk, an event loop gets what a thread gets."""
    params = {"max_tokens": 12, "seed": 7}
    expected = infer(model, "Once", params)

    async def ask() -> None:
        result = await ainfer(model, "Once", params)
        assert (result.text, result.finish_reason) == (expected.text, expected.finish_reason)
        stream = astream(model, "Once", params)
        assert "".join([chunk async for chunk in stream]) == expected.text
        assert (await stream.result()).usage.generated_token_count == (
            expected.usage.generated_token_count
        )

    asyncio.run(ask())


def test_the_loop_goes_on_meanwhile(server: Running) -> None:
    """Twenty answers of a server take as long as one, and other tasks run beside them."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    async def ask() -> list[str]:
        beside = asyncio.create_task(tick())
        results = await asyncio.gather(*(ainfer(server.url, f"p{n}") for n in range(20)))
        beside.cancel()
        return [result.text for result in results]

    assert asyncio.run(ask()) == [f"answer to p{n} 1 2 3" for n in range(20)]
    assert server.counts["most open"] == 20
    assert ticks > 10


@pytest.mark.usefixtures("default_model_source")
@pytest.mark.parametrize("where", ["local", "server"])
def test_a_cancelled_task_leaves_nothing_behind(
    where: str, server: Running, session: Session
) -> None:
    """When the task has ended, its run has ended too: in the log, in its thread, at the server."""

    model = server.url if where == "server" else None

    async def cancel_in_the_middle(work: Any) -> None:
        task = asyncio.create_task(work)
        await asyncio.sleep(0.15)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.log.rows()[-1]["status"] == "interrupted"

    async def consume() -> None:
        async for _ in astream(model, "Once", LONG):
            pass

    # The first run loads the model.
    infer(model, "Once", {"max_tokens": 1})
    for work in (ainfer(model, "Once", LONG), consume()):
        asyncio.run(cancel_in_the_middle(work))
        assert not [run for run in session._runs if not run.done]
    deadline = time.monotonic() + 1
    while run_threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_cancelled_streams_are_closed_at_the_server(server: Running) -> None:
    """Also those of a group of which one task has failed."""

    async def ask() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(ainfer(server.url, f"p{number}"))
            await until_open(server, 8)
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        asyncio.run(ask())
    asyncio.run(until_open(server, 0))
    assert server.counts == server.counts | {"open": 0, "closed early": 8}


def test_a_stream_that_is_left_ends_its_run(server: Running) -> None:
    """By the end of its context, and by nobody having it any more."""

    async def leave() -> None:
        async with astream(server.url, "a") as stream:
            assert await anext(stream) == "answer to a"
        assert stream.run.status == "interrupted"
        assert (await stream.result()).text == "answer to a"
        async for _ in astream(server.url, "b"):
            break
        gc.collect()
        await until_open(server, 0)

    asyncio.run(leave())
    assert server.counts == server.counts | {"open": 0, "closed early": 2}


def test_errors_are_those_of_infer(server: Running) -> None:
    """At once for a bad value, and when it is awaited for what happens later."""

    async def ask() -> None:
        with pytest.raises(InvalidInput, match="temperature"):
            await ainfer(server.url, "p", {"temperature": -1})
        with pytest.raises(InvalidInput, match="temperature"):
            astream(server.url, "p", {"temperature": -1})
        with pytest.raises(InferenceError, match="no server 'lab' is configured"):
            await ainfer("lab::m", "p")
        with pytest.raises(InferenceError, match="no server 'lab' is configured"):
            async for _ in astream("lab::m", "p"):
                pass

    asyncio.run(ask())


def test_a_notebook_awaits_at_the_top_of_a_cell(server: Running) -> None:
    """And an interrupt of the kernel ends the run there."""
    with running_kernel() as kernel:
        reply = kernel.run(
            "from llmwit_magic import ainfer, astream, runs\n"
            f"url = {server.url!r}\n"
            "print((await ainfer(url, 'Once', {'max_tokens': 4})).finish_reason)\n"
            "async for chunk in astream(url, 'Once', {'max_tokens': 4}):\n"
            "    pass\n"
            "print(runs[-1].status)"
        )
        assert reply.text == "length\nok\n", reply
        stop = Once(lambda reply: "begins" in reply.stdout, kernel.interrupt)
        reply = kernel.run(
            "async for chunk in astream(url, 'Once', {'max_tokens': 4}):\n"
            "    print('begins', flush=True)",
            when=stop,
        )
        assert reply.status == "error"
        assert kernel.run("print(runs[-1].status)").text == "interrupted\n"
    assert server.counts == server.counts | {"open": 0, "closed early": 1}
