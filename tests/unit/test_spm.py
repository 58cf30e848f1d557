"""SentencePiece BPE over a small vocabulary. `tests/model` compares the ids with llama.cpp's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwit_magic.errors import InvalidInput
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.models.tokenizers.vocabulary import Tokenizer
from tests.support.vocabularies import (
    pieces,
    sentencepiece,
)


@pytest.fixture(scope="module")
def spm() -> Tokenizer:
    return build_tokenizer(sentencepiece())


@given(st.text(alphabet=st.characters(exclude_characters="▁", codec="utf-8")))
def test_sentencepiece_ids_stand_for_the_text(text: str) -> None:
    """Without bos and the space prefix, the bytes of a text's tokens are the text in UTF-8."""
    tokenizer = build_tokenizer(sentencepiece(add_space_prefix=False))
    assert b"".join(pieces(tokenizer, text)[1:]) == text.encode()


def test_sentencepiece_merges_the_best_score_first() -> None:
    """`ab` has a better score than `ba`, so it merges first. Of equal pairs the leftmost does."""
    tokenizer = build_tokenizer(sentencepiece(add_space_prefix=False))
    assert pieces(tokenizer, "bab")[1:] == [b"b", b"ab"]
    ties = sentencepiece(["a", "aa", "aaa"], add_space_prefix=False)
    assert pieces(build_tokenizer(ties), "aaaaa")[1:] == [b"aa", b"aaa"]


def test_sentencepiece_prefixes_a_space_after_special_tokens_only(spm: Tokenizer) -> None:
    """The start of a text, and each text after a special token, get a space, as in llama.cpp."""
    assert pieces(spm, "ab<tool>b") == [b"<s>", b" ab", b"<tool>", b" ", b"b"]


def test_sentencepiece_falls_back_to_bytes(spm: Tokenizer) -> None:
    """A character without a token becomes its UTF-8 bytes."""
    assert pieces(spm, "日\0") == [b"<s>", b" ", b"\xe6", b"\x97", b"\xa5", b"\0"]


@pytest.mark.parametrize(
    "token", [b"", b"<0x", b"<0xZZ>", b"<0x-1>", b"<0x1 >", b"\xff", "é".encode()]
)
def test_a_byte_that_is_none_stands_for_itself(token: bytes) -> None:
    """A damaged file may give any token the type BYTE. One that names no byte stands for its text."""
    metadata = sentencepiece()
    metadata["tokenizer.ggml.tokens"][4] = token
    tokenizer = build_tokenizer(metadata)
    assert tokenizer.token_bytes(4) == (token or b"[EMPTY_4]")
    assert tokenizer.token_bytes(5) == b"\x01"


def test_sentencepiece_without_byte_tokens_refuses() -> None:
    """A character that has no token and no byte tokens is an error that names the byte."""
    metadata = sentencepiece()
    for key in ("tokens", "scores", "token_type"):
        del metadata[f"tokenizer.ggml.{key}"][4:260]
    with pytest.raises(InvalidInput, match="0xE6"):
        build_tokenizer(metadata).encode("日")


def test_sentencepiece_defaults(spm: Tokenizer) -> None:
    """In a file without the keys, bos is 1, eos is 2, and bos is added."""
    assert (spm.bos_id, spm.add_bos, spm.end_ids, len(spm)) == (1, True, {2}, 268)
