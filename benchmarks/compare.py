"""Compares our cells with ctransformers and llama.cpp: speed, latency, contention, memory.

The ways are measured in turn (A B C A B C …), since a machine's speed changes
over time. Durations are measured outside the kernel: a cell takes from the
moment it is sent until its last output has arrived.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psutil

from llmwit_magic.engines.threads import usable_cores
from tests.support.kernel import Once, running_kernel

from . import machine
from .ways import Running, Way

Figures = dict[str, dict[str, list[float]]]
"""For each figure and each way, a value for each round."""
Say = Callable[[str], None]

SENTENCE = "The quick brown fox jumps over the lazy dog while the old clock strikes nine. "
SENTENCE_TOKENS = 17


@dataclass(frozen=True, slots=True)
class Size:
    """How much a benchmark does: rounds, tokens of answers and of prompts, runs of a kernel."""

    rounds: int
    tokens: int
    contended_tokens: int
    prompts: tuple[int, ...]
    contexts: tuple[int, ...]
    runs: tuple[int, int]


FULL = Size(
    rounds=3,
    tokens=129,
    contended_tokens=33,
    prompts=(17, 400, 2_000),
    contexts=(32, 512, 2_048),
    runs=(100, 1_000),
)
TINY = Size(rounds=1, tokens=3, contended_tokens=3, prompts=(17, 40), contexts=(8, 16), runs=(2, 4))


def speed(ways: Sequence[Way], size: Size, say: Say) -> Figures:
    """Tokens per second of an answer and of prompts, and seconds until the first token."""
    figures = _figures()
    with _running(ways) as all_running:
        for number in range(size.rounds):
            say(f"speed, round {number + 1} of {size.rounds}")
            for running in all_running:
                decode = _decode_pace(running, f"Chapter {number}. Once upon a time", size.tokens)
                figures["decode, tokens/s"][running.way.name].append(decode)
                for tokens in size.prompts:
                    for name, value in _prompt(running, number, tokens).items():
                        figures[name][running.way.name].append(value)
                before = running.answer(_text(number, size.prompts[-2]), 1).seconds
                figures["cell with one token, prompt before last, s"][running.way.name].append(
                    before
                )
        for running in all_running:
            process = psutil.Process(running.kernel.pid)
            figures["peak memory of the kernel, MB"][running.way.name] = [_peak_mb([process])]
            if engines := running.kernel.engines():
                figures["peak memory of its engine, MB"][running.way.name] = [_peak_mb(engines)]
    return figures


def beside_library(
    groups: Mapping[str, Sequence[Way]], tokens: int, size: Size, say: Say
) -> Figures:
    """Tokens per second of an answer and of a prompt of `tokens`, for the ways of a group in turn."""
    figures = _figures()
    with ExitStack() as stack:
        running = {name: stack.enter_context(_running(ways)) for name, ways in groups.items()}
        for number in range(2 * size.rounds):
            say(f"beside the library, round {number + 1} of {2 * size.rounds}")
            for name, one in ((name, one) for name, ways in running.items() for one in ways):
                pace = _decode_pace(one, f"Page {number}. Once upon a time", size.tokens)
                figures[f"{name}: decode, tokens/s"][one.way.name].append(pace)
                what = f"prompt of {tokens:,}, tokens/s"
                if (read := _prompt(one, number, tokens).get(what)) is not None:
                    figures[f"{name}: {what}"][one.way.name].append(read)
    return figures


def over_http(ways: Sequence[Way], size: Size, say: Say) -> Figures:
    """Tokens per second of an answer, for a cell and for one client of the HTTP server."""
    figures = _figures()
    with _running(ways) as all_running:
        for number in range(size.rounds):
            say(f"over HTTP, round {number + 1} of {size.rounds}")
            for running in all_running:
                pace = _decode_pace(running, f"Part {number}. Once upon a time", size.tokens)
                figures["one client over HTTP, tokens/s"][running.way.name].append(pace)
    return figures


def _decode_pace(running: Running, prompt: str, tokens: int) -> float:
    """Tokens per second after the first one, from the times of a long and a short answer."""
    running.answer(prompt, 1)
    one = running.answer(prompt, 1).seconds
    many = running.answer(prompt, tokens).seconds
    return (running.number(running.way.count) - 1) / (many - one)


def _prompt(running: Running, number: int, tokens: int) -> dict[str, float]:
    """The cost of a prompt: how much longer it takes the first time than the second.

    It has no speed where the engine has read most of it a second time.
    """
    prompt = _text(number, tokens)
    first = running.answer(prompt, 1).seconds
    count = running.number(running.way.prompt_count)
    again = running.answer(prompt, 1).seconds
    figures = {
        f"cell with one token, new prompt of {tokens:,}, s": first,
        f"cell with one token, same prompt of {tokens:,}, s": again,
    }
    if again < first / 2:
        figures[f"prompt of {tokens:,}, tokens/s"] = count / (first - again)
    return figures


def _text(number: int, tokens: int) -> str:
    """A prompt of about so many tokens. Its beginning differs from those of all other rounds."""
    return f"{number} {tokens} {SENTENCE * round(tokens / SENTENCE_TOKENS)}"


def latency(way: Way, size: Size, say: Say) -> Figures:
    """How long a warm cell of ours waits for its first output, its first token, and each token."""
    figures = _figures()
    with _running([way]) as (running,):
        running.answer("Hello", 1)
        for number in range(2 * size.rounds):
            say(f"latency, round {number + 1} of {2 * size.rounds}")
            prompt = f"{number} bottles of beer on the wall"
            seen = Once(lambda reply: bool(reply.html or reply.text), lambda: None)
            began = time.monotonic()
            running.kernel.run(way.answer(prompt, 1), 60, seen)
            figures["cell to first output, s"][way.name].append(
                (seen.time or time.monotonic()) - began
            )
            running.answer(prompt, size.tokens)
            for name, expression in {
                "first token, same prompt, s": "_infer.timings.first_token",
                # With a random seed an answer may end at once. It has no speed then.
                "a token, s": "1 / (_infer.timings.tokens_per_second or float('nan'))",
            }.items():
                value = running.number(expression)
                if not math.isnan(value):
                    figures[name][way.name].append(value)
    return figures


def cold(ways: Sequence[Way], size: Size, say: Say) -> Figures:
    """Seconds from a new kernel to the first token, without the kernel's own start."""
    figures = _figures()
    for number in range(size.rounds):
        say(f"cold, round {number + 1} of {size.rounds}")
        for way in ways:
            with _running([way]) as (running,):
                figures["new kernel to first token, s"][way.name].append(
                    running.setup_seconds + running.answer("The capital of France is", 1).seconds
                )
    return figures


