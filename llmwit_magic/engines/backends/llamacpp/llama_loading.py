"""A model file becomes a model loaded by llama.cpp, with the context that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ....contract.request import ModelSpec
from ....contract.wit import DeviceInfo
from ....errors import DeviceUnavailable, EngineFailed
from ....models.gguf import Header, read_header
from ....models.tokenizers.vocabulary import Tokenizer
from ...memory import available_memory
from ..base import Loaded
from ..blocks import BLOCK
from ..context_length import KEPT_SHARE, MEMORY_SHARE, choose_length
from ..parallel_opening import with_tokenizer
from .llama_embedder import WHOLE_TEXTS, LlamaEmbedder, pooling_of
from .llama_evaluator import LlamaContext
from .llama_h import MAPPED, NO_FLASH_ATTENTION, POOLINGS
from .llama_library import library
from .llama_vocabulary import LlamaTokenizer
from .llama_vocabulary_checks import uses_library_tokenizer

MOST_SEQUENCES = 256
"""The most sequences that a context of the library can have."""
SCRATCH_BYTES = 32 * 1024**2
"""Work buffers of a context, beside those that `scratch_bytes` counts."""


def load(source: Path, file: Path, spec: ModelSpec, kept_prompts: int) -> Loaded:
    """Load `file`; the vocabulary is read from `source`.

    A context longer than the model was trained with is refused, unless the spec accepts it.
    The evaluation of `kept_prompts` prompts is kept where memory allows.
    """
    header = read_header(source)
    per_token = kv_bytes_per_token(header)

    def needed(length: int) -> int:
        return per_token * length + scratch_bytes(header, length, BLOCK)

    trained = int(header.hyperparameter("context_length"))
    length = choose_length(trained, spec.context_length, spec.takes_long_context, needed)
    if spec.gpu_layers not in (0, "auto"):
        raise DeviceUnavailable(
            f"{spec.gpu_layers} GPU layers were asked for, and llama.cpp's library is used for the "
            "processor only; --gpu-layers 0 runs there"
        )
    free = available_memory() * KEPT_SHARE
    sequences = max(1, min(kept_prompts, MOST_SEQUENCES, int(free // needed(length))))
    context, tokenizer = _opened(
        header, lambda: _open_context(_load_model(file), length, sequences)
    )
    device = DeviceInfo(
        library=f"ggml {library().version}",
        requested_gpu_layers=spec.gpu_layers,
        reason="asked for the CPU" if spec.gpu_layers == 0 else "no GPU code is loaded",
    )

    @cache
    def embedder() -> LlamaEmbedder:
        pooling = pooling_of(header)
        most = pooled_length(header, length) if pooling in WHOLE_TEXTS else length
        own = _open_context(context.model, most, 1, pooling)
        contexts.append(own)
        width = library().llama_model_n_embd_out(context.model)
        return LlamaEmbedder(library(), own, width, pooling in WHOLE_TEXTS)

    contexts = [context]

    def interrupt(asked: bool) -> None:
        for each in contexts:
            each.interrupt(asked)

    return Loaded(context.evaluators[0], context, tokenizer, header, device, embedder, interrupt)


def _opened(
    header: Header, open_context: Callable[[], LlamaContext]
) -> tuple[LlamaContext, Tokenizer]:
    """The context, and the tokenizer: ours where it knows the vocabulary, else the library's."""
    if not uses_library_tokenizer(header.metadata):
        return with_tokenizer(header, open_context, "llama.cpp")
    context = open_context()
    vocabulary = library().llama_model_get_vocab(context.model)
    return context, LlamaTokenizer(header.metadata, library(), vocabulary)


def _load_model(path: Path) -> int:
    """The address of the loaded model."""
    lib = library()
    lib.forget_words()
    params = lib.llama_model_default_params()
    params.n_gpu_layers, params.load_mode = 0, MAPPED
    model: int | None = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise EngineFailed(f"llama.cpp could not load {path.name}: {lib.last_words()}")
    return model


def _open_context(
    model: int, length: int, sequences: int, pooling: str | None = None
) -> LlamaContext:
    """A context of the model for so many prompts of `length` tokens, or for vectors of texts.

    `pooling` is that of the vectors; None makes logits.
    """
    lib = library()
    lib.forget_words()
    settings: Any = lib.llama_context_default_params()
    settings.n_ctx = length * sequences
    settings.n_seq_max = sequences
    # A longer batch would end the process. The library wants room for a token of each sequence.
    together = length if pooling in WHOLE_TEXTS else min(BLOCK, length)
    settings.n_batch = settings.n_ubatch = max(together, sequences)
    if pooling is not None:
        settings.embeddings = True
        # Without a pooling the library gives the last token's state, which is the pooling `last`.
        settings.pooling_type = POOLINGS[pooling] if pooling in WHOLE_TEXTS else POOLINGS["none"]
    # All of these are needed for logits that are the same to the bit.
    settings.flash_attn_type = NO_FLASH_ATTENTION
    settings.swa_full, settings.kv_unified = True, False
    settings.offload_kqv = settings.op_offload = False
    context = lib.llama_init_from_model(model, settings)
    if not context:
        raise EngineFailed(f"llama.cpp could not make a context: {lib.last_words()}")
    rewinds = not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
    found = LlamaContext(lib, model, context, sequences, rewinds)
    if found.length < length:
        raise EngineFailed(f"llama.cpp made a context of {found.length} tokens, not of {length}")
    found.length = length  # the library rounds up
    for evaluator in found.evaluators:
        evaluator.context_length = length
    return found


def scratch_bytes(header: Header, length: int, together: int) -> int:
    """Bytes of the work buffers for `together` tokens in one call: logits, and attention scores."""
    vocabulary = len(header.metadata["tokenizer.ggml.tokens"])
    heads = _largest(header.hyperparameter("attention.head_count", 1))
    return 4 * together * (vocabulary + heads * length) + SCRATCH_BYTES


def pooled_length(header: Header, length: int) -> int:
    """The most tokens of a text whose vector is pooled: it takes one call, and its memory."""
    free = available_memory() * MEMORY_SHARE
    while length > 64 and scratch_bytes(header, length, length) > free:
        length //= 2
    return length


def kv_bytes_per_token(header: Header) -> int:
    """Bytes of keys and values of one token: two float16 numbers for each dimension and layer."""
    layers = header.hyperparameter("block_count")
    heads = _largest(header.hyperparameter("attention.head_count", 1))
    kv_heads = _largest(header.hyperparameter("attention.head_count_kv", heads))
    size = header.hyperparameter("embedding_length") // max(heads, 1)
    keys = _largest(header.hyperparameter("attention.key_length", size))
    values = _largest(header.hyperparameter("attention.value_length", size))
    return int(2 * layers * kv_heads * (keys + values))


def _largest(value: Any) -> int:
    """A number, or the largest of those that a file gives for each layer."""
    return int(value) if isinstance(value, int) else int(max(value, default=1))
