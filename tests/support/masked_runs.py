"""Runs with a constraint over small vocabularies: llguidance is the real one, the logits are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.events import Chunk, End, Event
from llmwit_magic.contract.wit import InferencingParams, TokenInfo
from llmwit_magic.engines.answer_mask import AnswerMask
from llmwit_magic.engines.constraints import ConstraintVocabulary
from llmwit_magic.engines.reasoning import Splitter
from llmwit_magic.engines.sequence import generate
from llmwit_magic.engines.text_parts import TextParts
from llmwit_magic.errors import EngineFailed
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.models.tokenizers.vocabulary import Tokenizer
from tests.support.vocabularies import CONTROL, NORMAL, UNUSED, byte_level, sentencepiece

# "hello" is there twice, and the last word is unused.
WORDS = ("hello", "hello", "yes", "no", "word")
BYTES = build_tokenizer(byte_level(WORDS, token_type=[*[CONTROL] * 3, *[NORMAL] * 269, UNUSED]))
SPM = build_tokenizer(sentencepiece())
THINKING = build_tokenizer(byte_level(("<think>", "</think>")))
VOCABULARIES: dict[str, ConstraintVocabulary] = {}


def vocabulary(tokenizer: Tokenizer) -> ConstraintVocabulary:
    return VOCABULARIES.setdefault(str(id(tokenizer)), ConstraintVocabulary(tokenizer))


def choices(*texts: str) -> Constraint:
    return Constraint(kind="choices", source=json.dumps(texts))


def regex(source: str) -> Constraint:
    return Constraint(kind="regex", source=source)


class Model:
    """Logits by a function of the ids so far. It counts its evaluations."""

    context_length = 500

    def __init__(self, logits: Callable[[Sequence[int]], np.ndarray]) -> None:
        self._logits, self.tokens, self.evaluated = logits, list[int](), 0

    @property
    def logits(self) -> np.ndarray:
        return self._logits(self.tokens).astype(np.float32)

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        return 0

    def evaluate_prompt(self, tokens: Sequence[int], threads: Any, progress: Any) -> bool:
        self.tokens, self.evaluated = list(tokens), self.evaluated + 1
        return True

    def evaluate_next(self, token: int, threads: int) -> None:
        self.tokens.append(token)
        self.evaluated += 1


class Outcome:
    def __init__(self, model: Model, events: list[Event], error: Exception | None) -> None:
        self.model, self.error = model, error
        self.chunks = [event for event in events if isinstance(event, Chunk)]
        self.text = "".join(chunk.text for chunk in self.chunks)
        self.reasoning = "".join(chunk.reasoning for chunk in self.chunks)
        self.tokens: list[TokenInfo] = [token for chunk in self.chunks for token in chunk.tokens]
        self.end = next((event for event in events if isinstance(event, End)), None)
        self.finish = self.end.finish_detail if self.end else None


def noise(size: int, seed: int) -> Callable[[Sequence[int]], np.ndarray]:
    """Logits that differ at each place, and are the same for the same place and seed."""
    return lambda ids: np.random.default_rng([seed, len(ids)]).normal(0, 3, size)


def run(
    tokenizer: Tokenizer,
    constraint: Constraint,
    logits: Callable[[Sequence[int]], np.ndarray] | None = None,
    splitter: Splitter | None = None,
    top_logprobs: int | None = None,
    filters: Sequence[str] = (),
    **params: Any,
) -> Outcome:
    settings = InferencingParams(**{"seed": 1, "max_tokens": 60} | params)
    known = vocabulary(tokenizer)
    model = Model(logits or noise(len(tokenizer), settings.seed or 0))
    events: list[Event] = []
    error = None
    try:
        for event in generate(
            model,
            tokenizer,
            [5, 6],
            settings,
            TextParts(settings.stop, filters, splitter),
            threads=lambda: 1,
            top_logprobs=top_logprobs,
            mask=AnswerMask(known.mask(constraint), known, splitter),
            report=lambda progress: None,
            cancelled=lambda: False,
        ):
            events.append(event)
    except EngineFailed as raised:
        error = raised
    return Outcome(model, events, error)


def preferring(tokenizer: Tokenizer, *wanted: int) -> Callable[[Sequence[int]], np.ndarray]:
    """Logits of a model that writes these tokens one after the other, where it may."""

    def logits(ids: Sequence[int]) -> np.ndarray:
        values = np.linspace(1, 0, len(tokenizer))
        place = len(ids) - 2
        if place < len(wanted):
            values[wanted[place]] = 20
        return values

    return logits


def token(tokenizer: Tokenizer, text: bytes) -> int:
    return next(i for i in range(len(tokenizer)) if tokenizer.token_bytes(i) == text)
