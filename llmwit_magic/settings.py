"""What the processes that this one starts are told: where to log, and its own names of models.

A worker of a pool imports the package afresh and would log into the default file, whatever was
configured in the notebook. So a process keeps its settings in a small file, readable by its user
alone and removed at its end, and names it in its environment, which its children get. They read it
whenever they begin a run: a change reaches workers that were started before it.
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

from .base.filesystem import discard, replacing

VARIABLE = "LLMWIT_MAGIC_SETTINGS"
"""Of the environment: the file."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to log (None: the default file), and names for models."""

    log_path: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)


NOT_LOGGED = Settings(":memory:")

_own: tuple[int, Path] | None = None
"""The file that this process has written, with its id: a fork inherits it, and may only read it."""


def tell_children(settings: Settings) -> None:
    """Let the processes that this one has started or will start have these settings.

    Where they cannot be told, those to come find nothing to read.
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
    """What another process has told this one; None where that is nothing, or cannot be read."""
    name = os.environ.get(VARIABLE)
    if not name or (_own is not None and _own == (os.getpid(), Path(name))):
        return None
    try:
        return Settings(**json.loads(Path(name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_worker() -> bool:
    """Whether this process is recognisably one of another's: of a pool, of joblib, of Dask."""
    process = sys.modules.get("multiprocessing.process")
    return (
        process is not None and process.parent_process() is not None
    ) or "distributed.cli.dask_worker" in sys.modules


def first_settings() -> Settings:
    """Those of a session that begins. A worker that was told nothing cannot know whether its
    prompts may be kept, so it does not log into a file."""
    return told() or (NOT_LOGGED if is_worker() else Settings())
