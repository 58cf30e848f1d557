"""Tiny models of the architectures of today, with random weights, as their converters write them.

The names and shapes of tensors are those that llama.cpp looks for. What makes an architecture
differ from others is switched on: a window that is shorter than the text, rotations that are
scaled, experts in groups, experts that all tokens share.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.tiny_models import Shapes, _write_gguf, bpe_vocabulary, spm_vocabulary

CONTEXT = 256
WINDOW = 40
WIDTH = FEED_FORWARD = EXPERT = 256
"""Of a token, of the layer between, and of that of an expert: the rows that K-quants need."""
HEADS, KV_HEADS, HEAD = 8, 2, 32
EXPERTS, USED = 8, 2
RANK, PLAIN, ROTATED = 256, 32, 16
"""Of latent attention: the numbers kept of a token, and the parts of a key."""
SPREADS = {
    "attn_q.weight": 0.5, "attn_k.weight": 0.5, "attn_qkv.weight": 0.5, "attn_k_b.weight": 0.2,
    "attn_v_b.weight": 0.5, "ffn_gate_inp.weight": 2.0,
    "ffn_down.weight": 0.7, "ffn_down_exps.weight": 0.7,
}  # fmt: skip
"""See those of `tiny_models`.

Scores are small, so that attention looks at many tokens: otherwise what float16 loses of the keys
grows from block to block. A token's own embedding counts as much as what the blocks add: otherwise
quantised models are not sure enough of a best token to compare it.
"""


@dataclass(frozen=True)
class Architecture:
    """What `write` puts into a file. `metadata` has no name of the architecture in front."""

    name: str
    block: Callable[[int], Shapes]
    """The tensors of the block of that number."""
    blocks: int = 2
    pre: str | None = None
    """The pre-tokenizer of a byte-level vocabulary; None for SentencePiece."""
    tied: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    factors: tuple[str, ...] = ()
    """Tensors that divide the frequencies of the rotations."""


def write(
    path: Path, architecture: Architecture, tensor_type: str = "F32",
    vocabulary: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write the model; `tensor_type` is that of the matrices, and `vocabulary` another one."""
    words = _vocabulary(architecture.pre) if vocabulary is None else vocabulary
    count = len(words["tokenizer.ggml.tokens"])
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (count, WIDTH)}
    for number in range(architecture.blocks):
        for name, shape in architecture.block(number).items():
            shapes[f"blk.{number}.{name}"] = shape
    shapes["output_norm.weight"] = (WIDTH,)
    if not architecture.tied:
        shapes["output.weight"] = (count, WIDTH)
    metadata: dict[str, Any] = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": architecture.blocks,
        "feed_forward_length": FEED_FORWARD,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": HEAD,
        "rope.freq_base": 10000.0,
    }
    metadata |= architecture.metadata
    metadata = {
        "general.architecture": architecture.name,
        "general.name": "Tiny",  # by a name with phi-3 the library expects that one's tokens
        **{f"{architecture.name}.{name}": value for name, value in metadata.items()},
        **{key: list(value) if isinstance(value, array) else value for key, value in words.items()},
    }
    rotated = metadata[f"{architecture.name}.rope.dimension_count"]
    fixed = {
        name: np.geomspace(1 + number, 4 + number, rotated // 2, dtype=np.float32)
        for number, name in enumerate(architecture.factors)
    }
    small = ["attn_q_norm.weight", "attn_k_norm.weight", "post_ffw_norm.weight"]
    if architecture.tied:
        small.append("output_norm.weight")
    for name, shape in shapes.items():
        if name.endswith(tuple(small)):
            fixed[name] = np.linspace(0.3, 0.9, shape[0], dtype=np.float32)
    return _write_gguf(
        path, metadata, shapes, tensor_type, "random", 0, None, (), fixed=fixed,
        spreads=SPREADS if architecture.tied else {**SPREADS, "token_embd.weight": 8.0},
    )  # fmt: skip


def _vocabulary(pre: str | None) -> dict[str, Any]:
    words = spm_vocabulary() if pre is None else bpe_vocabulary()
    metadata: dict[str, Any] = {
        "tokenizer.ggml.tokens": list(words.tokens),
        "tokenizer.ggml.token_type": [int(kind) for kind in words.types],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    if pre is None:
        kind = {"model": "llama", "scores": list(words.scores)}
    else:
        kind = {"model": "gpt2", "pre": pre, "merges": list(words.merges)}
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in kind.items()}


def attention(head: int = HEAD, biases: bool = False, norms: bool = False) -> Shapes:
    """Grouped queries. `norms` are those of each query and key."""
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (WIDTH,),
        "attn_q.weight": (HEADS * head, WIDTH),
        "attn_k.weight": (KV_HEADS * head, WIDTH),
        "attn_v.weight": (KV_HEADS * head, WIDTH),
        "attn_output.weight": (WIDTH, HEADS * head),
    }
    if biases:
        shapes |= {f"attn_{name}.bias": shapes[f"attn_{name}.weight"][:1] for name in "qkv"}
    if norms:
        shapes |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    return shapes


