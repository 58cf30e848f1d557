"""Text that is safe to print.

Model output is text. A character that would control a terminal or change the
reading direction is shown, and has no effect.
"""

from __future__ import annotations

import unicodedata

from .widths import cut


def visible(text: str) -> str:
    """The text with control characters shown as pictures (␛) or numbers (⟨U+202E⟩)."""
    if text.isprintable():
        return text
    return "".join(map(_visible_character, text))


def on_one_line(text: str) -> str:
    """The visible text with signs for line ends and tabs, as in names, tables and status lines."""
    return visible(text).replace("\n", "⏎").replace("\t", "⇥")


def short(text: str, columns: int) -> str:
    """The visible text on one line, at most so many columns wide; "…" stands for what is cut off."""
    return cut(text, columns, on_one_line)


def _visible_character(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    # Emoji and Indic scripts need joiners. The two marks of direction are harmless by themselves.
    if unicodedata.category(character) in ("Zs", "Co") or character in "\u200c\u200d\u200e\u200f":
        return character
    return f"⟨U+{code:04X}⟩"


def number_text(value: float) -> str:
    """The number without a needless `.0`."""
    return repr(int(value)) if isinstance(value, float) and value.is_integer() else repr(value)


def setting_value(value: object) -> str:
    """The value of a setting on one line, as it is typed: `none`, and 0 in the place of 0.0."""
    if value is None:
        return "none"
    return number_text(value) if isinstance(value, float) else on_one_line(str(value))
