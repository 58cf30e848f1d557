"""The default model on a GPU, all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.running.session import Session
from tests.gpu.conftest import Place


@pytest.mark.timeout(300)  # a device in software compiles its programs first
def test_the_default_model(
    any_gpu: Place, ask: Callable[..., InferencingResult], default_model_source: Path,
    session: Session,
) -> None:  # fmt: skip
    """It knows the capital of France there too, and says the same again after other words."""
    how = {"model": str(default_model_source), "params": {"max_tokens": 6, "temperature": 0}}
    first = ask(any_gpu, prompt="The capital of France is", **how)
    assert (first.device.gpu_layers, first.device.reason) == (31, "all layers fit")
    assert first.text.startswith(" Paris")
    assert first.device.memory_bytes is not None
    assert first.device.memory_bytes > default_model_source.stat().st_size * 0.9
    ask(any_gpu, prompt="Rivers of France:", **how)
    assert ask(any_gpu, prompt="The capital of France is", **how).text == first.text
    print(f"{first.device.memory_bytes / 2**20:.0f} MiB, {first.timings}")
