"""What llama.cpp's log says of where layers and buffers are."""

from __future__ import annotations

import pytest

from llmwit_magic.engines.backends.llamacpp.llama_placement import Placed

# Lines of the library, with its spaces made single ones.
LINES = """
load_tensors: offloading output layer to GPU
load_tensors: offloading 1 repeating layers to GPU
load_tensors: offloaded 2/3 layers to GPU
load_tensors: CPU_Mapped model buffer size = 0.29 MiB
load_tensors: Vulkan0 model buffer size = 0.25 MiB
llama_context: Vulkan_Host output buffer size = 0.01 MiB
llama_kv_cache: CPU KV buffer size = 0.19 MiB
llama_kv_cache: Vulkan0 KV buffer size = 0.50 MiB
llama_memory_recurrent: Vulkan0 RS buffer size = 4.00 MiB
sched_reserve: Vulkan0 compute buffer size = 1.00 MiB
sched_reserve: Vulkan1 compute buffer size = 64.00 MiB
sched_reserve: Vulkan_Host compute buffer size = 0.38 MiB
load: token to piece cache size = 0.0013 MB
"""
MIB = 2**20


@pytest.fixture
def placed() -> Placed:
    found = Placed()
    for line in LINES.splitlines():
        found.read(line)
    return found


def test_layers_and_bytes_on_a_device(placed: Placed) -> None:
    """Weights, caches, states and work buffers of that device count, and nothing of the host's."""
    assert placed.layers == 2
    assert placed.bytes_on("Vulkan0") == 5.75 * MIB
    assert placed.bytes_on("Vulkan1") == 64 * MIB
    assert placed.bytes_on("Vulkan2") == 0
    assert placed.refused is None


def test_kinds_of_memory_on_a_device(placed: Placed) -> None:
    """Metal has several, with the device's name before an underscore."""
    for kind in ("MTL0", "MTL0_Mapped", "MTL0_Private", "MTL01"):
        placed.read(f"load_tensors: {kind} model buffer size = 1.00 MiB")
    assert placed.bytes_on("MTL0") == 3 * MIB


def test_a_device_that_gives_no_memory(placed: Placed) -> None:
    """The first buffer that it did not give is told."""
    line = "ggml_backend_buft_alloc_buffer_n_default: failed to allocate {} buffer of size {}"
    placed.read(line.format("Vulkan0", 64161792))
    placed.read(line.format("Vulkan1", 7))
    assert placed.refused == ("Vulkan0", 64161792)


def test_another_model(placed: Placed) -> None:
    """Nothing is left of the one before."""
    placed.refused = ("Vulkan0", 1)
    placed.forget()
    assert (placed.layers, placed.bytes_on("Vulkan0"), placed.refused) == (0, 0, None)
