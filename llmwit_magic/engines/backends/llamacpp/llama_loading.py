"""A model file becomes a model loaded by llama.cpp, with the context that was asked for."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ....contract.request import ModelSpec
from ....contract.wit import DeviceInfo
from ....errors import DeviceUnavailable, EngineFailed, InvalidInput, OutOfMemory
from ....models.gguf import Header
from ....models.parts import read_model
from ....models.tokenizers.vocabulary import Tokenizer
from ...memory import available_memory
from ..base import Loaded
from ..blocks import BLOCK
from ..context_length import KEPT_SHARE, MEMORY_SHARE, choose_length
from ..offloading import choose_layers, layer_sizes
from ..parallel_opening import tokenizer_of, with_tokenizer
from .llama_devices import LlamaDevice, choose_device
from .llama_embedder import WHOLE_TEXTS, LlamaEmbedder, pooling_of
from .llama_evaluator import KeptPrompts, LlamaContext
from .llama_h import (
    AUTO_FLASH_ATTENTION,
    MAPPED,
    NO_FLASH_ATTENTION,
    POOLINGS,
    TEXT,
    WHOLE_NUMBER,
)
from .llama_library import library
from .llama_vocabulary import LlamaTokenizer
from .llama_vocabulary_checks import uses_library_tokenizer

LARGE_BLOCK = 512
"""How many prompt tokens are evaluated in one call where the text need not be exact."""
MOST_SEQUENCES = 256
"""The most sequences that a context of the library can have."""
SCRATCH_BYTES = 32 * 1024**2
"""Work buffers of a context, beside those that `scratch_bytes` counts."""

SURE_TENSOR_BYTES = 2**27
"""What each Vulkan device allows one tensor to have (`maxStorageBufferRange`), as a layer's keys of
all sequences are one. Where a device allows no more, the library would end its process."""


def load(source: Path, file: Path, spec: ModelSpec, kept_prompts: int) -> Loaded:
    """Load `file`; the vocabulary is read from `source`.

    A context longer than the model was trained with is refused, unless the spec accepts it.
    The evaluation of `kept_prompts` prompts is kept where memory allows. Raises
    `DeviceUnavailable` for layers that cannot be put on a GPU, and `OutOfMemory`.
    """
    header = read_model(source)
    per_token = kv_bytes_per_token(header)

    def needed(length: int) -> int:
        return per_token * length + scratch_bytes(header, length, block)

    block = BLOCK if spec.exact else LARGE_BLOCK

    trained = int(header.hyperparameter("context_length"))
    length = choose_length(trained, spec.context_length, spec.takes_long_context, needed)
    order = offload_order(header, length, block)
    device, layers, reason = _choose_place(spec, order)

    def more_sequences() -> int:
        """How many prompts can be kept beside the first."""
        fitting = int(available_memory() * KEPT_SHARE // needed(length))
        return max(0, min(kept_prompts - 1, MOST_SEQUENCES - 1, fitting))

    # On a GPU the first context has them all: the memory that is free now may be taken later.
    sequences = 1
    if device is not None:
        spare = SURE_TENSOR_BYTES * header.hyperparameter("block_count") - per_token * length
        if device.gpu.budget is not None:
            spare = min(spare, (device.gpu.budget - sum(order[:layers])) * KEPT_SHARE)
        sequences += min(more_sequences(), max(0, int(spare // (per_token * length))))

    def open_context(
        model: int, length: int, count: int, block: int, pooling: str | None = None
    ) -> LlamaContext:
        with _explained(file, device, layers):
            return _open_context(model, length, count, block, device is not None, pooling)

    def open_model() -> LlamaContext:
        overrides = None if uses_library_tokenizer(header.metadata) else _no_vocabulary(header)
        library().placed.forget()
        with _short_turns():
            with _explained(file, device, layers):
                model = _load_model(file, device, layers, overrides)
            return open_context(model, length, sequences, block)

    context, tokenizer = _opened(header, open_model)
    info = DeviceInfo(
        name=device.gpu.name if device else "cpu",
        library=library().description,
        requested_gpu_layers=spec.gpu_layers,
        gpu_layers=layers,
        memory_bytes=_memory_taken(device, layers) if device else None,
        reason=reason,
        exact=spec.exact,
    )

    @cache
    def embedder() -> LlamaEmbedder:
        pooling = pooling_of(header)
        most = pooled_length(header, length) if pooling in WHOLE_TEXTS else length
        own = open_context(context.model, most, 1, BLOCK, pooling)
        contexts.append(own)
        width = library().llama_model_n_embd_out(context.model)
        return LlamaEmbedder(library(), own, width, pooling in WHOLE_TEXTS)

    contexts = [context]

    def open_more() -> LlamaContext | None:
        if device is None and (count := more_sequences()):
            with suppress(EngineFailed, OutOfMemory):
                contexts.append(open_context(context.model, length, count, block))
                return contexts[-1]
        return None

    def interrupt(asked: bool) -> None:
        for each in contexts:
            each.interrupt(asked)

    kept = KeptPrompts(context, open_more)
    return Loaded(context.evaluators[0], kept, tokenizer, header, info, embedder, interrupt)


def load_tokenizer(source: Path) -> Tokenizer:
    """The vocabulary of a file: by ours where it knows that, else by the library, without tensors."""
    header = read_model(source)
    if not uses_library_tokenizer(header.metadata):
        return tokenizer_of(header)
    model = _load_model(source, None, 0, vocabulary_only=True)
    return LlamaTokenizer(header.metadata, library(), library().llama_model_get_vocab(model))


def _opened(
    header: Header, open_context: Callable[[], LlamaContext]
) -> tuple[LlamaContext, Tokenizer]:
    """The context, and the tokenizer: ours where it knows the vocabulary, else the library's."""
    if not uses_library_tokenizer(header.metadata):
        return with_tokenizer(header, open_context, "llama.cpp")
    context = open_context()
    vocabulary = library().llama_model_get_vocab(context.model)
    return context, LlamaTokenizer(header.metadata, library(), vocabulary)


