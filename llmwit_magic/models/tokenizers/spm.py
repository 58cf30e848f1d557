"""SentencePiece BPE: the vocabularies whose `tokenizer.ggml.model` is `llama`."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

from ...errors import InvalidInput
from .vocabulary import Tokenizer

_SPACE = "▁"


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece BPE vocabulary, merged as llama.cpp's `llm_tokenizer_spm` does.

    A text begins as single characters. Two neighbouring pieces merge if together they are a
    token: the pair with the best score first, and of equal scores the leftmost.

    Two characters that stand side by side in no token can never merge. So a text is cut between
    such characters. Each word between two cuts is merged by itself, and the ids of short words
    are cached.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, bos_id=1, eos_id=2, add_bos=True)
        self._space_prefix = bool(self._value("add_space_prefix", True))
        scores = self._value("scores") or [0.0] * len(self._tokens)
        self._text_ids: dict[str, int] = {}
        self._neighbours: set[str] = set()
        for token, token_id in self._text_tokens.items():
            text = token.decode("utf-8", "replace")
            if text.encode() == token:
                self._text_ids[text] = token_id
                self._neighbours.update(a + b for a, b in pairwise(text))
        self._costs = {text: -scores[token_id] for text, token_id in self._text_ids.items()}
        self._merge_word = lru_cache(maxsize=65536)(self._merge)

    def _encode_plain(self, text: str, *, after_special: bool) -> list[int]:
        if self._space_prefix and after_special:
            text = " " + text
        text = text.replace(" ", _SPACE)
        ids: list[int] = []
        start = 0
        for end in range(1, len(text) + 1):
            if text[end - 1 : end + 1] not in self._neighbours:
                word = text[start:end]
                ids += self._merge_word(word) if end - start < 64 else self._merge(word)
                start = end
        return ids

    def _merge(self, word: str) -> list[int]:
        pieces = list(word)
        following = [*range(1, len(pieces)), -1]
        preceding = list(range(-1, len(pieces) - 1))
        costs = self._costs
        queue = [
            (costs[pair], left, left + 1, 2)
            for left in range(len(pieces) - 1)
            if (pair := word[left : left + 2]) in costs
        ]
        heapq.heapify(queue)
        while queue:
            _, left, right, length = heapq.heappop(queue)
            # Either piece may have merged since the pair was queued. It is empty then, or longer.
            if not pieces[left] or not pieces[right]:
                continue
            merged = pieces[left] + pieces[right]
            if len(merged) != length:
                continue
            pieces[left], pieces[right] = merged, ""
            beyond = following[left] = following[right]
            if beyond >= 0:
                preceding[beyond] = left
                pair = merged + pieces[beyond]
                if pair in costs:
                    heapq.heappush(queue, (costs[pair], left, beyond, len(pair)))
            before = preceding[left]
            if before >= 0:
                pair = pieces[before] + merged
                if pair in costs:
                    heapq.heappush(queue, (costs[pair], before, left, len(pair)))
        ids = []
        for piece in filter(None, pieces):
            if piece in self._text_ids:
                ids.append(self._text_ids[piece])
            else:
                ids += map(self._byte_id, piece.encode())
        return ids

    def _byte_id(self, byte: int) -> int:
        for token in (b"<0x%02X>" % byte, bytes([byte])):
            if token in self._ids:
                return self._ids[token]
        raise InvalidInput(f"the model's vocabulary has no token for the byte 0x{byte:02X}")

    def _decode_normal(self, token_id: int) -> bytes:
        return self._tokens[token_id].replace(_SPACE.encode(), b" ")
