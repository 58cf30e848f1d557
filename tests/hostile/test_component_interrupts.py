"""Interrupts of `%infer_component` at random moments, in a real kernel."""

from __future__ import annotations

import random
import re
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.kernel import running_kernel
from tests.support.promises import are_gone
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf
from tests.support.wat_guests import (
    RUNAWAYS,
    calls_for_ever,
    forwarder,
    reader,
    runaway,
)
from tests.support.wat_interfaces import FIRST, SECOND

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform == "win32", reason="interrupts of processes are POSIX's"),
]
LONGEST = {"stop": [], "max_tokens": None, "temperature": 0, "repeat_penalty": 0.1}
"""The same token again and again, so that no end of text comes before the interrupt."""


def test_interrupts_of_components(tmp_path: Path, report: Report, long: bool) -> None:
    """The kernel lives, the cell ends soon, no run is left open, and the next call works."""
    chance = random.Random(21)
    log, count = tmp_path / "runs.sqlite3", 200 if long else 30
    model = write_llama_gguf(tmp_path / "m.gguf", context_length=4096, embedding=128, blocks=3)
    guests = {
        "answer": forwarder(SECOND),
        "stream": reader(SECOND, "infer-stream", "inferencing-stream"),
        "calls": calls_for_ever(FIRST),
        "loop": runaway(RUNAWAYS["loop"]),
    }
    for name, text in guests.items():
        (tmp_path / f"{name}.wat").write_text(text, encoding="utf-8")
    lines = {
        "answer": "infer {{request}}", "stream": "read 400 {{request}}", "calls": "go m Hello",
        "loop": "go",
    }  # fmt: skip
    with running_kernel() as kernel:
        request = {
            "model": "m", "prompt": {"text": "Hello"}, "params": LONGEST, "logprobs": "no",
            "echo": False,
        }  # fmt: skip
        reply = kernel.run(
            f"%load_ext llmwit_magic\n%config InferMagics.log_path = {str(log)!r}\n"
            f"request = {request!r}\nshort = dict(request, params=dict({LONGEST!r}, max_tokens=2))"
        )
        assert reply.status == "ok", reply.error
        again = f"_ = %infer_component {tmp_path}/answer.wat infer {{{{short}}}} -m {model}"
        assert kernel.run(again).status == "ok"
        pid = kernel.pid
        for number in range(count):
            name = list(guests)[number % len(guests)]
            show = " --show" * (number // len(guests) % 2)
            message = kernel.start(
                f"_ = %infer_component {tmp_path}/{name}.wat {lines[name]} -m {model}{show}"
            )
            time.sleep(chance.uniform(0, 0.25))
            kernel.interrupt()
            sent = time.monotonic()
            reply = kernel.wait(message)
            assert time.monotonic() - sent < 6
            report.promise("kernel deaths", kernel.manager.is_alive() and kernel.pid == pid)
            assert re.match(r"Interrupted: |KeyboardInterrupt|$", reply.error), reply.error
            ended = reply.error.partition(":")[0] or "ran before it came"
            report.tried("Ctrl-C in %infer_component", ended)
            after = kernel.run(again)
            assert after.status == "ok", (reply.error, after.error)
        engines = kernel.engines()
        with closing(sqlite3.connect(log)) as connection:
            rows = dict(connection.execute("SELECT status, count(*) FROM runs GROUP BY status"))
        report.promise("log rows lost", "running" not in rows, str(rows))
        assert rows["ok"] >= count + 1
        assert rows["interrupted"] > count / 10
    are_gone(report, engines)
