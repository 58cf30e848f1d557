"""A prompt's logits are the same to the bit, whatever was evaluated before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.engine import logits_of
from tests.support.tiny_models import write_llama_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("same") / "spm.gguf"
    write_llama_gguf(path, vocabulary="spm")
    return path


@pytest.mark.parametrize("length", [5, 31, 32, 33, 64, 70, 95, 96])
def test_logits_do_not_depend_on_the_way(model: Path, length: int) -> None:
    """Not on a prompt before that begins alike, nor on tokens generated after that."""
    ids = [(7 * i) % 590 + 5 for i in range(400)]
    prompt, other = (ids[:length], []), (ids[300:310], [])
    fresh = logits_of(model, prompts=[prompt], context=256)[-1]
    every = [
        (shared, generated)
        for shared in (1, 31, 32, 33, 40, 63, 64, 65, 70)
        for generated in (0, 1, 7, 40)
    ]
    # Beside a busy program two threads take a second for each token: a few cases must do.
    for threads, cases in (1, every), (2, [(32, 1), (40, 7), (64, 0)]):
        before = [(ids[:shared], ids[shared : shared + more]) for shared, more in cases]
        runs = [run for first in before for run in (other, first, prompt)]
        ways = logits_of(model, prompts=runs, threads=threads, context=256)[2::3]
        differing = [
            before[index] for index, way in enumerate(ways) if not np.array_equal(way, fresh)
        ]
        assert not differing
