"""One writer at a time for a file of the cache, and several on a disk without locks."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from llmwit_magic.models import cache as files
from llmwit_magic.models.cache import exclusive

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows locks otherwise")


class Waited(Exception):
    pass


def give_up() -> None:
    raise Waited


def test_a_file_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    """A second writer waits, and may give up. All writers use the same temporary name."""
    target = tmp_path / "folder" / "model"
    with exclusive(target, give_up) as own:
        assert own == ""
        with pytest.raises(Waited), exclusive(target, give_up):
            pass
    with exclusive(target, give_up) as own:
        assert own == ""


@needs_posix
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_disk_without_locks_keeps_nobody_waiting(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk without locks, filelock fails or waits for ever. So two writers go on there, each with
    a temporary name of its own.
    """
    import fcntl

    def flock(file: Any, how: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(fcntl, "flock", flock)
    target = tmp_path / "model"
    with exclusive(target, give_up) as one, exclusive(target, give_up) as two:
        assert len({"", one, two}) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("no flock"), OSError(errno.EINVAL, "no"), OSError(errno.ENOLCK, "no")],
)
def test_a_lock_that_fails_late_keeps_nobody_waiting(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock may fail although the check before found nothing, as on Windows. The writer goes on."""

    def acquire(lock: Any, timeout: float) -> None:
        raise error

    monkeypatch.setattr(files, "lock_failure", lambda folder, call: None)
    monkeypatch.setattr(FileLock, "acquire", acquire)
    with exclusive(tmp_path / "model", give_up) as own:
        assert own


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure that has nothing to do with locks is raised."""

    def acquire(lock: Any, timeout: float) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(PermissionError), exclusive(tmp_path / "model", give_up):
        pass


@needs_posix
def test_a_model_is_adapted_without_locks(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks, the adapted copy and its hash are written, and nothing else is left."""
    import fcntl

    from llmwit_magic.engines.local.model_files import resolve

    def flock(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", flock)
    loaded = resolve(str(tiny_model), None, {}, lambda progress: None).file
    assert loaded.is_relative_to(tmp_path)
    assert {path.suffix for path in loaded.parent.iterdir()} == {".gguf", ".sha256"}
