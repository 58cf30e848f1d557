"""IPython in a terminal: text as it comes, the status line, an interrupt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pexpect = pytest.importorskip("pexpect")


@pytest.fixture
def terminal(default_model_loaded: Path) -> Iterator[pexpect.spawn]:
    child = pexpect.spawn(
        sys.executable,
        ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"],
        encoding="utf-8",
        timeout=40,
        dimensions=(40, 200),
    )
    child.expect(r"In \[1\]: ")
    child.sendline("%load_ext llmwit_magic")
    child.expect(r"In \[2\]: ")
    yield child
    child.close(force=True)


def cell(terminal: pexpect.spawn, line: str, prompt: str) -> None:
    terminal.sendline(f"get_ipython().run_cell_magic('infer', {line!r}, {prompt!r})")


def test_a_terminal_streams_text(terminal: pexpect.spawn) -> None:
    """The answer, then one status line; an interrupt leaves one line and the prompt."""
    cell(terminal, "--temperature 0 --stop .", "The capital of France is\n")
    terminal.expect(r" Paris\r\n── stop · stop sequence \"\.\"")
    terminal.expect(r"In \[3\]: ")
    cell(terminal, "--max-tokens 2000 --seed 5 --temperature 0.9", "Once upon a time\n")
    terminal.expect(r"\w+ \w+ \w+ \w+ \w+ \w+")
    terminal.sendintr()
    terminal.expect(r"── interrupted")
    terminal.expect(r"Interrupted: stopped after \d+ tokens")
    terminal.expect(r"In \[4\]: ")
    assert "Traceback" not in terminal.before
    cell(terminal, "--temprature 1", "x")
    terminal.expect(r"unknown option --temprature: did you mean --temperature\?")
