"""What is said of vocabularies that llama.cpp's own tokenizer is to read, before it sees them.

`tests/integration/test_library_vocabularies.py` shows what it does to some of what is refused here.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.engines.backends.llamacpp.llama_sources import source
from llmwit_magic.engines.backends.llamacpp.llama_vocabulary_checks import (
    LIBRARY_KINDS,
    LIBRARY_PRETOKENIZERS,
    MAX_TOKEN_BYTES,
    uses_library_tokenizer,
    vocabulary_objection,
)
from llmwit_magic.models.gguf import Header
from llmwit_magic.models.tokenizers.pretokenizers import PRETOKENIZERS
from tests.support.vocabularies import (
    BYTE,
    byte_level,
    gemma4,
    plamo2,
    rwkv,
    unigram,
    wordpiece,
)

LIBRARY_S = (unigram, wordpiece, rwkv, plamo2, gemma4)
Make = Callable[..., dict[str, Any]]


def objection(metadata: dict[str, Any]) -> str | None:
    return vocabulary_objection(Header(Path("m.gguf"), 3, metadata, {}, [], 32, 0))


def with_last(make: Make, *tokens: bytes, **changes: Any) -> dict[str, Any]:
    """The vocabulary with other tokens at its end."""
    metadata = make(**changes)
    metadata["tokenizer.ggml.tokens"][-len(tokens) :] = tokens
    return metadata


@pytest.mark.parametrize("make", [byte_level, *LIBRARY_S])
def test_sound_vocabularies(make: Make) -> None:
    """They are taken, and the library finds the ids where we do not know the kind."""
    assert objection(make()) is None
    assert uses_library_tokenizer(make()) == (make in LIBRARY_S)
    assert {make()["tokenizer.ggml.model"] for make in LIBRARY_S} == set(LIBRARY_KINDS)


def test_pre_tokenizers() -> None:
    """Each name is ours or the library's, and what neither knows is refused by its name."""
    assert not LIBRARY_PRETOKENIZERS & PRETOKENIZERS.keys()
    for name in LIBRARY_PRETOKENIZERS:
        assert objection(byte_level(pre=name)) is None
        assert uses_library_tokenizer(byte_level(pre=name))
    assert not uses_library_tokenizer(byte_level(pre="qwen2"))
    for name in ("of-tomorrow", [b"youtu"]):
        assert "pre-tokenizer" in str(objection(byte_level(pre=name)))


@pytest.mark.skipif(
    bool(source().problem or source().bindings), reason="the tables are of the library of the extra"
)
def test_the_library_knows_each_name() -> None:
    """Each stands in the library, as C stores a text."""
    library = source().find("llama")
    assert library is not None
    data = library.read_bytes()
    names = [*LIBRARY_KINDS, *LIBRARY_PRETOKENIZERS]
    # A compiler may write a text of up to eight letters into the code that compares it.
    assert [name for name in names if len(name) > 8 and name.encode() + b"\0" not in data] == []