def _choose_place(spec: ModelSpec, order: Sequence[int]) -> tuple[LlamaDevice | None, int, str]:
    """The device that gets layers, how many, and the reason. Without a device there are none."""
    if spec.gpu_layers == 0 and spec.device is not None:
        raise InvalidInput(
            f"device: {spec.device!r} is for layers on a GPU, and gpu_layers is 0: leave one out"
        )
    found = "" if spec.gpu_layers == 0 else choose_device(library(), spec.gpu_layers, spec.device)
    place = found if isinstance(found, str) else found.gpu
    layers, reason = choose_layers(spec.gpu_layers, place, order)
    return found if layers and isinstance(found, LlamaDevice) else None, layers, reason


def _memory_taken(device: LlamaDevice, layers: int) -> int:
    """Bytes of device memory that the model took.

    Raises `DeviceUnavailable` where the library did not put all the layers there: it takes any
    number of them without a word.
    """
    placed = library().placed
    taken = placed.bytes_on(device.name)
    if placed.layers != layers or not taken:
        raise DeviceUnavailable(
            f"{layers} GPU layers were to be on {device.gpu.name}, and llama.cpp put "
            f"{placed.layers} with {taken:,} bytes there: --gpu-layers 0 runs on the CPU"
        )
    return taken


@contextmanager
def _explained(file: Path, device: LlamaDevice | None, layers: int) -> Iterator[None]:
    """A block whose failure is told as one of the device's memory, where it was that."""
    try:
        yield
    except EngineFailed:
        refused = library().placed.refused
        if device is None or refused is None or not refused[0].startswith(device.name):
            raise
        raise OutOfMemory(
            f"{file.name}: {device.gpu.name} did not give {refused[1] / 2**20:,.1f} MiB for one of "
            f"the buffers of {layers} layers: try a lower --gpu-layers or --context-length"
        ) from None


