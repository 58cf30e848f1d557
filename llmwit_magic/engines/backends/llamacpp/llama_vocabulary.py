"""Vocabularies that only llama.cpp's own tokenizer knows.

What a special token is, and which one is recognised where, is decided here as for all vocabularies.
The library is given the text between special tokens, and is told to recognise none in it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ....errors import InvalidInput, ModelNotSupported
from ....models.tokenizers.vocabulary import Tokenizer, TokenType
from ...deep_stack import pool_with_stack

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

LONGEST_TEXT = 250_000
"""Characters of a text that is tokenized at once."""
WITHOUT_ENDS = ("rwkv", "plamo2")
"""Kinds of vocabularies to whose texts the library adds no bos and no eos, whatever the file says."""


class LlamaTokenizer(Tokenizer):
    """A vocabulary that the library has loaded.

    Raises `ModelNotSupported` where the library sees another number of tokens.
    """

    made_by = "llama.cpp"
    longest_text = LONGEST_TEXT

    def __init__(self, metadata: Mapping[str, Any], library: Any, vocabulary: int) -> None:
        """`vocabulary` is the address of the library's `llama_vocab`."""
        super().__init__(
            metadata,
            bos_id=_id(library.llama_vocab_bos(vocabulary)),
            eos_id=_id(library.llama_vocab_eos(vocabulary)),
            add_bos=False,
        )
        self._library, self._vocabulary = library, vocabulary
        if (count := library.llama_vocab_n_tokens(vocabulary)) != len(self):
            raise ModelNotSupported(f"llama.cpp sees {count:,} tokens of {len(self):,}")
        kind = metadata["tokenizer.ggml.model"]
        adds = kind not in WITHOUT_ENDS
        self.add_bos = adds and bool(library.llama_vocab_get_add_bos(vocabulary))
        self.add_eos = adds and bool(library.llama_vocab_get_add_eos(vocabulary))
        if kind == "bert":  # its texts stand between these two, whatever the file says
            self.add_bos = self.add_eos = True
            self.eos_id = _id(library.llama_vocab_sep(vocabulary))
        self.add_bos &= self.bos_id is not None
        self.add_eos &= self.eos_id is not None
        self._control = {
            token_id
            for _, token_id, _, control in self._special
            if control and self._types[token_id] != TokenType.UNKNOWN
        }
        self._matches = kind == "gpt2"
        """Whether the library cuts texts by regular expressions."""
        self._pool: ThreadPoolExecutor | None = None

    def _encode_plain(self, text: str, *, after_special: bool) -> list[int]:
        if len(text) > LONGEST_TEXT:
            raise InvalidInput(
                f"a text of {len(text):,} characters: llama.cpp's tokenizer, which this model "
                f"needs, is given at most {LONGEST_TEXT:,} at once"
            )
        ids = self._tokenized(text)
        if self._control.isdisjoint(ids):
            return ids
        # Some kinds of vocabularies find a control token as they find a word. The first letter of
        # its text is given to them apart.
        cuts = {0, len(text)}
        for token_id in self._control.intersection(ids):
            control = self.token_bytes(token_id).decode("utf-8", "replace")
            place = text.find(control)
            while place >= 0:
                cuts.add(place + 1)
                place = text.find(control, place + 1)
        borders = sorted(cuts)
        ids = []
        for start, end in pairwise(borders):
            ids += self._tokenized(text[start:end])
        if self._control.isdisjoint(ids):
            return ids
        raise InvalidInput(
            "the text, as this model's vocabulary writes it, has a control token in it: leave out "
            f"{self.token_bytes(min(self._control.intersection(ids))).decode('utf-8', 'replace')!a}"
        )

    def _tokenized(self, text: str) -> list[int]:
        """The library's ids of a text in which it recognises no control token."""
        data = text.encode()
        if self._matches:
            if self._pool is None:
                # Some pre-tokenizers are matched by C++'s own regular expressions. These call
                # themselves for each character of a match, and take up to 670 bytes for it. So a
                # long run of letters or spaces would end a thread with an ordinary stack, and the
                # process with it.
                self._pool = pool_with_stack("llama.cpp's tokenizer, which this model needs,")
            ids = self._pool.submit(self._call, data, len(data) + 16).result()
        else:
            ids = self._call(data, len(data) + 16)
        if any(token_id < 0 for token_id in ids):
            raise InvalidInput("the model's vocabulary has no token for a part of the text")
        return ids

    def _call(self, data: bytes, room: int) -> list[int]:
        ids = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(
            self._vocabulary, data, len(data), ids, room, False, False
        )
        return ids[:count] if count >= 0 else self._call(data, -count)

    def _decode_normal(self, token_id: int) -> bytes:
        if token_id < 0:  # the library ends the process at an id that is none
            raise IndexError(token_id)
        size = 64
        while True:
            piece = ctypes.create_string_buffer(size)
            count = self._library.llama_token_to_piece(
                self._vocabulary, token_id, piece, size, 0, True
            )
            if count >= 0:
                return piece.raw[:count]
            size = -count


def _id(token_id: int) -> int | None:
    """A token id as the library gives it; it stands for none where it is negative."""
    return token_id if token_id >= 0 else None
