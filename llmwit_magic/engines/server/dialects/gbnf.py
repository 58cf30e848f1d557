"""GBNF, the grammars of llama.cpp: how texts and classes of characters are written, and choices.

Source: grammars/README.md and src/llama-grammar.cpp of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Ranges = list[tuple[int, int]]
"""Code points, as pairs of the first and the last one."""


def of_choices(choices: Iterable[str]) -> str:
    """The grammar of a text that is one of `choices`.

    Common beginnings are written once: llama.cpp goes on with all alternatives that fit so far.
    """
    rules: list[str] = []
    _branches(sorted(set(choices)), 0, rules)
    return "\n".join(f"{_rule(i)} ::= {body}" for i, body in enumerate(rules))


def _branches(texts: Sequence[str], start: int, rules: list[str]) -> int:
    """Write the rule of the sorted `texts` from the character `start` on. Returns its number."""
    number = len(rules)
    rules.append("")
    options = []
    first = 0
    while first < len(texts):
        text = texts[first]
        if len(text) == start:  # it ends here
            options.append('""')
            first += 1
            continue
        last = first + 1
        while last < len(texts) and texts[last][start] == text[start]:
            last += 1
        shared = len(text) if last == first + 1 else _shared(text, texts[last - 1])
        option = literal(text[start:shared])
        if last > first + 1:
            option += f" {_rule(_branches(texts[first:last], shared, rules))}"
        options.append(option)
        first = last
    rules[number] = " | ".join(options)
    return number


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _rule(number: int) -> str:
    return f"r{number}" if number else "root"


def class_of(ranges: Ranges, negated: bool) -> str:
    spans = (_code(low) + (f"-{_code(high)}" if high > low else "") for low, high in ranges)
    return f"[{'^' if negated else ''}{''.join(spans)}]"


def literal(text: str) -> str:
    return '"' + "".join(_code(ord(character)) for character in text) + '"'


def _code(code: int) -> str:
    """A character as GBNF writes it in a literal and in a class."""
    character = chr(code)
    if character.isascii() and (character.isalnum() or character == " "):
        return character
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
