"""What the headers of native libraries say: ELF, PE and Mach-O, read without their tools."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

_ELF = {62: "x86_64", 183: "aarch64"}
_PE = {0x8664: "x86_64", 0xAA64: "arm64", 0x14C: "32-bit x86"}
_MACH = {0x01000007: "x86_64", 0x0100000C: "arm64"}
_LC_BUILD_VERSION = 0x32


@dataclass(frozen=True)
class Code:
    """One machine's code in a library."""

    system: str
    machine: str
    needs: tuple[int, int] | None = None
    """The version of glibc or macOS."""


def code_in(path: Path) -> list[Code]:
    """All that a library holds: the slices of a universal one, else one."""
    data = path.read_bytes()
    if data[:4] == b"\x7fELF":
        assert data[4:6] == b"\x02\x01", "64 bits, little-endian"
        (machine,) = struct.unpack_from("<H", data, 18)
        versions = [(int(a), int(b)) for a, b in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", data)]
        return [Code("linux", _ELF[machine], max(versions))]
    if data[:2] == b"MZ":
        (machine,) = struct.unpack_from("<H", data, _pe_header(data) + 4)
        return [Code("win32", _PE[machine])]
    if data[:4] == b"\xca\xfe\xba\xbe":
        (count,) = struct.unpack_from(">I", data, 4)
        return [
            _mach_code(data, struct.unpack_from(">5I", data, 8 + 20 * n)[2]) for n in range(count)
        ]
    return [_mach_code(data, 0)]


def _mach_code(data: bytes, start: int) -> Code:
    magic, machine, _, _, commands = struct.unpack_from("<5I", data, start)
    assert magic == 0xFEEDFACF
    place, needs = start + 32, None
    for _ in range(commands):
        command, size = struct.unpack_from("<2I", data, place)
        if command == _LC_BUILD_VERSION:
            _, version = struct.unpack_from("<2I", data, place + 8)
            needs = (version >> 16, version >> 8 & 0xFF)
        place += size
    return Code("darwin", _MACH[machine], needs)


def _pe_header(data: bytes) -> int:
    """Where it begins."""
    (place,) = struct.unpack_from("<I", data, 0x3C)
    assert data[place : place + 4] == b"PE\0\0"
    return int(place)


def imports(path: Path) -> dict[str, list[str]]:
    """Each library that a 64-bit one for Windows loads, with the names of the functions that it takes."""
    data = path.read_bytes()
    start = _pe_header(data)
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
