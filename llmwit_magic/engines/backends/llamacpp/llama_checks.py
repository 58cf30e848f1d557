"""Whether llama.cpp can run a model file, said before native code sees the file.

The library refuses what it cannot run, and says why. What is checked here are the architectures
that it knows, what a generating model must have, and the numbers that we compute with.
"""

from __future__ import annotations

import math
from array import array
from typing import Any

from ....errors import ModelDamaged
from ....models.gguf import Header
from .llama_vocabulary_checks import vocabulary_objection

# Of the version of the library that `llama_h` declares; its own spelling. Left out are those that
# are no language models by themselves: encoders, projectors, and what makes sounds or diffuses.
ARCHITECTURES = frozenset([
    "afmoe", "apertus", "arcee", "arctic", "arwkv7", "baichuan", "bailingmoe", "bailingmoe2",
    "bailingmoe3", "bitnet", "bloom", "chameleon", "chatglm", "codeshell", "cogvlm", "cohere2",
    "cohere2moe", "command-r", "dbrx", "deci", "deepseek", "deepseek2", "deepseek32", "deepseek4",
    "dots1", "ernie4_5", "ernie4_5-moe", "exaone", "exaone-moe", "exaone4", "falcon", "falcon-h1",
    "gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "glm-dsa", "glm4", "glm4moe", "gpt-oss",
    "gpt2", "gptneox", "granite", "granitehybrid", "granitemoe", "grok", "grovemoe",
    "hunyuan-dense", "hunyuan-moe", "internlm2", "jais", "jais2", "jamba", "lfm2", "lfm2moe",
    "llama", "llama4", "mamba", "mamba2", "minicpm", "minicpm3", "minimax-m2", "mpt", "nemotron",
    "nemotron_h", "nemotron_h_moe", "olmo", "olmo2", "olmoe", "openelm", "orion", "phi2", "phi3",
    "phimoe", "plamo", "plamo2", "plamo3", "plm", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3",
    "qwen35", "qwen35moe", "qwen3moe", "qwen3next", "qwen3vl", "qwen3vlmoe", "refact", "rwkv6",
    "rwkv6qwen2", "rwkv7", "seed_oss", "smallthinker", "smollm3", "stablelm", "starcoder",
    "starcoder2", "xverse",
])  # fmt: skip
_COUNTS = ("context_length", "block_count", "embedding_length")
_OF_LAYERS = (
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length",
)  # fmt: skip
"""May be missing, be 0 for a model without attention, or be given for each layer."""
_EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
MAX_BLOCKS = 512
"""The library aborts its process at more."""


def objection(header: Header) -> str | None:
    """Why llama.cpp could not run the model, or None. Raises `ModelDamaged` for a contradiction."""
    if header.architecture not in ARCHITECTURES:
        return (
            f"architecture '{header.architecture}': llama.cpp does not know it as a language model"
        )
    for name in _COUNTS:
        _check_count(header, name, header.hyperparameter(name), least=1)
    if (blocks := header.hyperparameter("block_count")) > MAX_BLOCKS:
        return f"{blocks:,} blocks: llama.cpp runs at most {MAX_BLOCKS}"
    for name in _OF_LAYERS:
        value = header.hyperparameter(name, 0)
        for number in (value or [None]) if isinstance(value, array) else [value]:
            _check_count(header, name, number, least=0)
    for name in _EPSILONS:  # the library aborts its process at a negative one
        value = header.hyperparameter(name, 0.0)
        if not isinstance(value, float) or not 0 <= value < math.inf:
            raise _damaged(header, name, value)
    return _vector_objection(header) or vocabulary_objection(header)


def _vector_objection(header: Header) -> str | None:
    """Why the library could not compute with a vector, or None.

    It aborts its process where a norm, a bias or the like is no F32. Only what a gate multiplies
    a token with may be of another type, since that is a matrix of one row.
    """
    for tensor in header.tensors:
        is_vector = len(tensor.shape) == 1 and "gate_inp" not in tensor.name
        if (is_vector or tensor.name.endswith(".bias")) and tensor.type.name != "F32":
            return (
                f"tensor type {tensor.type.name} of '{tensor.name}': llama.cpp knows F32 for "
                "norms, biases and other vectors; convert the model again, or take another file "
                "of it"
            )
    return None


def _check_count(header: Header, name: str, value: Any, least: int) -> None:
    if not _whole(value) or not least <= value < 2**31:
        raise _damaged(header, name, value)


def _damaged(header: Header, name: str, value: Any) -> ModelDamaged:
    return ModelDamaged(
        f"{header.path.name}: '{header.architecture}.{name}' is {value}: the file is damaged, "
        "or was written wrongly; fetch it again, or take another file of the model"
    )


def _whole(value: Any) -> bool:
    return type(value) is int
