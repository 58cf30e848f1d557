"""How full our batches keep a server, beside what other clients make of the same server.

The ways are measured in turn, since a machine's speed changes over time, and each of them on
prompts of its own, since a server keeps prompts that it has read.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas
import psutil

from llmwit_magic import api
from llmwit_magic.running.session import Session
from tests.support.busy_server import busy_server

from .compare import TINY, Figures, Say, Size
from .report import OUR_BATCH

SLOTS = 8
TOKENS = 20
TEMPLATE = "Number {{x}} in a long list of things to do on a rainy day is"
BUSY_SLOTS, BUSY_SECONDS, BUSY_WINDOW = 32, 0.2, 64


def filling(model: Path, size: Size, say: Say) -> Figures:
    """Rows a second over a real llama-server, and over a server that answers after a pause."""
    return _real(model, size, say) | _busy(size, say)


def _real(model: Path, size: Size, say: Say) -> Figures:
    rows = 3 if size is TINY else 200
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with _own_session(), api.llama_server(model, slots=SLOTS, context_length=512) as server:
        ways: Mapping[str, Callable[[range], None]] = {
            OUR_BATCH: lambda values: _infer_frame(values, server.model, TEMPLATE, TOKENS),
            "infer_frame, one at a time": lambda values: _infer_frame(
                values, server.model, TEMPLATE, TOKENS, concurrency=1
            ),
            "openai, eight threads": lambda values: _openai(values, server.url, server.api_key),
        }
        at = 0
        for number in range(size.rounds):
            for name, way in ways.items():
                say(f"llama-server, {name}, round {number + 1} of {size.rounds}")
                pace = _pace(way, range(at, at + rows))
                figures[f"{rows} rows of {TOKENS} tokens, rows/s"][name].append(pace)
                at += rows
    return figures


def _busy(size: Size, say: Say) -> Figures:
    rows = 64 if size is TINY else 10_000
    figures: Figures = defaultdict(lambda: defaultdict(list))
    process = psutil.Process()
    with busy_server(BUSY_SLOTS, BUSY_SECONDS) as server, _own_session():
        _infer_frame(range(64), server.url, "warm {{x}}", 4, concurrency=BUSY_WINDOW)
        ways: Mapping[str, Callable[[range], None]] = {
            "httpx alone": lambda values: asyncio.run(_httpx(values, server.url)),
            OUR_BATCH: lambda values: _infer_frame(
                values, server.url, TEMPLATE, 4, concurrency=BUSY_WINDOW
            ),
        }
        for name, way in ways.items():
            say(f"{rows:,} rows over {BUSY_SLOTS} slots, {name}")
            before = process.memory_info().rss
            figures[f"{rows:,} rows over {BUSY_SLOTS} slots, rows/s"][name] = [
                _pace(way, range(rows))
            ]
            grown = (process.memory_info().rss - before) / 1e6
            figures[f"memory that {rows:,} rows take, MB"][name] = [grown]
    return figures


def _pace(way: Callable[[range], None], values: range) -> float:
    began = time.perf_counter()
    way(values)
    return len(values) / (time.perf_counter() - began)


@contextmanager
def _own_session() -> Iterator[None]:
    """A session with a log in a new folder, as the one of the Python functions."""
    before = api.current_session
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder) / "runs.sqlite3")
        api.current_session = lambda: session
        try:
            yield
        finally:
            api.current_session = before
            session.close()


def _infer_frame(
    values: range, model: str, template: str, tokens: int, concurrency: int | None = None
) -> None:
    found = api.infer_frame(
        pandas.DataFrame({"x": values}), template, model, {"temperature": 0, "max_tokens": tokens},
        concurrency=concurrency, progress=False,
    )  # fmt: skip
    if set(found["infer_status"]) != {"ok"}:
        raise RuntimeError(f"rows have failed: {found['infer_error_message'].dropna().iloc[0]}")


def _prompt(value: int) -> str:
    return TEMPLATE.replace("{{x}}", str(value))


def _openai(values: range, url: str, key: str) -> None:
    """As people do it: a client, and a pool of threads that call it."""
    import openai

    with openai.OpenAI(base_url=url, api_key=key) as client, ThreadPoolExecutor(SLOTS) as pool:

        def ask(value: int) -> str:
            answer = client.completions.create(
                model="-", prompt=_prompt(value), max_tokens=TOKENS, temperature=0
            )
            return answer.choices[0].text

        list(pool.map(ask, values))


async def _httpx(values: range, url: str) -> None:
    """The same stream as ours, read by httpx without anything around it."""
    import httpx

    window = asyncio.Semaphore(BUSY_WINDOW)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=BUSY_WINDOW)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def ask(value: int) -> str:
            body: dict[str, Any] = {
                "model": "m", "prompt": _prompt(value), "max_tokens": 4, "temperature": 0,
                "stream": True, "stream_options": {"include_usage": True},
            }  # fmt: skip
            text = ""
            async with window, client.stream("POST", f"{url}/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        choices = json.loads(line[6:])["choices"]
                        text += choices[0]["text"] if choices else ""
            return text

        await asyncio.gather(*map(ask, values))
