"""Small vocabularies made here, as the metadata of a GGUF file."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType, GGUFWriter

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


# Vocabularies that only llama.cpp's own tokenizer knows ----------------------------------

PIECES = [
    "▁", "▁the", "▁a", "he", "ll", "o", "▁hello", "▁world", "w", "or", "l", "d", "t", "h", "e", "r",
    "s", "i", "n", "1", "2", "3", "12", "é", "ä", "П", "р", "и", "в", "ет", "日", "本", "語", "😀", ",",
    ".", "!",
]  # fmt: skip


def unigram(**changes: Any) -> dict[str, Any]:
    """Metadata of a Unigram vocabulary, as SentencePiece makes it for T5: longer is likelier.

    `changes` sets keys of `tokenizer.ggml`; None removes one.
    """
    tokens = ["<pad>", "</s>", "<unk>", "<s>", "<|im_end|>", "<tool>", *PIECES]
    scores = [0.0] * 6 + [-8.0 + 2 * len(piece) for piece in PIECES]
    types = [CONTROL, CONTROL, UNKNOWN, CONTROL, CONTROL, USER_DEFINED, *[NORMAL] * len(PIECES)]
    return _metadata("t5", tokens, types, changes, scores=array("f", scores), unknown_token_id=2)


def wordpiece(**changes: Any) -> dict[str, Any]:
    """Metadata of a WordPiece vocabulary, as converters write BERT's: words begin with `▁`."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES]
    types = [CONTROL, UNKNOWN, CONTROL, CONTROL, CONTROL, *[NORMAL] * len(PIECES)]
    return _metadata(
        "bert", tokens, types, changes, bos_token_id=2, unknown_token_id=1, seperator_token_id=3,
        padding_token_id=0, cls_token_id=2, mask_token_id=4,
    )  # fmt: skip


def rwkv(**changes: Any) -> dict[str, Any]:
    """Metadata of RWKV's vocabulary: bytes as Python writes them, the longest one first."""
    texts = [bytes([byte]) for byte in range(256)]
    texts += [b"he", b"hello", b" world", b"\n\n", b"\xd0\x9f\xd1\x80", b"<s>\n"]
    tokens = ["<s>", *(repr(text)[2:-1] for text in texts), "[PAD]"]
    types = [CONTROL, *[NORMAL] * len(texts), UNUSED]
    return _metadata("rwkv", tokens, types, changes, eos_token_id=0)


def plamo2(**changes: Any) -> dict[str, Any]:
    """Metadata of PLaMo 2's vocabulary: Unigram with bytes for what is no token."""
    tokens = ["<|plamo:unk|>", "<|plamo:bos|>", "<|plamo:eos|>", "<|plamo:pad|>", "</s>"]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    words = [piece.replace("▁", " ") for piece in PIECES]
    types = [UNKNOWN, CONTROL, CONTROL, CONTROL, NORMAL, *[BYTE] * 256, *[NORMAL] * len(words)]
    scores = [0.0] * 261 + [-8.0 + 2 * len(word) for word in words]
    return _metadata("plamo2", [*tokens, *words], types, changes, scores=array("f", scores))


def gemma4(**changes: Any) -> dict[str, Any]:
    """Metadata of Gemma 4's vocabulary: merges of characters, `▁` for spaces, and bytes."""
    merges = ["h e", "l l", "he ll", "hell o", "▁ hello", "1 2", "▁ ▁"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|tool_response>"]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    characters = sorted({character for merge in merges for character in merge.replace(" ", "")})
    words = [*characters, *(merge.replace(" ", "") for merge in merges), "\n", "\n\n", "П", "日"]
    types = [*[CONTROL] * 3, UNKNOWN, *[CONTROL] * 3, *[BYTE] * 256, *[NORMAL] * len(words)]
    return _metadata(
        "gemma4", [*tokens, *words], types, changes, merges=[merge.encode() for merge in merges],
        bos_token_id=2, eos_token_id=1, unknown_token_id=3,
    )  # fmt: skip


def _metadata(
    model: str, tokens: Sequence[str], types: Sequence[int], changes: dict[str, Any], **more: Any
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": model,
        "tokens": [token.encode() for token in tokens],
        "token_type": array("i", types),
        "scores": array("f", [0.0] * len(tokens)),
        **more,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def write_vocabulary(path: Path, metadata: dict[str, Any]) -> Path:
    """A file of architecture llama with this vocabulary and no more tensors than a file must have."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in metadata.items():
        if isinstance(value, list | array):
            items = value if isinstance(value, list) else value.tolist()
            writer.add_array(key, items)
        else:
            writer.add_key_value(key, value, GGUFValueType.UINT32 if type(value) is int
                                 else GGUFValueType.get_type(value))  # fmt: skip
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
