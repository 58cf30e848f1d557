"""A clock that is set back."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.run import Run
from tests.support.apart import APART, preloaded, python_apart
from tests.support.promises import log_is_whole
from tests.support.report import Report

pytestmark = pytest.mark.timeout(240)

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
/* The size of the file BACK is the number of seconds by which the clock was set back. */
static long back(void) {
    struct stat info;
    const char *name = getenv("BACK");
    return name && stat(name, &info) == 0 ? (long)info.st_size : 0;
}
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec -= back();
    return code;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"""


@pytest.fixture
def clock(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose clock is set back by making the file `back` longer."""
    library = preloaded(SHIM, tmp_path)
    (tmp_path / "back").touch()
    return {"LD_PRELOAD": str(library), "BACK": str(tmp_path / "back")}


def test_a_clock_that_is_set_back(
    spm: Path, tmp_path: Path, report: Report, clock: dict[str, str], long: bool
) -> None:
    """No duration is negative, in a run and between two; order and numbers of the runs stay."""
    steps = 30 if long else 5
    code = APART + f"""
import threading
def set_back():
    with open(os.environ["BACK"], "ab") as file:
        file.truncate(os.path.getsize(file.name) + 3600)
before = time.time()
set_back()
said["stepped"] = before - time.time()
runs = []
for number in range({steps}):
    timer = threading.Timer(0.05 * number % 0.5, set_back)
    timer.start()
    runs.append(ask(f"run {{number}}", count=None))
    timer.join()
said["runs"] = runs
said["rows"] = [[row["run_id"], row["started_at"], row["status"],
                 [v for k, v in row.items() if k.endswith("_seconds") or k == "tokens_per_second"]]
                for row in session.log.rows()]
said["since"] = len(session.log.rows(since="1m"))
say()
"""  # fmt: skip
    said = python_apart(code, spm, tmp_path / "runs.sqlite3", env=clock)
    assert 3595 < said["stepped"] < 3605
    assert {run["status"] for run in said["runs"]} == {"ok"}
    times = [started for _, started, _, _ in said["rows"]]
    assert times != sorted(times), "the clock was not set back"
    assert [number for number, *_ in said["rows"]] == list(range(1, steps + 1))
    for run in said["runs"]:
        timings = {name: value for name, value in run["timings"].items() if value is not None}
        assert all(value >= 0 for value in timings.values())
        assert timings["load"] <= timings["first_token"] <= timings["total"] < 60
    for *_, status, seconds in said["rows"]:
        assert status == "ok"
        assert all(value is None or value >= 0 for value in seconds)
    report.tried("clock set back by an hour", "ran, no negative duration", steps)
    log_is_whole(report, tmp_path / "runs.sqlite3", [f"run {number}" for number in range(steps)])


@pytest.mark.skipif(not psutil.LINUX, reason="elsewhere a process keeps the time of its start")
def test_a_set_clock_makes_no_living_run_lost(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux tells the start of a process from that of the machine, which moves with the clock."""
    log, other = RunLog(tmp_path / "runs.sqlite3"), RunLog(tmp_path / "runs.sqlite3")
    log.begin(Run(Request(model="-", prompt="goes on")).row())
    assert [row["status"] for row in other.rows()] == ["running"]
    started = psutil.Process().create_time()
    boot = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot - 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: started - 3600)
    assert [row["status"] for row in other.rows()] == ["running"]
    assert other.prune("0s") == (0, 0)
    report.tried("clock set back by an hour", "a living run stays running")
    log.close()
    other.close()
    log_is_whole(report, tmp_path / "runs.sqlite3", ["goes on"], goes_on=1)
