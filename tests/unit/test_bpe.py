"""Byte-level BPE over a small vocabulary. `tests/model` compares the ids with llama.cpp's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwit_magic.errors import InvalidInput
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.models.tokenizers.vocabulary import Tokenizer
from tests.support.vocabularies import (
    BYTE_CHARS,
    byte_level,
    pieces,
)


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return build_tokenizer(byte_level())


@given(st.text())
def test_byte_level_ids_stand_for_the_text(gpt2: Tokenizer, text: str) -> None:
    """The bytes of a text's tokens are the text in UTF-8, control characters and NUL included."""
    assert b"".join(pieces(gpt2, text)) == text.encode()


def test_merges_apply_in_their_order(gpt2: Tokenizer) -> None:
    """Neighbours merge in the order of the merges, and only within a word of the pre-tokenizer."""
    assert pieces(gpt2, "hello hello") == [b"hell", b"o", b" hell", b"o"]


def test_token_bytes_undo_gpt2_characters(gpt2: Tokenizer) -> None:
    """A token is stored in GPT-2's characters. It stands for the bytes that they mean."""
    assert pieces(gpt2, "é 日") == ["é".encode(), b" ", b"\xe6", b"\x97", b"\xa5"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", [b"123", b"1"]),
        ("smollm", [b"1", b"2", b"3", b"1"]),
        ("llama-bpe", [b"<|im_start|>", b"123", b"1"]),
        ("qwen2", [b"1", b"2", b"3", b"1"]),
    ],
)
def test_pre_tokenizer_name_decides_how_digits_are_cut(name: str, expected: list[bytes]) -> None:
    """`tokenizer.ggml.pre` chooses the expressions. With llama-bpe, bos is added by default."""
    assert pieces(build_tokenizer(byte_level(pre=name)), "1231") == expected


def test_missing_pre_tokenizer_name_is_default() -> None:
    """A file without the key is read like one that says `default`. Punctuation is cut off there."""
    text = "a.b,' 1234 \n<="
    missing, default = byte_level(pre=None), byte_level(pre="default")
    assert build_tokenizer(missing).encode(text) == build_tokenizer(default).encode(text)


def test_ignore_merges_takes_a_whole_word() -> None:
    """With llama-bpe, a word that is a token stays whole even if no merge makes it."""
    text = "xyz"
    assert pieces(build_tokenizer(byte_level(["xyz"], pre="llama-bpe")), text)[1:] == [b"xyz"]
    assert pieces(build_tokenizer(byte_level(["xyz"])), text) == [b"x", b"y", b"z"]


def test_bytes_without_a_token_are_left_out() -> None:
    """A byte without a token is dropped. Its neighbours are not merged across the gap."""
    metadata = byte_level()
    gap = metadata["tokenizer.ggml.tokens"].index(b"x")
    metadata["tokenizer.ggml.tokens"][gap] = b"replaced"
    assert pieces(build_tokenizer(metadata), "hxe") == [b"h", b"e"]


def test_raw_byte_vocabulary() -> None:
    """A vocabulary of raw bytes, as in early Falcon files, gives the same ids as in GPT-2's form."""
    metadata = byte_level(token_type=None)
    raw = dict(metadata)
    back = {char: byte for byte, char in enumerate(BYTE_CHARS)}
    raw["tokenizer.ggml.tokens"] = [
        bytes(back[char] for char in token.decode()) for token in metadata["tokenizer.ggml.tokens"]
    ]
    text = "hello hello\n123 é日<|endoftext|>\0"
    ids = build_tokenizer(raw).encode(text)
    assert ids == build_tokenizer(metadata).encode(text)
    assert b"".join(map(build_tokenizer(raw).token_bytes, ids)) == text.encode()


def test_too_long_a_text_is_invalid_input(gpt2: Tokenizer) -> None:
    """A text so long that the pre-tokenizer could run out of steps is refused."""
    with pytest.raises(InvalidInput, match="4,000,001 characters"):
        gpt2.encode(" " * 4_000_001)
