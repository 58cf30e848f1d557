"""What must hold after every trial, looked at from outside."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path

import psutil

from llmwit_magic.errors import InferenceError
from llmwit_magic.models.gguf import read_header
from tests.support.kernel import still_alive
from tests.support.report import Report


def log_is_whole(report: Report, path: Path, begun: Collection[str], goes_on: int = 0) -> None:
    """The log can be read, has each prompt that was begun, and says how each run ended."""
    with closing(sqlite3.connect(path)) as connection:
        said = connection.execute("PRAGMA integrity_check").fetchone()[0]
        rows = connection.execute("SELECT prompt, status FROM runs").fetchall()
    report.promise("unreadable databases", said == "ok", said)
    prompts = [prompt for prompt, _ in rows]
    missing = [prompt for prompt in begun if prompt not in prompts]
    report.promise("log rows lost", not missing, f"{len(missing)} of {len(begun)}: {missing[:3]}")
    running = [prompt for prompt, status in rows if status == "running"]
    report.promise("log rows lost", len(running) <= goes_on, f"not completed: {running[:3]}")


def are_gone(report: Report, processes: Iterable[psutil.Process], seconds: float = 5) -> None:
    """Processes that must have ended have."""
    alive = still_alive(list(processes), seconds)
    report.promise("orphan processes", not alive, str(alive))


def no_half_files(report: Report, folder: Path) -> None:
    """Every model file below a folder has all of its tensors."""
    half = []
    for path in folder.rglob("*.gguf"):
        try:
            read_header(path)
        except InferenceError as error:
            half.append(str(error))
    report.promise("half files taken for whole", not half, str(half))
