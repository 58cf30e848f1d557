"""How many threads an evaluation uses. The number changes as other programs come and go.

ctransformers' threads spin while they wait for one another. As many threads as
there are free cores are the fastest. With one thread more, all threads wait for
the one whose core another program uses, and are much slower than a single thread.
The results are the same to the bit with any number of threads. So the number may
change between two tokens.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import InvalidInput
from .cores import fast_cores

Threads = Callable[[], int]
"""Gives the number of threads; called before each evaluation."""

WINDOW_SECONDS = 0.2
"""The load is measured over at least this time: the system counts in hundredths of a second."""
STALE_SECONDS = 1.0
"""A measurement that is older says nothing of the present load."""
TOLERATED = 0.45
"""Load of other programs, in cores, beside which a thread on each core is still the fastest.

Measured with two threads: another program of that load, in bursts of 2 to 20 ms,
halves the gain of the second thread. One of a load of 0.5 makes two threads slower
than one.
"""
CALM = 0.3
"""Load of other programs, in cores, below which a core may be taken back."""
MOST = 8
"""The most threads. Reading the weights takes the time, and more threads do not read faster."""
SMALL_MODEL_BYTES = 8_000_000
"""A model with fewer bytes of weights runs on one thread.

Measured with two: a token of 7 MB takes them as long as one thread, and one of less takes longer,
since they wait for one another longer than they work.
"""


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """The number of cores that this process may run on, without slow cores and hyper-threads.

    The threads wait for the slowest of them. Hyper-threads of one core share its
    units that multiply.
    """
    fast = fast_cores()
    if fast is None:
        import psutil

        fast = psutil.cpu_count(logical=False)
    return min(usable_cores(), fast or usable_cores())


def fixed_threads(asked: int) -> Threads:
    """Always that number of threads. Raises `InvalidInput` unless it is from 1 to the cores."""
    cores = usable_cores()
    if not 1 <= asked <= cores:
        raise InvalidInput(
            f"threads: {asked} is not valid: it must be from 1 to {cores}, the cores of this "
            "machine (more never ends), or auto"
        )
    return lambda: asked


def automatic_threads(weight_bytes: int, adaptive: Threads) -> Threads:
    """The number of threads for a model with so many bytes of weights; a large one's is `adaptive`."""
    return fixed_threads(1) if weight_bytes < SMALL_MODEL_BYTES else adaptive


class AdaptiveThreads:
    """As many threads as other programs leave cores free.

    `load()` is the mean number of cores that other programs used since its last
    call. `waiting()` is the number of other tasks that want a core at this moment,
    0 where the system does not tell. Tests replace both, and `clock`.
    """

    def __init__(
        self,
        cores: int | None = None,
        load: Callable[[], float] | None = None,
        waiting: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cores = cores or usable_cores()
        self._most = min(MOST, self._cores if cores else physical_cores())
        self._load = load or Load()
        self._waiting = waiting or others_running
        self._clock = clock
        self._measured = -math.inf
        self._calm_windows = 0
        self._threads = self._cores

    def __call__(self) -> int:
        """The number of threads for the next evaluation."""
        since = self._clock() - self._measured
        if since > STALE_SECONDS:
            self._start()
        elif since >= WINDOW_SECONDS:
            self._adapt()
        return min(self._threads, self._most)

    def _start(self) -> None:
        """Begin with this moment's load, since that of the last moments is unknown."""
        self._threads = max(1, self._cores - self._waiting())
        # This was a guess from one moment, which one calm window corrects.
        self._calm_windows = 1
        self._load()
        self._measured = self._clock()

    def _adapt(self) -> None:
        """Give cores up after one window of load, and take cores back after two calm windows."""
        load = self._load()
        self._measured = self._clock()
        if (fewer := self._left(load, TOLERATED)) < self._threads:
            self._threads, self._calm_windows = fewer, 0
        elif (more := self._left(load, CALM)) > self._threads:
            self._calm_windows += 1
            if self._calm_windows == 2:
                self._threads, self._calm_windows = more, 0
        else:
            self._calm_windows = 0

    def _left(self, load: float, tolerated: float) -> int:
        """The cores that a load leaves, at least one; a load of `tolerated` costs none."""
        return max(1, self._cores - max(0, math.ceil(load - tolerated)))


class Load:
    """The cores that other programs use: the work of our cores, without that of this process."""

    def __init__(self) -> None:
        self._last = self._read()

    def __call__(self) -> float:
        """The mean number of cores that others have used since the last call."""
        (now, busy, own), (then, before, own_before) = self._read(), self._last
        self._last = now, busy, own
        return max(0.0, (busy - before) - (own - own_before)) / max(now - then, 1e-3)

    def _read(self) -> tuple[float, float, float]:
        """The time now, the work of our cores and the work of this process, all in seconds."""
        import psutil

        cores = psutil.cpu_times(percpu=True)
        if hasattr(os, "sched_getaffinity") and max(ours := os.sched_getaffinity(0)) < len(cores):
            cores = [cores[core] for core in ours]
        busy = sum(map(_worked, cores))
        return time.monotonic(), busy, time.process_time()


def _worked(times: object) -> float:
    """Seconds that a core was not free. Time that other virtual machines had it counts too."""
    names = ("user", "nice", "system", "irq", "softirq", "steal", "interrupt", "dpc")
    return sum(getattr(times, name, 0.0) for name in names)


def others_running() -> int:
    """How many other tasks of this machine run or want to run, as Linux counts them.

    The least of three counts within milliseconds is taken, so that a task which runs
    for a moment only does not count. 0 where the number is unknown.
    """
    if sys.platform != "linux" or usable_cores() < (os.cpu_count() or 1):
        return 0  # only Linux tells it, and counts the tasks of cores that are not ours too
    looks = []
    for pause in (0.0, 0.001, 0.001):
        time.sleep(pause)
        looks.append(_running_tasks())
    return max(0, min(looks) - 1)


def _running_tasks() -> int:
    try:
        text = Path("/proc/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 1
    found = [line.split()[1] for line in text.splitlines() if line.startswith("procs_running ")]
    return int(found[0]) if found else 1
