"""Byte-level BPE: the vocabularies whose `tokenizer.ggml.model` is `gpt2`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from tokenizers import Regex
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from ...errors import InvalidInput, ModelNotSupported
from .pretokenizers import pretokenizer_named
from .vocabulary import Tokenizer

LONGEST_TEXT = 4_000_000
"""Characters of a text that is tokenized at once.

Oniguruma gives up a match after ten million steps, and `tokenizers` panics then. A run of white
space, or of one letter, takes up to two steps for each character.
"""


@cache
def byte_to_character() -> dict[int, str]:
    """GPT-2's map of bytes to printable characters. Byte-level vocabularies are written in them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + number) for number, byte in enumerate(rest)
    }


_SPACE_CHARACTER = byte_to_character()[0x20].encode()


class ByteLevelTokenizer(Tokenizer):
    """A byte-level BPE vocabulary, merged by Hugging Face's `tokenizers`.

    Early converters of Falcon wrote the tokens as raw bytes. Such a vocabulary is converted back
    to GPT-2's characters here. Raises ModelNotSupported for a pre-tokenizer that is not known,
    and for merges that are missing or are not pairs.
    """

    longest_text = LONGEST_TEXT

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        pretokenizer = pretokenizer_named(metadata.get("tokenizer.ggml.pre"))
        super().__init__(
            metadata, bos_id=pretokenizer.bos_id, eos_id=11, add_bos=pretokenizer.add_bos
        )
        if self._value("merges") is None:
            raise ModelNotSupported("the model file has no BPE merges (tokenizer.ggml.merges)")
        self._raw = b"\n" in self._ids and "Ċ".encode() not in self._ids
        self._char_to_byte = {char: byte for byte, char in byte_to_character().items()}

        vocabulary: dict[str, int] = {}
        for token, token_id in self._text_tokens.items():
            if self._raw:
                vocabulary["".join(map(byte_to_character().__getitem__, token))] = token_id
                continue
            try:
                vocabulary[token.decode()] = token_id
            except UnicodeDecodeError:
                continue  # a text has no invalid UTF-8 in it, so it never has this token
        merges = list(dict.fromkeys(self._read_merges()))
        self._stand_ins = self._add_stand_ins(vocabulary, merges)

        self._bpe = HuggingFaceTokenizer(
            BPE(vocabulary, merges, ignore_merges=pretokenizer.ignore_merges)
        )
        self._bpe.pre_tokenizer = Sequence(
            [Split(Regex(pattern), "isolated") for pattern in pretokenizer.patterns]
            + [ByteLevel(add_prefix_space=False, use_regex=False)]
        )

    def _read_merges(self) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(self._value("merges")):
            text = line.decode("utf-8", "replace")
            # The first part of a merge may itself begin with a space.
            space = text.find(" ", 1)
            if not 0 < space < len(text) - 1:
                raise ModelNotSupported(
                    f"merge {number:,} of the vocabulary, {text[:40]!r}, is not two parts with a "
                    "space between: convert the model again, or take another file of it"
                )
            yield text[:space], text[space + 1 :]

    def _add_stand_ins(
        self, vocabulary: dict[str, int], merges: list[tuple[str, str]]
    ) -> dict[int, list[int]]:
        """Add ids beyond the vocabulary for pieces that BPE needs and the vocabulary lacks.

        Returns the real ids that replace each added one.

        llama.cpp applies a merge whether or not its result is a token. Afterwards it replaces a
        piece that is no token by those of its bytes that are tokens. `tokenizers` would instead
        leave the piece out and merge its left neighbour with its right one.
        """
        needed = [text for text in byte_to_character().values() if text not in vocabulary]
        for first, second in merges:
            if (
                first not in vocabulary
                or second not in vocabulary
                or first + second not in vocabulary
            ):
                needed += (first, second, first + second)
        stand_ins: dict[int, list[int]] = {}
        for text in needed:
            if text not in vocabulary:
                token_id = vocabulary[text] = len(self._tokens) + len(stand_ins)
                ids = [self._ids.get(bytes([byte])) for byte in text.encode()]
                stand_ins[token_id] = [i for i in ids if i is not None and not self._raw]
        return stand_ins

    def _encode_plain(self, text: str, *, after_special: bool) -> list[int]:
        if len(text) > LONGEST_TEXT:
            raise InvalidInput(
                f"a text of {len(text):,} characters: the most that can be tokenised at once is "
                f"{LONGEST_TEXT:,}"
            )
        ids: list[int] = self._bpe.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if not self._stand_ins or not ids or max(ids) < len(self._tokens):
            return ids
        return [real for token_id in ids for real in self._stand_ins.get(token_id, [token_id])]

    def _decode_normal(self, token_id: int) -> bytes:
        token = self._tokens[token_id]
        if self._raw:
            return token
        # Most tokens are ASCII with at most a space in front. In GPT-2's characters, printable
        # ASCII stands for itself.
        spaced = token.replace(_SPACE_CHARACTER, b" ")
        if spaced.isascii():
            return spaced
        return b"".join(
            bytes([self._char_to_byte[char]]) if char in self._char_to_byte else char.encode()
            for char in token.decode("utf-8", "replace")
        )