def _no_vocabulary(header: Header) -> Any:
    """What makes the library load a model without its vocabulary, of which it knows the size then.

    Where ours finds the token ids, the library's is of no use, and reading it takes two thirds of
    the time that the library takes to open a small model.
    """
    size = len(header.metadata["tokenizer.ggml.tokens"])
    none, count, _ = overrides = (library().llama_model_kv_override * 3)()  # the last one is empty
    none.tag, none.key, none.value.val_str = TEXT, b"tokenizer.ggml.model", b"no_vocab"
    count.tag, count.key = WHOLE_NUMBER, f"{header.architecture}.vocab_size".encode()
    count.value.val_i64 = size
    return overrides


def _load_model(
    path: Path,
    device: LlamaDevice | None,
    layers: int,
    overrides: Any = None,
    vocabulary_only: bool = False,
) -> int:
    """The address of the loaded model. So many of its layers are put on the device.

    `overrides` is an array of what holds in the place of what the file says.
    """
    lib = library()
    lib.forget_words()
    params = lib.llama_model_default_params()
    # Older structs have no `load_mode`: there, mapping is the default.
    params.n_gpu_layers, params.load_mode = layers, MAPPED
    params.vocab_only = vocabulary_only
    # Some declarations say what the pointer leads to, and some do not.
    params.kv_overrides = ctypes.cast(overrides, dict(params._fields_)["kv_overrides"])
    # The list ends with a null. Without a list, the library would take all GPUs that it finds.
    chosen = (ctypes.c_void_p * 2)(device.address if device else None, None)
    params.devices = ctypes.cast(chosen, ctypes.c_void_p)
    model: int | None = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise EngineFailed(f"llama.cpp could not load {path.name}: {lib.last_words()}")
    return model


@contextmanager
def _short_turns() -> Iterator[None]:
    """A block in which threads of Python take turns more often.

    The library logs two thousand lines while it opens a small model, and Python takes each of them.
    Meanwhile the thread that makes the tokenizer has the GIL for a turn. With turns of 0.2 ms, the
    library waits for so long that it has done little when the tokenizer is ready.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _open_context(
    model: int, length: int, sequences: int, block: int, on_gpu: bool, pooling: str | None = None
) -> LlamaContext:
    """A context of the model for so many prompts of `length` tokens, or for vectors of texts.

    Prompts are evaluated in blocks of `block` tokens; one of `BLOCK` tokens is exact. `on_gpu` is
    whether layers of the model are on a GPU: then their caches are there too. `pooling` is that of
    the vectors; None makes logits.
    """
    lib = library()
    lib.forget_words()
    settings: Any = lib.llama_context_default_params()
    settings.n_ctx = length * sequences
    settings.n_seq_max = sequences
    # A longer batch would end the process. The library wants room for a token of each sequence.
    together = length if pooling in WHOLE_TEXTS else min(block, length)
    settings.n_batch = settings.n_ubatch = max(together, sequences)
    if pooling is not None:
        settings.embeddings = True
        # Without a pooling the library gives the last token's state, which is the pooling `last`.
        settings.pooling_type = POOLINGS[pooling] if pooling in WHOLE_TEXTS else POOLINGS["none"]
    # All of these are needed for logits that are the same to the bit.
    settings.flash_attn_type = NO_FLASH_ATTENTION if block == BLOCK else AUTO_FLASH_ATTENTION
    settings.swa_full, settings.kv_unified = True, False
    settings.offload_kqv = on_gpu
    settings.op_offload = False  # on would copy the other layers' weights there for each block
    context = lib.llama_init_from_model(model, settings)
    if not context:
        raise EngineFailed(f"llama.cpp could not make a context: {lib.last_words()}")
    rewinds = not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
    found = LlamaContext(lib, model, context, sequences, rewinds, block)
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


def offload_order(header: Header, length: int, block: int = BLOCK) -> list[int]:
    """Device bytes of each layer with its share of the KV cache, in the library's order.

    The output comes first, then the last repeating layer. The work buffers count with the output.
    """
    sizes, output = layer_sizes(header, kv_bytes_per_token(header) * length)
    return [output + scratch_bytes(header, length, block), *reversed(sizes)]


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
