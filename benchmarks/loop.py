"""The time that each part of generating a token takes, in the process that generates it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.backends.ctransformers.evaluator import CTransformersEvaluator
from llmwit_magic.engines.local.model_files import LocalModel
from llmwit_magic.engines.local.wire import encoded
from llmwit_magic.engines.sampling import Logits
from llmwit_magic.engines.sequence import generate
from llmwit_magic.engines.text_parts import TextParts
from llmwit_magic.engines.threads import AdaptiveThreads, Threads, usable_cores
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.tokenizers.building import build_tokenizer

from .compare import Figures, Say, Size
from .ways import CONTEXT_LENGTH

SETTINGS = {
    "default settings": InferencingParams(max_tokens=None, seed=1),
    "greedy": InferencingParams(max_tokens=None, seed=1, temperature=0),
    "no top-k, no top-p": InferencingParams(max_tokens=None, seed=1, top_k=0, top_p=1),
    "no top-k": InferencingParams(max_tokens=None, seed=1, top_k=0),
}


GROWTH_TOKENS = 16


class TimedModel:
    """A loaded model that measures how long it evaluates."""

    def __init__(self, model: CTransformersEvaluator) -> None:
        self._model = model
        self.context_length = model.context_length
        self.seconds = 0.0

    @property
    def logits(self) -> Logits:
        return self._model.logits

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        return self._model.shared_prefix(tokens)

    def evaluate_prompt(
        self, tokens: Sequence[int], threads: Threads, progress: Callable[[int], bool]
    ) -> bool:
        return self._model.evaluate_prompt(tokens, threads, progress)

    def evaluate_next(self, token: int, threads: int) -> None:
        began = time.perf_counter()
        self._model.evaluate_next(token, threads)
        self.seconds += time.perf_counter() - began


def loop(found: LocalModel, size: Size, say: Say) -> Figures:
    """Milliseconds per token: its evaluation, and all else up to its message to the notebook."""
    tokenizer = build_tokenizer(read_header(found.source).metadata)
    model = CTransformersEvaluator(
        str(found.file), model_type=None, context_length=CONTEXT_LENGTH, gpu_layers=0
    )
    threads = AdaptiveThreads()
    figures: Figures = {}
    with open(os.devnull, "wb") as nowhere:
        for number in range(size.rounds):
            for name, params in SETTINGS.items():
                say(f"loop, round {number + 1} of {size.rounds}, {name}")
                timed = TimedModel(model)
                prompt = tokenizer.encode("Once upon a time there was")
                events = generate(
                    timed, _Endless(tokenizer), prompt, params.model_copy(
                        update={"max_tokens": size.tokens}),
                    TextParts((), []), threads=threads, top_logprobs=None,
                    report=lambda progress: None, cancelled=lambda: False,
                )  # fmt: skip
                next(events)  # the prompt, and the first token
                began = time.perf_counter()
                for event in events:
                    nowhere.write(encoded(event))
                    nowhere.flush()
                spent = time.perf_counter() - began - timed.seconds
                tokens = size.tokens - 1
                parts = {
                    "a token: evaluate, ms": 1000 * timed.seconds / tokens,
                    "a token: all else, ms": 1000 * spent / tokens,
                    "a token: all else, % of its time": 100 * spent / (spent + timed.seconds),
                }
                for what, value in parts.items():
                    figures.setdefault(what, {}).setdefault(name, []).append(value)
            for count in range(1, min(usable_cores(), 4) + 1):
                alone = figures.setdefault("evaluation alone, tokens/s", {})
                alone.setdefault(f"threads: {count}", []).append(_alone(model, count, size))
    return figures


def _alone(model: CTransformersEvaluator, threads: int, size: Size) -> float:
    """Tokens per second where nothing is done but evaluation. This is the library's own limit."""
    model.evaluate_prompt([1, 2, 3], lambda: threads, lambda done: True)
    began = time.perf_counter()
    for token in range(size.tokens):
        model.evaluate_next(100 + token, threads)
    return size.tokens / (time.perf_counter() - began)


def growth(found: LocalModel, size: Size, say: Say) -> Figures:
    """Milliseconds that a token takes to evaluate, by the number of tokens before it."""
    model = CTransformersEvaluator(
        str(found.file), model_type=None, context_length=CONTEXT_LENGTH, gpu_layers=0
    )
    threads = AdaptiveThreads()
    paces: dict[str, list[float]] = {}
    for before in size.contexts:
        say(f"growth, {before:,} tokens before")
        prompt = [3 + number % 1_000 for number in range(before)]
        model.evaluate_prompt(prompt, threads, lambda done: True)
        for _ in range(size.rounds):
            began = time.perf_counter()
            for token in range(GROWTH_TOKENS):
                model.evaluate_next(100 + token, threads())
            seconds = (time.perf_counter() - began) / GROWTH_TOKENS
            paces.setdefault(f"after {before:,}", []).append(1000 * seconds)
    return {"evaluate a token, ms": paces}


class _Endless:
    """A vocabulary without an end-of-text token, so that all runs generate as many tokens."""

    end_ids: frozenset[int] = frozenset()

    def __init__(self, tokenizer: object) -> None:
        self.token_bytes: Callable[[int], bytes] = tokenizer.token_bytes  # type: ignore[attr-defined]
