"""A log that another process locks, or that lies on a disk without locks."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.runlog import database
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.apart import APART, preloaded, python_apart
from tests.support.promises import log_is_whole
from tests.support.report import Report

pytestmark = pytest.mark.timeout(240)

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
