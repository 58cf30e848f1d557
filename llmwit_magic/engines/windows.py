"""What ctransformers' libraries need on Windows: paths that they can open, and Microsoft's runtime."""

from __future__ import annotations

import ctypes
import locale
import os
import sys
from collections.abc import Iterator
from contextlib import suppress

from ..errors import EngineFailed
from .builds import loads

RUNTIME = ("MSVCP140.dll", "VCRUNTIME140.dll", "VCRUNTIME140_1.dll")
"""What the libraries load beside parts of Windows. Python brings some of it, not all."""
_REDISTRIBUTABLE = "https://aka.ms/vs/17/release/vc_redist.x64.exe"


def path_to_open(path: str) -> str:
    """The file's path in a form that ctransformers can open, absolute as far as possible.

    ctransformers passes UTF-8 to C's `fopen`. Windows takes those bytes for the
    code page of the machine, unless the C locale says UTF-8, as it can from
    Windows 10 1803 on; the wheel's libraries share Python's C library and so its
    locale. Elsewhere a short or a relative path may be ASCII. Raises
    `EngineFailed` where none is.
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
    """The short one, where the volume keeps short names; the one from here, on the same drive."""
    if sys.platform == "win32":
        buffer = ctypes.create_unicode_buffer(2**15)
        if ctypes.windll.kernel32.GetShortPathNameW(path, buffer, len(buffer)):
            yield buffer.value
    with suppress(ValueError):
        yield os.path.relpath(path)


def lacks_runtime() -> str:
    """In words that Microsoft's C++ runtime is missing, and where it is to be had; "" if it is not.

    Windows itself only says that the library "or one of its dependencies" is missing.
    """
    missing = [name for name in RUNTIME if not loads(name)] if sys.platform == "win32" else []
    if not missing:
        return ""
    return (
        f"Windows lacks {', '.join(missing)}: install the Microsoft Visual C++ Redistributable "
        f"({_REDISTRIBUTABLE}) and run again"
    )