def latent_attention() -> Shapes:
    """Keys and values as one vector of `RANK` numbers for all heads, and a key that is rotated."""
    return {
        "attn_norm.weight": (WIDTH,),
        "attn_q_a.weight": (RANK, WIDTH),
        "attn_q_a_norm.weight": (RANK,),
        "attn_q_b.weight": (HEADS * (PLAIN + ROTATED), RANK),
        "attn_kv_a_mqa.weight": (RANK + ROTATED, WIDTH),
        "attn_kv_a_norm.weight": (RANK,),
        "attn_k_b.weight": (HEADS, RANK, PLAIN),
        "attn_v_b.weight": (HEADS, HEAD, RANK),
        "attn_output.weight": (WIDTH, HEADS * HEAD),
    }


def feed_forward(kind: str = "") -> Shapes:
    """Gate, up and down; `kind` is the end of their names."""
    return {
        f"ffn_gate{kind}.weight": (FEED_FORWARD, WIDTH),
        f"ffn_up{kind}.weight": (FEED_FORWARD, WIDTH),
        f"ffn_down{kind}.weight": (WIDTH, FEED_FORWARD),
    }


def experts(biases: bool = False) -> Shapes:
    """A layer that chooses, and the experts."""
    shapes: dict[str, tuple[int, ...]] = {
        "ffn_gate_inp.weight": (EXPERTS, WIDTH),
        "ffn_gate_exps.weight": (EXPERTS, EXPERT, WIDTH),
        "ffn_up_exps.weight": (EXPERTS, EXPERT, WIDTH),
        "ffn_down_exps.weight": (EXPERTS, WIDTH, EXPERT),
    }
    if biases:
        shapes |= {name.replace("weight", "bias"): shape[:-1] for name, shape in shapes.items()}
    return shapes


def norms(*names: str) -> Shapes:
    return {f"{name}.weight": (WIDTH,) for name in names}


