"""What is loaded with which settings, without a native library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends import parallel_opening
from llmwit_magic.engines.backends.base import Loaded
from llmwit_magic.engines.backends.blocks import WORTH_KEEPING
from llmwit_magic.engines.backends.ctransformers import devices, loading
from llmwit_magic.engines.backends.ctransformers.loading import load
from llmwit_magic.engines.backends.offloading import Gpu
from llmwit_magic.errors import (
    DeviceUnavailable,
    EngineFailed,
    InvalidInput,
    ModelNotSupported,
    OutOfMemory,
)
from llmwit_magic.models.gguf import read_header
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import write_llama_gguf

MEMORY = 10**9


class FakeEvaluator:
    """An evaluator that takes any tokens, and remembers how it was opened."""

    opened: list[FakeEvaluator]
    vocabulary_size = 0
    native_end_id = 0
    fails: Exception | None = None
    takes: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self, path: str, *, model_type: str | None, context_length: int, gpu_layers: int
    ) -> None:
        if self.fails:
            raise self.fails
        self.path, self.model_type, self.gpu_layers = path, model_type, gpu_layers
        self.context_length = context_length or 32
        self.library = "cuda" if gpu_layers else "avx2"
        self.tokens: list[int] = []
        self.opened.append(self)

    @property
    def reusable_length(self) -> int:
        return len(self.tokens)

    def shared_prefix(self, tokens: Any) -> int:
        pairs = zip(tokens[:-1], self.tokens, strict=False)
        return sum(1 for one, other in pairs if one == other)

    def evaluate_prompt(self, tokens: Any, threads: Any, progress: Any) -> bool:
        self.takes()
        self.tokens = list(tokens)
        return True


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[FakeEvaluator]:
    """The evaluators that were opened. The machine has a gigabyte free and no GPU."""
    monkeypatch.setattr(FakeEvaluator, "opened", [], raising=False)
    monkeypatch.setattr(loading, "CTransformersEvaluator", FakeEvaluator)
    monkeypatch.setattr(loading, "available_memory", lambda: MEMORY)
    monkeypatch.setattr(devices, "find_gpu", lambda: "there is no GPU")
    monkeypatch.setattr(devices, "local_problem", lambda: "")
    return FakeEvaluator.opened


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_llama_gguf(tmp_path / "tiny.gguf", context_length=256)
    size = len(read_header(path).metadata["tokenizer.ggml.tokens"])
    monkeypatch.setattr(FakeEvaluator, "vocabulary_size", size)
    return path


def loaded(path: Path, kept_prompts: int = 3, file: Path | None = None, **spec: Any) -> Loaded:
    return load(path, file or path, ModelSpec(model="m", **spec), kept_prompts)


def test_the_adapted_file_is_opened_and_the_original_is_read(
    model: Path, opened: list[FakeEvaluator], tmp_path: Path
) -> None:
    """The vocabulary and the context's length come from the source."""
    found = loaded(model, file=tmp_path / "adapted.gguf")
    (evaluator,) = opened
    assert evaluator.path == str(tmp_path / "adapted.gguf")
    assert (evaluator.model_type, evaluator.context_length) == (None, 256)
    assert found.header is not None
    assert found.header.path == model
    assert found.tokenizer.encode("Hello")


@pytest.mark.parametrize(
    ("spec", "length"),
    [({"context_length": 64}, 64), ({"context_length": 999, "accept": ("context",)}, 999)],
)
def test_the_context_is_as_asked_for(
    spec: dict[str, Any], length: int, model: Path, opened: list[FakeEvaluator]
) -> None:
    """A context longer than that of the training is taken where the spec accepts it."""
    loaded(model, **spec)
    assert opened[0].context_length == length


def test_a_long_context_is_refused(model: Path, opened: list[FakeEvaluator]) -> None:
    """A context that is too long is refused before anything is opened."""
    with pytest.raises(InvalidInput, match="the model was trained with 256"):
        loaded(model, context_length=257)
    assert opened == []


def test_the_device_says_why(model: Path) -> None:
    """The device says what was asked for, what was done, and why."""
    device = loaded(model).device
    assert (device.name, device.library, device.gpu_layers) == ("cpu", "avx2", 0)
    assert (device.requested_gpu_layers, device.reason) == ("auto", "there is no GPU")
    assert loaded(model, gpu_layers=0).device.reason == "asked for the CPU"
    with pytest.raises(DeviceUnavailable, match="2 GPU layers were asked for"):
        loaded(model, gpu_layers=2)


