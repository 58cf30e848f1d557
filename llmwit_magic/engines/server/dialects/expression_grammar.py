"""Regular expressions as grammars of llama.cpp."""

from __future__ import annotations

import sys
from functools import cache

from ....errors import ConstraintNotSupported
from .gbnf import Ranges, class_of, literal

MOST_CHARACTERS = 2_000
"""How many characters an expression may have with its repetitions written out. llama.cpp writes
them out, and refuses about that many."""
MOST_OPTIONAL = 100
"""How many parts may be left out. llama.cpp tries all that can come next, for each token."""
MOST_GROUPS = 50
"""How deep groups may stand in each other."""

_MOST_LETTERS = 1_000
"""How many characters of a class are looked at for their other case."""
_Part = tuple[str, int, bool]
_LAST = sys.maxunicode
_DIGITS: Ranges = [(0x30, 0x39)]
_WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACES: Ranges = [(0x09, 0x0D), (0x20, 0x20)]
_ALL_SPACES: Ranges = [
    (0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000),
]  # fmt: skip
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "a": 0x07}


def of_regex(expression: str) -> str:
    """The grammar of the texts that the whole expression matches.

    `\\d`, `\\w` and `\\s` write ASCII characters only. Raises `ConstraintNotSupported` for what no
    grammar can say, such as look-around, and for an expression that is no such one.
    """
    reader = _Reader(expression)
    body, _, _ = reader.alternatives(0)
    if reader.place < len(expression):
        raise reader.refused("a ) without its (")
    return f"root ::= {body}"


class _Reader:
    """Reads an expression from left to right.

    Each part gives its grammar, its length, and whether it may be empty.
    """

    def __init__(self, expression: str) -> None:
        self._text = expression
        self.place = 0
        self._optional = 0
        # What stands in front, as of a compiled expression: `(?i)`, `(?s)` or `(?is)`.
        flags = self._at("(?is)", "(?si)", "(?i)", "(?s)") or ""
        self._ignores_case, self._any = "i" in flags, "." if "s" in flags else r"[^\n]"

    def refused(self, what: str) -> ConstraintNotSupported:
        return ConstraintNotSupported(
            f"llama-server cannot be told the regular expression: it has {what} "
            f"(character {self.place + 1})"
        )

    def _at(self, *texts: str) -> str | None:
        """The first of the texts that stands here; it is read."""
        for text in texts:
            if self._text.startswith(text, self.place):
                self.place += len(text)
                return text
        return None

    def _next(self, what: str) -> str:
        if self.place >= len(self._text):
            raise self.refused(f"{what} without an end")
        self.place += 1
        return self._text[self.place - 1]

    def alternatives(self, depth: int) -> _Part:
        if depth > MOST_GROUPS:
            raise self.refused(f"more than {MOST_GROUPS} groups in each other")
        parts, length, empty = [], 0, False
        while True:
            part, size, may_be_empty = self._sequence(depth)
            parts.append(part)
            length = self._counted(length + size)
            if empty and may_be_empty:
                raise self.refused("two alternatives that may be empty")
            empty |= may_be_empty
            if not self._at("|"):
                return " | ".join(parts), length, empty

    def _sequence(self, depth: int) -> _Part:
        parts, length, empty = [], 0, True
        if depth == 0:
            self._at("^", r"\A")
        while self.place < len(self._text) and self._text[self.place] not in "|)":
            if depth == 0 and self._at("$", r"\Z", r"\z"):
                if self.place < len(self._text) and self._text[self.place] != "|":
                    raise self.refused("an end of the text before its end")
                break
            part, size, may_be_empty = self._quantified(*self._atom(depth))
            parts.append(part)
            length = self._counted(length + size)
            empty &= may_be_empty
        return " ".join(parts) or '""', length, empty

    def _counted(self, length: int) -> int:
        if length > MOST_CHARACTERS:
            raise self.refused(
                f"more than {MOST_CHARACTERS:,} characters with its repetitions written out"
            )
        return length

    def _atom(self, depth: int) -> _Part:
        match self._next("a part"):
            case "(":
                return self._group(depth)
            case "[":
                return self._class(), 1, False
            case ".":
                return self._any, 1, False
            case "\\":
                return self._escape_outside(), 1, False
            case "^" | "$":
                raise self.refused("^ or $ within the text")
            case "*" | "+" | "?" as sign:
                raise self.refused(f"a {sign} with nothing to repeat")
            case character:
                return self._text_of(character), 1, False

    def _group(self, depth: int) -> _Part:
        if self._at("?"):
            if self._at("<=", "<!"):
                raise self.refused("a look-behind")
            if self._at("=", "!"):
                raise self.refused("a look-ahead")
            if self._at("P<", "<"):
                name = ""
                while (character := self._next("the name of a group")) != ">":
                    name += character
                if not name.isidentifier():
                    raise self.refused("a group whose name is none")
            elif not self._at(":"):
                raise self.refused("flags or a special group")
        body, length, empty = self.alternatives(depth + 1)
        if not self._at(")"):
            raise self.refused("a ( without its )")
        return f"({body})", length, empty

    def _quantified(self, body: str, length: int, empty: bool) -> _Part:
        match self._at("*", "+", "?", "{"):
            case None:
                return body, length, empty
            case "{":
                least, most = self._counts()
            case sign:
                least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        self._at("?")  # a lazy one matches the same whole texts
        if self._at("+"):
            raise self.refused("a possessive repetition")
        if self._at("*", "{"):
            raise self.refused("a repetition of a repetition")
        if most == 0:
            return '""', 0, True
        if empty:  # llama.cpp tries all ways to write nothing, and may never come to an end
            if most != 1:
                raise self.refused("a repetition of what may be empty")
            return body, length, True
        length *= max(least + 1, most or 0)
        empty |= least == 0
        self._optional += least == 0
        if self._optional > MOST_OPTIONAL:
            raise self.refused(f"more than {MOST_OPTIONAL} parts that may be left out")
        if (least, most) in (simple := {(0, None): "*", (1, None): "+", (0, 1): "?"}):
            return body + simple[least, most], length, empty
        times = str(least) if least == most else f"{least},{'' if most is None else most}"
        return f"{body}{{{times}}}", length, empty

    def _counts(self) -> tuple[int, int | None]:
        text = ""
        while (character := self._next("a number of repetitions")) != "}":
            text += character
        low, comma, high = text.partition(",")
        numbers = [low or "0" if comma else low, high or "0"]
        if not all(number.isascii() and number.isdigit() for number in numbers) or text == ",":
            raise self.refused(f"{{{text[:20]}}}, which is no number of repetitions")
        if any(len(number) > 6 for number in numbers):
            raise self.refused("a number of repetitions of more than six digits")
        least = int(numbers[0])
        most = int(high) if high else (None if comma else least)
        if most is not None and most < least:
            raise self.refused(f"{{{text}}}, which asks for less than nothing")
        return least, most

    def _escape_outside(self) -> str:
        character = self._text[self.place : self.place + 1]
        if character and character in "dDwWsS":
            self.place += 1
            return class_of(_named_class(character), negated=character.isupper())
        return self._text_of(chr(self._escape()))

    def _escape(self) -> int:
        """The character that an escape stands for; its backslash is read."""
        character = self._next("an escape")
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character in "xuU":
            return self._code(character)
        if character.isalnum() and character.isascii():
            raise self.refused(rf"\{character}")
        return ord(character)

    def _code(self, kind: str) -> int:
        if self._at("{"):
            digits = ""
            while (character := self._next("an escape")) != "}":
                digits += character
        else:
            digits = "".join(self._next("an escape") for _ in range({"x": 2, "u": 4, "U": 8}[kind]))
        try:
            code = int(digits, 16)
            chr(code).encode()
        except (ValueError, OverflowError):
            raise self.refused(f"{digits[:20]!r}, which is the code of no character") from None
        return code

    def _class(self) -> str:
        negated = bool(self._at("^"))
        ranges: Ranges = []
        first = True
        while first or not self._at("]"):
            if any(self._text.startswith(sign, self.place) for sign in ("&&", "--", "~~", "||")):
                raise self.refused("an operation on classes")
            start = self._class_item(negated)
            first = False
            self._counted(len(ranges))
            if isinstance(start, list):
                ranges += start
                continue
            end: int | Ranges = start
            rest = self._text[self.place :]
            if rest.startswith("-") and not rest.startswith("-]"):
                self.place += 1
                end = self._class_item(negated)
            if isinstance(end, list) or end < start:
                raise self.refused("a class with a range that goes backwards")
            ranges.append((start, end))
        return class_of(_both_cases(ranges) if self._ignores_case else ranges, negated)

    def _text_of(self, character: str) -> str:
        code = ord(character)
        cases = _both_cases([(code, code)]) if self._ignores_case else []
        return class_of(cases, negated=False) if len(cases) > 1 else literal(character)

    def _class_item(self, negated: bool) -> int | Ranges:
        match self._next("a class"):
            case "[":
                raise self.refused("a [ within a class; write \\[")
            case "\\":
                character = self._text[self.place : self.place + 1]
                if character and character in "dDwWsS":
                    self.place += 1
                    # In a class that is excluded, the opposite of each part counts.
                    ranges = _named_class(character, other=negated)
                    return _rest(ranges) if character.isupper() else ranges
                return self._escape()
            case character:
                return ord(character)


