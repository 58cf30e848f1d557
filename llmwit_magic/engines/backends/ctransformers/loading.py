"""Loads a model file, with the context length and the device that were asked for."""

from __future__ import annotations

from pathlib import Path

from ....contract.request import ModelSpec
from ....contract.wit import DeviceInfo
from ....errors import (
    DeviceUnavailable,
    EngineFailed,
    InvalidInput,
    OutOfMemory,
)
from ....models.gguf import Header, read_header
from ....models.tokenizers.native import NativeTokenizer
from ...memory import available_memory, limited_memory
from ...threads import fixed_threads
from ..base import Loaded
from ..context_length import KEPT_SHARE, choose_length, too_long
from ..offloading import Gpu, choose_layers
from ..parallel_opening import with_tokenizer
from . import devices
from .copies import Copies
from .evaluator import CTransformersEvaluator
from .last_token import LastToken
from .windows_paths import lacks_runtime


def load(source: Path, file: Path, spec: ModelSpec, kept_prompts: int) -> Loaded:
    """Load `file`. The vocabulary is read from `source`, its original.

    A context longer than the one of the model's training is refused, unless the spec accepts it.
    The evaluation of the last `kept_prompts` prompts is kept where memory allows. Raises
    `InvalidInput`, `OutOfMemory`, `DeviceUnavailable`, `ModelNotSupported` or `EngineFailed`.
    """
    if spec.device is not None:
        raise InvalidInput(
            "device: ctransformers takes the first GPU and cannot choose another: leave --device "
            "out, or take --engine llama.cpp"
        )
    if spec.model_type:
        return _load_old(source, spec.model_type, spec.context_length, spec.gpu_layers)
    header = read_header(source)
    length = choose_context(header, spec.context_length, spec.takes_long_context)
    gpu = "" if spec.gpu_layers == 0 else devices.find_gpu()
    order = devices.offload_order(header, length)
    layers, reason = choose_layers(spec.gpu_layers, gpu, order)
    before = devices.free_memory() if layers else None
    evaluator, tokenizer = with_tokenizer(
        header, lambda: _open(file, None, length, layers), "ctransformers"
    )
    taken = _device_memory_taken(before, evaluator, layers)
    device = DeviceInfo(
        name=gpu.name if layers and isinstance(gpu, Gpu) else "cpu",
        library=evaluator.library,
        requested_gpu_layers=spec.gpu_layers,
        gpu_layers=layers,
        memory_bytes=taken,
        reason=reason,
    )

    def open_another() -> CTransformersEvaluator | None:
        if needed_memory(header, length) > available_memory() * KEPT_SHARE:
            return None
        return _open(file, None, length, 0)

    # On a GPU, the copies do not share the weights: each copy would take their memory again.
    copies = Copies(evaluator, open_another, most=1 if layers else kept_prompts)
    return Loaded(
        evaluator, copies, tokenizer, header, device, lambda: LastToken(evaluator, header)
    )


def _load_old(
    source: Path, model_type: str, context_length: int | None, gpu_layers: int | str
) -> Loaded:
    if gpu_layers not in (0, "auto"):
        raise DeviceUnavailable(
            "old GGML files run on the CPU: ctransformers offloads GGUF models only"
        )
    size, free = source.stat().st_size, available_memory()
    if size > free:  # unlike a GGUF file's, these weights are read and not mapped
        raise OutOfMemory(
            f"{source.name} needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: "
            "try a smaller model"
        )
    # Only the vocabulary of such a file was checked. The loader believes the rest of its header.
    with limited_memory(free):
        evaluator = _open(source, model_type, context_length or 0, 0)
    if context_length is not None:
        # Most of these formats take the length from the file, whatever is asked for.
        if context_length > evaluator.context_length:
            raise InvalidInput(too_long(context_length, evaluator.context_length))
        evaluator.context_length = context_length
    device = DeviceInfo(
        library=evaluator.library,
        requested_gpu_layers=gpu_layers,
        reason="an old GGML file",
    )
    # There is one copy only: its tokenizer needs that loaded model, and its weights are not mapped.
    copies = Copies(evaluator, lambda: None, most=1)
    tokenizer = NativeTokenizer(evaluator)
    return Loaded(evaluator, copies, tokenizer, None, device, lambda: LastToken(evaluator, None))


def _open(
    path: Path, model_type: str | None, context_length: int, layers: int
) -> CTransformersEvaluator:
    if problem := devices.local_problem():
        raise DeviceUnavailable(problem)
    try:
        return CTransformersEvaluator(
            str(path), model_type=model_type, context_length=context_length, gpu_layers=layers
        )
    except (RuntimeError, OSError) as error:
        why = (isinstance(error, OSError) and lacks_runtime()) or error
        raise EngineFailed(f"ctransformers could not load {path.name}: {why}") from None


def _device_memory_taken(
    before: int | None, evaluator: CTransformersEvaluator, layers: int
) -> int | None:
    """Bytes of device memory that loading took; None where that is unknown.

    Raises `DeviceUnavailable` where it took none, since the model would then run on the CPU.
    """
    if not layers or before is None:
        return None
    # The first evaluation allocates the work buffers.
    evaluator.evaluate_prompt([0], fixed_threads(1), lambda done: True)
    after = devices.free_memory()
    taken = before - after if after is not None else None
    if taken is not None and taken <= 0:
        raise DeviceUnavailable(
            f"{layers} GPU layers were asked for, but the library took no device memory"
        )
    return taken


def choose_context(header: Header, asked: int | None, beyond: bool = False) -> int:
    """Tokens of context for the model; see `choose_length`."""
    trained: int = header.hyperparameter("context_length")
    return choose_length(trained, asked, beyond, lambda length: needed_memory(header, length))


def needed_memory(header: Header, context_length: int) -> int:
    """Bytes that a context takes: its keys and values, and the work buffers.

    The weights are mapped and do not count.
    """
    return devices.kv_cache_bytes(header, context_length) + devices.scratch_bytes(
        header, context_length
    )
