"""Embeddings are those of llama.cpp with the pooling `last`, whatever else the file says.

They depend on every token and on the whole computation, so they also show that what a file says
of its vocabulary and its positions is taken as llama.cpp takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from llmwit_magic import api
from llmwit_magic.running.session import Session
from tests.model import llamacpp
from tests.support.gguf_parts import BOOL, take_apart
from tests.support.tiny_models import write_llama_gguf

pytestmark = pytest.mark.timeout(120)

TEXTS = ["a cat", "The capital of France is Paris.", "日本語 😀", "one two three " * 12]
Embed = Callable[[Path], Sequence[Sequence[float]]]


@pytest.fixture
def embed(session: Session, monkeypatch: pytest.MonkeyPatch) -> Embed:
    monkeypatch.setattr(api, "current_session", lambda: session)
    return lambda path: api.generate_embeddings(path, TEXTS, context_length=256).embeddings


def cosines(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> NDArray[Any]:
    a, b = np.array(ours), np.array(theirs)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


FILES: dict[str, dict[str, Any]] = {
    "plain": {},
    "eos": {"tokenizer.ggml.add_eos_token": True},
    "no pooling": {"llama.pooling_type": 0},
    "pooling last": {"llama.pooling_type": 3},
    "two scales": {"llama.rope.scale_linear": 2.0, "llama.rope.scaling.factor": 4.0},
    "a void scale": {"llama.rope.scale_linear": 2.0, "llama.rope.scaling.type": "none"},
    "a scale of nought": {"llama.rope.scaling.factor": 0.0},
    "padding beyond": {"tokenizer.ggml.padding_token_id": 600},
    "padding far beyond": {"tokenizer.ggml.padding_token_id": 2**32 - 1},
    "eos beyond": {"tokenizer.ggml.eos_token_id": 600, "tokenizer.ggml.add_eos_token": True},
    "another size": {"llama.vocab_size": 7},
    "another causality": {"llama.attention.causal": True},
}


@pytest.mark.parametrize("vocabulary", ["bpe", "spm"])
@pytest.mark.parametrize("name", FILES)
def test_tiny_models(
    name: str, vocabulary: Literal["bpe", "spm"], embed: Embed, tmp_path: Path
) -> None:
    """In 32-bit weights the vectors agree but for rounding."""
    path = write_llama_gguf(
        tmp_path / "tiny.gguf", vocabulary=vocabulary, extra_metadata=FILES[name]
    )
    theirs = np.array(llamacpp.embeddings(path, TEXTS))
    ours = np.array(embed(path))
    assert cosines(ours, theirs).min() > 0.9999
    assert np.abs(ours - theirs).max() < 5e-3 * np.abs(theirs).max()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("asks", [False, True])
def test_the_default_model(
    asks: bool, default_model_source: Path, embed: Embed, tmp_path: Path
) -> None:
    """So do those of the default model, as it is and asking for eos, but for rounded activations."""
    path = default_model_source
    if asks:
        parts = take_apart(path.read_bytes())
        path = tmp_path / "asks.gguf"
        path.write_bytes(parts.with_value("tokenizer.ggml.add_eos_token", BOOL, b"\1").join())
    found = cosines(embed(path), llamacpp.embeddings(path, TEXTS))
    print(found.round(4).tolist())
    assert found.min() > 0.99