def _named_class(name: str, other: bool = False) -> Ranges:
    """The characters of `\\d` for `d`, and those that `\\D` excludes for `D`.

    What is matched is ASCII. What is excluded is all that Unicode counts, and for a word also all
    else beyond ASCII. So whatever the grammar writes, the expression matches it.
    """
    excluded = name.isupper() != other
    match name.lower():
        case "d":
            return _all_digits() if excluded else _DIGITS
        case "w":
            return [*_WORD, (0x80, _LAST)] if excluded else _WORD
    return _ALL_SPACES if excluded else _SPACES


def _both_cases(ranges: Ranges) -> Ranges:
    """The characters in both cases. A long stretch beyond ASCII has both in it."""
    found = list(ranges)
    for low, high in ranges:
        for code in range(low, min(high, low + _MOST_LETTERS) + 1):
            for other in (chr(code).lower(), chr(code).upper()):
                if len(other) == 1 and ord(other) != code:
                    found.append((ord(other), ord(other)))
    return found


@cache
def _all_digits() -> Ranges:
    """The decimal digits of all scripts."""
    ranges: Ranges = []
    for code in range(_LAST + 1):
        if chr(code).isdecimal():
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1] = (ranges[-1][0], code)
            else:
                ranges.append((code, code))
    return ranges


def _rest(ranges: Ranges) -> Ranges:
    """All characters but those."""
    rest: Ranges = []
    place = 0
    for low, high in sorted(ranges):
        if low > place:
            rest.append((place, low - 1))
        place = max(place, high + 1)
    return [*rest, (place, _LAST)] if place <= _LAST else rest
