"""Chat messages become a prompt, written by the chat template of the model.

Some templates lose a message: one loses the system message, another loses every message whose
content is not a list of parts. So the text of each message is looked for in the prompt. The spans
where the texts stand are data: no control token is recognised in them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..contract.spans import Spans, joined
from ..errors import InferenceError, ModelNotSupported
from .template import ChatTemplate, TemplateRefused

MOVED = (
    "the model's chat template has no place for a system message: it stands in front of the first "
    "user message"
)
_PRIVATE = range(0xF0000, 0xFFFFE)
"""A plane of Unicode for private use. Hardly any text has its characters, so they serve as marks."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt, the spans of it that are texts of messages, and notices for the person."""

    text: str
    data: Spans
    notices: tuple[str, ...] = ()


def render_chat(
    template: str, messages: Sequence[tuple[str, str]], variables: Mapping[str, Any]
) -> Rendered:
    """The prompt that the template writes of messages. A message is a pair of role and text.

    `variables` are the model's special tokens (`bos_token`, `eos_token` …). The template gets the
    content of each message as a text. If it loses a message, it gets the contents as lists of
    parts. If it loses or refuses a system message, that message is put in front of the first user
    message.

    Raises `InvalidInput` for messages that the template refuses, and `ModelNotSupported` for a
    template that fails or loses a message. The caller must limit time and memory, because the
    sandbox does not.
    """
    writer = ChatTemplate(template, variables)
    problem: InferenceError | None = None
    for attempt in _attempts(messages):
        try:
            plain = writer.write(attempt.contents(("", "") for _ in attempt.texts))
            if attempt.as_parts and "{'type': 'text', " in plain:
                continue  # the template has written a list as its Python repr
            marks = _marks(template + "".join(attempt.texts), len(attempt.texts))
            try:
                marked = writer.write(attempt.contents(marks))
            except TemplateRefused:  # a condition of the template depends on the texts
                marked = ""
        except TemplateRefused as refused:
            problem = problem or refused.error
            continue
        found = _locate(plain, marked, attempt.texts, marks)
        lost = [role for role, spans in zip(attempt.roles, found, strict=True) if not spans]
        if not lost:
            data = joined(span for spans in found for span in spans)
            return Rendered(plain, data, (MOVED,) if attempt.moved else ())
        problem = problem or ModelNotSupported(
            "the chat template of the model leaves out the "
            f"{' and the '.join(dict.fromkeys(lost))} message: leave out --chat and "
            "--system, and write the prompt in the model's form"
        )
    assert problem is not None
    raise problem


# The messages ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A form of the messages to try."""

    roles: Sequence[str]
    texts: Sequence[str]
    messages: Sequence[tuple[str, Sequence[int]]]
    """Each message's role, and the indexes in `texts` of the texts that it consists of."""
    as_parts: bool
    moved: bool

    def contents(self, marks: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
        """The messages as a template takes them, each text between its two marks."""
        pairs = zip(self.texts, marks, strict=True)
        marked = [_between(text, first, last) for text, (first, last) in pairs]
        made = []
        for role, numbers in self.messages:
            content: Any = "\n\n".join(filter(None, (marked[number] for number in numbers)))
            if self.as_parts:
                content = [{"type": "text", "text": content}]
            made.append({"role": role, "content": content})
        return made


def _attempts(messages: Sequence[tuple[str, str]]) -> Iterator[_Attempt]:
    """The forms of the messages, in the order to try.

    First the contents are texts, then lists of parts. If the first message is a system message,
    both forms follow with it in front of the first user message.
    """
    roles = [role for role, _ in messages]
    texts = [text for _, text in messages]
    own = [(role, [number]) for number, role in enumerate(roles)]
    yield _Attempt(roles, texts, own, as_parts=False, moved=False)
    yield _Attempt(roles, texts, own, as_parts=True, moved=False)
    if roles[0] == "system" and "user" in roles:
        user = roles.index("user")
        moved = [
            (role, [0, number] if number == user else [number])
            for number, role in enumerate(roles)
            if number
        ]
        yield _Attempt(roles, texts, moved, as_parts=False, moved=True)
        yield _Attempt(roles, texts, moved, as_parts=True, moved=True)


# Where the texts stand ----------------------------------------------------------------


def _marks(taken: str, count: int) -> list[tuple[str, str]]:
    """Two characters for each of `count` texts, all different, and none of them in `taken`."""
    used = {ord(sign) for sign in re.findall("[\U000f0000-\U000ffffd]", taken)}
    free = (chr(code) for code in _PRIVATE if code not in used)
    return [(next(free), next(free)) for _ in range(count)]


def _between(text: str, first: str, last: str) -> str:
    """The text with marks around its words.

    White space at its ends stays outside of the marks, where a template may trim it.
    """
    words = text.strip()
    if not words:
        return text
    start = text.index(words)
    return text[:start] + first + words + last + text[start + len(words) :]


def _locate(
    plain: str, marked: str, texts: Sequence[str], marks: Sequence[tuple[str, str]]
) -> list[list[tuple[int, int]]]:
    """The spans of each text in `plain`. A text without words has one empty span.

    `plain` and `marked` are the prompts without and with marks. If `marked` without its marks is
    `plain`, a text stands between its marks. The two differ if a condition of the template depends
    on the texts. Then, or if the marks of a text are not in pairs, the text is searched for in
    `plain`, and white space is ignored.
    """
    numbers = {
        sign: (text, side) for text, pair in enumerate(marks) for side, sign in enumerate(pair)
    }
    places: list[list[tuple[int, int]]] = [[] for _ in texts]  # position and side of each mark
    clean, position = [], 0
    for piece in re.split(f"([{re.escape(''.join(numbers))}])", marked):
        if piece in numbers:
            number, side = numbers[piece]
            places[number].append((position, side))
        else:
            clean.append(piece)
            position += len(piece)
    agree = "".join(clean) == plain
    found: list[list[tuple[int, int]]] = []
    after = 0
    for text, seen in zip(texts, places, strict=True):
        sides = [side for _, side in seen]
        if not text.strip():
            spans = [(0, 0)]
        elif agree and sides == [0, 1] * (len(seen) // 2):
            spans = [
                _with_space(plain, text, start, end)
                for (start, _), (end, _) in zip(seen[::2], seen[1::2], strict=True)
            ]
        else:
            spans = _search(plain, text, after) or _search(plain, text, 0)
        found.append(spans)
        after = max([after, *(end for _, end in spans)])
    return found


def _with_space(plain: str, text: str, start: int, end: int) -> tuple[int, int]:
    """The span of the text's words, extended over the text's outer white space if it was kept."""
    before = text[: len(text) - len(text.lstrip())]
    behind = text[len(text.rstrip()) :]
    if plain.endswith(before, 0, start):
        start -= len(before)
    if plain.startswith(behind, end):
        end += len(behind)
    return start, end


def _search(plain: str, text: str, after: int) -> list[tuple[int, int]]:
    """The first span of `plain` at or after a position that equals the text but for white space."""
    places = array("I", (at for at in range(after, len(plain)) if not plain[at].isspace()))
    words = "".join(text.split())
    start = "".join(plain[after:].split()).find(words)
    return [] if start < 0 else [(places[start], places[start + len(words) - 1] + 1)]
