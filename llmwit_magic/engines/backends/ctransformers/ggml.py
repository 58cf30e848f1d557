"""Checks the vocabulary of a file from before GGUF, before native code reads it.

The native loader believes each count and length in the file. So it reads tokens
from beyond the end of the file, and asks for gigabytes for each of them.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from ....errors import ModelDamaged

# For each format: how many 32-bit numbers stand before the first token, and which of them is the
# number of tokens. The magic number is number 0. The table leaves out the version, which follows
# every magic number but the oldest, "ggml".
_LAYOUTS = {
    "gpt2": (8, 1), "starcoder": (8, 1), "gptj": (9, 1), "gptneox": (9, 1), "dollyv2": (9, 1),
    "mpt": (9, 5), "replit": (7, 5), "llama": (8, 1), "falcon": (9, 1),
}  # fmt: skip


def check_old_vocabulary(path: Path, model_type: str) -> None:
    """Raise `ModelDamaged` where the file does not have as many tokens as it says."""
    with path.open("rb") as file:
        if not _holds_vocabulary(file, model_type):
            raise ModelDamaged(
                f"{path.name}: its vocabulary does not fit into it: the file is damaged, or "
                f"{model_type} is not its --model-type"
            )


def _holds_vocabulary(file: BinaryIO, model_type: str) -> bool:
    """Whether all tokens that the file counts lie within the file."""
    left = os.fstat(file.fileno()).st_size
    magic = file.read(4)
    versioned = magic != b"lmgg"
    before, place = _LAYOUTS[model_type]
    size = 4 * (before + versioned)
    head = file.read(size - 4)
    left -= size
    if left < 0:
        return False
    (count,) = struct.unpack_from("<i", head, 4 * (place + versioned - 1))
    score = 4 if model_type in ("replit", "falcon") or (versioned and model_type == "llama") else 0
    if not 0 < count <= left // (4 + score):
        return False
    if model_type == "falcon" and magic != b"ccgg":
        return True  # falcon's older forms, all of one summer, may have other numbers next
    for _ in range(count):
        prefix = file.read(4)
        left -= 4 + int.from_bytes(prefix, "little") + score
        if left < 0:
            return False
        file.seek(int.from_bytes(prefix, "little") + score, os.SEEK_CUR)
    return True
