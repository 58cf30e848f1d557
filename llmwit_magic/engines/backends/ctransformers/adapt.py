"""Rewrites a GGUF file into the form that ctransformers loads.

Its loader is from September 2023. Later files lack values that the loader needs,
or keep their vocabulary in a form that it misreads. These things change:

1. `tokenizer.ggml.scores` and `tokenizer.ggml.token_type` are added where they are
   missing.
2. The tokens of a byte-level BPE vocabulary are stored as their raw bytes.
3. `output.weight` is added as a copy of `token_embd.weight` where it is missing
   (tied embeddings).
4. A linear rope scaling is also stored under the key that it had in 2023.
5. Special ids outside the vocabulary become 0. llama.cpp ignores such ids.

Everything else stays the same, byte for byte. The engine gets token ids from our
own tokenizer, which is built from the original file. So the stored tokens only
have to be unique.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from ....base.filesystem import discard, replace
from ....errors import ModelDamaged
from ....models.gguf import Header, TensorInfo, read_header
from .checks import check_runnable
from .computation import linear_scale

VERSION = 1
"""Part of an adapted file's name. It is raised when this module writes a different form."""

_NORMAL = 1  # GGUF's type of a token that is plain text
# For each kind of vocabulary, the special ids that the loader looks up without a check, and the
# ids that it takes where a file names none.
_LOADED_IDS: dict[str, dict[str, int | None]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0, "seperator": None, "padding": None},
    "gpt2": {"bos": 11, "eos": 11, "unknown": None, "seperator": None, "padding": None},
}
_BLOCK_BYTES = 1 << 24  # copied at once, since a tensor may be larger than the free memory


def needs_adaptation(header: Header) -> bool:
    """Whether the loader would refuse or misread this file as it is."""
    return _lacks_output(header) or bool(_changed_metadata(header))


def adapt(
    header: Header, target: Path, progress: Callable[[int, int], None], own: str = ""
) -> None:
    """Write the adapted form of a checked file to `target`, completely or not at all.

    `progress(done, total)` is called with numbers of bytes, and may raise to give
    up. The caller holds the lock of `target`. So what a killed writer left is
    overwritten. A caller that holds no lock gives in `own` an ending for names that
    nobody else uses. Raises `ModelDamaged` where the file changes while it is read,
    and `OSError` where the copy cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}{own}.part")
    try:
        _write(header, part, progress)
        written = read_header(part)
        check_runnable(written)
        if needs_adaptation(written):
            raise ModelDamaged(f"{header.path.name}: the adapted copy is not what was written")
        replace(part, target)
    finally:
        discard(part)


def _write(header: Header, path: Path, progress: Callable[[int, int], None]) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, header.architecture)
    metadata = dict(header.metadata) | _changed_metadata(header)
    for key, value in metadata.items():
        if key == "general.architecture":
            continue  # the writer has already put it first
        kind = gguf.GGUFValueType(header.types.get(key, _type_number(value)))
        if isinstance(value, str | int | float):
            writer.add_key_value(key, value, kind)
        elif len(value):
            writer.add_key_value(key, _Items(value), gguf.GGUFValueType.ARRAY, kind)
    # The writer must align the tensors as the copied metadata says.
    writer.data_alignment = header.alignment

    tensors = list(header.tensors)
    if _lacks_output(header):
        embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
        tensors.append(TensorInfo("output.weight", embedding.shape, embedding.type, 0))
        sources = [*header.tensors, embedding]
    else:
        sources = tensors
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name,
            tensor.shape[::-1],
            np.dtype(np.void),
            tensor.nbytes,
            gguf.GGMLQuantizationType[tensor.type.name],
        )
    done, total = 0, sum(source.nbytes for source in sources)
    with closing(writer), header.path.open("rb") as file:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        target = writer.fout[0]
        for source in sources:
            writer.write_padding(target, target.tell())
            file.seek(header.data_offset + source.offset)
            end = done + source.nbytes
            while done < end:
                progress(done, total)
                # The file is read and not mapped. So one that shrinks is an error and no SIGBUS.
                block = file.read(min(end - done, _BLOCK_BYTES))
                if not block:
                    raise ModelDamaged(
                        f"{header.path.name}: the file has changed while it was read"
                    )
                target.write(block)
                done += len(block)
            writer.write_padding(target, source.nbytes)
        progress(done, total)
        target.flush()
        os.fsync(target.fileno())


class _Items(list[Any]):
    """A list that is handed to the writer, which would take bytes for an array of numbers."""


def _type_number(value: Any) -> int:
    """The GGUF type of a value that the original lacks; for an array, the type of its items."""
    if isinstance(value, int):
        return 4
    first = value[0] if isinstance(value, Sequence) and len(value) else value
    return 6 if isinstance(first, float) else 5


def _lacks_output(header: Header) -> bool:
    return all(tensor.name != "output.weight" for tensor in header.tensors)


def _changed_metadata(header: Header) -> dict[str, Any]:
    """The keys that the loader needs with other values than the file's, and these values."""
    changed: dict[str, Any] = {}
    metadata = header.metadata
    tokens: list[bytes] = metadata["tokenizer.ggml.tokens"]
    if "tokenizer.ggml.scores" not in metadata:
        changed["tokenizer.ggml.scores"] = [0.0] * len(tokens)
    types = metadata.get("tokenizer.ggml.token_type")
    if types is None:
        types = changed["tokenizer.ggml.token_type"] = [_NORMAL] * len(tokens)
    if metadata["tokenizer.ggml.model"] == "gpt2" and b"\n" not in tokens:
        changed["tokenizer.ggml.tokens"] = raw_tokens(tokens, types)
    scale = linear_scale(header)
    if header.hyperparameter("rope.scale_linear", 1.0) != scale:
        changed[f"{header.architecture}.rope.scale_linear"] = scale
    for name, default in _LOADED_IDS[metadata["tokenizer.ggml.model"]].items():
        key = f"tokenizer.ggml.{name}_token_id"
        if (token_id := metadata.get(key, default)) is not None and token_id >= len(tokens):
            changed[key] = 0
    return changed


def raw_tokens(tokens: Sequence[bytes], types: Sequence[int]) -> list[bytes]:
    """Byte-level BPE tokens as their raw bytes. Special tokens stay as they are.

    A token gets a unique placeholder instead where its bytes occur twice or hold
    a NUL. The loader takes a NUL for the end of a token.
    """
    from ....models.tokenizers.bpe import byte_to_character

    byte_of = {character: byte for byte, character in byte_to_character().items()}
    taken: set[bytes] = {
        token for token, kind in zip(tokens, types, strict=True) if kind != _NORMAL
    }
    raw: list[bytes] = []
    for index, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        data = token
        if kind == _NORMAL:
            # A token that is not in the byte-level form is kept as it is.
            with suppress(KeyError, UnicodeDecodeError):
                data = bytes(byte_of[character] for character in token.decode())
            if b"\0" in data or data in taken:
                data = b"<placeholder %d>" % index
                while data in taken:
                    data += b"'"
            taken.add(data)
        raw.append(data)
    return raw
