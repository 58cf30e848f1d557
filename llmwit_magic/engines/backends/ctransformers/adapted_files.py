"""The adapted forms of model files, kept in the cache."""

from __future__ import annotations

from pathlib import Path

from ....base.filesystem import discard, is_held
from ....contract.events import Progress, Report
from ....errors import EngineFailed, ModelDamaged
from ....models.cache import (
    IN_USE,
    Check,
    cache_folder,
    exclusive,
    sha256,
    state_of,
    write_whole,
)
from ....models.gguf import Header
from . import adapt


def adapted_file(header: Header, digest: str, state: tuple[int, ...], report: Report) -> Path:
    """The adapted form of a file in the cache. It is written where it is missing or has changed.

    The hash that it had when it was written is stored beside it. `digest` is the
    SHA-256 of the source, taken when its state was `state` (see `state_of`).
    Raises `ModelDamaged` where the source changes while it is read, and
    `EngineFailed` where the copy cannot be written.
    """
    source = header.path
    # The stem is cut, since a file's name has at most 255 bytes.
    path = cache_folder() / "adapted" / f"{source.stem[:50]}.{digest[:16]}.v{adapt.VERSION}.gguf"

    def progress(done: int, total: int) -> None:
        report(Progress("adapt", done, total, source.name))

    def check() -> None:
        report(Progress("load", note="hashing the adapted copy"))

    if _is_whole(path, check):
        return path  # without a lock, since the cache may be read-only
    try:
        waiting = Progress("adapt", note="another kernel adapts it")
        with exclusive(path, lambda: report(waiting)) as own:
            if not _is_whole(path, check):
                try:
                    adapt.adapt(header, path, progress, own)
                    if state_of(source) != state:  # the copy may be of other bytes than `digest`
                        raise ModelDamaged(f"{source.name}: the file has changed while it was read")
                    write_whole(_hash_beside(path), sha256(path, check))
                except BaseException:
                    discard(path)
                    raise
    except OSError as error:
        advice = f"; {IN_USE}" if is_held(error) else ""
        raise EngineFailed(
            f"{source.name} must be rewritten for ctransformers and the copy cannot be "
            f"written to {path.parent}: {error.strerror or error}{advice}"
        ) from None
    return path


def _hash_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_whole(path: Path, check: Check) -> bool:
    """Whether an adapted file is there and still has the bytes that were written."""
    try:
        return path.is_file() and sha256(path, check) == _hash_beside(path).read_text("utf-8")
    except (OSError, ValueError):  # for example, its writer was killed before it wrote the hash
        return False
