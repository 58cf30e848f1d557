"""Reasoning: what a model writes before its answer, and the marks by which the two are told apart.

No model file says which marks its model writes. So `FAMILIES` is a table of those that are known. A
family is known by what stands in the file: the chat template, or else the tokens of the vocabulary.

The marks are looked for in the bytes of the tokens. So it makes no difference whether a mark is one
control token or a text of several tokens.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from enum import Enum

import regex

from ..contract.spans import Spans

LONGEST_TAIL = 10_000
"""The most characters at the end of a prompt that are searched for marks. A model file decides how
long that end is, and the search takes longer than its length says."""


class Part(Enum):
    """The two parts of what a model writes."""

    REASONING = "reasoning"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Family:
    """The marks of one family of models, as regular expressions.

    A model's family is the first one whose `signs` all stand in its chat template. If there is none,
    it is the first one whose signs are all tokens of its vocabulary.
    """

    models: str
    signs: tuple[str, ...]
    opening: str
    closing: str
    answer_opening: str = ""
    """Opens the answer, in families that mark that too. `answer_closing` closes it."""
    answer_closing: str = ""

    @property
    def mark_names(self) -> tuple[str, ...]:
        """The texts in the marks that may be control tokens."""
        fields = (self.opening, self.closing, self.answer_opening, self.answer_closing)
        marks = " ".join((*self.signs, *fields)).replace("\\", "")
        return tuple(dict.fromkeys(regex.findall(r"</?[\w:]+>|<\|?\w+\|?>|\[/?[A-Z]+\]", marks)))


def _header(channel: str) -> str:
    """The header with which gpt-oss begins a message. It names the channel of the message.

    Its words are limited, so that no text is held back for long. See
    https://github.com/openai/harmony/blob/main/docs/format.md .
    """
    words = r"[^<\n]{0,200}"
    return (
        rf"(?:<\|start\|>assistant\s*+)?(?:to={words})?"
        rf"<\|channel\|>{channel}{words}(?:<\|constrain\|>{words})?<\|message\|>"
    )


FAMILIES = (
    Family(
        "gpt-oss: the channel `analysis` is reasoning, and the others are the answer",
        ("<|channel|>", "<|message|>"),
        _header("analysis"), r"<\|end\|>", _header("[a-z]{1,20}"), r"<\|end\|>",
    ),
    Family("Gemma 4", ("<|channel>", "<channel|>"), r"<\|channel>thought", r"<channel\|>"),
    Family(
        "Command R7B, Command A Reasoning", ("<|START_THINKING|>", "<|END_THINKING|>"),
        r"<\|START_THINKING\|>", r"<\|END_THINKING\|>",
        r"<\|START_(?:RESPONSE|TEXT)\|>", r"<\|END_(?:RESPONSE|TEXT)\|>",
    ),
    Family("Seed-OSS", ("<seed:think>", "</seed:think>"), "<seed:think>", "</seed:think>"),
    Family("LongCat", ("</longcat_think>",), "<longcat_think>", "</longcat_think>"),
    Family("MiniMax M3", ("</mm:think>",), "<mm:think>", "</mm:think>"),
    Family("Magistral, Ministral", ("[THINK]", "[/THINK]"), r"\[THINK\]", r"\[/THINK\]"),
    Family(
        "Apriel", ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
        "Here are my reasoning steps:", r"\[BEGIN FINAL RESPONSE\]",
    ),
    Family(
        "Granite 3.2", ("Here is my thought process:", "Here is my response:"),
        "Here(?:'s| is) my thought process:", "Here(?:'s| is) my response:",
    ),
    Family(
        "Granite 3.3", ("<think></think>", "<response></response>"),
        "<think>", "</think>", "<response>", "</response>",
    ),
    Family("Hunyuan A13B", ("<think>", "<answer>"), "<think>", "</think>", "<answer>", "</answer>"),
    Family(
        "Qwen 3, DeepSeek R1 and V3.1, SmolLM3, GLM, Kimi K2, Nemotron, MiniMax M2, LFM2.5 and others",
        ("</think>",), "<think>", "</think>",
    ),
)  # fmt: skip


def family_of(template: str, vocabulary: Container[str]) -> Family | None:
    """The family of a model with this chat template and this vocabulary; None where none fits."""
    for family in FAMILIES:
        if all(sign in template for sign in family.signs):
            return family
    for family in FAMILIES:
        if all(sign in vocabulary for sign in family.signs):
            return family
    return None


def splitter_for(
    template: str, vocabulary: Container[str], prompt: str, data: Spans
) -> Splitter | None:
    """What keeps the reasoning of the next answer apart; None for a model without marks.

    `prompt` is what the chat template has written. `data` are the spans of it that are texts of
    messages. Only what the template writes after the last message can open the reasoning.
    """
    family = family_of(template, vocabulary)
    if family is None:
        return None
    tail = prompt[max((end for _, end in data), default=0) :]
    return Splitter(family, tail[-LONGEST_TAIL:])


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes, and the part to which they belong. A mark belongs to none."""

    part: Part | None
    data: bytes
    block: int = 0
    """Counts the blocks of the two parts. A part has several where a model thinks again."""


