"""Full disks, read-only caches, a locked log, a clock that is set back."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.protocol import Request
from llmwit_magic.runlog import database
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.run import Run
from llmwit_magic.session import Session
from llmwit_magic.wit import InferencingParams
from tests.support.apart import can_mount, python_apart
from tests.support.promises import log_is_whole, no_half_files
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

pytestmark = pytest.mark.timeout(240)

needs_mounts = pytest.mark.skipif(
    not can_mount(), reason="this process may not mount file systems (it takes root)"
)

#: Runs in the other process: `ask(prompt)` gives what became of a run.
APART = """
import json, os, sys, shutil, subprocess, time
from pathlib import Path
from llmwit_magic.session import Session
from llmwit_magic.protocol import Request
from llmwit_magic.wit import InferencingParams

said = {}
model, logged = sys.argv[1:3]
session = Session(logged)

def ask(prompt, model=model, count=4):
    run = session.run(Request(model=model, prompt=prompt, params=InferencingParams(
        max_tokens=count, seed=1)))
    assert run.wait(60)
    timings = run.result.timings
    return dict(status=run.status, error=type(run.error).__name__ if run.error else None,
                message=str(run.error or ""), log_problem=run.log_problem, run_id=run.run_id,
                timings=timings.model_dump())

def say():
    session.close()
    print("SAID", json.dumps(said))
