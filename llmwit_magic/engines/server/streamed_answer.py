"""The answer of one run as it comes from a server: safe text, tokens, counts, and why it ended."""

from __future__ import annotations

import asyncio
import codecs
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from ...contract.events import Chunk, Emit, End, Prepared
from ...contract.request import ContentFilter, Request
from ...contract.wit import FinishDetail, FinishReason, InferencingUsage, TokenInfo
from ...errors import PromptTooLong
from ..judging import Patience, judgement
from ..reasoning import Splitter
from ..stopping import Literal, SafeText
from ..text_parts import Given, TextParts
from .answers import Part

PATIENCE_SECONDS = 5.0
"""How long a content filter that is a function may go on after a cancellation."""


class StreamedAnswer:
    """Takes the parts of an answer in, and says the events of its run."""

    def __init__(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        self._request, self._emit = request, emit
        self._lock = threading.Lock()
        self._patience = Patience(cancel.is_set, PATIENCE_SECONDS)
        self._filters_ask = any(callable(item) for item in request.content_filters)
        self.prepared: Prepared | None = None
        self.finished = False
        """Whether the server has said why the answer ended."""
        self._tokens, self._thought_tokens = _Tokens(), _Tokens()
        self._split: TextParts | None = None
        self._counts: dict[str, int | None] = {}
        self._counts_end = False
        self._texts = 0
        self._ending = Part()
        self._text: list[str] = []
        """The answer so far, where its end may be that of a choice."""
        self._seconds: dict[str, float] = {}
        self._asked = self._first = 0.0

    def begin(
        self,
        prepared: Prepared,
        splitter: Splitter | None,
        secret: str | None,
        counts_end_of_text: bool,
    ) -> None:
        """Begin with what was prepared.

        `splitter` keeps the reasoning apart, where the server does not. A `secret` must not be in
        the text.
        """
        self.prepared = prepared
        filters: list[ContentFilter] = [
            partial(self._judged, item) if callable(item) else item
            for item in self._request.content_filters
        ]
        if secret:
            filters.append(Literal(secret))
        # The reasoning is a text of its own: nothing matches across the border.
        self._thoughts = SafeText(prepared.params.stop, filters)
        self._stream: SafeText | TextParts = SafeText(prepared.params.stop, filters)
        if splitter is not None:
            self._stream = self._split = TextParts(prepared.params.stop, filters, splitter)
        self._counts["prompt"] = prepared.prompt_token_count
        self._counts["cached"] = None
        self._counts["generated"] = 0
        self._counts["reasoning"] = None
        self._counts_end = counts_end_of_text
        self._asked = time.perf_counter()

    def _judged(self, function: Callable[[str], int | None], text: str) -> int | None:
        return judgement(function, text, self._patience)

    @property
    def complete(self) -> bool:
        """Whether nothing more is wanted of the server."""
        ended = self._stream.ended or self._thoughts.ended
        return ended is not None or self.said_last or self._is_over

    @property
    def said_last(self) -> bool:
        """Whether the server has said that nothing follows."""
        return self._ending.last

    @property
    def _is_over(self) -> bool:
        """Whether the server sends more than it was asked for. Such an answer would never end."""
        most, generated = self._request.params.max_tokens, self._counts["generated"]
        if most is None or self.finished:
            return False
        # Without a count, a part may be less than a token.
        return generated > most if generated is not None else self._texts > 4 * most + 64

    async def take_in_loop(self, part: Part) -> None:
        """Take a part in. A person's own function must not hold up other runs."""
        if self._filters_ask:
            await asyncio.to_thread(self.take, part)
        else:
            self.take(part)

    def take(self, part: Part) -> None:
        """Take a part in, and emit its chunk."""
        with self._lock:
            self._take(part)

    def _take(self, part: Part) -> None:
        now = time.perf_counter()
        for name in ("prompt", "cached", "generated", "reasoning"):
            if (count := getattr(part, f"{name}_token_count")) is not None:
                self._counts[name] = count
        if part.text or part.tokens or part.reasoning:
            if not self._first:
                self._first = now
                self._seconds["prompt"] = now - self._asked
            self._texts += 1
            self._seconds["decode"] = now - self._first
            if part.generated_token_count is None:
                self._counts["generated"] = None
            chunk = self._chunk(part)
            if self._request.constraint is not None:
                self._text.append(chunk.text)
            self._emit(chunk)
        if part.finish_reason or part.finish_detail:
            self.finished, self._ending = True, part

    def _chunk(self, part: Part) -> Chunk:
        """What is safe to show now."""
        generated, data = self._counts["generated"], part.text.encode("utf-8", "replace")
        if self._split is not None:
            self._tokens.count += len(part.tokens)
            tokens = [token for token in part.tokens if token.bytes]
            pieces = [(token.bytes, token) for token in tokens] if tokens else [(data, None)]
            return self._of_parts([self._split.push(*piece) for piece in pieces], generated)
        thoughts = ""
        if part.reasoning:
            thoughts = self._thoughts.push(part.reasoning.encode("utf-8", "replace"))
        assert isinstance(self._stream, SafeText)
        safe = self._stream.push(data)
        if part.reasoning and not part.text:
            self._thought_tokens.add(
                tuple(token.model_copy(update={"reasoning": True}) for token in part.tokens)
            )
        else:
            self._tokens.add(part.tokens)
        released = self._thought_tokens.released(self._thoughts.given_count)
        released += self._tokens.released(self._stream.given_count)
        return Chunk(safe, generated, released, thoughts, self._thinking_count)

    def _of_parts(self, given: Sequence[Given], generated: int | None) -> Chunk:
        return Chunk(
            "".join(item.text for item in given),
            generated,
            tuple(token for item in given for token in item.tokens),
            "".join(item.reasoning for item in given),
            self._thinking_count,
        )

    @property
    def _thinking_count(self) -> int | None:
        """The tokens that are not of the answer; None where no server says which they are."""
        if self._split is not None:
            listed = self._request.top_logprobs is not None
            return self._split.reasoning_token_count if listed else None
        if not self._request.is_chat:
            return 0
        # A model may also think without showing it.
        return self._counts["reasoning"]

    def end(self) -> None:
        """Say the rest of the text, and the end. An answer that has not ended was cancelled.

        Raises `PromptTooLong` where the server has cut the prompt.
        """
        with self._lock:  # a filter of a cancelled run may still judge its last part
            self._end()

    def _end(self) -> None:
        self._refuse_cut_prompt()
        thoughts, rest = self._thoughts.finish(), self._stream.finish()
        reason, detail, stop = self._why()
        generated = self._counts["generated"]
        if detail is FinishDetail.EOS and self._counts_end and generated:
            generated -= 1
        if isinstance(rest, Given):
            last = self._of_parts([rest], generated)
        else:
            assert isinstance(self._stream, SafeText)
            thought = self._thought_tokens.count
            tokens = self._thought_tokens.rest(self._thoughts.given_count, None, None)
            answered = None if generated is None else max(generated - thought, 0)
            tokens += self._tokens.rest(self._stream.given_count, detail, answered)
            last = Chunk(rest, generated, tokens, thoughts, self._thinking_count)
        if last.text or last.tokens or last.reasoning:
            self._emit(last)
        if detail is FinishDetail.EOS and self._is_whole_choice("".join((*self._text, last.text))):
            detail = FinishDetail.CONSTRAINT
        usage = InferencingUsage(
            prompt_token_count=self._counts["prompt"],
            generated_token_count=generated,
            cached_token_count=self._counts["cached"],
            reasoning_token_count=self._thinking_count,
        )
        self._emit(
            End(
                detail, usage, stop, self._seconds, reason,
                notices=tuple(self._notices()), not_honoured=self._not_honoured(),
            )
        )  # fmt: skip

    def _is_whole_choice(self, text: str) -> bool:
        """Whether nothing could follow: the answer was held to choices, and none goes on from it."""
        constraint = self._request.constraint
        if constraint is None or not self._ending.held:
            return False
        return [choice for choice in constraint.choices if choice.startswith(text)] == [text]

    def _refuse_cut_prompt(self) -> None:
        room = self.prepared.context_length if self.prepared else None
        count = self._counts["prompt"]
        if room is not None and count is not None and count >= room:
            raise PromptTooLong(
                f"the server says that it read {count:,} tokens, and its context holds {room:,}: "
                "it has cut the prompt; shorten it, or give the server a longer context"
            )

    def _notices(self) -> list[str]:
        said = []
        listed = self._tokens.count + self._thought_tokens.count
        generated = self._counts["generated"]
        if listed and generated is not None and listed < generated - self._counts_end:
            said.append(
                f"the server says the log-probabilities of {listed:,} of {generated:,} tokens"
            )
        if self._is_over:
            said.append("the server sent more than max_tokens, and was stopped")
        return said

    def _not_honoured(self) -> tuple[str, ...]:
        wanted = self._request.top_logprobs is not None
        listed = self._tokens.count + self._thought_tokens.count
        return ("top_logprobs",) if wanted and self._texts and not listed else ()

    def _why(self) -> tuple[FinishReason | None, FinishDetail | None, str | None]:
        for text in (self._thoughts, self._stream):
            if text.ended is not None:
                return None, text.ended, text.stop_sequence
        ending, most = self._ending, self._request.params.max_tokens
        if ending.finish_detail is not None:
            return ending.finish_reason, ending.finish_detail, ending.stop_sequence
        generated, prompt = self._counts["generated"], self._counts["prompt"]
        if ending.finish_reason is FinishReason.LENGTH:
            room = self.prepared.context_length if self.prepared else None
            if most is not None and (generated is None or generated >= most):
                return None, FinishDetail.MAX_TOKENS, None
            known = room is not None and generated is not None and prompt is not None
            # Some servers leave one place of the context free.
            if known and prompt + generated >= room - 1:  # type: ignore[operator]
                return None, FinishDetail.CONTEXT_FULL, None
            return FinishReason.LENGTH, FinishDetail.UNKNOWN, None
        return None, FinishDetail.MAX_TOKENS if self._is_over else None, None


class _Tokens:
    """The tokens of an answer. A token is given out once all of its text is.

    Until then the text may belong to a stop sequence or to a filter's match, and nobody may see
    that. A server may send a token before its text.
    """

    def __init__(self) -> None:
        self.count = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._place = 0
        self._withheld: list[tuple[int, TokenInfo]] = []
        """Tokens with the place in the text where each ends."""

    def add(self, tokens: tuple[TokenInfo, ...]) -> None:
        for token in tokens:
            self.count += 1
            self._place += len(self._decoder.decode(token.bytes))
            unfinished = bool(self._decoder.getstate()[0])
            self._withheld.append((self._place + unfinished, token))

    def released(self, given: int) -> tuple[TokenInfo, ...]:
        """The tokens that end within the first `given` characters of the text.

        One without text is kept back with the token after it: it may be the end of the text.
        """
        count = sum(end <= given for end, _ in self._withheld)
        while count and not self._withheld[count - 1][1].bytes:
            count -= 1
        return self._take(count)

    def rest(
        self, given: int, detail: FinishDetail | None, generated: int | None
    ) -> tuple[TokenInfo, ...]:
        """The tokens that are part of the text after its end. `generated` is how many there are."""
        if detail in (FinishDetail.EOS, FinishDetail.MAX_TOKENS, FinishDetail.CONTEXT_FULL):
            # All of the text is safe. What is more than was generated is the end-of-text token.
            over = 0 if generated is None else max(self.count - generated, 0)
            if not over and detail is FinishDetail.EOS and self._withheld:
                end, last = self._withheld[-1]
                over = int(end > given or not last.bytes)
            return self._take(max(len(self._withheld) - over, 0))
        return self._take(sum(end <= given for end, _ in self._withheld))

    def _take(self, count: int) -> tuple[TokenInfo, ...]:
        taken = tuple(token for _, token in self._withheld[:count])
        del self._withheld[:count]
        return taken
