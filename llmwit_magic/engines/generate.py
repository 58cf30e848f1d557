"""The loop: logits to tokens to chunks, until there is a reason to end.

Nothing is evaluated that the result does not need: no prompt where no token is
wanted, and not the last token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ..protocol import Chunk, End, Event, Progress
from ..wit import FinishDetail, InferencingParams, InferencingUsage, TokenAlternative, TokenInfo
from .sampling import Logits, Sampler, log_probabilities, refuse_blank
from .stopping import SafeText
from .threads import Threads


class Model(Protocol):
    """What the loop needs of a loaded model."""

    context_length: int

    @property
    def logits(self) -> Logits: ...
    def shared_prefix(self, tokens: Sequence[int]) -> int: ...
    def evaluate_prompt(
        self, tokens: Sequence[int], threads: Threads, progress: Callable[[int], bool]
    ) -> bool: ...
    def evaluate_next(self, token: int, threads: int) -> None: ...


class Vocabulary(Protocol):
    """What the loop needs of a tokenizer."""

    end_ids: frozenset[int]

    def token_bytes(self, token_id: int) -> bytes: ...


def generate(
    model: Model,
    tokenizer: Vocabulary,
    prompt: Sequence[int],
    params: InferencingParams,
    stream: SafeText,
    *,
    threads: Threads,
    top_logprobs: int | None,
    report: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> Iterator[Event]:
    """The chunks of a run over the token ids of its prompt, then its end.

    `threads` is asked for their number before each evaluation; `report` gets
    the progress of the prompt; `cancelled` is asked between
    slices of the prompt and between tokens, and a cancelled run ends without a
    finish detail.
    """
    started = time.perf_counter()
    context = list(prompt)
    cached = model.shared_prefix(context)
    finish: FinishDetail | None = None
    seconds: dict[str, float] = {}

    def progress(done: int) -> bool:
        report(Progress("prompt", done, len(prompt)))
        return not cancelled()

    if params.max_tokens == 0:
        finish, cached = FinishDetail.MAX_TOKENS, 0
        running = False
    else:
        report(Progress("prompt", cached, len(prompt)))
        running = model.evaluate_prompt(context, threads, progress)
        seconds["prompt"] = time.perf_counter() - started
        if running:
            refuse_blank(model.logits)

    withheld: list[tuple[int, TokenInfo]] = []
    sampler = Sampler(params)
    generated = 0
    decoding = time.perf_counter()
    while running and not cancelled():
        logits = model.logits
        token = sampler.next(logits, context)
        if token in tokenizer.end_ids:
            finish = FinishDetail.EOS
            break
        generated += 1
        context.append(token)
        text = stream.push(tokenizer.token_bytes(token))
        if top_logprobs is not None:
            info = _token_info(tokenizer, logits, token, top_logprobs)
            withheld.append((stream.read_count, info))
        seconds["decode"] = time.perf_counter() - decoding
        yield Chunk(text, generated, _released(withheld, stream))
        if stream.ended:
            break
        if generated == params.max_tokens:
            finish = FinishDetail.MAX_TOKENS
        elif len(context) >= model.context_length:
            finish = FinishDetail.CONTEXT_FULL
        if finish:
            break
        model.evaluate_next(token, threads())

    interrupted = finish is None and stream.ended is None
    rest = stream.finish()
    if rest:
        yield Chunk(rest, generated, _released(withheld, stream))
    yield End(
        finish_detail=None if interrupted else stream.ended or finish,
        usage=InferencingUsage(
            prompt_token_count=len(prompt),
            generated_token_count=generated,
            cached_token_count=cached,
        ),
        stop_sequence=stream.stop_sequence,
        seconds=seconds,
    )


def _released(withheld: list[tuple[int, TokenInfo]], stream: SafeText) -> tuple[TokenInfo, ...]:
    """The tokens whose text has been given out whole.

    The others may yet be part of a stop sequence or of a filter's match, which
    nobody is to see: not in the text, and not in the bytes of a token.
    """
    released = [info for end, info in withheld if end <= stream.given_count]
    del withheld[: len(released)]
    return tuple(released)


def _token_info(tokenizer: Vocabulary, logits: Logits, token: int, top: int) -> TokenInfo:
    logprob, rank, best = log_probabilities(logits, token, top)
    return TokenInfo(
        id=token,
        bytes=tokenizer.token_bytes(token),
        logprob=logprob,
        rank=rank,
        top=tuple(
            TokenAlternative(id=other, bytes=tokenizer.token_bytes(other), logprob=value)
            for other, value in best
        ),
    )
