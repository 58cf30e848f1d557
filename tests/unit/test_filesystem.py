"""Files that another program holds on Windows, as its errors are simulated here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.base import filesystem
from llmwit_magic.base.filesystem import discard, replace, replacing
from llmwit_magic.engines.local.model_files import resolve
from llmwit_magic.errors import DownloadFailed, EngineFailed, LogError
from llmwit_magic.models import hub
from llmwit_magic.models.cache import IN_USE
from llmwit_magic.runlog.export import export
from tests.support.tiny_models import write_llama_gguf

DENIED, IN_ANOTHER_PROCESS, NO_SPACE = 5, 32, 112


def refused(code: int) -> OSError:
    """What Windows raises with that code."""
    error = PermissionError(13, "Access is denied")
    error.winerror = code  # type: ignore[attr-defined]
    return error


def held(function: Callable[..., Any], code: int, times: float) -> Callable[..., Any]:
    """The function, which fails so many times first."""
    calls = 0

    def fail_first(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise refused(code)
        return function(*arguments, **options)

    return fail_first


@pytest.mark.parametrize("code", [DENIED, IN_ANOTHER_PROCESS])
def test_a_file_that_is_held_for_a_moment_is_replaced(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virus scanner lets a fresh file go within the time."""
    monkeypatch.setattr(os, "replace", held(os.replace, code, 3))
    target = tmp_path / "target"
    target.write_text("old")
    with replacing(target) as part:
        part.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("code", [DENIED, IN_ANOTHER_PROCESS])
def test_a_file_that_stays_held_is_an_error(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time; the old file stays, and nothing beside it."""
    monkeypatch.setattr(filesystem, "HELD_SECONDS", 0.2)
    monkeypatch.setattr(os, "replace", held(os.replace, code, float("inf")))
    target = tmp_path / "target"
    target.write_text("old")
    with pytest.raises(PermissionError), replacing(target) as part:
        part.write_text("new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_other_errors_are_raised_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is not waited for, nor is anything on other systems, whose errors have no code."""
    monkeypatch.setattr(os, "replace", held(os.replace, NO_SPACE, 1))
    with pytest.raises(PermissionError):
        replace(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        replace(tmp_path / "a", tmp_path / "b")
    assert not filesystem.is_held(PermissionError(13, "Permission denied"))


def test_a_file_is_removed_when_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is held for good stays, which hides no other error; one that is not there is no error."""
    path = tmp_path / "part"
    path.touch()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", held(Path.unlink, IN_ANOTHER_PROCESS, 2))
        discard(path)
    assert not path.exists()
    discard(path)
    path.touch()
    monkeypatch.setattr(filesystem, "HELD_SECONDS", 0.1)
    monkeypatch.setattr(Path, "unlink", held(Path.unlink, IN_ANOTHER_PROCESS, float("inf")))
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x") as part:
        part.write_text(str(part.touch() or 1 / 0))
    discard(path)
    assert path.exists()


def test_a_loaded_model_that_is_to_be_rewritten_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows replaces no file that a process has mapped: the line names the way out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(filesystem, "HELD_SECONDS", 0.1)
    monkeypatch.setattr(os, "replace", held(os.replace, DENIED, float("inf")))
    model = write_llama_gguf(tmp_path / "m.gguf")
    with pytest.raises(EngineFailed, match="Access is denied; Windows replaces no model") as caught:
        resolve(str(model), None, {}, lambda progress: None)
    assert str(caught.value).endswith(IN_USE)
    assert "%infer_unload" in IN_USE


def test_an_export_that_another_program_has_open_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a spreadsheet does with a table."""
    monkeypatch.setattr(filesystem, "HELD_SECONDS", 0.1)
    monkeypatch.setattr(os, "replace", held(os.replace, DENIED, float("inf")))
    with pytest.raises(LogError, match=r"runs\.csv cannot be written: Access is denied; close it"):
        export([], tmp_path / "runs.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_loaded_model_that_is_to_be_fetched_again_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same where the hub's client replaces it."""

    def download(*arguments: Any, **options: Any) -> str:
        raise refused(DENIED)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(hub, "_hub_answers", lambda check: True)
    with pytest.raises(DownloadFailed) as caught:
        hub.fetch_from_hub("owner/repo", "m.gguf", None, lambda progress: None)
    assert str(caught.value).endswith(IN_USE)
