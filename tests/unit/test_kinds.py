"""A file that is not a whole model is described as what it is, and not called damaged."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.errors import ModelNotSupported
from llmwit_magic.models.catalog import find
from llmwit_magic.models.gguf import Header, read_header
from llmwit_magic.models.kinds import not_a_model
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


def test_parts_of_a_split_model(model: Header) -> None:
    """One part of a split model is refused, and the message says what to do. A single part is run."""
    first = replace(with_metadata(model, {"split.count": 3}), tensors=[])
    for part in (with_metadata(model, {"split.count": 3}), first):
        assert "llama-gguf-split" in refusal(part)
    assert not not_a_model(with_metadata(model, {"split.count": 1}))
    assert not not_a_model(with_metadata(model, {"split.count": 0}))


@pytest.mark.parametrize("value", ["2", array("H", [2, 3]), [b"2"], 2.5])
def test_split_count_of_a_wrong_type(value: Any, model: Header) -> None:
    """A part count of the wrong type is refused, and does not crash."""
    refusal(with_metadata(model, {"split.count": value}))


def test_a_real_adapter(tmp_path: Path) -> None:
    """An adapter as llama.cpp's converter writes it, with a type, an alpha and pairs of tensors."""
    from gguf import GGUFWriter
    from numpy import zeros

    path = tmp_path / "lora.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    for end in ("lora_a", "lora_b"):
        writer.add_tensor(f"blk.0.attn_q.weight.{end}", zeros((8, 64), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelNotSupported, match=r"^lora\.gguf: a LoRA adapter") as caught:
        find(str(path), {}, lambda progress: None)
    assert type(caught.value) is ModelNotSupported  # and not damaged
