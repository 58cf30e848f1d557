"""Which disks are this machine's own, as each system tells it."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmwit_magic.runlog import disks
from llmwit_magic.runlog.disks import is_local, mounted_as

TABLE = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
28 27 0:40 / /home rw - autofs systemd-1 rw,fd=43
29 28 0:41 / /home/ann rw,relatime master:3 propagate_from:2 - nfs4 server:/home/ann rw,vers=4.2
30 27 0:42 / /mnt/my\040data\134x rw - cifs //server/share rw
31 27 0:43 / /srv rw - ext4 /dev/vdb rw
32 27 0:44 / /srv rw - fuse.sshfs ann@server: rw
33 27 0:45 / /mnt/c rw - 9p C:\134 rw
34 27 0:46 / /media/disk rw - fuseblk /dev/sdb1 rw
35 29 0:47 / /home/ann/scratch rw - xfs /dev/vdc rw
36 27 0:48 / /Users rw - fuse.grpcfuse grpcfuse rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind", "local"),
    [
        ("/var/lib/x", "ext4", True),
        ("/", "ext4", True),
        ("/home/bob", "autofs", False),
        ("/home/ann", "nfs4", False),
        ("/home/ann/.local/share", "nfs4", False),
        ("/home/annabel", "autofs", False),
        ("/home/ann/scratch/logs", "xfs", True),
        ("/mnt/my data\\x/logs", "cifs", False),
        ("/srv/logs", "fuse.sshfs", False),
        ("/srvother", "ext4", True),
        ("/mnt/c/Users", "9p", False),
        ("/media/disk/logs", "fuseblk", True),
        ("/Users/ann", "fuse.grpcfuse", False),
    ],
)
def test_linux_names_the_file_system(
    path: str, kind: str, local: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The longest place that holds the path, of two on one place the later; local is what is known."""
    assert mounted_as(path, TABLE) == kind
    table = tmp_path / "mountinfo"
    table.write_text(TABLE, encoding="utf-8")
    monkeypatch.setattr(disks, "_MOUNTS", table)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("os.path.realpath", lambda path: path)
    assert is_local(path) is local


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_a_link_lies_where_its_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A log on a network's disk may have a name on a local one."""
    far, link = tmp_path / "far", tmp_path / "runs.sqlite3"
    far.mkdir()
    (far / "runs.sqlite3").touch()
    link.symlink_to(far / "runs.sqlite3")
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {far} rw - nfs4 x rw\n")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(disks, "_MOUNTS", table)
    assert is_local(tmp_path) is True
    assert is_local(link) is False


def test_what_cannot_be_known_is_no_local_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No table of mounts, as in some sandboxes."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(disks, "_MOUNTS", tmp_path / "nothing")
    assert is_local(tmp_path) is False
    assert mounted_as("/x", "") is None


@pytest.mark.skipif(sys.platform != "linux", reason="this system's own table")
def test_the_tables_of_this_machine_are_read() -> None:
    """What the kernel gives is understood: /proc is no disk, and the root is of some kind."""
    assert mounted_as("/proc", Path("/proc/self/mountinfo").read_text()) == "proc"
    assert mounted_as("/", Path("/proc/self/mountinfo").read_text())


@pytest.mark.parametrize(
    ("flags", "failed", "local"),
    [(0x04801000, 0, True), (0x04800000, 0, False), (0x04801000, -1, False)],
)
@pytest.mark.parametrize("name", ["statfs$INODE64", "statfs"])
def test_macos_flags_a_local_disk(
    name: str, flags: int, failed: int, local: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`MNT_LOCAL` of `statfs`, which has two names on Intel. Simulated."""

    def statfs(path: bytes, answer: Any) -> int:
        assert path == str(tmp_path).encode()
        ctypes.memmove(ctypes.addressof(answer) + 64, flags.to_bytes(4, "little"), 4)
        return failed

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**{name_: statfs}))
    name_ = name
    assert is_local(tmp_path) is local


@pytest.mark.parametrize(
    ("path", "kind", "local"),
    [
        ("C:\\Users\\Ann\\AppData", 3, True),
        ("E:\\logs", 2, True),
        ("H:\\logs", 4, False),
        ("\\\\server\\home\\ann", 4, False),
        ("\\\\server\\home\\ann", 1, False),
    ],
)
def test_windows_tells_the_kind_of_drive(
    path: str, kind: int, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`GetDriveTypeW` of the drive or of the share. Simulated."""
    import ntpath

    asked: list[str] = []

    def drive_type(root: str) -> int:
        asked.append(root)
        return kind

    kernel32 = SimpleNamespace(GetDriveTypeW=drive_type)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    monkeypatch.setattr("os.path.realpath", lambda path: path)
    monkeypatch.setattr("os.path.splitdrive", ntpath.splitdrive)
    assert is_local(path) is local
    assert asked == ["\\\\server\\home\\" if path.startswith("\\\\") else path[:3]]
