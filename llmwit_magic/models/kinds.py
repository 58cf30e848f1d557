"""What a GGUF file is: a whole language model, or something that belongs to another model."""

from __future__ import annotations

from array import array

from .gguf import MAX_TENSORS, Header

# Values of `general.type`. Older files lack that key; their architecture says the same.
_TYPES = {
    "adapter": "a LoRA adapter, which only changes another model: merge it into that one",
    "imatrix": "an importance matrix, which only guides the quantisation of a model: name the model "
    "itself",
    "mmproj": "a projector for images or sound (mmproj): name the language model beside it",
}
_ARCHITECTURES = {
    "clip": _TYPES["mmproj"],
    "controlvector": "a control vector, which only steers another model: name that one",
}
_OLD_ADAPTER = b"algg"
"""The magic number of LoRA adapters before GGUF, `ggla`."""
START_BYTES = 512
"""How much of a file `not_a_model_before_gguf` looks at."""


def not_a_model(header: Header) -> str | None:
    """A description of a file that is no whole model; None for a model of any architecture."""
    metadata = header.metadata
    kind = metadata.get("general.type", "model")
    if isinstance(kind, str) and kind in _TYPES:
        return _TYPES[kind]
    if header.architecture in _ARCHITECTURES:
        return _ARCHITECTURES[header.architecture]
    if "adapter.type" in metadata:
        return _TYPES["adapter"]
    if kind != "model":
        return f"'general.type' is {kind!r}: only a file of the type 'model' can be run"
    if not header.tensors:
        return "a vocabulary without a model: the file has no tensors"
    return None


def not_a_model_before_gguf(start: bytes) -> str | None:
    """A description of a file of an old format that is no model, by its first bytes; else None.

    An importance matrix began with its number of entries, and with the length and the name of the
    tensor of the first one (`imatrix.cpp` in llama.cpp, until 2025).
    """
    if start.startswith(_OLD_ADAPTER):
        return _TYPES["adapter"]
    entries, length = (int.from_bytes(start[at : at + 4], "little") for at in (0, 4))
    name = start[8 : 8 + length]
    if 0 < entries <= MAX_TENSORS and len(name) == length and name.endswith(b".weight"):
        return _TYPES["imatrix"]
    return None


def quantisation(header: Header) -> str:
    """The tensor type that holds most of the model's bytes, such as Q4_1."""
    totals: dict[str, int] = {}
    for tensor in header.tensors:
        totals[tensor.type.name] = totals.get(tensor.type.name, 0) + tensor.nbytes
    return max(totals, key=lambda name: totals[name]) if totals else ""


def names_suppressed_tokens(header: Header) -> str | None:
    """What is to be said of a file that names tokens never to be generated; None for another."""
    suppressed = header.metadata.get("tokenizer.ggml.suppress_tokens", ())
    if isinstance(suppressed, array | tuple) and not len(suppressed):
        return None
    return (
        "'tokenizer.ggml.suppress_tokens' names tokens that must never be generated, and "
        "llmwit-magic would generate them"
    )
