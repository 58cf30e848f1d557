"""A file that is not a whole model is described as what it is, and not called damaged."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.errors import ModelNotSupported
from llmwit_magic.models.catalog import find
from llmwit_magic.models.gguf import Header, read_header
from llmwit_magic.models.kinds import not_a_model, not_a_model_before_gguf
from tests.support.headers import with_metadata
from tests.support.tiny_models import write_llama_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Header:
    return read_header(write_llama_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf"))


def refusal(header: Header) -> str:
    what = not_a_model(header)
    assert what is not None
    return what


def bare(header: Header, **metadata: Any) -> Header:
    """A header with only these metadata values, and none of a model's."""
    values = {key.replace("_", ".", 1): value for key, value in metadata.items()}
    return with_metadata(replace(header, metadata={}, types={}), values)


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        ({"general_type": "adapter", "general_architecture": "llama"}, "a LoRA adapter"),
        ({"general_architecture": "llama", "adapter_type": "lora"}, "a LoRA adapter"),
        ({"general_type": "imatrix"}, "an importance matrix"),
        ({"general_type": "mmproj", "general_architecture": "clip"}, "a projector for images"),
        ({"general_architecture": "clip"}, "a projector for images"),
        ({"general_architecture": "controlvector"}, "a control vector"),
        ({"general_type": "dataset"}, "'general.type' is 'dataset'"),
    ],
)
def test_files_beside_a_model(metadata: dict[str, str], what: str, model: Header) -> None:
    """Adapters, importance matrices, projectors and control vectors are called by their names."""
    assert what in refusal(bare(model, **metadata))


def test_a_model_of_a_type_that_is_none(model: Header) -> None:
    """A whole model whose `general.type` says that it is something else is not run."""
    assert "a LoRA adapter" in refusal(with_metadata(model, {"general.type": "adapter"}))
    for value in (7, array("I", [1]), [b"model"], ""):
        assert "only a file of the type 'model'" in refusal(
            with_metadata(model, {"general.type": value})
        )
    assert not not_a_model(with_metadata(model, {"general.type": None}))


def test_a_vocabulary_alone(model: Header) -> None:
    """A file without tensors is called a vocabulary. llama.cpp has such files for its tests."""
    assert "a vocabulary without a model" in refusal(replace(model, tensors=[]))


def write_gguf(
    path: Path, architecture: str, texts: dict[str, str], tensors: Iterable[str]
) -> Path:
    """A file as llama.cpp's tools write it beside a model: with texts, and with tensors of zeros."""
    from gguf import GGUFWriter
    from numpy import zeros

    writer = GGUFWriter(path, architecture)
    if not architecture:
        writer.kv_data[0].clear()
    for key, text in texts.items():
        writer.add_string(key, text)
    for name in tensors:
        writer.add_tensor(name, zeros((8, 64), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def old_imatrix(path: Path) -> Path:
    """An importance matrix as `imatrix.cpp` wrote it until 2025: numbers, names, floats."""
    name = b"blk.0.attn_q.weight"
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii64f", 1, 64, *[0.5] * 64)
    path.write_bytes(struct.pack("<i", 2) + entry + entry.replace(b"attn_q", b"attn_k"))
    return path


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: write_gguf(path, "llama", {"general.type": "adapter", "adapter.type": "lora"},
                                 ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"]),
         "a LoRA adapter, which only changes another model: merge it into that one"),
        (lambda path: write_gguf(path, "clip", {"general.type": "mmproj"}, ["mm.0.weight"]),
         "a projector for images or sound (mmproj): name the language model beside it"),
        (lambda path: write_gguf(path, "clip", {}, ["mm.0.weight"]),
         "a projector for images or sound (mmproj): name the language model beside it"),
        (lambda path: write_gguf(path, "", {"general.type": "imatrix"},
                                 ["blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts"]),
         "an importance matrix, which only guides the quantisation of a model: name the model "
         "itself"),
        (old_imatrix,
         "an importance matrix, which only guides the quantisation of a model: name the model "
         "itself"),
        (lambda path: path.write_bytes(b"algg" + bytes(100)),
         "a LoRA adapter, which only changes another model: merge it into that one"),
    ],
    ids=["adapter", "projector", "old projector", "imatrix", "old imatrix", "old adapter"],
)  # fmt: skip
def test_real_files_beside_a_model(
    write: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    """They are named for what they are, and not as damaged, with what to give in their place."""
    path = tmp_path / "file.bin"
    write(path)
    with pytest.raises(ModelNotSupported) as caught:
        find(str(path), {}, lambda progress: None)
    assert str(caught.value) == f"file.bin: {said}"
    assert type(caught.value) is ModelNotSupported


@pytest.mark.parametrize(
    "start",
    [b"", b"\1\0\0\0", b"\1\0\0\0\xff\0\0\0blk.0.weight", b"hello, this is a text.weight",
     b"\1\0\0\0\x03\0\0\0abc", b"lmgg" + bytes(600)],
)  # fmt: skip
def test_other_files_from_before_gguf(start: bytes) -> None:
    """Nothing is said of a file that is none of these."""
    assert not_a_model_before_gguf(start) is None
