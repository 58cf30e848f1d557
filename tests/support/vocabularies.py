"""Small vocabularies made here, as the metadata of a GGUF file."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from llmwit_magic.models.tokenizers.vocabulary import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def gpt2_char(byte: int) -> str:
    """The character for a byte in GPT-2's vocabularies, worked out anew."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    return chr(256 + sum(other not in printable for other in range(byte)))


BYTE_CHARS = [gpt2_char(byte) for byte in range(256)]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
MERGES = ["h e", "l l", "he ll", "Ġ hell", "1 2", "12 3", "o Ċ", "Ã ©"]


def byte_level(extra: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    """Metadata of a byte-level vocabulary.

    Its tokens are four special tokens, the 256 bytes, the results of `MERGES`, and `extra`.
    `changes` sets keys of `tokenizer.ggml`; None removes one.
    """
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*SPECIALS, *BYTE_CHARS, *merged, *extra]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.token_type": array(
            "i", [CONTROL] * 3 + [USER_DEFINED] + [NORMAL] * (len(tokens) - 4)
        ),
        "tokenizer.ggml.merges": [merge.encode() for merge in MERGES],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


WORDS = ["▁", "a", "b", "ab", "ba", "▁a", "▁ab", "é"]


def sentencepiece(words: Sequence[str] = WORDS, **changes: Any) -> dict[str, Any]:
    """Metadata of a SentencePiece vocabulary with byte tokens. An earlier word has a better score.

    `changes` sets keys of `tokenizer.ggml`.
    """
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", "<tool>", *byte_tokens, *words]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.scores": array("f", [0.0] * 260 + [-float(i) for i in range(len(words))]),
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL, USER_DEFINED]
        + [BYTE] * 256
        + [NORMAL] * len(words),
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def pieces(tokenizer: Tokenizer, text: str) -> list[bytes]:
    """The bytes of each token of a text."""
    return [tokenizer.token_bytes(token_id) for token_id in tokenizer.encode(text)]
