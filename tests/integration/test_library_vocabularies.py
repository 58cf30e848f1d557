"""Token ids beside those of llama.cpp's own tokenizer: ours, and vocabularies that only it knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.engines.backends.llamacpp.llama_sources import source
from llmwit_magic.engines.backends.llamacpp.llama_vocabulary_checks import (
    LIBRARY_PRETOKENIZERS,
    vocabulary_objection,
)
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.tokenizers.pretokenizers import PRETOKENIZERS
from llmwit_magic.models.tokenizers.special_texts import END_TEXTS, FILL_IN_TEXTS
from llmwit_magic.running.session import Session
from tests.support.apart import python_apart
from tests.support.library_ids import compare_with_library
from tests.support.tiny_architectures import ARCHITECTURES, write
from tests.support.trained import trained_byte_level
from tests.support.vocabularies import (
    BYTE,
    CONTROL,
    NORMAL,
    byte_level,
    gemma4,
    plamo2,
    rwkv,
    sentencepiece,
    unigram,
    wordpiece,
    write_vocabulary,
)

pytestmark = pytest.mark.skipif(
    bool(source().problem or source().bindings), reason="the tables are of the library of the extra"
)


def trained(pre: str) -> dict[str, Any]:
    """A vocabulary that tells this pre-tokenizer from others."""
    return {**trained_byte_level(), "tokenizer.ggml.pre": pre}


def ending(left_out: tuple[str, ...]) -> dict[str, Any]:
    """A vocabulary with the tokens by whose texts the library knows an end.

    Of several texts for one purpose in the middle of a text, it takes any one: so there is one.
    """
    texts = {*END_TEXTS, *(texts.split()[-len(left_out) % 2] for texts in FILL_IN_TEXTS.values())}
    added = sorted(texts - {"<|endoftext|>", "<|im_end|>", *left_out})
    metadata = byte_level(added)
    metadata["tokenizer.ggml.token_type"][-len(added) :] = array("i", [CONTROL] * len(added))
    return metadata


LIBRARY_S = ("unigram", "wordpiece", "rwkv", "plamo2", "gemma4")
KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "sentencepiece": sentencepiece,
    "sentencepiece without prefix": lambda: sentencepiece(add_space_prefix=False),
    "unigram": unigram,
    "unigram with spaces": lambda: unigram(
        add_space_prefix=True, remove_extra_whitespaces=True, add_bos_token=True, bos_token_id=3
    ),
    "wordpiece": wordpiece,
    "rwkv": rwkv,
    "plamo2": plamo2,
    "gemma4": gemma4,
    **{
        f"ends without {' '.join(left_out)}": partial(ending, left_out)
        for left_out in (
            (), ("<|tool_response>",), ("<|call|>", "<|calls|>"),
            ("<|return|>", "<|flush|>", "<|tool_response>"),
        )
    },
    **{
        f"pre {name}": partial(trained, name)
        for name in sorted({*PRETOKENIZERS, *LIBRARY_PRETOKENIZERS})
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of each vocabulary, what is other than the library's."""
    folder = tmp_path_factory.mktemp("vocabularies")
    files = {
        name: write_vocabulary(folder / f"{number}.gguf", make())
        for number, (name, make) in enumerate(KINDS.items())
    }
    found = compare_with_library(files.values())
    return {name: found[path.stem] for name, path in files.items()}


@pytest.mark.parametrize("name", KINDS)
def test_ids_are_the_library_s(name: str, compared: Any) -> None:
    """Over 626 texts of a dozen scripts, and so are the bytes of tokens and what ends a text."""
    _, other, pieces, ends = compared[name]
    assert other == []
    assert pieces == []
    assert ends == []


# Through a session ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny llama with each kind of vocabulary."""
    folder = tmp_path_factory.mktemp("models")
    makers = {"byte_level": partial(byte_level, pre="youtu"), "ours": byte_level} | {
        make.__name__: make for make in (unigram, wordpiece, rwkv, plamo2, gemma4)
    }
    return {
        name: write(folder / f"{name}.gguf", ARCHITECTURES["llama"], vocabulary=make())
        for name, make in makers.items()
    }


@pytest.mark.parametrize("name", ["ours", "byte_level", *LIBRARY_S])
def test_the_row_says_whose_tokenizer_it_was(
    name: str, models: dict[str, Path], session: Session
) -> None:
    """A run with such a model streams whole characters, and its row names the tokenizer."""
    params = {"max_tokens": 30, "temperature": 2.0, "seed": 5}
    run = session.run(
        Request(model=str(models[name]), prompt="hello 12", engine="llama.cpp", params=params)
    )
    assert run.wait(60)
    run.raise_failure()
    made_by = "llmwit-magic" if name == "ours" else "llama.cpp"
    assert run.result.model is not None
    assert run.result.model.tokenizer == made_by
    assert run.result.usage.generated_token_count
    row = session.log.row(1)
    assert (row["tokenizer"], row["engine"]) == (made_by, "llama.cpp")
    assert session.log[1].model.tokenizer == made_by


