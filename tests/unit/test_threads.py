"""How many threads an evaluation uses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from llmwit_magic.engines import threads as module
from llmwit_magic.engines.threads import (
    MOST,
    SMALL_MODEL_BYTES,
    STALE_SECONDS,
    WINDOW_SECONDS,
    AdaptiveThreads,
    Load,
    automatic_threads,
    fixed_threads,
    others_running,
    physical_cores,
    usable_cores,
)
from llmwit_magic.errors import InvalidInput


class Machine:
    """A machine with cores, a load of other programs, and a clock."""

    def __init__(self, cores: int, waiting: int = 0) -> None:
        self.now, self.load, self.waiting = 100.0, 0.0, waiting
        self.looks = 0
        self.threads = AdaptiveThreads(cores, self._look, lambda: self.waiting, lambda: self.now)

    def _look(self) -> float:
        self.looks += 1
        return self.load

    def windows(self, load: float, count: int = 1) -> int:
        """The number of threads after that many windows with that load."""
        self.load = load
        for _ in range(count):
            self.now += WINDOW_SECONDS
            number = self.threads()
        return number


def test_all_cores_of_a_quiet_machine() -> None:
    """All cores of a quiet machine are used from the first evaluation on, but at most eight."""
    assert Machine(2).threads() == 2
    assert Machine(1).threads() == 1
    assert Machine(64).threads() == MOST


@pytest.mark.parametrize(
    ("cores", "load", "left"),
    [
        (2, 0.4, 2), (2, 0.5, 1), (2, 1.0, 1), (2, 2.0, 1), (1, 1.0, 1),
        (4, 0.4, 4), (4, 1.0, 3), (4, 1.4, 3), (4, 1.5, 2), (4, 9.0, 1), (16, 4.0, 8),
    ],
)  # fmt: skip
def test_what_others_leave(cores: int, load: float, left: int) -> None:
    """A core is given up after one window in which others used about half of it."""
    machine = Machine(cores)
    machine.threads()
    assert machine.windows(load) == left


def test_a_core_comes_back_after_two_calm_windows() -> None:
    """One calm window is not enough. Two with a loud window between them are not enough either."""
    machine = Machine(2)
    machine.threads()
    assert machine.windows(1.0) == 1
    assert machine.windows(0.1) == 1
    assert machine.windows(0.4) == 1  # neither calm nor too loud
    assert machine.windows(0.1) == 1
    assert machine.windows(0.1) == 2
    assert machine.windows(0.4, 10) == 2


def test_nothing_is_looked_at_between_windows() -> None:
    """Between windows, the number of threads costs only a look at the clock."""
    machine = Machine(2)
    machine.threads()
    looks = machine.looks
    for _ in range(100):
        machine.now += WINDOW_SECONDS / 1000
        assert machine.threads() == 2
    assert machine.looks == looks


def test_after_a_pause_the_moment_counts() -> None:
    """After a pause, the present load counts and an old measurement does not."""
    machine = Machine(4)
    machine.threads()
    assert machine.windows(3.0) == 1
    machine.now += STALE_SECONDS + 1
    assert machine.threads() == 4
    machine.now += STALE_SECONDS + 1
    machine.waiting = 2
    assert machine.threads() == 2
    machine.now += STALE_SECONDS + 1
    machine.waiting = 9
    assert machine.threads() == 1


def test_a_fixed_number() -> None:
    """A fixed number of threads is from one to the number of cores."""
    cores = usable_cores()
    assert fixed_threads(cores)() == cores
    for number in (0, -1, cores + 1):
        with pytest.raises(InvalidInput, match=f"threads: {number} is not valid.* 1 to {cores},"):
            fixed_threads(number)


def test_a_small_model_runs_on_one_thread() -> None:
    """Two threads would wait for one another longer than they work."""
    adaptive = AdaptiveThreads()
    assert automatic_threads(SMALL_MODEL_BYTES - 1, adaptive)() == 1
    assert automatic_threads(SMALL_MODEL_BYTES, adaptive) is adaptive


def test_hyper_threads_are_not_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hyper-threads share the units that multiply, so they do not count as cores."""
    monkeypatch.setattr(module, "usable_cores", lambda: 8)
    monkeypatch.setattr(module, "fast_cores", lambda: None)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 4)
    quiet = AdaptiveThreads(load=lambda: 0.0, waiting=lambda: 0)
    assert quiet() == 4
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)
    assert physical_cores() == 8


@pytest.mark.parametrize(
    ("usable", "fast", "others", "threads"),
    [
        (10, 8, 0.0, 8),  # eight fast cores and two slow ones
        (8, 4, 0.0, 4),
        (20, 6, 0.0, 6),  # with hyper-threads on the fast ones
        (20, 6, 16.0, 4),
        (2, 6, 0.0, 2),  # a container that may use two cores
        (8, None, 0.0, 5),  # where the system tells nothing: all cores
    ],
)
def test_slow_cores_are_not_counted(
    usable: int, fast: int | None, others: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow cores do not count, since all threads would wait for the one on a slow core."""
    monkeypatch.setattr(module, "usable_cores", lambda: usable)
    monkeypatch.setattr(module, "fast_cores", lambda: fast)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 5)
    clock = [100.0]
    chosen = AdaptiveThreads(load=lambda: others, waiting=lambda: 0, clock=lambda: clock[0])
    chosen()
    clock[0] += WINDOW_SECONDS
    assert chosen() == threads


# The load ---------------------------------------------------------------------------

Times = namedtuple("Times", "user nice system idle iowait steal guest")


def test_load_is_all_work_but_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the cores that we may use count. Guests are not added, since user time includes them."""
    idle = Times(0, 0, 0, 0, 0, 0, 0)
    cores = [idle, idle, idle]
    clock = [10.0]
    own = [5.0]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", lambda: own[0])
    load = Load()
    cores = [Times(0.6, 0.1, 0.1, 0, 9, 0.1, 0.6), Times(9, 9, 9, 0, 0, 0, 0), idle]
    clock[0] += 0.5
    own[0] += 0.4
    assert load() == pytest.approx((0.9 - 0.4) / 0.5)
    clock[0] += 0.5
    own[0] += 0.4
    assert load() == 0  # the system rounds to hundredths: our own work may come out larger


@pytest.mark.parametrize(
    ("looks", "others"),
    [((3, 1, 2), 0), ((1, 3, 3), 0), ((3, 4, 3), 2), ((5, 4, 2), 1), ((1, 1, 1), 0), ((0, 3, 3), 0)],
)  # fmt: skip
def test_what_merely_passes_by_is_no_neighbour(
    looks: tuple[int, ...], others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least of three counts of running tasks is taken, without the task that counts."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(module, "usable_cores", lambda: os.cpu_count() or 1)
    monkeypatch.setattr(module, "_running_tasks", iter(looks).__next__)
    assert others_running() == others


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def eventually(holds: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_real_neighbours_are_seen() -> None:
    """With a busy program on each core, one thread is left, at the start of a run and during it."""
    cores = usable_cores()
    with busy_neighbours(cores):
        load = Load()
        time.sleep(0.5)
        assert eventually(lambda: load() > 0.5 * cores)
        threads = AdaptiveThreads()
        assert eventually(lambda: threads() == 1)
        if sys.platform == "linux" and cores == os.cpu_count():
            assert eventually(lambda: others_running() >= cores)
            assert eventually(lambda: AdaptiveThreads()() == 1)
