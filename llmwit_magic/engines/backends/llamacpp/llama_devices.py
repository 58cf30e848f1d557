"""The GPUs that llama.cpp finds, and which one a model is put on.

The code for GPUs is a library of its own in the package: Vulkan for Linux and Windows, Metal for
macOS. A library that the user names may have other code, such as CUDA, or have it built in.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ....errors import DeviceUnavailable
from ..offloading import Gpu
from .llama_h import GPU, INTEGRATED_GPU
from .llama_library import LlamaLibrary

CODE = ("ggml-cuda", "ggml-hip", "ggml-metal", "ggml-vulkan")
"""Libraries with code for GPUs. The first ones come first where two know the same GPU."""
_SOFTWARE = ("llvmpipe", "swiftshader")
"""Vulkan in software: a processor, though the library takes it for a GPU."""
_LINUX_NODES = ("dri/renderD*", "nvidia[0-9]*", "kfd", "dxg")
"""Of `/dev`: Linux has one of these for each GPU whose driver is loaded."""


@dataclass(frozen=True, slots=True)
class LlamaDevice:
    """A device that llama.cpp can put layers on."""

    address: int
    name: str
    """The library's name of it, such as `Vulkan0`."""
    description: str
    """What it is, such as `NVIDIA GeForce RTX 3060`."""
    integrated: bool
    free_bytes: int | None
    """Free device memory; None where the library does not know it."""

    @property
    def rank(self) -> int:
        """0 for a GPU with memory of its own, 1 for an integrated one, 2 for one in software."""
        software = any(word in self.description.lower() for word in _SOFTWARE)
        return 2 if software else int(self.integrated)

    @property
    def gpu(self) -> Gpu:
        """The device as a place for layers. Its name says what it is, too."""
        return Gpu(f"{self.name} {self.description}", self.free_bytes)


def choose_device(lib: LlamaLibrary, layers: int | str, named: str | None) -> LlamaDevice | str:
    """The GPU for so many layers (a number above 0, or `auto`), or the reason why there is none.

    `named` is the name of the device that was asked for, or a part of its description. Raises
    `DeviceUnavailable` where no such device can be used.
    """
    chosen_by_us = layers == "auto" and named is None
    # Loading Vulkan takes up to a quarter of a second, and its drivers may print. So on a machine
    # that shows no GPU nothing is loaded, unless a person asks for one.
    if chosen_by_us and not lib.llama_supports_gpu_offload() and not shows_gpu():
        return "this machine shows no GPU"
    problem = _load_code(lib)
    found = devices(lib)
    if not lib.llama_supports_gpu_offload() or not found:
        reason = problem or "llama.cpp finds no GPU that it can use"
        if named is not None:
            raise DeviceUnavailable(f"device {named!r} was asked for, but {reason}")
        return reason
    if named is not None:
        return _named(found, named)
    best = min(found, key=lambda device: device.rank)
    if chosen_by_us and best.rank:
        # What shares the processor's memory, or is the processor, gives little or nothing.
        kind = "in software" if best.rank == 2 else "integrated"
        return f"{best.gpu.name} is {kind}: a number of layers takes it"
    return best


def _named(found: list[LlamaDevice], named: str) -> LlamaDevice:
    wanted = named.casefold()
    fitting = [device for device in found if device.name.casefold() == wanted] or [
        device for device in found if wanted in device.description.casefold()
    ]
    if len(fitting) == 1:
        return fitting[0]
    there = ", ".join(f"{device.name} ({device.description})" for device in fitting or found)
    problem = "fits several devices" if fitting else "is none of the devices"
    raise DeviceUnavailable(f"device {named!r} {problem}: give one of {there}")


def devices(lib: LlamaLibrary) -> list[LlamaDevice]:
    """The GPUs that the loaded code finds, in the library's order."""
    ggml, found = lib.ggml, []
    for index in range(ggml.ggml_backend_dev_count()):
        address = ggml.ggml_backend_dev_get(index)
        kind = ggml.ggml_backend_dev_type(address)
        if kind in (GPU, INTEGRATED_GPU):
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            ggml.ggml_backend_dev_memory(address, ctypes.byref(free), ctypes.byref(total))
            found.append(
                LlamaDevice(
                    address,
                    ggml.ggml_backend_dev_name(address).decode(errors="replace"),
                    ggml.ggml_backend_dev_description(address).decode(errors="replace"),
                    kind == INTEGRATED_GPU,
                    free.value if total.value else None,
                )
            )
    return found


@cache
def _load_code(lib: LlamaLibrary) -> str:
    """Load all code for GPUs that there is, once. Why none was loaded; empty where some was."""
    if lib.llama_supports_gpu_offload():
        return ""  # it is built into the library, or is linked to it
    paths = list(filter(None, map(lib.find, CODE)))
    if not paths:
        return "llama.cpp's library has no code for GPUs"
    lib.forget_words()
    if sum(map(lib.load_code, paths)):
        return ""
    name = paths[0].name
    cause = lib.last_words().rpartition(f"{name}: ")[2]
    return f"llama.cpp could not load {name}, which needs a driver for a GPU ({cause})"


def shows_gpu() -> bool:
    """Whether this machine may have a GPU, by what costs nothing to look at."""
    if sys.platform == "win32":
        from ctypes.util import find_library  # takes long to import

        return bool(find_library("vulkan-1") or find_library("nvcuda"))  # of a GPU's driver
    if sys.platform == "darwin":
        return True  # each Mac that the library runs on has one, and Metal loads fast
    return any(True for pattern in _LINUX_NODES for _ in Path("/dev").glob(pattern))
