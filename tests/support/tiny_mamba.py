"""A tiny model without attention, whose memory is one state that cannot be cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmwit_magic.models.gguf import read_header
from tests.support.tiny_models import _write_gguf, bpe_vocabulary


def write_mamba_gguf(path: Path, *, context_length: int = 256) -> Path:
    """Write a GGUF file of architecture mamba as llama.cpp's converters do: it has 0 heads."""
    words = bpe_vocabulary()
    width, inner, state, rank, kernel, blocks = 64, 128, 16, 4, 4, 2
    metadata: dict[str, Any] = {
        "general.architecture": "mamba",
        "general.name": "Tiny mamba",
        "mamba.context_length": context_length,
        "mamba.embedding_length": width,
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.block_count": blocks,
        "mamba.ssm.conv_kernel": kernel,
        "mamba.ssm.inner_size": inner,
        "mamba.ssm.state_size": state,
        "mamba.ssm.time_step_rank": rank,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": list(words.tokens),
        "tokenizer.ggml.token_type": [int(kind) for kind in words.types],
        "tokenizer.ggml.merges": list(words.merges),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(words.tokens), width)}
    for block in range(blocks):
        shapes |= {
            f"blk.{block}.attn_norm.weight": (width,),
            f"blk.{block}.ssm_in.weight": (2 * inner, width),
            f"blk.{block}.ssm_conv1d.weight": (inner, kernel),
            f"blk.{block}.ssm_conv1d.bias": (inner,),
            f"blk.{block}.ssm_x.weight": (rank + 2 * state, inner),
            f"blk.{block}.ssm_dt.weight": (inner, rank),
            f"blk.{block}.ssm_dt.bias": (inner,),
            f"blk.{block}.ssm_a": (inner, state),
            f"blk.{block}.ssm_d": (inner,),
            f"blk.{block}.ssm_out.weight": (width, inner),
        }
    shapes |= {"output_norm.weight": (width,), "output.weight": (len(words.tokens), width)}
    _write_gguf(path, metadata, shapes, "F32", "random", 0, None, ())
    _let_states_fade(path)
    return path


def _let_states_fade(path: Path) -> None:
    """Make the rates of the states negative: with others they grow beyond all numbers."""
    header = read_header(path)
    data = np.memmap(path, np.uint8, "r+")
    for tensor in header.tensors:
        if tensor.name.endswith(".ssm_a"):
            start = header.data_offset + tensor.offset
            rates = data[start : start + tensor.nbytes].view(np.float32)
            rates[:] = -np.abs(rates) - 0.1
    data.flush()
