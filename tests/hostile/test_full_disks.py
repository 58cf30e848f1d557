"""Full disks and read-only caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.apart import APART, can_mount, python_apart
from tests.support.promises import log_is_whole, no_half_files
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

pytestmark = pytest.mark.timeout(240)

needs_mounts = pytest.mark.skipif(
    not can_mount(), reason="this process may not mount file systems (it takes root)"
)

FILL = """
def fill(folder):
    filler = Path(folder) / "filler"
    with open(filler, "wb", 0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                pass
    return filler
"""


def is_one_line(outcome: dict[str, Any], error: str, *words: str) -> None:
    assert outcome["error"] == error, outcome
    assert outcome["message"].isprintable()
    for word in words:
        assert word in outcome["message"]


@needs_mounts
def test_a_full_disk_under_the_log(spm: Path, tmp_path: Path, report: Report, long: bool) -> None:
    """Runs go on and say that they are not logged; with room again, each of them is."""
    count = 100 if long else 20
    (tmp_path / "log").mkdir()
    code = APART + FILL + f"""
said["before"] = ask("before")
filler = fill(Path(logged).parent)
said["full"] = [ask(f"full {{n}} " + "y" * 400) for n in range({count})]
filler.unlink()
said["after"] = ask("after")
session.close()
shutil.copytree(Path(logged).parent, sys.argv[3], dirs_exist_ok=True)
say()
"""  # fmt: skip
    mount = f"mount -t tmpfs -o size=8m tmpfs {tmp_path / 'log'}"  # its write-ahead log takes 4
    copy = tmp_path / "copy"
    said = python_apart(code, spm, tmp_path / "log" / "runs.sqlite3", copy, mounts=mount)
    outcomes = [said["before"], *said["full"], said["after"]]
    assert {outcome["status"] for outcome in outcomes} == {"ok"}, outcomes
    unlogged = [outcome for outcome in said["full"] if outcome["log_problem"]]
    assert unlogged, "the disk was not full"
    assert said["after"]["log_problem"] is None
    for outcome in said["full"]:
        report.tried(
            "full disk: log", "ran, logged later" if outcome["log_problem"] else "ran, logged"
        )
    prompts = [f"full {number} " + "y" * 400 for number in range(count)]
    log_is_whole(report, copy / "runs.sqlite3", ["before", *prompts, "after"])


@needs_mounts
def test_a_full_disk_under_the_cache(tiny_model: Path, tmp_path: Path, report: Report) -> None:
    """An adaptation that finds no room is one line and leaves no half file; later it works."""
    (tmp_path / "cache").mkdir()
    code = APART + FILL + """
cache = Path(os.environ["XDG_CACHE_HOME"])
filler = fill(cache)
said["full"] = ask("full")
with open(filler, "r+b") as file:
    file.truncate(os.path.getsize(filler) - 100_000)
said["room for a part"] = ask("room for a part")
said["left"] = [str(path) for path in cache.rglob("*.gguf*") if path.name[0] != "."]
filler.unlink()
said["after"] = ask("after")
shutil.copytree(cache, sys.argv[3], dirs_exist_ok=True)
say()
"""  # fmt: skip
    mount = f"mount -t tmpfs -o size=2m tmpfs {tmp_path / 'cache'}"
    said = python_apart(
        code, tiny_model, tmp_path / "runs.sqlite3", tmp_path / "copy", mounts=mount,
        env={"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    for when in ("full", "room for a part"):
        is_one_line(said[when], "EngineFailed", "No space left on device", "cannot be written")
        report.tried("full disk: cache", said[when]["error"])
    assert said["left"] == []
    assert said["after"]["status"] == "ok"
    report.tried("full disk: cache", "ran when there was room")
    no_half_files(report, tmp_path / "copy")
    log_is_whole(report, tmp_path / "runs.sqlite3", ["full", "room for a part", "after"])


@needs_mounts
def test_a_full_disk_under_temporary_files(spm: Path, tmp_path: Path, report: Report) -> None:
    """The child's output has no room: the run does not need it."""
    (tmp_path / "tmp").mkdir()
    code = APART + FILL + """
filler = fill(os.environ["TMPDIR"])
said["full"] = ask("full")
say()
"""  # fmt: skip
    said = python_apart(
        code, spm, tmp_path / "runs.sqlite3", mounts=f"mount -t tmpfs -o size=64k tmpfs {tmp_path / 'tmp'}",
        env={"TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    assert said["full"]["status"] == "ok", said
    report.tried("full disk: temporary files", "ran")
    log_is_whole(report, tmp_path / "runs.sqlite3", ["full"])


@needs_mounts
def test_a_read_only_cache(tiny_model: Path, spm: Path, tmp_path: Path, report: Report) -> None:
    """What is in it is used; what must be written is refused in one line; other models run."""
    cache = tmp_path / "cache"
    cache.mkdir()
    other = write_llama_gguf(tmp_path / "other.gguf", seed=5)
    code = APART + """
cache, spm, other = sys.argv[3:]
said["filled"] = ask("filled")
session.local.pool.unload()
session = Session(logged)
subprocess.run(["mount", "--bind", cache, cache], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", cache], check=True)
try:
    Path(cache, "x").touch()
except OSError as error:
    said["read-only"] = str(error)
said["adapted before"] = ask("adapted before")
said["needs no cache"] = ask("needs no cache", model=spm)
said["must be adapted"] = ask("must be adapted", model=other)
said["default"] = ask("default", model="smollm2-135m-instruct")
say()
"""  # fmt: skip
    said = python_apart(
        code, tiny_model, tmp_path / "runs.sqlite3", cache, spm, other, mounts="true",
        env={"XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    assert "Read-only" in said["read-only"]
    for name in ("filled", "adapted before", "needs no cache"):
        assert said[name]["status"] == "ok", (name, said[name])
        report.tried("read-only cache", f"ran ({name})")
    is_one_line(said["must be adapted"], "EngineFailed", "Read-only file system")
    is_one_line(said["default"], "DownloadFailed", "Read-only file system")
    report.tried("read-only cache", "EngineFailed (must be adapted)")
    report.tried("read-only cache", "DownloadFailed (the default model)")
    no_half_files(report, cache)
    prompts = ["filled", "adapted before", "needs no cache", "must be adapted", "default"]
    log_is_whole(report, tmp_path / "runs.sqlite3", prompts)
