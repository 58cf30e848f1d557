"""What is said of a child that ended, as POSIX tells it and, simulated, as Windows does."""

from __future__ import annotations

import signal
import sys

import pytest

from llmwit_magic.engines.local.death import dead


def told(code: int | None, output: str = "") -> str:
    return str(dead("m.gguf", "loading the model", code, output))


@pytest.mark.parametrize(
    ("status", "words", "name"),
    [
        (0xC0000005, "an access violation (0xC0000005)", "SIGSEGV"),
        (0xC000001D, "an illegal instruction (0xC000001D)", "SIGILL"),
        (0xC0000006, "an error of the disk or network under a mapped file (0xC0000006)", "SIGBUS"),
        (0xC0000094, "a division by zero (0xC0000094)", "SIGFPE"),
        (0xC00000FD, "a stack overflow (0xC00000FD)", "SIGSEGV"),
        (0xC0000374, "a damaged heap (0xC0000374)", "SIGSEGV"),
        (0xC0000409, "abort or a buffer overrun (0xC0000409)", "SIGABRT"),
        (3, "abort (3)", "SIGABRT"),
    ],
)
def test_a_death_on_windows_gets_the_advice_of_its_signal(
    status: int, words: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows the exit code stands for the signal of other systems.

    Python gives it without a sign.
    """
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"no {name} here")
    advice = told(-number).partition("while loading the model: ")[2]
    assert advice != "run the cell again"
    monkeypatch.setattr(sys, "platform", "win32")
    assert told(status) == (
        f"the engine of m.gguf was ended by {words} while loading the model: {advice}"
    )


@pytest.mark.parametrize("status", [0xC0000017, 0xC000012D])
def test_a_lack_of_memory_on_windows(status: int) -> None:
    assert "was ended by lack of memory" in told(status)
    assert told(status).endswith("it ran out of memory: try a smaller model or context")


def test_other_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown exit code is told.

    An NTSTATUS is told in the form that can be looked up. On Linux, 3 is unknown.
    """
    assert "exited with code 1 while loading the model: run the cell again" in told(1)
    assert "exited with code 0xC0000142 while" in told(0xC0000142)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "exited with code 3 while loading the model: run the cell again" in told(3)
    assert "broke off and did not end by itself" in told(None)
    for words in (
        "bad_alloc",
        "vk::Queue::submit: ErrorOutOfDeviceMemory",
        "CUDA error: out of memory",
    ):
        assert told(1, words).endswith(f"or context; its last words: {words}")
