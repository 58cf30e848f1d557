"""What a GGUF file is: a whole language model, or one of the things that go beside one."""

from __future__ import annotations

from .gguf import Header

# Values of `general.type`; files from before that key tell it by their architecture.
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
    """What the file is where it is no whole model; None for a model of any architecture."""
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
