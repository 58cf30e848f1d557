"""The words of a line magic as its arguments. What is wrong is said as on an `%%infer` line."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from IPython.core.error import UsageError

from ..errors import InvalidInput
from ..requests.line import unknown_option

_OTHER_WORDS = (
    (r"argument ([^:]+): expected (?:at least )?one argument", r"\1 needs a value"),
    (
        r"argument ([^:]+): invalid int value: (.*)",
        r"\1: \2 is not valid: it must be a whole number",
    ),
    (r"argument ([^:]+): (.*)", r"\1: \2"),
)
"""What argparse says, and what we say. Anything else is left as it is."""


def line_arguments(magic: Any, words: Sequence[str], intermixed: bool = False) -> Namespace:
    """The arguments of a magic function that `magic_arguments` has given its parser.

    `intermixed` lets options stand between the arguments. Raises `InvalidInput`.
    """
    parser = magic.parser
    try:
        parse = parser.parse_intermixed_args if intermixed else parser.parse_args
        arguments: Namespace = parse(words)
    except UsageError as error:
        help_line = f"%{magic.__name__}? lists the options"
        raise InvalidInput(_said(str(error), parser, help_line)) from None
    return arguments


def _said(message: str, parser: Any, help_line: str) -> str:
    if unknown := re.match(r"unrecognized arguments: (\S+)", message):
        word = unknown[1].partition("=")[0]
        if not word.startswith("-"):
            return f"unexpected '{word}': {help_line}"
        flags = [flag for action in parser._actions for flag in action.option_strings]
        return unknown_option(word, flags, help_line)
    for theirs, ours in _OTHER_WORDS:
        if re.match(theirs, message):
            message = re.sub(theirs, ours, message)
            break
    return f"{message}: {help_line}"