@pytest.mark.parametrize("make", LIBRARY_S)
def test_tokens_that_are_too_long(make: Make) -> None:
    """The library's code calls itself for each byte of a token, or tries each length of it."""
    most = b"ab" * (MAX_TOKEN_BYTES // 2)
    assert objection(with_last(make, most)) is None
    assert "a token of 1,025 bytes" in str(objection(with_last(make, most + b"a")))


@pytest.mark.parametrize("make", [unigram, wordpiece, gemma4])
@pytest.mark.parametrize("token", [b"ab", b"<0xZZ>", b""])
def test_bytes_that_are_none(make: Make, token: bytes) -> None:
    """A token of the type byte names one. WordPiece has none at all."""
    metadata = with_last(make, token)
    metadata["tokenizer.ggml.token_type"][-1] = BYTE
    assert "is said to be a byte, and is none" in str(objection(metadata))
    metadata = with_last(unigram, b"<0x0A>")
    metadata["tokenizer.ggml.token_type"][-1] = BYTE
    assert objection(metadata) is None
    metadata["tokenizer.ggml.model"] = "bert"
    assert "is said to be a byte" in str(objection(metadata))


@pytest.mark.parametrize("make", [unigram, plamo2, gemma4])
@pytest.mark.parametrize("key", ["scores", "merges"])
def test_what_a_kind_needs(make: Make, key: str) -> None:
    """Unigram needs scores, and Gemma 4's kind merges."""
    needed = (key == "merges") == (make is gemma4)
    message = objection(make(**{key: None}))
    assert message is None or f"'tokenizer.ggml.{key}' is missing" in message
    assert (message is not None) == needed


@pytest.mark.parametrize("make", [unigram, wordpiece])
def test_the_unknown_token(make: Make) -> None:
    """What is no token becomes that one, so it has to be there."""
    for value in (10**6, -1, 2**32 - 1):
        assert "unknown_token_id' is no token" in str(objection(make(unknown_token_id=value)))
    assert (objection(make(unknown_token_id=None)) is None) == (make is unigram)


@pytest.mark.parametrize("byte", [b"\\x00", b"a", b"\\n", b"\\\\", b"\\xff", b"'"])
def test_bytes_of_rwkv(byte: bytes) -> None:
    """The library never ends with a text in which a byte is no token."""
    metadata = rwkv()
    tokens = metadata["tokenizer.ggml.tokens"]
    assert tokens.count(byte) == 1
    tokens[tokens.index(byte)] = b"something else"
    assert "not all 256 bytes are tokens" in str(objection(metadata))


@pytest.mark.parametrize("text", [b"\\x6", b"\\xZZ", b"\\", b"\\q\\t"])
def test_what_escapes_no_byte(text: bytes) -> None:
    """It is no byte, and costs nothing."""
    assert objection(with_last(rwkv, text)) is None


def test_plamo() -> None:
    """The library keeps all ends of all tokens, letter by letter, and needs all bytes."""
    assert "is not UTF-8" in str(objection(with_last(plamo2, b"\xff")))
    missing = plamo2()
    missing["tokenizer.ggml.tokens"][5 + 0x41] = b"<0xZZ>"
    assert "is said to be a byte" in str(objection(missing))
    missing["tokenizer.ggml.token_type"][5 + 0x41] = 1
    assert "not all 256 bytes are tokens" in str(objection(missing))
    many = 300
    metadata = plamo2()
    for key, more in (("tokens", [b"%05d" % i * 200 for i in range(many)]),
                      ("token_type", array("i", [1] * many)),
                      ("scores", array("f", [0.0] * many))):  # fmt: skip
        metadata[f"tokenizer.ggml.{key}"] = metadata[f"tokenizer.ggml.{key}"] + more
    assert "too long for PLaMo 2's kind" in str(objection(metadata))


# The map of characters ------------------------------------------------------------------


def charsmap(units: list[int], texts: bytes = b"x\0") -> array[int]:
    """A map in SentencePiece's form."""
    body = b"".join(unit.to_bytes(4, "little") for unit in units)
    return array("B", len(body).to_bytes(4, "little") + body + texts)


EMPTY = [0] * 256
LEADS_ON = [1 << 10, *[0] * 511]
"""From the first unit to the second; there are as many as a step can reach."""


@pytest.mark.parametrize("values", [
    charsmap(EMPTY), charsmap(LEADS_ON), array("b", charsmap(EMPTY).tobytes()),
    charsmap([*EMPTY[:-1], 1 << 31 | 5]), charsmap([1 << 10 | 1 << 8, 1 << 31 | 1, *EMPTY[2:]]),
])  # fmt: skip
def test_a_sound_map(values: Any) -> None:
    """Its steps stay in the array, and what they find in the texts."""
    assert objection(unigram(precompiled_charsmap=values)) is None


@pytest.mark.parametrize("values", [
    "text", 5, [b"x"], array("i", [0] * 99), array("B"), array("B", [0, 0, 0]),
    array("B", [0, 0, 0, 0, 0]), charsmap(EMPTY, b""), charsmap(EMPTY, b"x"), charsmap([]),
    charsmap(EMPTY[1:]), charsmap([1 << 31, *EMPTY[1:]]), charsmap([256 << 10, *EMPTY[1:]]),
    charsmap([2 << 10 | 1 << 8, 0, 1 << 31 | 2, *EMPTY[3:]]),
    charsmap([*EMPTY[1:], 2**20 << 10]), charsmap([*EMPTY[1:], 1 << 10 | 1 << 9]),
    array("B", charsmap(EMPTY)[:-2]), array("B", (2**32 - 4).to_bytes(4, "little") + bytes(9)),
])  # fmt: skip
def test_a_damaged_map(values: Any) -> None:
    """The library ends its process at a step that leads out of the array or the texts."""
    assert "'tokenizer.ggml.precompiled_charsmap' is damaged" in str(
        objection(unigram(precompiled_charsmap=values))
    )
