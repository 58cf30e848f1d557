"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def current_folder() -> Path | None:
    """The folder that relative paths begin at; None where it was deleted meanwhile."""
    try:
        return Path.cwd()
    except OSError:
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path`, renamed to it at the end of the block.

    Readers see the old file or the new one, nothing between; a block that
    raises leaves the old one.
    """
    part = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
