"""Facts about the machine, the speed of its memory, and processes that keep it busy."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

from llmwit_magic.engines.threads import usable_cores
from llmwit_magic.models.gguf import Header

PACKAGES = ("llmwit-magic", "ctransformers", "xllamacpp", "numpy", "ipykernel", "pandas")


def facts() -> dict[str, str | int | float]:
    """The facts that a reader needs to judge a figure: hardware, system and versions."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def read_bandwidth(size: int, threads: int) -> float:
    """Bytes per second that so many threads read from memory.

    `size` is in bytes. It must be much larger than the processor's caches.
    """
    parts = np.array_split(np.ones(size // 8), threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.sum, parts))
        began = time.perf_counter()
        list(pool.map(np.sum, parts))
        return size / (time.perf_counter() - began)


def bytes_read_per_token(header: Header) -> int:
    """The bytes of weights that are read for one token.

    Each tensor is read once. Of the embeddings only the token's own row is read, which is not
    counted.
    """
    sizes = {tensor.name: tensor.nbytes for tensor in header.tensors}
    if "output.weight" in sizes:  # without it, the embeddings are also the weights of the output
        sizes.pop("token_embd.weight", None)
    return sum(sizes.values())


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Run so many processes that each keep a core busy, until the block ends."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5 * bool(count))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def peak_memory(process: psutil.Process) -> int:
    """The most bytes that a process has had in memory; the present ones if that is unknown."""
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(process.memory_info().rss)
