"""The error of a child that ended: how it ended and what to try next, in one line."""

from __future__ import annotations

import signal
import sys

from ...errors import EngineDied, EngineFailed

_MEMORY_ADVICE = "it ran out of memory: try a smaller model or context"
# What to try after a death, by its cause: the signal, or "memory".
_ADVICE = {
    "memory": _MEMORY_ADVICE,
    "SIGKILL": "something killed it, often for lack of memory: try a smaller model or context",
    "SIGSEGV": "the model file is likely damaged, or of a kind that {engine} cannot run",
    "SIGBUS": "the model file changed while it was in use: leave it alone and run again",
    "SIGABRT": "{engine} gave up: try a smaller context, or fetch the model file again",
    "SIGFPE": "the model file is likely damaged: fetch it again",
    "SIGILL": "{engine} uses instructions that this processor lacks",
}
# The last words of a process that ran out of memory have one of these. They come from Python, from
# its threads, from numpy's BLAS, from the dynamic linker, from C++, and from Vulkan and CUDA.
_MEMORY_WORDS = (
    "MemoryError", "start new thread", "Memory allocation", "failed to map segment", "bad_alloc",
    "OutOfDeviceMemory", "CUDA error: out of memory",
)  # fmt: skip
_AGAIN = "run the cell again"
# On Windows the exit code is an NTSTATUS that tells the cause. For each code: the cause in words,
# and the key of `_ADVICE` that means the same.
_STATUS = {
    0xC0000005: ("an access violation", "SIGSEGV"),
    0xC0000006: ("an error of the disk or network under a mapped file", "SIGBUS"),
    0xC0000017: ("lack of memory", "memory"),
    0xC000001D: ("an illegal instruction", "SIGILL"),
    0xC0000094: ("a division by zero", "SIGFPE"),
    0xC00000FD: ("a stack overflow", "SIGSEGV"),
    0xC000012D: ("lack of memory", "memory"),
    0xC0000374: ("a damaged heap", "SIGSEGV"),
    0xC0000409: ("abort or a buffer overrun", "SIGABRT"),
}
_ABORT = 3
"""The exit code of C's `abort` on Windows. On other systems `abort` is a signal."""


def dead(
    name: str, doing: str, code: int | None, output: str, engine: str = "ctransformers",
    again: str = _AGAIN,
) -> EngineDied:  # fmt: skip
    """The error of a child that ended with the exit code `code`.

    A negative code is a signal, as in `subprocess`. None stands for a child that broke off and had
    to be ended. `doing` says in words what the child was doing. `output` has its last words, and
    `engine` is the backend that ran the model. `again` is the advice where the cause is not known.
    """
    how, cause = _ending(code)
    advice = _MEMORY_ADVICE if _of_memory(output) else _ADVICE.get(cause, again)
    advice = advice.format(engine=engine)
    said = f"; its last words: {output}" if output else ""
    return EngineDied(f"the engine of {name} {how} while {doing}: {advice}{said}")


def _ending(code: int | None) -> tuple[str, str]:
    """How a child ended in words, and the key of the advice."""
    if code is None:
        return "broke off and did not end by itself", ""
    if code < 0:
        try:
            cause = signal.Signals(-code).name
        except ValueError:
            cause = f"signal {-code}"
        return f"was ended by {cause}", cause
    if code in _STATUS:
        words, cause = _STATUS[code]
        return f"was ended by {words} (0x{code:08X})", cause
    if code >= 0xC0000000:
        return f"exited with code 0x{code:08X}", ""
    if code == _ABORT and sys.platform == "win32":
        return f"was ended by abort ({code})", "SIGABRT"
    return f"exited with code {code}", ""


def broken(name: str, doing: str, said: str) -> EngineFailed:
    """The error of a child that raised an unexpected exception. `said` is its report of that."""
    advice = _MEMORY_ADVICE if _of_memory(said) else _AGAIN
    return EngineFailed(f"the engine of {name} failed while {doing}: {advice}; {said}")


def _of_memory(said: str) -> bool:
    return any(word in said for word in _MEMORY_WORDS)
