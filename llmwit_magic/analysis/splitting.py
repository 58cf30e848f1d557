"""The tokens of texts, and long texts in parts that fit into a context."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from ..contract.request import DEFAULT_MODEL, ModelSpec, checked_text
from ..errors import InvalidInput
from ..running.session import Session, current_session
from .boundaries import Boundaries

Count = Callable[[str], int]
"""How many tokens a text has."""

FULL = 31 / 32
"""The share of the limit at which the search for more text ends."""
TOKEN_CHARACTERS = 4
"""Characters of a token, as the first guess."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a text: `text[start:end]`, in characters, with its own number of tokens."""

    text: str
    start: int
    end: int
    token_count: int

    def __str__(self) -> str:
        return self.text


@overload
def count_tokens(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
    text: str, model: str | os.PathLike[str] | None = None, *,
    engine: Literal["auto", "ctransformers", "llama.cpp"] = "auto", model_type: str | None = None,
) -> int: ...  # fmt: skip


@overload
def count_tokens(
    text: Sequence[str], model: str | os.PathLike[str] | None = None, *,
    engine: Literal["auto", "ctransformers", "llama.cpp"] = "auto", model_type: str | None = None,
) -> list[int]: ...  # fmt: skip


def count_tokens(
    text: str | Sequence[str],
    model: str | os.PathLike[str] | None = None,
    *,
    engine: Literal["auto", "ctransformers", "llama.cpp"] = "auto",
    model_type: str | None = None,
) -> int | list[int]:
    """How many tokens a text has for a model, or each of several texts.

    A text is counted by itself, as data: the name of a control token in it is text. The tokens that
    begin or end a text, and those of a chat template, do not count. `--dry-run` counts these too.

    The vocabulary alone is read, in a process of its own: the model is not loaded. Only an old GGML
    file is. Of servers, llama-server, vLLM and SGLang count.

    Raises `InvalidInput` for something that is no text, and for a server that does not count.
    Otherwise raises what `infer` does for a model that cannot be had.
    """
    session, spec = current_session(), _spec(model, engine, model_type)
    if isinstance(text, str):
        return session.count_tokens(spec, [checked_text(text, "the text")])[0]
    if not isinstance(text, Iterable):
        raise InvalidInput(f"text: {type(text).__name__} is neither a text nor a list of texts")
    texts = [checked_text(each, f"text {number}") for number, each in enumerate(text, 1)]
    return session.count_tokens(spec, texts) if texts else []


def split(
    text: str,
    tokens: int,
    overlap: int = 0,
    model: str | os.PathLike[str] | None = None,
    *,
    language: str | None = None,
    engine: Literal["auto", "ctransformers", "llama.cpp"] = "auto",
    model_type: str | None = None,
) -> list[Passage]:
    """A text in parts of at most `tokens` tokens each, as `count_tokens` counts them.

    A part is made as long as it can be. It then ends at the last end of a paragraph in its second
    half; without one, at the last end of a sentence there, else of a word, else between two
    characters. A paragraph ends at an empty line. The white space after an end belongs to the part
    before it. So the texts of all parts, one after another, are the text again.

    With `overlap`, a part begins with the end of the part before it: with at most so many tokens of
    that, from the beginning of a sentence or of a word.

    Where a sentence ends is found by Unicode's properties (after UAX #29): it knows no
    abbreviations. With `language`, a code such as `en`, the package sentencex finds it
    (`pip install "llmwit-magic[sentences]"`), which knows those of many languages. It takes a code that it does not know for English.

    Raises `InvalidInput` for values out of range, for a character that has more than `tokens`
    tokens, and where sentencex is not there. Otherwise raises what `count_tokens` does.
    """
    _check_number("tokens", tokens, 1, None)
    _check_number("overlap", overlap, 0, tokens - 1)
    text = checked_text(text, "the text")
    spec, session = _spec(model, engine, model_type), current_session()
    boundaries = Boundaries(text, language)
    return Splitting(text, boundaries, _counter(session, spec)).parts(tokens, overlap)


