"""The answer of one run as it comes from a server: safe text, tokens, counts, and why it ended."""

from __future__ import annotations

import asyncio
import codecs
import re
import threading
import time
from collections.abc import Callable
from functools import partial

from ...contract.events import Chunk, Emit, End, Prepared
from ...contract.request import ContentFilter, Request
from ...contract.wit import FinishDetail, FinishReason, InferencingUsage, TokenInfo
from ...errors import PromptTooLong
from ..judging import judgement
from ..stopping import SafeText
from .answers import Part


class StreamedAnswer:
    """Takes the parts of an answer in, and says the events of its run."""

    def __init__(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        self._request, self._emit, self._cancel = request, emit, cancel
        self._filters_ask = any(callable(item) for item in request.content_filters)
        self.prepared: Prepared | None = None
        self.finished = False
        """Whether the server has said why the answer ended."""
        self._tokens = _Tokens()
        self._counts: dict[str, int | None] = {}
        self._counts_end = False
        self._texts = 0
        self._reasoning = 0
        self._ending = Part()
        self._seconds: dict[str, float] = {}
        self._asked = self._first = 0.0

    def begin(self, prepared: Prepared, secret: str | None, counts_end_of_text: bool) -> None:
        """Begin with what was prepared. A `secret` must not be in the text."""
        self.prepared = prepared
        filters: list[ContentFilter] = [
            partial(self._judged, item) if callable(item) else item
            for item in self._request.content_filters
        ]
        if secret:
            filters.append(re.escape(secret))
        self._stream = SafeText(prepared.params.stop, filters)
        self._counts["prompt"] = prepared.prompt_token_count
        self._counts["cached"] = None
        self._counts["generated"] = 0
        self._counts_end = counts_end_of_text
        self._asked = time.perf_counter()

    def _judged(self, function: Callable[[str], int | None], text: str) -> int | None:
        return judgement(function, text, self._cancel.is_set)

    @property
    def complete(self) -> bool:
        """Whether nothing more is wanted of the server."""
        return self._stream.ended is not None or self._ending.last or self._is_over

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
        now = time.perf_counter()
        for name in ("prompt", "cached", "generated"):
            if (count := getattr(part, f"{name}_token_count")) is not None:
                self._counts[name] = count
        if part.text or part.tokens or part.reasoning:
            if not self._first:
                self._first = now
                self._seconds["prompt"] = now - self._asked
            self._texts += 1
            self._reasoning += len(part.reasoning)
            self._seconds["decode"] = now - self._first
            safe = self._stream.push(part.text.encode("utf-8", "replace"))
            self._tokens.add(part.tokens)
            if part.generated_token_count is None:
                self._counts["generated"] = None
            released = self._tokens.released(self._stream.given_count)
            self._emit(Chunk(safe, self._counts["generated"], released))
        if part.finish_reason or part.finish_detail:
            self.finished, self._ending = True, part

    def end(self) -> None:
        """Say the rest of the text, and the end. An answer that has not ended was cancelled.

        Raises `PromptTooLong` where the server has cut the prompt.
        """
        self._refuse_cut_prompt()
        rest = self._stream.finish()
        reason, detail, stop = self._why()
        generated = self._counts["generated"]
        if detail is FinishDetail.EOS and self._counts_end and generated:
            generated -= 1
        tokens = self._tokens.rest(self._stream.given_count, detail, generated)
        if rest or tokens:
            self._emit(Chunk(rest, generated, tokens))
        usage = InferencingUsage(
            prompt_token_count=self._counts["prompt"],
            generated_token_count=generated,
            cached_token_count=self._counts["cached"],
        )
        self._emit(
            End(
                detail, usage, stop, self._seconds, reason,
                notices=tuple(self._notices()), not_honoured=self._not_honoured(),
            )
        )  # fmt: skip

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
        if self._reasoning:
            said.append(f"{self._reasoning:,} characters of reasoning came apart, and are not kept")
        listed, generated = self._tokens.count, self._counts["generated"]
        if listed and generated is not None and listed < generated - self._counts_end:
            said.append(
                f"the server says the log-probabilities of {listed:,} of {generated:,} tokens"
            )
        if self._is_over:
            said.append("the server sent more than max_tokens, and was stopped")
        return said

    def _not_honoured(self) -> tuple[str, ...]:
        wanted = self._request.top_logprobs is not None
        return ("top_logprobs",) if wanted and self._texts and not self._tokens.count else ()

    def _why(self) -> tuple[FinishReason | None, FinishDetail | None, str | None]:
        if self._stream.ended is not None:
            return None, self._stream.ended, self._stream.stop_sequence
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
