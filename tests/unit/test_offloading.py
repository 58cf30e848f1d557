"""How many layers a GPU gets, by the memory that it has and that they take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmwit_magic.engines.backends.offloading import (
    SCRATCH_BYTES,
    Gpu,
    choose_layers,
    layer_sizes,
)
from llmwit_magic.errors import DeviceUnavailable
from llmwit_magic.models.gguf import read_header
from tests.support.tiny_models import spm_vocabulary, write_llama_gguf

GB = 1024**3
ORDER = [GB] * 5
"""Four repeating layers, and the output."""


@pytest.mark.parametrize("gpu", ["no driver", Gpu("cuda:0", 100 * GB), Gpu("cuda:0", None)])
def test_cpu_on_request(gpu: Gpu | str) -> None:
    """0 means the CPU, whatever devices there are."""
    assert choose_layers(0, gpu, ORDER) == (0, "asked for the CPU")


def test_no_gpu() -> None:
    """`auto` takes the CPU and tells the reason. A number raises an error that tells it."""
    assert choose_layers("auto", "no driver", ORDER) == (0, "no driver")
    with pytest.raises(DeviceUnavailable, match=r"^3 GPU layers .* no driver; --gpu-layers 0"):
        choose_layers(3, "no driver", ORDER)


@pytest.mark.parametrize("free", [5 * GB + SCRATCH_BYTES, None])
@pytest.mark.parametrize(("asked", "taken"), [(1, 1), (4, 4), (5, 5), (6, 5), (2**32 - 1, 5)])
def test_number_of_layers(asked: int, taken: int, free: int | None) -> None:
    """A number is taken as it is.

    One above all layers and the output is cut, and the reason says so.
    """
    why = "as asked" if asked <= 5 else "all 5 layers"
    assert choose_layers(asked, Gpu("cuda:0", free), ORDER) == (taken, why)


def test_a_number_that_does_not_fit() -> None:
    """CUDA ends the process where its memory runs out.

    So the number is refused, and one that fits is told.
    """
    gpu = Gpu("cuda:0", 2 * GB + SCRATCH_BYTES)
    assert choose_layers(2, gpu, ORDER) == (2, "as asked")
    with pytest.raises(
        DeviceUnavailable, match=r"3 GPU layers need 3,072 MiB and 2,048 MiB .*--gpu-layers 2 fits"
    ):
        choose_layers(3, gpu, ORDER)


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (5 * GB, (5, "all layers fit")),
        (5 * GB - 1, (4, "4 of 5 layers fit")),
        (4 * GB, (4, "4 of 5 layers fit")),
        (4 * GB - 1, (3, "3 of 5 layers fit")),
        (GB, (1, "1 of 5 layers fit")),
        (GB - 1, (0, "0 of 5 layers fit")),
        (-SCRATCH_BYTES, (0, "0 of 5 layers fit")),
    ],
)
def test_automatic_layers(free: int, expected: tuple[int, str]) -> None:
    """`auto` takes as many layers as fit beside the work buffers, to the byte."""
    assert choose_layers("auto", Gpu("cuda:0", free + SCRATCH_BYTES), ORDER) == expected


def test_the_first_of_the_order_come_first() -> None:
    """The library offloads them in this order, so the first ones' sizes count."""
    gpu = Gpu("cuda:0", 3 * GB + SCRATCH_BYTES)
    assert choose_layers("auto", gpu, [GB, GB, GB, 9 * GB])[0] == 3
    assert choose_layers("auto", gpu, [9 * GB, GB, GB, GB])[0] == 0


def test_unknown_memory() -> None:
    """Where the free memory is unknown, all layers are tried, and the reason says so."""
    assert choose_layers("auto", Gpu("metal", None), ORDER) == (
        5, "all layers (free device memory unknown)"
    )  # fmt: skip
    assert choose_layers("auto", Gpu("cuda:0", None), ORDER) == (
        5, "all layers (free device memory unknown: install nvidia-ml-py)"
    )  # fmt: skip


# The tiny llama: 2 blocks, 64 dimensions, 4 heads of 16, 2 key-value heads, 128 feed-forward.
KV_LAYER = 2 * 2 * 2 * 16  # bytes for each token: keys and values, float16, 2 heads of 16
BLOCK = 4 * (64 + 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)


def test_sizes_of_a_llama(tmp_path: Path) -> None:
    """A layer's bytes are its tensors and its share of the cache.

    The output and its norm come on top.
    """
    header = read_header(write_llama_gguf(tmp_path / "tiny.gguf", vocabulary="spm"))
    layers, output = layer_sizes(header, 2 * KV_LAYER * 100)
    assert layers == [BLOCK + KV_LAYER * 100] * 2
    assert output == 4 * 64 * (1 + len(spm_vocabulary().tokens))


def test_sizes_of_a_quantised_llama(tmp_path: Path) -> None:
    """Matrices count with the bytes of their type: 34 bytes for 32 elements of Q8_0."""
    path = write_llama_gguf(tmp_path / "q.gguf", vocabulary="spm", tensor_type="Q8_0")
    layers, _ = layer_sizes(read_header(path), 0)
    assert layers == [4 * 2 * 64 + (BLOCK // 4 - 2 * 64) // 32 * 34] * 2


def test_an_output_that_is_the_embedding(tmp_path: Path) -> None:
    """Such a file has one matrix for both, and a GPU gets a copy of it."""
    apart, tied = (
        read_header(write_llama_gguf(tmp_path / f"{tied}.gguf", vocabulary="spm", tied=tied))
        for tied in (False, True)
    )
    assert layer_sizes(tied, 0) == layer_sizes(apart, 0)


@pytest.mark.parametrize("name", ["blk.x.attn_q.weight", "blk.7.attn_q.weight", "blk"])
def test_a_tensor_of_no_layer(name: str, tmp_path: Path) -> None:
    """A number that no layer has counts for none."""
    header = read_header(write_llama_gguf(tmp_path / "tiny.gguf"))
    odd = replace(header.tensors[0], name=name)
    assert layer_sizes(replace(header, tensors=[*header.tensors, odd]), 0) == layer_sizes(header, 0)