class Splitter:
    """Splits what a model writes into reasoning, answer and marks.

    A text without a mark at its beginning is an answer. White space beside a mark belongs to the
    mark. An answer ends at no mark but the one that closes it. So an answer that is about `<think>`
    is whole. Reasoning that is not closed goes on to the end.
    """

    def __init__(self, family: Family, tail: str = "") -> None:
        """`tail` is the end of the prompt, where a template may have opened or closed a part."""
        openings = {"reasoning": family.opening, "answer": family.answer_opening}
        marks = "|".join(f"(?P<{name}>{mark})" for name, mark in openings.items() if mark)
        self._opening = regex.compile(rf"\s*+(?:{marks})".encode())
        self._closings = {
            part: regex.compile(rf"(?<!\s)\s*+(?:{closing})".encode()) if closing else None
            for part, closing in (
                (Part.REASONING, family.closing), (Part.ANSWER, family.answer_closing),
            )
        }  # fmt: skip
        self.family = family
        self._held = b""
        """The last bytes, which may be the beginning of a mark."""
        self._block = 0
        self._marked = False
        """Whether a mark came before this place, so that white space here belongs to it."""
        self.part: Part | None = None
        """The part that is being written; None before the first one and after a closing."""
        self.opened = False
        """Whether a mark has opened the newest part."""
        self._closing: regex.Pattern[bytes] | None = None
        self._follow(family, marks, tail)

    def _follow(self, family: Family, marks: str, tail: str) -> None:
        """Begin in the part that the prompt has left open."""
        closings = "|".join(filter(None, (family.closing, family.answer_closing)))
        for mark in regex.finditer(f"{marks}|(?:{closings})", tail):
            if mark.lastgroup is None:
                self._marked, self.part = False, None
            else:
                self._begin(Part(mark.lastgroup), marked=True)

    def _begin(self, part: Part, marked: bool) -> None:
        self.part, self._block, self.opened = part, self._block + 1, marked
        # An answer that no mark has opened is closed by none.
        self._closing = self._closings[part] if marked else None
        self._marked = self._marked or marked

    @property
    def held(self) -> bytes:
        """The last bytes, of which it is not known whether they are the beginning of a mark."""
        return self._held

    @property
    def answers_next(self) -> bool:
        """Whether a part has ended, and the answer follows without a mark of its own."""
        return self.part is None and self._block > 0 and not self.family.answer_opening

    def opens(self, data: bytes) -> bool:
        """Whether `held` and `data` are the beginning of an opening mark, or all of one."""
        text = self._held + data
        mark = self._opening.match(text, partial=True)
        if mark is None or text.isspace():
            return False
        return bool(mark.partial) or not text[mark.end() :].strip()

    def push(self, data: bytes) -> list[Piece]:
        """Take the bytes of a token in. Returns the pieces that are decided now, in order."""
        self._held += data
        return list(self._read(final=False))

    def finish(self) -> list[Piece]:
        """The rest, when no more tokens come."""
        return list(self._read(final=True))

    def _read(self, final: bool) -> Iterator[Piece]:
        while self._held:
            if self.part is None:
                mark = self._opening.match(self._held, partial=not final)
                if mark is None:
                    self._begin(Part.ANSWER, marked=False)
                elif mark.partial:
                    return
                else:
                    yield from self._taken(None, mark.end())
                    self._begin(Part(mark.lastgroup), marked=True)
            elif self._marked:
                yield from self._taken(None, len(self._held) - len(self._held.lstrip()))
                self._marked = not self._held
            elif self._closing is None:
                yield from self._taken(self.part, len(self._held))
            else:
                mark = self._closing.search(self._held, partial=not final)
                yield from self._taken(self.part, mark.start() if mark else len(self._held))
                if mark is not None and mark.partial:
                    return
                if mark is not None:
                    yield from self._taken(None, mark.end() - mark.start())
                    self.part, self._marked = None, True

    def _taken(self, part: Part | None, count: int) -> Iterator[Piece]:
        """The first bytes of those that are held, as a piece. There is none without bytes."""
        data, self._held = self._held[:count], self._held[count:]
        if data:
            yield Piece(part, data, self._block)
