"""The vocabularies of model files from before GGUF.

Only the library that has loaded such a file can read its vocabulary.
"""

from __future__ import annotations

from typing import Protocol

from ...contract.spans import Spans


class NativeModel(Protocol):
    """A loaded model of a format from before GGUF, with what it says of its vocabulary."""

    vocabulary_size: int

    @property
    def native_end_id(self) -> int: ...
    def encode_natively(self, text: str) -> list[int]: ...
    def token_bytes_natively(self, token: int) -> bytes: ...


class NativeTokenizer:
    """The vocabulary of an old GGML file. The library that has loaded the file answers."""

    made_by = "ctransformers"
    """Whose code finds the token ids of a text."""

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self.bos_id: int | None = None
        self.add_bos = False
        self.end_ids = frozenset({model.native_end_id})

    def encode(self, text: str, data: Spans = ()) -> list[int]:
        """The token ids of a text. Raises InvalidInput for a text that the library cannot take.

        `data` changes nothing, because the library recognises no control tokens.
        """
        return self._model.encode_natively(text)

    def encode_continuation(self, text: str, data: Spans = ()) -> list[int]:
        """The token ids of a text that follows another one: those of `encode`."""
        return self.encode(text, data)

    def withheld(self, text: str, data: Spans) -> list[tuple[int, int]]:
        """An empty list, because no text would be a control token. See `Tokenizer.withheld`."""
        return []

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for."""
        return self._model.token_bytes_natively(token_id)

    def text_tokens(self) -> list[bytes]:
        """The bytes of each token; empty for the one that ends a text."""
        return [b"" if i in self.end_ids else self.token_bytes(i) for i in range(len(self))]

    def encode_part(self, text: str) -> list[int]:
        """The token ids of a text in the middle of another one."""
        return self._model.encode_natively(text)

    def __len__(self) -> int:
        return self._model.vocabulary_size
