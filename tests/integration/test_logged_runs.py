"""A run of the log in a notebook: `runs[n]` shows it as the run did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmwit_magic.runlog.log import RunLog
from tests.support.kernel import Kernel, Once, running_kernel

SLOW = """
import pathlib, time
def slow(text):
    time.sleep(0.03)
    if len(text) > 40:
        pathlib.Path({sign!r}).touch()
"""
ENDLESS = (
    "--temperature 0 --repeat-penalty 0.1 "  # the same token again and again, and no end of text
    "--max-tokens none --context-length 8192 --accept context"
)
"""Options of a run that the engine does not end in the time of a test."""
PROMPT = "A language model reads a <b>prompt</b>"


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """The file that is there when a slow run has some text."""
    return tmp_path / "half-way"


@pytest.fixture
def kernel(tiny_model: Path, log_path: Path, sign: Path) -> Iterator[Kernel]:
    with running_kernel() as kernel:
        reply = kernel.run(
            f"%load_ext llmwit_magic\n%config InferMagics.log_path = {str(log_path)!r}\n"
            f"%config InferMagics.model = {str(tiny_model)!r}\n"
            "from llmwit_magic import runs" + SLOW.format(sign=str(sign))
        )
        assert reply.status == "ok", reply.error
        yield kernel


@pytest.mark.parametrize(
    "how", ["ok", "tokens", "chat", "stopped", "interrupted", "killed", "refused"]
)
def test_it_shows_as_the_run_did(kernel: Kernel, log_path: Path, sign: Path, how: str) -> None:
    """Text, status line and buttons are those of the finished view, in HTML and in plain text."""
    options = {
        "tokens": "--top-logprobs 2",
        "chat": "--chat --system 'Be \"brief\" & <i>kind</i>.'",
        "stopped": "--stop e --stop '\\n' --max-tokens none",
        "refused": "--context-length 5",
    }.get(how, "")
    when = None
    if how in ("interrupted", "killed"):
        kernel.run("%config InferMagics.content_filters = [slow]")
        action = kernel.interrupt if how == "interrupted" else lambda: kernel.engines()[0].kill()
        when = Once(lambda reply: sign.exists(), action)
        options = ENDLESS
    run = kernel.run(f"%%infer {options}\n{PROMPT}", when=when)
    row = RunLog(log_path).row(-1)
    expected = {"interrupted": "interrupted", "killed": "error", "refused": "error"}.get(how, "ok")
    assert (row["run_id"], row["status"]) == (1, expected)
    # A content filter that is a function keeps all text back until the end.
    assert bool(row["text"]) == (how not in ("killed", "refused"))
    logged = kernel.run("runs[1]")
    assert logged.status == "ok", logged.error
    assert logged.text == run.text
    assert f"run {row['run_id']}" in logged.text
    assert logged.html == run.html
