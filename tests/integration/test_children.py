"""Where the workers of a notebook log: where the notebook does, or nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running import shared_settings as settings
from llmwit_magic.running.shared_settings import Settings
from tests.support.children import WAYS

ROOT = Path(__file__).parents[2]
SECRET = b"a secret prompt"


def children(way: str, model: Path, folder: Path) -> list[Any]:
    """What the workers of a program said, whose files are all in the folder."""
    environment = {name: text for name, text in os.environ.items() if name != settings.VARIABLE}
    places = dict.fromkeys(
        ("XDG_DATA_HOME", "TMPDIR", "HOME", "DASK_TEMPORARY_DIRECTORY"), str(folder)
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.children", way, str(model), str(folder)],
        cwd=ROOT, env=environment | places, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def files_with_the_secret(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if SECRET in path.read_bytes()]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", WAYS)
def test_workers_log_where_their_program_does(way: str, tiny_model: Path, tmp_path: Path) -> None:
    """In the default file, in none, in one of its own; also where the workers stay the same ones.

    Names of models reach them, too.
    """
    default = tmp_path / "llmwit-magic" / "runs.sqlite3"
    open_, secret, own = children(way, tiny_model, tmp_path)
    assert open_[0] == str(default)
    assert secret[0] == ":memory:"
    assert own[0] == str(tmp_path / "own.sqlite3")
    logs = [RunLog(default), RunLog(tmp_path / "own.sqlite3")]
    prompts = [[row["prompt"] for row in log.rows()] for log in logs]
    for log in logs:
        log.close()
    assert prompts == [["an open prompt"], ["a prompt for the file"]]
    assert secret[1][-1] == SECRET.decode()
    assert files_with_the_secret(tmp_path) == []
    assert list(tmp_path.glob("llmwit-*.json")) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", ["spawn", "loky", "dask", "fork"])
def test_workers_that_cannot_know_do_not_log(way: str, tiny_model: Path, tmp_path: Path) -> None:
    """They were there before the program had settings: their prompts are kept nowhere."""
    for said in children(f"early {way}", tiny_model, tmp_path):
        assert said[0] == ":memory:"
    assert files_with_the_secret(tmp_path) == []
    assert not (tmp_path / "llmwit-magic" / "runs.sqlite3").exists()


def test_a_program_that_outlives_its_parent_has_settings_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that is gone, or is none of ours, tells nothing; a program is no worker for that."""
    for content in (None, "", "[]", '{"log_path": 1, "x": 2}', "{"):
        path = tmp_path / "told.json"
        if content is not None:
            path.write_text(content)
        monkeypatch.setenv(settings.VARIABLE, str(path))
        assert settings.told() is None
        assert settings.first_settings() == Settings()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_what_is_told_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file has paths and names, no prompt; its user alone reads it. Any alias can be told."""
    monkeypatch.setattr(settings, "_own", None)
    monkeypatch.setenv(settings.VARIABLE, "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    aliases = {"mine": Path("/m.gguf")}
    settings.tell_children(Settings("/log", aliases, "/opt/llama"))  # type: ignore[arg-type]
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o077 == 0
    assert os.environ[settings.VARIABLE] == str(path)
    assert settings.told() is None  # a process does not follow itself
    monkeypatch.setattr(settings, "_own", (0, path))
    assert settings.told() == Settings("/log", {"mine": "/m.gguf"}, "/opt/llama")


def test_children_are_told_nothing_where_no_file_can_be_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run goes on; workers find no settings, and do not log."""
    monkeypatch.setattr(settings, "_own", None)
    monkeypatch.setenv(settings.VARIABLE, "old")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no"))
    settings.tell_children(Settings(":memory:"))
    assert os.environ[settings.VARIABLE] == ""
    monkeypatch.setattr(settings, "is_worker", lambda: True)
    assert settings.first_settings() == Settings(":memory:")
