"""Whether the kernel of a row is still there, as far as this machine can tell."""

from __future__ import annotations

import ctypes
import os
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.runlog import processes
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.processes import is_alive, process_started
from llmwit_magic.running.run import Run

BOOT, NUMBERS = "boot-1", "pid:[1]"
PID = os.getpid()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's name and start, and the container in which this process is."""
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    monkeypatch.setattr(processes, "boot_identity", lambda: BOOT)
    monkeypatch.setattr(processes, "_numbers", lambda: NUMBERS)


@pytest.mark.parametrize(
    ("host", "alive"),
    [
        (f"here {BOOT} {NUMBERS}", True),
        # A new name of the machine, since the network gave it one.
        (f"there {BOOT} {NUMBERS}", True),
        # The machine has started anew; another one's start.
        (f"here boot-0 {NUMBERS}", False),
        (f"there boot-0 {NUMBERS}", None),
        # Another container of this machine, of whatever name.
        (f"there {BOOT} pid:[2]", None),
        (f"here {BOOT} pid:[2]", None),
        # A system that names no start, and no containers.
        ("here - -", True),
        ("there - -", None),
        # Rows of older versions, which have the name alone.
        ("here", True),
        ("there", None),
        (None, None),
        (12, None),
    ],
)
def test_where_a_living_process_is_looked_for(host: Any, alive: bool | None) -> None:
    """By the machine's start, or by its name where no start is known; else nobody can tell."""
    began = process_started(PID)
    assert is_alive(host, PID, began) is alive
    # Of a number that was given again, or that nobody has, only what was looked for is known.
    gone = False if alive else alive
    assert is_alive(host, PID, (began or 0) - 100) is gone
    assert is_alive(host, 2**31 - 1, began) is gone
    assert is_alive(host, "x", began) is None


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RunLog]:
    """A log with a run that goes on in another session."""
    other = RunLog(tmp_path / "runs.sqlite3")
    other.begin(Run(Request(model="fake", prompt="p")).row())
    other.close()
    log = RunLog(tmp_path / "runs.sqlite3")
    yield log
    log.close()


def change(log: RunLog, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(log.path)) as connection, connection:
        connection.execute(statement, values)


@pytest.mark.parametrize("host", ["old-name boot-0 pid:[7]", "old-name"])
@pytest.mark.parametrize(("days", "status"), [(1.9, "running"), (2.1, "lost")])
def test_an_unknown_kernel_s_run_is_lost_after_two_days(
    log: RunLog, host: str, days: float, status: str
) -> None:
    """As of a container that is there no more, whose successor has another name; then it is pruned."""
    began = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")
    change(log, "UPDATE sessions SET host = ?", host)
    change(log, "UPDATE runs SET started_at = ?", began)
    assert [row["status"] for row in log.rows()] == [status]
    assert log.row(1)["status"] == status
    assert log.prune("1d")[0] == (1 if status == "lost" else 0)


def test_a_run_of_no_session_is_lost_after_two_days(log: RunLog) -> None:
    """As of a row whose session was written into a file that was deleted."""
    change(log, "DELETE FROM sessions")
    assert log.rows()[0]["status"] == "running"
    change(log, "UPDATE runs SET started_at = '2020-01-01T00:00:00.000000+00:00'")
    assert log.rows()[0]["status"] == "lost"


def test_a_living_run_of_this_machine_never_grows_old(log: RunLog) -> None:
    """What can be looked for is not guessed by its age."""
    change(log, "UPDATE runs SET started_at = '2020-01-01T00:00:00.000000+00:00'")
    assert log.rows()[0]["status"] == "running"
    assert log.prune("1d")[0] == 0


def test_a_clock_that_is_set_on_macos_loses_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil 7.1 and later add the step to a process' time; the system's own stays. Simulated."""

    class Process:
        _proc = SimpleNamespace(create_time=lambda monotonic: 1000.0)
        step = 0.0

        def __init__(self, pid: int) -> None: ...
        def status(self) -> str:
            return "running"

        def create_time(self) -> float:
            return 1000.0 + self.step

    monkeypatch.setattr(psutil, "Process", Process)
    monkeypatch.setattr(psutil, "LINUX", False)
    monkeypatch.setattr(sys, "platform", "darwin")
    began = process_started(PID)
    Process.step = 3600.0
    assert is_alive(f"here {BOOT} -", PID, began) is True
    # An older psutil has no such argument, and adds nothing.
    Process._proc = SimpleNamespace(create_time=lambda: 1000.0)
    Process.step = 0.0
    assert is_alive(f"here {BOOT} -", PID, began) is True


def own_boot() -> str:
    return processes.boot_identity.__wrapped__()


def test_each_system_names_its_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Linux by a file, macOS by a `sysctl` (simulated), Windows not at all."""
    monkeypatch.undo()
    boot = tmp_path / "boot_id"
    boot.write_text("6b3a-22\n")
    monkeypatch.setattr(processes, "_BOOT", boot)
    monkeypatch.setattr(sys, "platform", "linux")
    assert own_boot() == "6b3a-22"
    monkeypatch.setattr(processes, "_BOOT", tmp_path / "nothing")
    assert own_boot() == "-"

    def sysctl(name: bytes, answer: Any, size: Any, new: None, length: int) -> int:
        answer.value = b"0AB1-77"
        return 0 if name == b"kern.bootsessionuuid" else -1

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(sysctlbyname=sysctl))
    assert own_boot() == "0AB1-77"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(sysctlbyname=lambda *a: -1))
    assert own_boot() == "-"
