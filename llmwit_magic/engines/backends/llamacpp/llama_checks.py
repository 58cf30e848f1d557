"""Whether llama.cpp can run a model file, said before native code sees the file.

The library refuses what it cannot run, and says why. What is checked here are the architectures
that it knows, what a generating model must have, and the numbers that we compute with.
"""

from __future__ import annotations

import math
from array import array
from typing import Any

from ....errors import ModelDamaged, ModelNotSupported
from ....models.gguf import Header
from ....models.kinds import names_suppressed_tokens
from ....models.tokenizers.pretokenizers import pretokenizer_named

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
_CONVERT = "convert the model again, or take another file of it"
_EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
MAX_BLOCKS = 512
"""The library aborts its process at more, as it does at a token that stands twice."""
MAX_TOKENS = 2**20


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
    return _vocabulary_objection(header)


def _check_count(header: Header, name: str, value: Any, least: int) -> None:
    if not _whole(value) or not least <= value < 2**31:
        raise _damaged(header, name, value)


def _damaged(header: Header, name: str, value: Any) -> ModelDamaged:
    return ModelDamaged(
        f"{header.path.name}: '{header.architecture}.{name}' is {value}: the file is damaged, "
        "or was written wrongly; fetch it again, or take another file of the model"
    )


def _vocabulary_objection(header: Header) -> str | None:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        return "the vocabulary 'tokenizer.ggml.tokens' is missing"
    if len(tokens) > MAX_TOKENS:
        return f"a vocabulary of {len(tokens):,} tokens: at most {MAX_TOKENS:,}"
    if (twice := _duplicate(tokens)) is not None:
        return f"the token {twice[:40]!r} stands twice in the vocabulary; {_CONVERT}"
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind not in ("llama", "gpt2"):
        return f"tokenizer '{kind}': supported are llama (SentencePiece) and gpt2 (BPE)"
    for name, typecodes in (("scores", "f"), ("token_type", "iI")):
        key = f"tokenizer.ggml.{name}"
        values = header.metadata.get(key)
        if values is None:
            if name == "scores" and kind == "llama":
                return f"'{key}' is missing: SentencePiece needs it; {_CONVERT}"
            continue
        if not isinstance(values, array) or values.typecode not in typecodes:
            return f"'{key}' has the wrong type; {_CONVERT}"
        if len(values) != len(tokens):
            return f"{len(values):,} of '{key}' for {len(tokens):,} tokens; {_CONVERT}"
    merges = header.metadata.get("tokenizer.ggml.merges")
    if kind == "gpt2" and not (isinstance(merges, list) and merges):
        return f"'tokenizer.ggml.merges' is missing; {_CONVERT}"
    if kind == "gpt2":
        try:
            pretokenizer_named(header.metadata.get("tokenizer.ggml.pre"))
        except ModelNotSupported as error:
            return str(error)
    if (why := names_suppressed_tokens(header)) is not None:
        return why
    for key, value in header.metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and not _whole(value):
            return f"'{key}' is not one whole number; {_CONVERT}"
    return None


def _duplicate(tokens: list[bytes]) -> bytes | None:
    """A token that the library sees twice. It sees what stands before a NUL; empty ones may repeat."""
    seen: set[bytes] = set(tokens)
    if len(seen) == len(tokens) and not any(b"\0" in token for token in tokens):
        return None
    seen.clear()
    for token in tokens:
        text = token.partition(b"\0")[0]
        if text and text in seen:
            return token
        seen.add(text)
    return None


def _whole(value: Any) -> bool:
    return type(value) is int
