"""How a child ended, and what to try next, in one line."""

from __future__ import annotations

from ..errors import EngineDied, EngineFailed

# What to try after a death, by the signal that the process died of.
_ADVICE = {
    "SIGKILL": "something killed it, often for lack of memory: try a smaller model or context",
    "SIGSEGV": "the model file is likely damaged, or of a kind that ctransformers cannot run",
    "SIGBUS": "the model file changed while it was in use: leave it alone and run again",
    "SIGABRT": "ctransformers gave up: try a smaller context, or fetch the model file again",
    "SIGFPE": "the model file is likely damaged: fetch it again",
    "SIGILL": "ctransformers uses instructions that this processor lacks",
}
# In the last words of what ran out of it: Python, its threads, numpy's BLAS, the dynamic linker,
# C++.
_MEMORY_WORDS = (
    "MemoryError", "start new thread", "Memory allocation", "failed to map segment", "bad_alloc",
)  # fmt: skip
_MEMORY_ADVICE = "it ran out of memory: try a smaller model or context"
_AGAIN = "run the cell again"


def dead(name: str, doing: str, ending: str | None, output: str) -> EngineDied:
    """The error of a child that ended by itself, or broke off (`ending` None) and was ended."""
    if ending is None:
        how = "broke off and did not end by itself"
    elif ending.startswith("code "):
        how = f"exited with {ending}"
    else:
        how = f"was ended by {ending}"
    advice = _MEMORY_ADVICE if _of_memory(output) else _ADVICE.get(ending or "", _AGAIN)
    said = f"; its last words: {output}" if output else ""
    return EngineDied(f"the engine of {name} {how} while {doing}: {advice}{said}")


def broken(name: str, doing: str, said: str) -> EngineFailed:
    """The error of a child that met with what nobody expected, and said so."""
    advice = _MEMORY_ADVICE if _of_memory(said) else _AGAIN
    return EngineFailed(f"the engine of {name} failed while {doing}: {advice}; {said}")


def _of_memory(said: str) -> bool:
    return any(word in said for word in _MEMORY_WORDS)