"""

FILL = """
def fill(folder):
    filler = Path(folder) / "filler"
    with open(filler, "wb", 0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                pass
    return filler
"""


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is loaded as it is."""
    path = tmp_path_factory.mktemp("models") / "spm.gguf"
    return write_llama_gguf(path, vocabulary="spm", context_length=1024)


def is_one_line(outcome: dict[str, Any], error: str, *words: str) -> None:
    assert outcome["error"] == error, outcome
    assert outcome["message"].isprintable()
    for word in words:
        assert word in outcome["message"]


@needs_mounts
def test_a_full_disk_under_the_log(spm: Path, tmp_path: Path, report: Report, long: bool) -> None:
    """Runs go on and say that they are not logged; with room again, each of them is."""
    count = 100 if long else 20
    (tmp_path / "log").mkdir()
    code = APART + FILL + f"""
said["before"] = ask("before")
filler = fill(Path(logged).parent)
said["full"] = [ask(f"full {{n}} " + "y" * 400) for n in range({count})]
filler.unlink()
said["after"] = ask("after")
session.close()
shutil.copytree(Path(logged).parent, sys.argv[3], dirs_exist_ok=True)
say()
"""  # fmt: skip
    mount = f"mount -t tmpfs -o size=8m tmpfs {tmp_path / 'log'}"  # its write-ahead log takes 4
    copy = tmp_path / "copy"
    said = python_apart(code, spm, tmp_path / "log" / "runs.sqlite3", copy, mounts=mount)
    outcomes = [said["before"], *said["full"], said["after"]]
    assert {outcome["status"] for outcome in outcomes} == {"ok"}, outcomes
    unlogged = [outcome for outcome in said["full"] if outcome["log_problem"]]
    assert unlogged, "the disk was not full"
    assert said["after"]["log_problem"] is None
    for outcome in said["full"]:
        report.tried(
            "full disk: log", "ran, logged later" if outcome["log_problem"] else "ran, logged"
        )
    prompts = [f"full {number} " + "y" * 400 for number in range(count)]
    log_is_whole(report, copy / "runs.sqlite3", ["before", *prompts, "after"])


@needs_mounts
def test_a_full_disk_under_the_cache(tiny_model: Path, tmp_path: Path, report: Report) -> None:
    """An adaptation that finds no room is one line and leaves no half file; later it works."""
    (tmp_path / "cache").mkdir()
    code = APART + FILL + """
cache = Path(os.environ["XDG_CACHE_HOME"])
filler = fill(cache)
said["full"] = ask("full")
with open(filler, "r+b") as file:
    file.truncate(os.path.getsize(filler) - 100_000)
said["room for a part"] = ask("room for a part")
said["left"] = [str(path) for path in cache.rglob("*.gguf*") if path.name[0] != "."]
filler.unlink()
said["after"] = ask("after")
shutil.copytree(cache, sys.argv[3], dirs_exist_ok=True)
say()
"""  # fmt: skip
    mount = f"mount -t tmpfs -o size=2m tmpfs {tmp_path / 'cache'}"
    said = python_apart(
        code, tiny_model, tmp_path / "runs.sqlite3", tmp_path / "copy", mounts=mount,
        env={"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    for when in ("full", "room for a part"):
        is_one_line(said[when], "EngineFailed", "No space left on device", "cannot be written")
        report.tried("full disk: cache", said[when]["error"])
    assert said["left"] == []
    assert said["after"]["status"] == "ok"
    report.tried("full disk: cache", "ran when there was room")
    no_half_files(report, tmp_path / "copy")
    log_is_whole(report, tmp_path / "runs.sqlite3", ["full", "room for a part", "after"])


@needs_mounts
def test_a_full_disk_under_temporary_files(spm: Path, tmp_path: Path, report: Report) -> None:
    """The child's output has no room: the run does not need it."""
    (tmp_path / "tmp").mkdir()
    code = APART + FILL + """
filler = fill(os.environ["TMPDIR"])
said["full"] = ask("full")
say()
"""  # fmt: skip
    said = python_apart(
        code, spm, tmp_path / "runs.sqlite3", mounts=f"mount -t tmpfs -o size=64k tmpfs {tmp_path / 'tmp'}",
        env={"TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    assert said["full"]["status"] == "ok", said
    report.tried("full disk: temporary files", "ran")
    log_is_whole(report, tmp_path / "runs.sqlite3", ["full"])


@needs_mounts
def test_a_read_only_cache(tiny_model: Path, spm: Path, tmp_path: Path, report: Report) -> None:
    """What is in it is used; what must be written is refused in one line; other models run."""
    cache = tmp_path / "cache"
    cache.mkdir()
    other = write_llama_gguf(tmp_path / "other.gguf", seed=5)
    code = APART + """
cache, spm, other = sys.argv[3:]
said["filled"] = ask("filled")
session.engines.unload()
session = Session(logged)
subprocess.run(["mount", "--bind", cache, cache], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", cache], check=True)
try:
    Path(cache, "x").touch()
except OSError as error:
    said["read-only"] = str(error)
said["adapted before"] = ask("adapted before")
said["needs no cache"] = ask("needs no cache", model=spm)
said["must be adapted"] = ask("must be adapted", model=other)
said["default"] = ask("default", model="smollm2-135m-instruct")
say()
"""  # fmt: skip
    said = python_apart(
        code, tiny_model, tmp_path / "runs.sqlite3", cache, spm, other, mounts="true",
        env={"XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    assert "Read-only" in said["read-only"]
    for name in ("filled", "adapted before", "needs no cache"):
        assert said[name]["status"] == "ok", (name, said[name])
        report.tried("read-only cache", f"ran ({name})")
    is_one_line(said["must be adapted"], "EngineFailed", "Read-only file system")
    is_one_line(said["default"], "DownloadFailed", "Read-only file system")
    report.tried("read-only cache", "EngineFailed (must be adapted)")
    report.tried("read-only cache", "DownloadFailed (the default model)")
    no_half_files(report, cache)
    prompts = ["filled", "adapted before", "needs no cache", "must be adapted", "default"]
    log_is_whole(report, tmp_path / "runs.sqlite3", prompts)


# A locked log ------------------------------------------------------------------------------

LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
print("free", flush=True)
"""


def ask(session: Session, model: Path, prompt: str, count: int = 4) -> Run:
    params = InferencingParams(max_tokens=count, seed=1)
    return session.run(Request(model=str(model), prompt=prompt, params=params))


def test_a_log_that_another_process_locks(
    session: Session, spm: Path, report: Report, long: bool
) -> None:
    """Runs go on, say that they are not logged, and are logged when the lock is gone."""
    seconds = 60 if long else 8
    first = ask(session, spm, "before")
    assert first.wait(30)
    path = Path(session.log.path)
    lock = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    with lock:
        assert lock.stdout is not None
        assert lock.stdout.readline() == "locked\n"
        began = time.monotonic()
        prompts, waits = ["before"], []
        while lock.poll() is None:
            prompts.append(f"locked {len(prompts)}")
            start = time.monotonic()
            run = ask(session, spm, prompts[-1])
            assert run.wait(30)
            waits.append(time.monotonic() - start)
            assert run.status == "ok"
            report.tried("log locked", "ran, logged later" if run.log_problem else "ran, logged")
        assert time.monotonic() - began >= seconds - 0.5
    assert waits[0] > database.BUSY_SECONDS
    assert all(wait < database.BUSY_SECONDS + 3 for wait in waits), waits
    # Once a wait was in vain, the others are short.
    assert all(wait < 4 * database.BUSY_AGAIN_SECONDS + 1 for wait in waits[1:-1]), waits
    last = ask(session, spm, "after")
    assert last.wait(30)
    assert last.log_problem is None
    log_is_whole(report, path, [*prompts, "after"])


def test_a_run_that_waits_for_the_log_can_be_cancelled(
    session: Session, spm: Path, report: Report
) -> None:
    """It ends when the wait for the log does, and its row is kept too."""
    assert ask(session, spm, "before").wait(30)
    path = Path(session.log.path)
    command = [sys.executable, "-c", LOCK, str(path), "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as lock:
        assert lock.stdout is not None
        assert lock.stdout.readline() == "locked\n"
        run = ask(session, spm, "cancelled", 200)
        time.sleep(0.2)
        began = time.monotonic()
        run.cancel()
        assert run.wait(30)
        assert time.monotonic() - began < database.BUSY_SECONDS + 1
    assert run.status == "interrupted"
    report.tried("log locked", "interrupted, logged")
    log_is_whole(report, path, ["before", "cancelled"])


# A file system without locks ---------------------------------------------------------------

LOCKLESS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* Where the file LOCKLESS is there, locks of files in its folder fail with the error in it. */
static int fails(int file) {
    char link[64], path[4096];
    const char *name = getenv("LOCKLESS");
    FILE *order = name ? fopen(name, "r") : NULL;
    if (!order) return 0;
    int number = 0;
    if (fscanf(order, "%d", &number) != 1) number = 0;
    fclose(order);
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t folder = strrchr(name, '/') - name;
    if (!number || length < (ssize_t)folder || strncmp(path, name, folder)) return 0;
    errno = number;
    return 1;
}
#define LOCKS(function) \\
    int function(int file, int command, ...) { \\
        va_list more; \\
        va_start(more, command); \\
        void *what = va_arg(more, void *); \\
        va_end(more); \\
        static int (*real)(int, int, ...); \\
        if (!real) real = dlsym(RTLD_NEXT, #function); \\
        int lock = command == F_SETLK || command == F_SETLKW || command == F_GETLK; \\
        return lock && fails(file) ? -1 : real(file, command, what); \\
    }
LOCKS(fcntl)
LOCKS(fcntl64)
"""


def preloaded(source: str, folder: Path) -> Path:
    """A library for `LD_PRELOAD`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("another libc's answers take Linux and a C compiler")
    text, library = folder / "shim.c", folder / "shim.so"
    text.write_text(source)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(text), "-ldl"], check=True
    )
    return library


@pytest.mark.parametrize("name", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
@pytest.mark.parametrize("later", [False, True])
def test_a_log_on_a_disk_without_locks(
    spm: Path, tmp_path: Path, report: Report, name: str, later: bool
) -> None:
    """Runs go on, and say the true reason; what SQLite waits for, it waits for once at most."""
    number = getattr(errno, name)
    switch = tmp_path / "log" / "lockless"
    switch.parent.mkdir()
    code = APART + f"""
if {later}:
    said["before"] = ask("before")
with open(os.environ["LOCKLESS"], "w") as file:
    file.write("{number}")
said["runs"], said["seconds"] = [], []
for number in range(3):
    began = time.monotonic()
    said["runs"].append(ask(f"run {{number}}"))
    said["seconds"].append(time.monotonic() - began)
say()
"""  # fmt: skip
    library = preloaded(LOCKLESS, tmp_path)
    said = python_apart(
        code, spm, switch.parent / "runs.sqlite3",
        env={"LD_PRELOAD": str(library), "LOCKLESS": str(switch)},
    )  # fmt: skip
    for number, outcome in enumerate(said["runs"]):
        assert (outcome["status"], outcome["run_id"]) == ("ok", None)
        problem = outcome["log_problem"]
        assert "its file system does not lock files (" in problem, problem
        assert "locked" not in problem
        if number or not later:
            assert said["seconds"][number] < database.BUSY_SECONDS
    report.tried(f"log on a disk without locks ({name})", "ran, not logged", 3)


# The clock ------------------------------------------------------------------------------------

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
    log.begin(Run(Request(model="-", prompt="goes on")))
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
