"""The adapted default model computes what the original does in an independent engine."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from llmwit_magic.engines.backends.ctransformers.checks import check_runnable
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.tokenizers.building import build_tokenizer
from tests.model import llamacpp
from tests.support.engine import logits_of

TEXT = (Path(__file__).parent / "text.txt").read_text(encoding="utf-8")
FLOAT32_PERPLEXITY = 25.080
"""Of the first 600 tokens of the text, by transformers in float32 over the dequantised weights."""


@pytest.fixture(scope="module")
def ids(default_model_source: Path) -> list[int]:
    tokenizer = build_tokenizer(read_header(default_model_source).metadata)
    return tokenizer.encode(TEXT)[:600]


@pytest.fixture(scope="module")
def logits(default_model_loaded: Path, ids: list[int]) -> np.ndarray:
    return logits_of(default_model_loaded, ids)


def test_the_header_check_is_quick(default_model_source: Path) -> None:
    """Reading and checking the header takes under 0.3 s."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        check_runnable(read_header(default_model_source))
        seconds.append(time.perf_counter() - began)
    print(f"header check: best of five {min(seconds):.3f} s")
    assert min(seconds) < 0.3


def test_perplexity_is_that_of_float32(logits: np.ndarray, ids: list[int]) -> None:
    """Perplexity over 599 predictions is within 1% of the float32 figure."""
    values = logits[:-1].astype(np.float64)
    highest = values.max(axis=1)
    normaliser = highest + np.log(np.exp(values - highest[:, None]).sum(axis=1))
    logprobs = values[np.arange(len(ids) - 1), ids[1:]] - normaliser
    perplexity = float(np.exp(-logprobs.mean()))
    print(json.dumps({"perplexity": perplexity}))
    assert abs(perplexity / FLOAT32_PERPLEXITY - 1) < 0.01


@pytest.mark.timeout(300)
def test_best_tokens_are_those_of_llamacpp(
    default_model_source: Path, logits: np.ndarray, ids: list[int]
) -> None:
    """At 300 teacher-forced positions the likeliest token is llama.cpp's in 90% or more."""
    positions = list(range(1, 301))
    theirs = llamacpp.best_next_tokens(default_model_source, ids[:301], positions)
    ours = logits[:300].argmax(axis=1)
    agreement = float(np.mean(ours == np.array(theirs)))
    print(json.dumps({"agreement": agreement}))
    assert agreement >= 0.9


@pytest.mark.timeout(300)
def test_logits_do_not_depend_on_the_way(default_model_loaded: Path, ids: list[int]) -> None:
    """Whatever was evaluated before, and with however many threads: the same logits to the bit."""
    prompt, other = (ids[:70], []), (ids[300:310], [])
    fresh = logits_of(default_model_loaded, prompts=[prompt])[-1]
    before = [(ids[:40], ids[40:44]), (ids[:96], []), (ids[:65], ids[65:69])]
    ways = logits_of(
        default_model_loaded,
        prompts=[run for first in before for run in (other, first, prompt)],
        threads=2,
    )[2::3]
    assert [np.array_equal(way, fresh) for way in ways] == [True] * 3
