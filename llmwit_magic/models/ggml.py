"""The vocabulary of a file in a format before GGUF, looked through before native code reads it.

The loader takes each count and length there as it is: it reads tokens from
beyond the end of the file, and asks for gigabytes for each of them.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from ..errors import ModelDamaged

# 32-bit numbers before the first token (the magic number is the first), and
# which of them is the number of tokens. After the oldest magic number, "ggml",
# no version follows.
_LAYOUTS = {
    "gpt2": (8, 1), "starcoder": (8, 1), "gptj": (9, 1), "gptneox": (9, 1), "dollyv2": (9, 1),
    "mpt": (9, 5), "replit": (7, 5), "llama": (8, 1), "falcon": (9, 1),
}  # fmt: skip


def check_old_vocabulary(path: Path, model_type: str) -> None:
    """Raise `ModelDamaged` where the file does not hold the tokens that it counts."""
    with path.open("rb") as file:
        if not _holds_vocabulary(file, model_type):
            raise ModelDamaged(
                f"{path.name}: its vocabulary does not fit into it: the file is damaged, or "
                f"{model_type} is not its --model-type"
            )


def _holds_vocabulary(file: BinaryIO, model_type: str) -> bool:
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
        return True  # forms of one summer, whose next numbers were not always these
    for _ in range(count):
        prefix = file.read(4)
        left -= 4 + int.from_bytes(prefix, "little") + score
        if left < 0:
            return False
        file.seek(int.from_bytes(prefix, "little") + score, os.SEEK_CUR)
    return True
