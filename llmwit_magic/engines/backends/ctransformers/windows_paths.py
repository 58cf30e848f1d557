"""What ctransformers' libraries need on Windows: paths that they can open, and a C++ runtime."""

from __future__ import annotations

import ctypes
import locale
import os
import sys
from collections.abc import Iterator
from contextlib import suppress

from ....errors import EngineFailed
from .builds import loads

RUNTIME = ("MSVCP140.dll", "VCRUNTIME140.dll", "VCRUNTIME140_1.dll")
"""Microsoft's C++ runtime, which the libraries load. Python brings some of its files, not all."""
_REDISTRIBUTABLE = "https://aka.ms/vs/17/release/vc_redist.x64.exe"


def path_to_open(path: str) -> str:
    """The file's path in a form that ctransformers can open, absolute where possible.

    ctransformers passes the path in UTF-8 to C's `fopen`. Windows reads these bytes
    in the machine's code page, unless the C locale is UTF-8. Windows 10 1803 and
    later can have such a locale. The wheel's libraries share Python's C library, and
    so its locale. On an older Windows, the short path or a relative path may be
    ASCII. Raises `EngineFailed` where neither is.
    """
    path = os.path.abspath(path)
    if sys.platform != "win32" or path.isascii():
        return path
    with suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, ".UTF8")
        return path
    for other in _other_paths(path):
        if other.isascii():
            return other
    raise EngineFailed(
        f"ctransformers cannot open {path}, which is not ASCII, on a Windows before 10 version "
        "1803: update Windows, or copy the model into a folder with a path in ASCII and name that "
        "with -m"
    )


def _other_paths(path: str) -> Iterator[str]:
    """Other paths to the same file: its short path, and its path from the current folder.

    There is no short path on a volume without short names, and no relative one to another drive.
    """
    if sys.platform == "win32":
        buffer = ctypes.create_unicode_buffer(2**15)
        if ctypes.windll.kernel32.GetShortPathNameW(path, buffer, len(buffer)):
            yield buffer.value
    with suppress(ValueError):
        yield os.path.relpath(path)


def lacks_runtime() -> str:
    """What is missing of Microsoft's C++ runtime, and where to get it, in one line; "" for nothing.

    Windows itself only says that the library "or one of its dependencies" is missing.
    """
    missing = [name for name in RUNTIME if not loads(name)] if sys.platform == "win32" else []
    if not missing:
        return ""
    return (
        f"Windows lacks {', '.join(missing)}: install the Microsoft Visual C++ Redistributable "
        f"({_REDISTRIBUTABLE}) and run again"
    )