_EXPERTS = {"expert_count": EXPERTS, "expert_used_count": USED}
_OWN_EXPERTS = {**_EXPERTS, "expert_feed_forward_length": EXPERT}
_HEAD = 64
"""The size of a head that is not the width by the number of heads."""
_OWN_HEAD = {
    "attention.key_length": _HEAD, "attention.value_length": _HEAD, "rope.dimension_count": _HEAD,
}  # fmt: skip
_GEMMA = ("ffn_norm", "post_attention_norm", "post_ffw_norm")

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        "llama", lambda number: {**attention(), **norms("ffn_norm"), **feed_forward()}
    ),
    "llama 3.1": Architecture(
        "llama", lambda number: {**attention(), **norms("ffn_norm"), **feed_forward()},
        pre="llama-bpe", metadata={"rope.freq_base": 500000.0}, factors=("rope_freqs.weight",),
    ),
    "mixtral": Architecture(
        "llama", lambda number: {**attention(), **norms("ffn_norm"), **experts()},
        metadata=_EXPERTS,
    ),
    "qwen2": Architecture(
        "qwen2", lambda number: {**attention(biases=True), **norms("ffn_norm"), **feed_forward()},
        pre="qwen2", tied=True, metadata={"rope.freq_base": 1e6},
    ),
    "qwen2moe": Architecture(
        "qwen2moe",
        lambda number: {
            **attention(biases=True), **norms("ffn_norm"), **experts(),
            **norms("ffn_gate_inp_shexp"), **feed_forward("_shexp"),
        },
        pre="qwen2",
        metadata={**_OWN_EXPERTS, "expert_shared_feed_forward_length": FEED_FORWARD},
    ),
    "qwen3": Architecture(
        "qwen3",
        lambda number: {**attention(_HEAD, norms=True), **norms("ffn_norm"), **feed_forward()},
        pre="qwen2", metadata=_OWN_HEAD,
    ),
    "qwen3moe": Architecture(
        "qwen3moe",
        lambda number: {**attention(_HEAD, norms=True), **norms("ffn_norm"), **experts()},
        pre="qwen2", metadata={**_OWN_HEAD, **_OWN_EXPERTS},
    ),
    "gemma2": Architecture(
        "gemma2", lambda number: {**attention(_HEAD), **norms(*_GEMMA), **feed_forward()},
        tied=True,
        metadata={
            **_OWN_HEAD, "attention.sliding_window": WINDOW, "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma3": Architecture(
        "gemma3",
        lambda number: {**attention(_HEAD, norms=True), **norms(*_GEMMA), **feed_forward()},
        blocks=7, tied=True,
        metadata={
            **_OWN_HEAD, "attention.sliding_window": WINDOW, "rope.freq_base": 1e6,
            "rope.scaling.type": "linear", "rope.scaling.factor": 8.0,
        },
    ),
    "phi3": Architecture(
        "phi3",
        lambda number: {
            **norms("attn_norm", "ffn_norm"),
            "attn_qkv.weight": ((HEADS + 2 * KV_HEADS) * HEAD, WIDTH),
            "attn_output.weight": (WIDTH, WIDTH),
            "ffn_up.weight": (2 * FEED_FORWARD, WIDTH),
            "ffn_down.weight": (WIDTH, FEED_FORWARD),
        },
        metadata={
            "rope.dimension_count": HEAD * 3 // 4, "rope.scaling.attn_factor": 1.19,
            "rope.scaling.original_context_length": CONTEXT // 2,
        },
        factors=("rope_factors_short.weight", "rope_factors_long.weight"),
    ),
    "glm4": Architecture(
        "glm4",
        lambda number: {
            **attention(biases=True), **norms(*_GEMMA),
            "ffn_up.weight": (2 * FEED_FORWARD, WIDTH), "ffn_down.weight": (WIDTH, FEED_FORWARD),
        },
        pre="glm4", metadata={"rope.dimension_count": HEAD // 2},
    ),
    "granite": Architecture(
        "granite", lambda number: {**attention(), **norms("ffn_norm"), **feed_forward()},
        pre="gpt-2",
        metadata={
            "embedding_scale": 0.5, "residual_scale": 0.7, "attention.scale": 0.1,
            "logit_scale": 1.5,
        },
    ),
    "olmo2": Architecture(
        "olmo2",
        lambda number: {
            **{name: shape for name, shape in attention().items() if name != "attn_norm.weight"},
            "attn_q_norm.weight": (WIDTH,), "attn_k_norm.weight": (KV_HEADS * HEAD,),
            **norms("post_attention_norm", "post_ffw_norm"), **feed_forward(),
        },
        pre="dbrx",
    ),
    "deepseek2": Architecture(
        "deepseek2",
        lambda number: {
            **latent_attention(), **norms("ffn_norm"),
            **(feed_forward() if number == 0 else {
                **experts(), "exp_probs_b.bias": (EXPERTS,), **feed_forward("_shexp"),
            }),
        },
        pre="deepseek-v3",
        metadata={
            **_OWN_EXPERTS,
            "leading_dense_block_count": 1,
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": RANK,
            "attention.kv_lora_rank": RANK,
            "attention.key_length": RANK + ROTATED,
            "attention.value_length": RANK,
            "attention.key_length_mla": PLAIN + ROTATED,
            "attention.value_length_mla": HEAD,
            "rope.dimension_count": ROTATED,
            "expert_shared_count": 1,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
            "expert_gating_func": 2,
            "expert_weights_norm": True,
            "expert_weights_scale": 0.75,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": CONTEXT // 4,
            "rope.scaling.yarn_log_multiplier": 0.1,
        },
    ),
    "gpt-oss": Architecture(
        "gpt-oss",
        lambda number: {
            **attention(biases=True), "attn_output.bias": (WIDTH,), "attn_sinks.weight": (HEADS,),
            **norms("post_attention_norm"), **experts(biases=True),
        },
        pre="gpt-4o", metadata={**_OWN_EXPERTS, "attention.sliding_window": WINDOW},
    ),
}  # fmt: skip
