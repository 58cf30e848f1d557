"""The settings that a process tells its child processes: where to log, the aliases of models, the
library of llama.cpp, and servers.

A worker of a pool imports the package afresh. It would log into the default file, whatever was
configured in the notebook. So a process keeps its settings in a small file, which its user alone
can read and which is removed at its end. An environment variable names the file, and child
processes inherit it. They read the file whenever they begin a run, so a change reaches workers
that were started before it.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..base.filesystem import discard, replacing

VARIABLE = "LLMWIT_MAGIC_SETTINGS"
"""The environment variable that names the file."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to log, the user's own names for models, the library of llama.cpp, and servers."""

    log_path: str | None = None
    """None is the default file."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    llama_library: str = ""
    """The path of the library of llama.cpp; empty where none is configured."""
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The servers by name, as they are configured: with the names of their keys' variables, and no
    key."""


NOT_LOGGED = Settings(":memory:")
"""The settings of a process that logs into no file."""

_own: tuple[int, Path] | None = None
"""The id of the process that has written the settings file, and the file. A forked process inherits
this value, and may only read the file."""


def tell_children(settings: Settings) -> None:
    """Tell these settings to the processes that this one has started or will start.

    If the file cannot be written, processes that start later find nothing to read.
    """
    global _own
    try:
        if _own is None or _own[0] != os.getpid():
            handle, name = tempfile.mkstemp(prefix="llmwit-", suffix=".json")
            os.close(handle)
            _own = os.getpid(), Path(name)
            atexit.register(_remove, *_own)
        with replacing(_own[1]) as part:
            part.touch(mode=0o600)
            part.write_text(json.dumps(asdict(settings), default=str, skipkeys=True), "utf-8")
        os.environ[VARIABLE] = str(_own[1])
    except OSError:
        os.environ[VARIABLE] = ""


def _remove(pid: int, path: Path) -> None:
    if os.getpid() == pid:
        discard(path)


def told() -> Settings | None:
    """The settings that another process has told this one; None where there are none, or they
    cannot be read."""
    name = os.environ.get(VARIABLE)
    if not name or (_own is not None and _own == (os.getpid(), Path(name))):
        return None
    try:
        return Settings(**json.loads(Path(name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_worker() -> bool:
    """Whether this process is known to be a worker: of multiprocessing, of joblib or of Dask."""
    process = sys.modules.get("multiprocessing.process")
    return (
        process is not None and process.parent_process() is not None
    ) or "distributed.cli.dask_worker" in sys.modules


def first_settings() -> Settings:
    """The settings of a session that begins.

    A worker that was told nothing cannot know whether its prompts may be kept, so it logs into no
    file.
    """
    return told() or (NOT_LOGGED if is_worker() else Settings())
