"""The files of a run log, read and changed over connections that are not the log's."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def execute(path: Path | str, *statements: str) -> list[Any]:
    """What the last statement gives, over a connection that is not the log's."""
    connection = sqlite3.connect(path)
    for statement in statements:
        found = connection.execute(statement).fetchall()
    connection.commit()
    connection.close()
    return found


def alone(path: Path) -> list[str]:
    """The states of the runs in a copy of the file, without the files beside it."""
    copy = path.with_name("alone.sqlite3")
    shutil.copyfile(path, copy)
    with closing(sqlite3.connect(copy)) as connection:
        there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
        order = "SELECT status FROM runs ORDER BY run_id"
        found = [row[0] for row in connection.execute(order)] if there else []
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for file in path.parent.glob("alone.sqlite3*"):
        file.unlink()
    return found
