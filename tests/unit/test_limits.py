"""How much memory is available, and a limit for a block of code."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from llmwit_magic.engines import memory as limits
from llmwit_magic.engines.memory import available_memory, limited_memory

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit")


def test_more_than_the_limit_is_a_memory_error() -> None:
    """Only the block is limited. Less than the limit is given, and afterwards there is no limit."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with limited_memory(64 * 2**20):
        assert len(bytes(32 * 2**20)) == 32 * 2**20
        with pytest.raises(MemoryError):
            bytes(128 * 2**20)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytes(128 * 2**20)) == 128 * 2**20


def test_the_limit_ends_with_a_failure_too() -> None:
    """The limit ends with the block, whatever the block raises."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), limited_memory(2**20):
        bytes(128 * 2**20)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


MB = 2**20
FREE = psutil.virtual_memory().available // 2  # more than is in the groups below


def write_group(folder: Path, version: int, limit: str, taken: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    )[version == 1]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{taken}\n")
    counts = {"anon": 5, f"{names[2]}active_file": cache - MB, f"{names[2]}inactive_file": MB}
    lines = [f"{name} {count}\n" for name, count in counts.items()]
    (folder / "memory.stat").write_text("".join(lines))


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the control groups. The file `own` beside it names those of this process."""
    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_OWN_GROUPS", tmp_path / "own")
    return tmp_path / "cgroup"


@pytest.mark.parametrize(
    ("version", "own", "folder"),
    [
        (2, "0::/\n", "."),
        (2, "0::/user.slice/notebook.scope\n", "user.slice/notebook.scope"),
        (2, "0::/user.slice/notebook.scope\n", "user.slice"),
        (2, "1:name=systemd:/x\n0::/host/docker/1234\n", "."),
        (1, "9:cpu,cpuacct:/x\n4:memory:/docker/1234\n0::/\n", "memory/docker/1234"),
        (2, "\n\nodd\n1:x\n0::/caf\udce9\x0b\u2028\n", "."),
        (1, "4:hugetlb,memory:/docker/1234\n", "memory"),
    ],
)
def test_no_more_is_available_than_the_container_may_take(
    groups: Path, version: int, own: str, folder: str
) -> None:
    """A container's limit counts, less what it has taken without file cache.

    So does the limit of a group around it.
    """
    (groups.parent / "own").write_text(own, encoding="utf-8", errors="surrogateescape")
    write_group(groups / folder, version, str(300 * MB), 120 * MB, 20 * MB)
    assert available_memory() == 200 * MB


def test_a_full_container_has_nothing(groups: Path) -> None:
    """A limit below what is already taken leaves zero bytes, and no negative number."""
    (groups.parent / "own").write_text("0::/\n")
    write_group(groups, 2, str(MB), 4 * MB, MB)
    assert available_memory() == 0


@pytest.mark.parametrize("stat", [None, "odd\n"])
def test_a_limit_counts_though_the_cache_is_not_told(groups: Path, stat: str | None) -> None:
    """Where the file cache is not told, none of the taken memory counts as cache."""
    (groups.parent / "own").write_text("0::/\n")
    write_group(groups, 2, str(300 * MB), 120 * MB, 20 * MB)
    (groups / "memory.stat").unlink()
    if stat:
        (groups / "memory.stat").write_text(stat)
    assert available_memory() == 180 * MB


@pytest.mark.parametrize("own", ["0::/\n", "4:memory:/\n", "3:cpuset:/a\n", ""])
def test_without_a_limit_it_is_what_the_machine_has(groups: Path, own: str) -> None:
    """`max` and version 1's largest number are no limits.

    Other controllers' groups do not count.
    """
    (groups.parent / "own").write_text(own)
    write_group(groups, 2, "max", MB, MB)
    write_group(groups / "memory", 1, str(2**63 - 4096), MB, MB)
    write_group(groups / "a", 2, str(MB), MB, MB)
    assert available_memory() > FREE
    (groups.parent / "own").unlink()
    assert available_memory() > FREE
