"""The import table of a Windows library."""

from __future__ import annotations

import struct
from pathlib import Path


def imports(path: Path) -> dict[str, list[str]]:
    """Each library that a 64-bit one loads, with the names of the functions that it takes."""
    data = path.read_bytes()
    (start,) = struct.unpack_from("<I", data, 0x3C)
    assert data[start : start + 4] == b"PE\0\0"
    count, size = struct.unpack_from("<2xH12xH", data, start + 4)
    optional = start + 24
    assert struct.unpack_from("<H", data, optional) == (0x20B,)  # PE32+
    sections = [
        struct.unpack_from("<8x4I", data, optional + size + 40 * index) for index in range(count)
    ]

    def offset(address: int) -> int:
        for length, begin, raw_length, raw in sections:
            if begin <= address < begin + max(length, raw_length):
                return raw + address - begin
        raise AssertionError(f"no section has {address:#x}")

    def text(address: int) -> str:
        place = offset(address)
        return data[place : data.index(b"\0", place)].decode("ascii")

    (table,) = struct.unpack_from("<I", data, optional + 120)
    assert struct.unpack_from("<I", data, optional + 216) == (0,)  # none that loads later
    found: dict[str, list[str]] = {}
    place = offset(table)
    while True:
        names, _, _, library, addresses = struct.unpack_from("<5I", data, place)
        if not library:
            return found
        entry, functions = offset(names or addresses), []
        while value := struct.unpack_from("<Q", data, entry)[0]:
            functions.append(f"#{value & 0xFFFF}" if value >> 63 else text(value + 2))
            entry += 8
        found[text(library)] = functions
        place += 20
