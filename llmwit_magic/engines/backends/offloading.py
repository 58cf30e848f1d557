"""How many layers of a model a GPU gets, by the memory that they take there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ...errors import DeviceUnavailable
from ...models.gguf import Header

SCRATCH_BYTES = 512 * 1024**2
"""Bytes of device memory that are left free for the library's work buffers and the driver."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that can be used."""

    name: str
    free_bytes: int | None
    """Free device memory; None where it is unknown."""

    @property
    def budget(self) -> int | None:
        """Bytes of device memory that a model may take; None where that is unknown."""
        return None if self.free_bytes is None else max(0, self.free_bytes - SCRATCH_BYTES)


def choose_layers(asked: int | str, gpu: Gpu | str, order: Sequence[int]) -> tuple[int, str]:
    """How many layers to offload, and the reason.

    `order` has the device bytes of each layer, the output among them, in the order in which the
    library offloads them. `auto` takes as many layers as fit. `gpu` is the reason where there is
    none. Raises `DeviceUnavailable` for a number that cannot be honoured.
    """
    if asked == 0:
        return 0, "asked for the CPU"
    if isinstance(gpu, str):
        if asked == "auto":
            return 0, gpu
        raise DeviceUnavailable(
            f"{asked} GPU layers were asked for, but {gpu}; --gpu-layers 0 runs on the CPU"
        )
    if asked != "auto":
        return _asked_layers(int(asked), gpu, order)
    if gpu.budget is None:
        hint = "" if gpu.name == "metal" else ": install nvidia-ml-py"
        return len(order), f"all layers (free device memory unknown{hint})"
    layers = _fitting(order, gpu.budget)
    if layers == len(order):
        return layers, "all layers fit"
    return layers, f"{layers} of {len(order)} layers fit"


def _fitting(order: Sequence[int], budget: int) -> int:
    """How many layers fit into `budget` bytes."""
    return sum(needed <= budget for needed in accumulate(order))


def _asked_layers(asked: int, gpu: Gpu, order: Sequence[int]) -> tuple[int, str]:
    """The number of layers that was asked for, and the reason.

    It is refused where the device would run out of memory: a library may end its process then.
    """
    needed, budget = sum(order[:asked]), gpu.budget
    if budget is not None and needed > budget:
        raise DeviceUnavailable(
            f"{asked} GPU layers need {needed / 2**20:,.0f} MiB and {budget / 2**20:,.0f} "
            f"MiB of device memory can be used: --gpu-layers {_fitting(order, budget)} fits"
        )
    if asked > len(order):
        return len(order), f"all {len(order)} layers"
    return asked, "as asked"


def layer_sizes(header: Header, cache_bytes: int) -> tuple[list[int], int]:
    """Device bytes of each repeating layer with its share of the KV cache, and of the output.

    `cache_bytes` are those of the whole cache. A file whose output is the embedding of its tokens
    has that once; a GPU gets a copy of it.
    """
    blocks: int = header.hyperparameter("block_count")
    sizes, output = [cache_bytes // blocks] * blocks, 0
    embedding = 0
    for tensor in header.tensors:
        prefix, _, rest = tensor.name.partition(".")
        number = rest.partition(".")[0]
        if prefix == "blk" and number.isdecimal() and int(number) < blocks:
            sizes[int(number)] += tensor.nbytes
        elif tensor.name.startswith("output"):
            output += tensor.nbytes
        elif tensor.name == "token_embd.weight":
            embedding = tensor.nbytes
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    return sizes, output + embedding * tied
