"""Sound and damaged vocabularies of files from before GGUF."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from llmwit_magic.engines.backends.ctransformers.backend import OLD_FORMATS
from llmwit_magic.engines.backends.ctransformers.ggml import check_old_vocabulary
from llmwit_magic.errors import ModelDamaged
from tests.support.tiny_ggml import HEADERS, MODEL_TYPES, ModelType, write_ggml


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "old.bin"


def refusal(path: Path, data: bytes, model_type: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ModelDamaged, match=r"^old\.bin: its vocabulary does not fit into it: "):
        check_old_vocabulary(path, model_type)


def replaced(data: bytes, place: int, number: int) -> bytes:
    return data[:place] + number.to_bytes(4, "little") + data[place + 4 :]


def test_every_format_is_known() -> None:
    """Every format that `--model-type` can name is checked."""
    assert sorted(OLD_FORMATS) == sorted(MODEL_TYPES)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("count", [0, 10**6, 2**31 - 1, 2**31, 2**32 - 1])
def test_counts_beyond_the_file(model_type: ModelType, count: int, path: Path) -> None:
    """With such a count, the loader would read tokens until all memory is taken."""
    write_ggml(path, model_type)
    check_old_vocabulary(path, model_type)
    place = 4 * HEADERS[model_type].split().index("vocabulary")
    refusal(path, replaced(path.read_bytes(), place, count), model_type)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("length", [10**7, 2**31 - 1, 2**31, 2**32 - 1])
def test_tokens_longer_than_the_file(model_type: ModelType, length: int, path: Path) -> None:
    """With such a length, the loader would ask for that much memory for each token."""
    write_ggml(path, model_type)
    place = 4 * len(HEADERS[model_type].split())
    refusal(path, replaced(path.read_bytes(), place, length), model_type)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_file_that_ends_before_its_vocabulary_does(model_type: ModelType, path: Path) -> None:
    """A file may be cut off anywhere before its vocabulary ends.

    Noise in place of it is refused too.
    """
    write_ggml(path, model_type)
    whole = path.read_bytes()
    for length in (4, 20, 27, 32, 36, 40, 48, 100, 800):
        refusal(path, whole[:length], model_type)
    head = 4 * len(HEADERS[model_type].split())
    refusal(path, whole[:head] + random.Random(1).randbytes(4000), model_type)


def test_a_vocabulary_is_looked_through_fast(path: Path) -> None:
    """Checking 50,000 tokens takes less than a quarter of a second."""
    write_ggml(path, "gpt2", vocab=[b"%d" % number for number in range(50_000)], blocks=1)
    begin = time.process_time()
    check_old_vocabulary(path, "gpt2")
    assert time.process_time() - begin < 0.25