def test_layers_on_a_gpu(
    model: Path, opened: list[FakeEvaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory that the layers and the work buffers take is measured. No copies are kept."""
    free = [MEMORY]
    monkeypatch.setattr(devices, "find_gpu", lambda: Gpu("a GPU", MEMORY))
    monkeypatch.setattr(devices, "free_memory", lambda: free[-1])
    monkeypatch.setattr(FakeEvaluator, "takes", staticmethod(lambda: free.append(MEMORY - 500)))
    found = loaded(model)
    assert (found.device.name, found.device.library) == ("a GPU", "cuda")
    assert found.device.memory_bytes == 500
    assert found.device.gpu_layers == opened[0].gpu_layers > 0
    for number in range(4):
        ask(found, number)
    assert len(opened) == 1


def test_a_gpu_that_took_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that took no device memory would be one on the CPU, so it is refused as one."""
    monkeypatch.setattr(devices, "find_gpu", lambda: Gpu("a GPU", MEMORY))
    monkeypatch.setattr(devices, "free_memory", lambda: MEMORY)
    with pytest.raises(DeviceUnavailable, match="took no device memory"):
        loaded(model)


def ask(found: Loaded, number: int) -> None:
    """Evaluate a prompt that shares nothing with the prompts of other numbers."""
    tokens = [number] * (2 * WORTH_KEEPING)
    found.contexts.best_for(tokens).evaluate_prompt(tokens, lambda: 1, lambda done: True)


@pytest.mark.parametrize(("kept", "count"), [(1, 1), (2, 2), (5, 4)])
def test_prompts_are_kept_in_copies(
    kept: int, count: int, model: Path, opened: list[FakeEvaluator]
) -> None:
    """The copies asked for are opened when first needed, all with the same settings."""
    found = loaded(model, kept_prompts=kept)
    assert len(opened) == 1
    for number in range(4):
        ask(found, number)
    assert len(opened) == count
    assert len({(each.path, each.context_length, each.gpu_layers) for each in opened}) == 1


def test_a_copy_needs_memory(
    model: Path, opened: list[FakeEvaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where little memory is free, the first copy is used again."""
    found = loaded(model)
    monkeypatch.setattr(loading, "available_memory", lambda: 1000)
    for number in range(4):
        ask(found, number)
    assert len(opened) == 1


def test_a_vocabulary_that_the_library_sees_otherwise(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's token ids would not be ours."""
    monkeypatch.setattr(FakeEvaluator, "vocabulary_size", 7)
    with pytest.raises(ModelNotSupported, match=r"^tiny\.gguf: ctransformers sees 7 tokens of "):
        loaded(model)


@pytest.mark.parametrize("error", [RuntimeError("Failed to create LLM"), OSError("no such file")])
def test_a_file_that_cannot_be_opened(
    error: Exception, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line with the name of the file that was opened."""
    monkeypatch.setattr(FakeEvaluator, "fails", error)
    with pytest.raises(EngineFailed, match=rf"could not load tiny\.gguf: {error}"):
        loaded(model)


def test_a_refusal_of_the_vocabulary_says_more(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both fail, the error tells the reason that a person can do something about."""

    def refuse(metadata: Any) -> Any:
        raise ModelNotSupported("a vocabulary of a kind")

    monkeypatch.setattr(FakeEvaluator, "fails", RuntimeError("Failed to create LLM"))
    monkeypatch.setattr(parallel_opening, "build_tokenizer", refuse)
    with pytest.raises(ModelNotSupported, match=r"^tiny\.gguf: a vocabulary of a kind$"):
        loaded(model)


def test_an_old_file(tmp_path: Path, opened: list[FakeEvaluator]) -> None:
    """An old file has its own context length.

    A shorter one may be asked for. A longer one and GPU layers may not.
    """
    path = write_ggml(tmp_path / "old.bin", "gpt2")
    found = loaded(path, model_type="gpt2")
    assert (found.header, found.evaluator.context_length) == (None, 32)
    assert loaded(path, model_type="gpt2", context_length=8).evaluator.context_length == 8
    assert {each.model_type for each in opened} == {"gpt2"}
    FakeEvaluator.opened.clear()
    with pytest.raises(DeviceUnavailable, match="old GGML files run on the CPU"):
        loaded(path, model_type="gpt2", gpu_layers=1)
    assert FakeEvaluator.opened == []


def test_an_old_file_beyond_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old file is read and not mapped, so one beyond the free memory is refused before that."""
    path = write_ggml(tmp_path / "old.bin", "gpt2")
    monkeypatch.setattr(loading, "available_memory", lambda: path.stat().st_size - 1)
    with pytest.raises(OutOfMemory, match=r"old\.bin needs "):
        loaded(path, model_type="gpt2")
    assert FakeEvaluator.opened == []
