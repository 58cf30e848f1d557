"""What the child process does once: open the model with the context and device asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import DeviceUnavailable, EngineFailed, InvalidInput, ModelNotSupported, OutOfMemory
from ..models.gguf import Header, read_header
from ..models.tokenizer import NativeTokenizer, Tokenizer, build_tokenizer
from ..wit import DeviceInfo
from . import devices
from .contexts import Contexts
from .ctransformers import LogitsModel
from .limits import available_memory, limited_memory
from .threads import fixed_threads
from .windows import lacks_runtime

MAX_DEFAULT_CONTEXT = 8192
MEMORY_SHARE = 0.8
"""The part of the free memory that a context chosen by us may take."""
KEPT_SHARE = 0.25
"""The part of the free memory that keeping one more prompt may take."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run."""

    model: LogitsModel
    contexts: Contexts
    tokenizer: Tokenizer | NativeTokenizer
    header: Header | None
    device: DeviceInfo


def load(
    *,
    source: str,
    loaded: str,
    model_type: str | None,
    context_length: int | None,
    gpu_layers: int | str,
    anyway: bool = False,
    kept_prompts: int = 1,
) -> Loaded:
    """Open the model file `loaded`; the vocabulary is read from `source`, its original.

    A context longer than the model was trained with is refused, unless `anyway`.
    The evaluation of `kept_prompts` prompts is kept where memory allows.
    """
    if model_type:
        return _load_old(source, model_type, context_length, gpu_layers)
    header = read_header(Path(source))
    length = choose_context(header, context_length, anyway)
    gpu = "" if gpu_layers == 0 else devices.find_gpu()
    layers, reason = devices.choose_layers(gpu_layers, gpu, *devices.layer_sizes(header, length))
    before = devices.free_memory() if layers else None
    # The vocabulary takes Python as long as the file takes native code, which stays in one thread.
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(_tokenizer, header)
        try:
            model = _open(loaded, None, length, layers)
        finally:
            tokenizer = building.result()  # its refusal says more than a failure to open
    if model.vocabulary_size != len(tokenizer):
        raise ModelNotSupported(
            f"{Path(source).name}: ctransformers sees {model.vocabulary_size:,} tokens "
            f"of {len(tokenizer):,}"
        )
    taken = _device_memory_taken(before, model, layers)
    device = DeviceInfo(
        name=gpu.name if layers and isinstance(gpu, devices.Gpu) else "cpu",
        library=model.library,
        requested_gpu_layers=gpu_layers,
        gpu_layers=layers,
        memory_bytes=taken,
        reason=reason,
    )

    def open_another() -> LogitsModel | None:
        if needed_memory(header, length) > available_memory() * KEPT_SHARE:
            return None
        return _open(loaded, None, length, 0)

    # Beside a GPU the weights are not shared: each copy would take them again.
    contexts = Contexts(model, open_another, most=1 if layers else kept_prompts)
    return Loaded(model, contexts, tokenizer, header, device)


def _tokenizer(header: Header) -> Tokenizer:
    try:
        return build_tokenizer(header.metadata)
    except ModelNotSupported as error:
        raise ModelNotSupported(f"{header.path.name}: {error}") from None


def _load_old(
    source: str, model_type: str, context_length: int | None, gpu_layers: int | str
) -> Loaded:
    if gpu_layers not in (0, "auto"):
        raise DeviceUnavailable(
            "old GGML files run on the CPU: ctransformers offloads GGUF models only"
        )
    size, free = Path(source).stat().st_size, available_memory()
    if size > free:  # unlike a GGUF file's, these weights are read and not mapped
        raise OutOfMemory(
            f"{Path(source).name} needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: "
            "try a smaller model"
        )
    # Of such a header only the vocabulary is checked, and the loader takes the rest as it is.
    with limited_memory(free):
        model = _open(source, model_type, context_length or 0, 0)
    if context_length is not None:
        # Most of these formats have the length that their file tells, whatever is asked for.
        if context_length > model.context_length:
            raise InvalidInput(_too_long(context_length, model.context_length))
        model.context_length = context_length
    device = DeviceInfo(
        library=model.library, requested_gpu_layers=gpu_layers, reason="an old GGML file"
    )
    # Tokenising needs the loaded model itself, and these files may be read into memory.
    contexts = Contexts(model, lambda: None, most=1)
    return Loaded(model, contexts, NativeTokenizer(model), None, device)


def _open(path: str, model_type: str | None, context_length: int, layers: int) -> LogitsModel:
    if problem := devices.local_problem():
        raise DeviceUnavailable(problem)
    try:
        return LogitsModel(
            path, model_type=model_type, context_length=context_length, gpu_layers=layers
        )
    except (RuntimeError, OSError) as error:
        why = (isinstance(error, OSError) and lacks_runtime()) or error
        raise EngineFailed(f"ctransformers could not load {Path(path).name}: {why}") from None


def _device_memory_taken(before: int | None, model: LogitsModel, layers: int) -> int | None:
    """Device memory that loading took; a GPU run that took none was a CPU run."""
    if not layers or before is None:
        return None
    model.evaluate_prompt(
        [0], fixed_threads(1), lambda done: True
    )  # work buffers come with the first evaluation
    after = devices.free_memory()
    taken = before - after if after is not None else None
    if taken is not None and taken <= 0:
        raise DeviceUnavailable(
            f"{layers} GPU layers were asked for, but the library took no device memory"
        )
    return taken


def choose_context(header: Header, asked: int | None, anyway: bool = False) -> int:
    """Tokens of context: what was asked for, or the trained length as far as memory allows."""
    trained: int = header.hyperparameter("context_length")
    if asked is not None:
        if asked > trained and not anyway:
            raise InvalidInput(
                f"{_too_long(asked, trained)} (--accept context takes it; the text gets worse beyond)"
            )
        length = asked
    else:
        length = min(trained, MAX_DEFAULT_CONTEXT)
    free = available_memory()
    fitting = length
    while fitting > 64 and needed_memory(header, fitting) > free * MEMORY_SHARE:
        fitting //= 2
    if asked is not None and (needed := needed_memory(header, asked)) > free:
        raise OutOfMemory(
            f"a context of {asked} tokens needs {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free: --context-length {fitting} would fit"
        )
    return length if asked is not None else fitting


def needed_memory(header: Header, context_length: int) -> int:
    """Bytes of a context: keys and values, and the work buffers. Weights are mapped."""
    return devices.kv_cache_bytes(header, context_length) + devices.scratch_bytes(
        header, context_length
    )


def _too_long(asked: int, trained: int) -> str:
    return f"context_length: {asked} is not valid: the model was trained with {trained}"
