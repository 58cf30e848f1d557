"""The text of a run in its two parts, reasoning and answer, with the tokens of each.

Each part has stop sequences and content filters of its own (`SafeText`). So none of them matches
across the border.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..contract.request import ContentFilter
from ..contract.wit import FinishDetail, TokenInfo
from .reasoning import Part, Piece, Splitter
from .stopping import SafeText

BETWEEN_BLOCKS = "\n\n"
"""Stands between two blocks of one part, where a model has thought or answered twice."""


@dataclass(slots=True)
class Given:
    """What is given out: text of each part that is safe to show, and the tokens of it."""

    text: str = ""
    reasoning: str = ""
    tokens: list[TokenInfo] = field(default_factory=list)


@dataclass(slots=True)
class _Token:
    """A token of which not all bytes are known to belong to a part or to a mark."""

    info: TokenInfo | None
    left: int
    in_answer: bool = False


class _Block:
    """A stretch of text in one part."""

    def __init__(self, piece: Piece, safe: SafeText) -> None:
        self.part, self.number, self.safe = piece.part, piece.block, safe
        self.withheld: deque[tuple[int, TokenInfo]] = deque()
        """Tokens that are not given out yet, each with the place in the text where it ends.

        Their text may still belong to a stop sequence or to a filter's match. Nobody may see that,
        neither in the text nor in the bytes of a token.
        """

    def released(self) -> Iterator[TokenInfo]:
        """The tokens whose text has been given out completely."""
        while self.withheld and self.withheld[0][0] <= self.safe.given_count:
            yield self.withheld.popleft()[1]


class TextParts:
    """Bytes of tokens in, text that is safe to show out.

    After `push` or `finish`, `ended` says why the text is complete: by a stop sequence or a content
    filter, in either part. It is None where neither has ended the text. Without a `splitter`, all
    text is the answer.
    """

    def __init__(
        self,
        stop: Sequence[str] = (),
        filters: Sequence[ContentFilter] = (),
        splitter: Splitter | None = None,
    ) -> None:
        self.ended: FinishDetail | None = None
        self.stop_sequence: str | None = None
        self.reasoning_token_count = 0
        """Tokens so far that have no text in the answer; 0 without a splitter."""
        self._stop, self._filters, self._splitter = stop, filters, splitter
        self._waiting: deque[_Token] = deque()
        self._block = _Block(Piece(Part.ANSWER, b""), SafeText(stop, filters))
        self._has: set[Part] = set()
        """The parts that have text."""

    def push(self, token: bytes, info: TokenInfo | None = None) -> Given:
        """Take a token in, with what is recorded of it. Returns what is now safe to show."""
        given = Given()
        piece = Piece(self._block.part, token, self._block.number)
        if self._splitter is None or not token:  # a token without bytes belongs where it comes
            self._write(piece, token, info, given)
        else:
            self._waiting.append(_Token(info, len(token)))
            self._take(self._splitter.push(token), given)
        return given

    def finish(self) -> Given:
        """The rest of the text, when no more tokens come."""
        given = Given()
        if self._splitter:
            self._take(self._splitter.finish(), given)
        self._close(given)
        return given

    def _take(self, pieces: Sequence[Piece], given: Given) -> None:
        """Add the pieces to their parts, and find the tokens that their bytes are of."""
        for piece in pieces:
            data = piece.data
            while data:
                token = self._waiting[0]
                cut, data = data[: token.left], data[token.left :]
                token.left -= len(cut)
                if piece.part is not None:
                    token.in_answer = token.in_answer or piece.part is Part.ANSWER
                    self._write(piece, cut, token.info, given)
                if not token.left:
                    self._waiting.popleft()
                    self.reasoning_token_count += not token.in_answer

    def _write(self, piece: Piece, data: bytes, info: TokenInfo | None, given: Given) -> None:
        """Add bytes of one token to the part of the piece."""
        if piece.block != self._block.number:
            if self._block.number:
                self._close(given)
            self._block = _Block(piece, SafeText(self._stop, self._filters))
        if self.ended:
            return
        block = self._block
        text = block.safe.push(data)
        if info is not None:
            reasoning = piece.part is Part.REASONING
            if reasoning or data != info.bytes:
                info = info.model_copy(update={"bytes": data, "reasoning": reasoning})
            block.withheld.append((block.safe.read_count, info))
        self._give(text, given)

    def _close(self, given: Given) -> None:
        """Give out what the block has held back. No more of it comes."""
        if not self.ended:
            self._give(self._block.safe.finish(), given)

    def _give(self, text: str, given: Given) -> None:
        block = self._block
        self.ended, self.stop_sequence = block.safe.ended, block.safe.stop_sequence
        if text:
            assert block.part is not None
            first = block.safe.given_count == len(text)
            if first and block.part in self._has:
                text = BETWEEN_BLOCKS + text
            self._has.add(block.part)
            if block.part is Part.ANSWER:
                given.text += text
            else:
                given.reasoning += text
        given.tokens += block.released()
