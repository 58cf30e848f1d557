"""The loop of a run: logits to tokens to chunks, until there is a reason to end.

Only what the result needs is evaluated. The prompt is not evaluated where no
token is wanted, and the last token never is.
"""

from __future__ import annotations

import time
from collections import abc
from typing import TYPE_CHECKING, Protocol

from ..contract.events import Chunk, End, Event, Progress
from ..contract.wit import (
    FinishDetail,
    InferencingParams,
    InferencingUsage,
    TokenAlternative,
    TokenInfo,
)
from ..errors import ConstraintFailed
from .sampling import (
    Logits,
    Sampler,
    log_probabilities,
    masked_log_probability,
    refuse_blank,
)
from .text_parts import Given, TextParts
from .threads import Threads

if TYPE_CHECKING:
    from .answer_mask import AnswerMask
    from .backends.base import Evaluator
    from .constraints import Ids


class Vocabulary(Protocol):
    """What a sequence needs of a tokenizer."""

    end_ids: frozenset[int]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of text that a token stands for."""
        ...


class Sequence:
    """One text being generated: logits in, events out, one step at a time.

    `top_logprobs` is how many alternatives are recorded with each token and its log-probability.
    None records nothing. `context_length` is in tokens. `mask` says which tokens a constraint
    allows; without one, each may follow.
    """

    def __init__(
        self,
        prompt: abc.Sequence[int],
        params: InferencingParams,
        vocabulary: Vocabulary,
        stream: TextParts,
        context_length: int,
        top_logprobs: int | None = None,
        mask: AnswerMask | None = None,
    ) -> None:
        self.tokens = list(prompt)
        """The ids of the prompt and of the generated tokens."""
        self.cached = 0
        """Tokens of the prompt that did not have to be evaluated."""
        self.seconds: dict[str, float] = {}
        """How long `prompt` and `decode` took; a part that did not take place is missing."""
        self._prompt_length = len(prompt)
        self._most = params.max_tokens
        self._vocabulary, self._stream = vocabulary, stream
        self._context_length, self._top_logprobs = context_length, top_logprobs
        self._sampler = Sampler(params)
        self._began: float | None = None
        self._finish = FinishDetail.MAX_TOKENS if self._most == 0 else None
        self._mask = mask
        self._failure: ConstraintFailed | None = None
        if mask is not None and self._finish is None and mask.complete:
            self._finish = FinishDetail.CONSTRAINT

    @property
    def generated(self) -> int:
        """How many tokens were generated. The end-of-text token does not count."""
        return len(self.tokens) - self._prompt_length

    @property
    def ended(self) -> bool:
        """Whether no further token is wanted."""
        return self._finish is not None or self._stream.ended is not None

    def step(self, logits: Logits) -> list[Event]:
        """Choose the next token; `logits` are those of the newest one.

        The events are its chunk and, where it is the last token, the end. An end-of-text token
        has no chunk. Raises `EngineFailed` for logits that no token can be chosen by, and
        `ConstraintFailed` where no token can follow as the constraint wants it.
        """
        if self._began is None:
            self._began = time.perf_counter()
        allowed = None if self._mask is None else self._allowed(self._mask, logits)
        token = self._sampler.next(logits, self.tokens, allowed)
        if token in self._vocabulary.end_ids:
            self._finish = FinishDetail.EOS
            return self.end()
        self.tokens.append(token)
        top = self._top_logprobs
        info = None
        if top is not None:
            info = token_info(self._vocabulary, logits, token, top, allowed=allowed)
        given = self._stream.push(self._vocabulary.token_bytes(token), info)
        self.seconds["decode"] = time.perf_counter() - self._began
        chunk = self._chunk(given)
        if self._mask is not None and self._stream.ended is None:
            self._constrain(self._mask, token)
        if self._stream.ended is None and self._finish is None:
            if self.generated == self._most:
                self._finish = FinishDetail.MAX_TOKENS
            elif len(self.tokens) >= self._context_length:
                self._finish = FinishDetail.CONTEXT_FULL
        return [chunk, *self.end()] if self.ended else [chunk]

    def _allowed(self, mask: AnswerMask, logits: Logits) -> Ids | None:
        if self._failure is not None:
            raise self._failure
        allowed = mask.allowed
        if allowed is None or not allowed.size or allowed[-1] < logits.size:
            return allowed
        return allowed[allowed < logits.size]  # the model has no logits for the others

    def _constrain(self, mask: AnswerMask, token: int) -> None:
        """Tell the mask which token was chosen. A failure is raised at the next step: the text of
        this token is kept."""
        try:
            mask.take(token)
            if mask.complete:
                self._finish = FinishDetail.CONSTRAINT
        except ConstraintFailed as error:
            self._failure = error

    def end(self) -> list[Event]:
        """The rest of the text, and the end. A sequence that has not ended counts as cancelled."""
        cancelled = not self.ended  # asked before `finish`, where a filter may still end the text
        rest = self._stream.finish()
        chunk = self._chunk(rest)
        end = End(
            finish_detail=None if cancelled else self._stream.ended or self._finish,
            usage=InferencingUsage(
                prompt_token_count=self._prompt_length,
                generated_token_count=self.generated,
                cached_token_count=self.cached,
                reasoning_token_count=self._stream.reasoning_token_count,
            ),
            stop_sequence=self._stream.stop_sequence,
            seconds=self.seconds,
        )
        return [chunk, end] if rest.text or rest.reasoning else [end]

    def _chunk(self, given: Given) -> Chunk:
        return Chunk(
            given.text,
            self.generated,
            tuple(given.tokens),
            given.reasoning,
            self._stream.reasoning_token_count,
        )


def token_info(
    vocabulary: Vocabulary,
    logits: Logits,
    token: int,
    top: int,
    *,
    shown: bytes | None = None,
    allowed: Ids | None = None,
) -> TokenInfo:
    """A token with its log-probability, its rank and `top` alternatives.

    `shown` has the bytes of it that are part of the text, where these are not all. `allowed` are the
    ids that a constraint has left.
    """
    logprob, rank, best = log_probabilities(logits, token, top)
    return TokenInfo(
        id=token,
        bytes=vocabulary.token_bytes(token) if shown is None else shown,
        logprob=logprob,
        rank=rank,
        top=tuple(
            TokenAlternative(id=other, bytes=vocabulary.token_bytes(other), logprob=value)
            for other, value in best
        ),
        masked_logprob=(
            None if allowed is None else masked_log_probability(logits, token, allowed)
        ),
    )


def generate(
    evaluator: Evaluator,
    vocabulary: Vocabulary,
    prompt: abc.Sequence[int],
    params: InferencingParams,
    stream: TextParts,
    *,
    threads: Threads,
    top_logprobs: int | None,
    mask: AnswerMask | None = None,
    report: abc.Callable[[Progress], None],
    cancelled: abc.Callable[[], bool],
) -> abc.Iterator[Event]:
    """Carry out a run over the token ids of its prompt: its chunks, then its end.

    `threads()` gives the number of threads and is called before each evaluation.
    `report` gets the progress of the prompt. `cancelled()` is called between parts
    of the prompt and between tokens. A cancelled run ends without a finish detail.
    Raises `EngineFailed` where the model computes no usable logits, and `ConstraintFailed` where
    no token can follow as the constraint wants it.
    """

    def progress(done: int) -> bool:
        report(Progress("prompt", done, len(prompt)))
        return not cancelled()

    started = time.perf_counter()
    length = evaluator.context_length
    sequence = Sequence(prompt, params, vocabulary, stream, length, top_logprobs, mask)
    if not sequence.ended:
        sequence.cached = evaluator.shared_prefix(sequence.tokens)
        report(Progress("prompt", sequence.cached, len(prompt)))
        goes_on = evaluator.evaluate_prompt(sequence.tokens, threads, progress)
        sequence.seconds["prompt"] = time.perf_counter() - started
        if goes_on:
            refuse_blank(evaluator.logits)
        while goes_on and not cancelled():
            yield from sequence.step(evaluator.logits)
            if sequence.ended:
                return
            evaluator.evaluate_next(sequence.tokens[-1], threads())
    yield from sequence.end()