def load_ext(size: Size, say: Say) -> Figures:
    """Seconds that `%load_ext` takes in a new kernel, less those of an empty cell."""
    figures = _figures()
    for number in range(size.rounds):
        say(f"%load_ext, round {number + 1} of {size.rounds}")
        with running_kernel() as kernel:
            empty = kernel.run("pass").seconds
            seconds = kernel.run("%load_ext llmwit_magic").seconds - empty
            figures["%load_ext, s"]["%%infer"].append(seconds)
    return figures


def contention(ours: Sequence[Way], theirs: Sequence[Way], size: Size, say: Say) -> Figures:
    """The speed of decoding beside none, one and two programs that each keep a core busy."""
    figures = _figures()
    with _running([*ours, *theirs]) as all_running:
        for count in range(3):
            with machine.busy_neighbours(count):
                for number in range(size.rounds):
                    say(f"{count} busy neighbours, round {number + 1} of {size.rounds}")
                    for running in all_running:
                        prompt = f"Verse {number}. It was a dark night"
                        pace = _decode_pace(running, prompt, size.contended_tokens)
                        figures[f"decode beside {count} busy, tokens/s"][running.way.name].append(
                            pace
                        )
    return figures


def kernel_memory(way: Way, size: Size, say: Say) -> Figures:
    """How much more memory a kernel has than a bare one, after some runs and after many."""
    figures = _figures()
    with running_kernel() as kernel:
        bare = psutil.Process(kernel.pid).memory_info().rss
    with _running([way]) as (running,):
        process, done = psutil.Process(running.kernel.pid), 0
        for runs in size.runs:
            say(f"memory after {runs:,} runs")
            for number in range(done, runs):
                running.answer(f"{number} is", 1)
            done = runs
            held = (process.memory_info().rss - bare) / 1e6
            figures["kernel beyond a bare one, MB"][f"after {runs:,} runs"] = [held]
    return figures


def bandwidth(size: Size, say: Say) -> Figures:
    """Gigabytes per second that all cores together read from memory."""
    say("memory bandwidth")
    bytes_read = 1 << (30 if size is FULL else 22)
    rates = [machine.read_bandwidth(bytes_read, usable_cores()) for _ in range(size.rounds)]
    return {"memory, GB/s": {"machine": [rate / 1e9 for rate in rates]}}


@contextmanager
def _running(ways: Sequence[Way]) -> Iterator[list[Running]]:
    with ExitStack() as stack:
        all_running = []
        for way in ways:
            all_running.append(Running(way))
            stack.callback(all_running[-1].close)
        yield all_running


def _figures() -> Figures:
    return defaultdict(lambda: defaultdict(list))


def _peak_mb(processes: Sequence[psutil.Process]) -> float:
    return sum(map(machine.peak_memory, processes)) / 1e6
