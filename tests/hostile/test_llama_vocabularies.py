"""Damaged vocabularies of the kinds that llama.cpp's own tokenizer reads.

The real library runs in children. Some thousands of such files ended none of them; here are a few.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from llmwit_magic.engines.backends.llamacpp.llama_sources import unavailable
from llmwit_magic.engines.backends.llamacpp.llama_vocabulary_checks import LIBRARY_PRETOKENIZERS
from tests.support.hostile_kernel import Kernel, check_message, outcome_of
from tests.support.report import Report
from tests.support.tiny_architectures import ARCHITECTURES, write
from tests.support.vocabularies import byte_level, gemma4, plamo2, rwkv, unigram, wordpiece

pytestmark = [
    pytest.mark.skipif(bool(unavailable()), reason=f"llama.cpp: {unavailable()}"),
    pytest.mark.timeout(600),
]

KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    make.__name__: make for make in (unigram, wordpiece, rwkv, plamo2, gemma4)
} | {f"pre {name}": partial(byte_level, pre=name) for name in sorted(LIBRARY_PRETOKENIZERS)}
FILES = 2
"""Of each kind; ten times as many in the long form."""
TOKENS = (b"\xe2\x96\x81", b"\\", b"\\x4", b"<0x41", b"\n", b" ", b"\xff", b"\xf0\x9f", b"a" * 900)
IDS = ("bos", "eos", "unknown", "seperator", "padding", "mask", "eot")
FLAGS = (
    "add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix",
    "remove_extra_whitespaces",
)  # fmt: skip


def damaged(make: Callable[[], dict[str, Any]], chance: random.Random) -> dict[str, Any]:
    """A vocabulary with one to four things in it changed."""
    metadata = make()
    for _ in range(chance.choice((1, 1, 2, 4))):
        tokens = metadata["tokenizer.ggml.tokens"]
        place, count = chance.randrange(len(tokens)), len(tokens)
        match chance.randrange(6):
            case 0:
                tokens[place] = chance.choice([chance.randbytes(chance.randrange(12)), *TOKENS])
            case 1:
                kinds = metadata["tokenizer.ggml.token_type"]
                for _ in range(chance.choice((1, 5, count))):
                    kinds[chance.randrange(count)] = chance.choice((0, 1, 2, 3, 4, 5, 6, 7, -1))
            case 2:
                numbers = struct.unpack(f"<{count}f", chance.randbytes(4 * count))
                metadata["tokenizer.ggml.scores"] = array("f", numbers)
            case 3:
                number = chance.choice((0, 1, place, count, 2**31, 2**32 - 1))
                metadata[f"tokenizer.ggml.{chance.choice(IDS)}_token_id"] = number
            case 4:
                metadata[f"tokenizer.ggml.{chance.choice(FLAGS)}"] = chance.random() < 0.5
            case 5:
                for key in ("tokens", "token_type", "scores"):
                    if (values := metadata.get(f"tokenizer.ggml.{key}")) is not None:
                        metadata[f"tokenizer.ggml.{key}"] = values[: place + 1]
    return metadata


@pytest.fixture(scope="module")
def kernel(llama_kernel: Kernel) -> Kernel:
    return llama_kernel


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_vocabulary_ends_no_engine(
    kind: str, kernel: Kernel, report: Report, long: bool
) -> None:
    """Every file runs, or is refused in one line, by us or by the library."""
    chance = random.Random(kind)
    for _ in range(FILES * (10 if long else 1)):
        path = kernel.models / "damaged.gguf"
        write(path, ARCHITECTURES["llama"], vocabulary=damaged(KINDS[kind], chance))
        run = kernel.run(path)
        check_message(run, kind)
        kernel.check_row(run, report, kind)
        outcome = outcome_of(run)
        report.tried(f"llama.cpp's vocabularies: {kind}", outcome)
        assert outcome == "ran" or outcome.startswith("refused"), outcome
        kernel.session.local.pool.unload(str(path))
        path.unlink()
    kernel.check_good_model(report)
