"""Whether there is a GPU that ctransformers can use, and what a model takes on it.

The child asks this before it loads the CUDA library. Where that library finds no
device, it calls `exit(1)`, and no handler sees that.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path
from uuid import UUID

from ....models.gguf import Header
from ..offloading import Gpu, layer_sizes
from .builds import (
    FROM_SOURCE,
    has_cuda,
    has_metal,
    here,
    library_file,
    loads,
    local_build,
    processor_build,
    processor_features,
)


def find_gpu() -> Gpu | str:
    """The first GPU that can be used, or the reason why none can."""
    place, local = here(), local_build()
    if place.system == "darwin":
        if place.machine != "arm64":
            return "Metal needs Apple silicon"
        if local is None or not has_metal(local):
            return "ctransformers' wheel has no Metal; one that is built with CT_METAL=1 has"
        return Gpu("metal", None)
    if local is not None:
        if not has_cuda(local):
            return "the ctransformers that was built here has no CUDA; with CT_CUBLAS=1 it has"
    elif library_file("cuda") is None:
        return "ctransformers has no CUDA library for this platform"
    elif place.system == "linux" and processor_build("linux", processor_features()) != "avx2":
        return "ctransformers' CUDA library needs a processor with AVX2, FMA and F16C"
    elif missing := _missing_cuda_packages():
        return (
            f"the CUDA runtime is missing ({', '.join(missing)}): "
            'install it with pip install "llmwit-magic[gpu]"'
        )
    problem = _driver_problem()
    if problem:
        return problem
    name, free = _device_memory()
    return Gpu(name, free)


def local_problem() -> str:
    """Why the library that was built from source cannot be loaded at all; empty where it can.

    A library with CUDA ends its process where there is no device.
    """
    local = local_build()
    if local is None or not has_cuda(local) or not (problem := _driver_problem()):
        return ""
    return (
        f"the ctransformers that was built here is for CUDA, and {problem}: "
        f"run it beside a GPU, or build it without CT_CUBLAS ({FROM_SOURCE} --no-cache-dir)"
    )


def _missing_cuda_packages() -> list[str]:
    """The packages of the CUDA runtime whose libraries are missing.

    ctransformers loads these libraries by their paths in the packages. It can also do with
    libraries that the system's loader finds.
    """
    wanted = {
        "nvidia-cuda-runtime-cu12": ("cuda_runtime", "libcudart.so.12", "cudart64_12.dll"),
        "nvidia-cublas-cu12": ("cublas", "libcublas.so.12", "cublas64_12.dll"),
    }
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    missing = []
    for package, (folder, *names) in wanted.items():
        found = any(list((base / folder).glob(f"*/{name}")) for base in folders for name in names)
        if not found and not loads(names[0]):
            missing.append(package)
    return missing


def _driver_problem() -> str | None:
    """Why the NVIDIA driver gives no device, or None. These calls only return codes."""
    try:
        driver = ctypes.CDLL(_driver_name())
    except OSError:
        return f"there is no NVIDIA driver ({_driver_name()} cannot be loaded)"
    code = driver.cuInit(0)
    if code:
        return f"the NVIDIA driver finds no usable device (cuInit says {code})"
    count = ctypes.c_int(0)
    code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code or count.value < 1:
        return f"the NVIDIA driver reports {count.value} devices (code {code})"
    return None


def _driver_name() -> str:
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def _device_memory() -> tuple[str, int | None]:
    """Name and free bytes of device 0, from nvidia-ml-py; the bytes are None without it."""
    try:
        import pynvml
    except ImportError:
        return "cuda:0", None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(_first_uuid())
        name = pynvml.nvmlDeviceGetName(handle)
        text = name.decode() if isinstance(name, bytes) else name
        return f"cuda:0 {text}", int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    except pynvml.NVMLError:
        return "cuda:0", None


def _first_uuid() -> bytes:
    """The UUID of CUDA's first device, which CUDA_VISIBLE_DEVICES may have changed."""
    driver, uuid, device = ctypes.CDLL(_driver_name()), (ctypes.c_ubyte * 16)(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetUuid(ctypes.byref(uuid), device)
    return f"GPU-{UUID(bytes=bytes(uuid))}".encode()


def free_memory() -> int | None:
    """Free memory of device 0 in bytes at this moment; None where it is unknown."""
    return _device_memory()[1]


def offload_order(header: Header, context_length: int) -> list[int]:
    """Device bytes of each layer with its share of the KV cache, the last repeating one first.

    The output comes last, and counts as one more layer.
    """
    sizes, output = layer_sizes(header, kv_cache_bytes(header, context_length))
    return [*reversed(sizes), output]


def kv_cache_bytes(header: Header, context_length: int) -> int:
    """Bytes of the keys and values for a whole context. They are float16, in every layer."""
    heads = header.hyperparameter("attention.head_count")
    size = header.hyperparameter("embedding_length") // heads
    kv_heads = header.hyperparameter("attention.head_count_kv", heads)
    layers = header.hyperparameter("block_count")
    return int(2 * 2 * layers * size * kv_heads * context_length)


def scratch_bytes(header: Header, context_length: int) -> int:
    """Bytes of the work buffers. Most of them are the attention scores of a batch of 512 tokens."""
    heads: int = header.hyperparameter("attention.head_count")
    width: int = header.hyperparameter("feed_forward_length")
    batch = min(512, context_length)
    return 4 * batch * (heads * context_length + 4 * width) + 32 * 1024**2