ENCODE = """
import json, sys
from pathlib import Path
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.llamacpp.llama_loading import load
from llmwit_magic.errors import InvalidInput

said = {}
texts = json.loads(sys.argv[2])
for path in sorted(Path(sys.argv[1]).glob("*.gguf")):
    tokenizer = load(path, path, ModelSpec(model="m"), 1).tokenizer
    control = [token for token in range(len(tokenizer)) if tokenizer._types[token] == 3]
    names = [tokenizer.token_bytes(token).decode() for token in control]
    whole = "".join(f"a{name}b" for name in names)
    found = tokenizer.encode(whole)
    data = [(0, len(whole))]
    said[path.stem] = {
        "recognised": sorted({*found} & {*control}) == control,
        "in data": sorted({*tokenizer.encode(whole, data)} & {*control}),
        "withheld": len(tokenizer.withheld(whole, data)) == len(control),
        "bos": [tokenizer.bos_id] * tokenizer.add_bos,
        "texts": [b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))).decode()
                  for text in texts],
    }
    try:
        tokenizer.encode("a" * 250_001)
        said[path.stem]["long"] = "taken"
    except InvalidInput as error:
        said[path.stem]["long"] = str(error)
    said[path.stem]["run"] = len(tokenizer.encode("ab" * 100_000))
print("SAID", json.dumps(said))
"""


@pytest.fixture(scope="module")
def encoded(models: dict[str, Path]) -> Any:
    folder = next(iter(models.values())).parent
    return python_apart(ENCODE, folder, json.dumps(["hello 12 日本 😀 é \n x"]))


@pytest.mark.parametrize("name", ["byte_level", *LIBRARY_S])
def test_data_has_no_control_tokens(name: str, encoded: Any) -> None:
    """Control tokens are recognised by their names in a template, and never in data.

    RWKV's and PLaMo's kinds would find them as words.
    """
    facts = encoded[name]
    assert facts["recognised"]
    assert facts["in data"] == facts["bos"]
    assert facts["withheld"]


@pytest.mark.parametrize("name", ["byte_level", "rwkv", "plamo2"])
def test_every_byte_comes_back(name: str, encoded: Any) -> None:
    """What has tokens for all bytes loses nothing."""
    assert encoded[name]["texts"] == ["hello 12 日本 😀 é \n x"]


@pytest.mark.parametrize("name", ["byte_level", *LIBRARY_S])
def test_long_texts(name: str, encoded: Any) -> None:
    """A long run of letters does not end the process; a text that is too long is refused by name."""
    assert (
        "llama.cpp's tokenizer, which this model needs, is given at most 250,000"
        in (encoded[name]["long"])
    )
    assert encoded[name]["run"] > 0


# What is refused ----------------------------------------------------------------------------


def with_token(make: Callable[[], dict[str, Any]], token: bytes, kind: int) -> dict[str, Any]:
    metadata = make()
    metadata["tokenizer.ggml.tokens"][-1] = token
    metadata["tokenizer.ggml.token_type"][-1] = kind
    return metadata


DEADLY = {
    "a byte in WordPiece": lambda: with_token(wordpiece, b"<0x41>", BYTE),
    "a long token in Unigram": lambda: with_token(unigram, b"ab" * 500_000, NORMAL),
    "a long token in RWKV": lambda: with_token(rwkv, b"ab" * 500_000, NORMAL),
    "a map that leads nowhere": lambda: unigram(
        precompiled_charsmap=array("b", bytes([0, 4, 0, 0]) + b"\x7f" * 1024 + b"x\0")
    ),
}


@pytest.mark.parametrize("name", DEADLY)
def test_what_is_refused_ends_the_library(name: str, tmp_path: Path) -> None:
    """So it is refused before: by its name, in one line."""
    path = write_vocabulary(tmp_path / "deadly.gguf", DEADLY[name]())
    assert vocabulary_objection(read_header(path)) is not None
    done = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, timeout=50,
                          env={**os.environ, "GGML_NO_BACKTRACE": "1"})  # fmt: skip
    assert done.returncode not in (0, 1), done.stderr  # 1 is Python's own
    assert b"survived" not in done.stdout


LOAD = """
import ctypes, os, sys
from llmwit_magic.engines.backends.llamacpp.llama_library import library

lib = library()
params = lib.llama_model_default_params()
params.n_gpu_layers, params.vocab_only = 0, True
model = lib.llama_model_load_from_file(os.fsencode(sys.argv[1]), params)
vocabulary = lib.llama_model_get_vocab(model)
text = b"ab" * 600_000
room = (ctypes.c_int32 * len(text))()
lib.llama_tokenize(vocabulary, text, len(text), room, len(text), False, False)
print("survived")
"""
