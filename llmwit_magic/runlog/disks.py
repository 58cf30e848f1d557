"""Whether a file lies on a disk of this machine's own.

SQLite's write-ahead log needs memory that all processes with the file share, and two machines
share none. On a network disk it loses rows and damages the file (sqlite.org/wal.html, "does not
work over a network filesystem"). A disk that is not known to be this machine's own therefore
counts as a network disk.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_LOCAL = {
    "aufs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfsplus",
    "jfs", "nilfs2", "ntfs", "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "tmpfs", "ubifs",
    "vfat", "xfs", "zfs",
}  # fmt: skip
"""Linux's names of local file systems. `fuseblk` is NTFS on a disk; other kinds of `fuse` may be
remote."""
_LOCAL_DRIVES = (2, 3, 6)
"""The local answers of Windows' `GetDriveTypeW`: removable, fixed, RAM disk."""
_MNT_LOCAL = 0x1000
"""The flag of a local disk in macOS' `statfs` (sys/mount.h); `f_flags` is bytes 64 to 67."""


def is_local(place: str | Path) -> bool:
    """Whether an existing file or folder is known to lie on a disk of this machine."""
    path = os.path.realpath(place)
    try:
        if sys.platform == "win32":
            import ctypes

            drive = os.path.splitdrive(path)[0] + "\\"
            return ctypes.windll.kernel32.GetDriveTypeW(drive) in _LOCAL_DRIVES
        if sys.platform == "darwin":
            import ctypes

            libc = ctypes.CDLL(None)
            # On Intel, the plain name is a function with an older form of the answer.
            statfs = getattr(libc, "statfs$INODE64", None) or libc.statfs
            answer = ctypes.create_string_buffer(4096)
            failed = statfs(os.fsencode(path), answer)
            return not failed and is_local_flag(answer.raw)
        return mounted_as(path, os.fsdecode(_MOUNTS.read_bytes())) in _LOCAL
    except (OSError, AttributeError):
        return False


def is_local_flag(answer: bytes) -> bool:
    """Whether the `struct statfs` that macOS has filled in says that the disk is local."""
    return bool(int.from_bytes(answer[64:68], "little") & _MNT_LOCAL)


def mounted_as(path: str, table: str) -> str | None:
    """The type of the file system on which a path lies; `table` is `/proc/self/mountinfo`."""
    found, length = None, -1
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= length:  # the later of two mounts on one folder is visible
            found, length = after.split(" ")[0], len(place)
    return found
