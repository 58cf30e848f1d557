"""What a GGUF file is: a whole language model, or something that belongs to another model."""

from __future__ import annotations

from array import array

from .gguf import Header

# Values of `general.type`. Older files lack that key; their architecture says the same.
_TYPES = {
    "adapter": "a LoRA adapter, which only changes another model: merge it into that one",
    "imatrix": "an importance matrix, which only guides the quantisation of a model",
    "mmproj": "a projector for images or sound (mmproj): name the language model beside it",
}
_ARCHITECTURES = {
    "clip": _TYPES["mmproj"],
    "controlvector": "a control vector, which only steers another model",
}


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
    if metadata.get("split.count", 0) not in (0, 1):
        return "one part of a split model: merge the parts (llama-gguf-split) first"
    if not header.tensors:
        return "a vocabulary without a model: the file has no tensors"
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