class Splitting:
    """A text on its way into parts."""

    def __init__(self, text: str, boundaries: Boundaries, count: Count) -> None:
        self._text, self._boundaries, self._count = text, boundaries, count
        self._characters = float(TOKEN_CHARACTERS)
        """Characters of a token, as far as it is known."""

    def parts(self, tokens: int, overlap: int) -> list[Passage]:
        """All parts, in order."""
        parts: list[Passage] = []
        start = 0
        while not parts or parts[-1].end < len(self._text):
            if not self._text:
                return []
            done = parts[-1].end if parts else 0
            part = self._part(start, done, tokens)
            if part is None:  # the overlap leaves no room for anything new
                part = self._part(done, done, tokens)
            if part is None:
                raise self._too_small(done, tokens)
            parts.append(part)
            start = self._overlap_start(part, overlap) if overlap else part.end
        return parts

    def _part(self, start: int, done: int, tokens: int) -> Passage | None:
        """The part that begins at `start` and ends after `done`; None where none is short enough."""
        text = self._text
        length = self._longest(lambda size: text[start : start + size], len(text) - start, tokens)
        reach = start + length
        if self._count(text[start : (word := self._boundaries.word_end(reach))]) <= tokens:
            reach = word
        while reach > done:
            if reach == len(text):
                end = reach
            else:
                end = self._boundaries.last_end(max(start + (reach - start) // 2, done), reach)
            # A shorter text may have more tokens, where its last word is cut in another way.
            count = self._count(text[start:end])
            if count <= tokens:
                return Passage(text[start:end], start, end, count)
            reach = end - 1
        return None

    def _overlap_start(self, part: Passage, overlap: int) -> int:
        """Where the next part begins: its first tokens are the last ones of this part."""
        text, end = self._text, part.end
        # It begins after this part does, or the parts would not go on.
        length = self._longest(lambda size: text[end - size : end], end - part.start - 1, overlap)
        start = end - length
        word = self._boundaries.word_start(start)
        if word > part.start and self._count(text[word:end]) <= overlap:
            start = word
        while start < end:
            start = self._boundaries.first_start(start, end - (end - start) // 2, end)
            if start >= end or self._count(text[start:end]) <= overlap:
                break
            start += 1
        return min(start, end)

    def _longest(self, piece: Callable[[int], str], most: int, tokens: int) -> int:
        """About the greatest size, up to `most`, for which `piece(size)` has at most `tokens` tokens.

        More characters may have fewer tokens here and there, so it need not be the very greatest.
        """
        low, high, steps = 0, most + 1, 0
        size = min(most, max(1, int(tokens * self._characters)))
        while high - low > 1:
            count = self._count(piece(size))
            if count <= tokens:
                low = size
                if count >= tokens * FULL:
                    break
            else:
                high = size
            if count:
                self._characters = max(size / count, 0.25)
            steps += 1
            # Every third step halves what is left, since the texts' tokens may differ in length.
            guess = (low + high) // 2 if steps % 3 == 0 else int(tokens * self._characters)
            size = min(max(guess, low + 1), high - 1)
        return low

    def _too_small(self, place: int, tokens: int) -> InvalidInput:
        sign = self._text[place]
        return InvalidInput(
            f"tokens: {tokens} is too small: the character {sign!r} has {self._count(sign)} tokens"
        )


def _counter(session: Session, spec: ModelSpec) -> Count:
    return lambda text: session.count_tokens(spec, [text])[0]


def _spec(
    model: str | os.PathLike[str] | None,
    engine: Literal["auto", "ctransformers", "llama.cpp"],
    model_type: str | None,
) -> ModelSpec:
    name = DEFAULT_MODEL if model is None else os.fspath(model)
    return ModelSpec(model=name, engine=engine, model_type=model_type)


def _check_number(name: str, value: object, least: int, most: int | None) -> None:
    valid = isinstance(value, int) and not isinstance(value, bool)
    if not valid or value < least or (most is not None and value > most):  # type: ignore[operator]
        wanted = f"≥ {least}" if most is None else f"from {least} to {most}, less than tokens"
        raise InvalidInput(f"{name}: {value!r} is not valid: it must be a whole number {wanted}")
