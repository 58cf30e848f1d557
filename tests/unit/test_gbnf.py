"""Choices and regular expressions as grammars of llama.cpp; see also the tests on a real server."""

from __future__ import annotations

import time

import pytest

from llmwit_magic.engines.server.dialects.expression_grammar import of_regex
from llmwit_magic.engines.server.dialects.gbnf import of_choices
from llmwit_magic.errors import ConstraintNotSupported


def test_choices_share_their_beginnings() -> None:
    """One that is the beginning of another may end there or go on."""
    assert of_choices(["ab", "a", "c"]) == 'root ::= "a" r1 | "c"\nr1 ::= "" | "b"'
    assert of_choices(["one"]) == 'root ::= "one"'
    assert of_choices(["b", "a"]) == of_choices(["a", "b", "a"])


def test_all_signs_are_escaped() -> None:
    assert of_choices(['a"\\\n[]']) == r'root ::= "a\x22\x5C\x0A\x5B\x5D"'
    assert of_choices(["é日😀"]) == r'root ::= "\xE9\u65E5\U0001F600"'


def test_many_choices_make_a_short_grammar() -> None:
    """Its length grows with that of the choices, also where they begin in common."""
    choices = ["x" * i for i in range(1, 300)]
    assert len(of_choices(choices)) < 10_000
    words = [f"word {i}" for i in range(10_000)]
    assert len(of_choices(words)) < 200_000


@pytest.mark.parametrize(
    ("expression", "grammar"),
    [
        ("a|b", '"a" | "b"'),
        ("(?:yes|no)[.!]*", r'("y" "e" "s" | "n" "o") [\x2E\x21]*'),
        (r"^\d{3}-\d{2,}$", r'[0-9]{3} "\x2D" [0-9]{2,}'),
        (r"\Aa\Z", '"a"'),
        ("a{,3}b{0,1}c{1,}d{2,2}e{0}", '"a"{0,3} "b"? "c"+ "d"{2} ""'),
        ("(?P<n>x)+?y*?", '("x")+ "y"*'),
        ("[^a-c]", "[^a-c]"),
        ("[]a-]", r"[\x5Da\x2D]"),
        (r"[\n\]\\]", r"[\x0A\x5D\x5C]"),
        (".", r"[^\n]"),
        (r"\x41\u00e9\u{1F600}\.", r'"A" "\xE9" "\U0001F600" "\x2E"'),
        ("(a|)b?", '("a" | "") "b"?'),
        ("(a?)?", '("a"?)'),
        ("", '""'),
        (r"\w", r"[0-9A-Z\x5Fa-z]"),
        (r"(?i)a1[b-d]", r'[aA] "1" [b-dBCD]'),
        (r"(?i)[^é]", r"[^\xE9\xC9]"),
        (r"(?s).\.", r'. "\x2E"'),
        (r"(?is)é", r"[\xE9\xC9]"),
        (r"\W", r"[^0-9A-Z\x5Fa-z\x80-\U0010FFFF]"),
        (r"[^\S]", r"[^\x00-\x08\x0E-\x1F\x21-\U0010FFFF]"),
    ],
)
def test_expressions(expression: str, grammar: str) -> None:
    assert of_regex(expression) == f"root ::= {grammar}"


def test_opposites_leave_out_all_that_unicode_counts() -> None:
    r"""Else the grammar could write a digit of another script, which `\D` does not match."""
    assert r"\u0660-\u0669" in of_regex(r"\D")
    assert r"\u3000" in of_regex(r"\S")
    assert r"\u0660-\u0669" in of_regex(r"[^\d]")
    assert of_regex(r"[^\D]") != of_regex(r"\d")  # written as what is left out


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("(?=a)b", "a look-ahead"), ("(?!a)b", "a look-ahead"), ("(?<=a)b", "a look-behind"),
        ("(?<!a)b", "a look-behind"), (r"(a)\1", r"\1"), (r"\bfoo", r"\b"), (r"\p{L}", r"\p"),
        ("a(?i)", "flags"), ("(?x)a", "flags"), ("(?m)a", "flags"), ("a++", "possessive"), ("a**", "a repetition of a repetition"),
        ("*a", "nothing to repeat"), ("(", "a ( without its )"), (")", "a ) without its ("),
        ("[a", "a class without an end"), ("[z-a]", "backwards"), ("[[:alpha:]]", r"write \["),
        ("[a&&b]", "an operation on classes"), ("a{2,1}", "less than nothing"),
        ("a{x}", "no number of repetitions"), ("a{9999999}", "more than six digits"),
        ("a{2001}", "2,000 characters"), ("((a{1,50}){1,50}){1,50}", "2,000 characters"),
        ("(a*)*b", "a repetition of what may be empty"), ("(a?|b?)", "may be empty"),
        ("a?" * 101, "100 parts that may be left out"), ("a$b", "an end of the text before"),
        ("(" * 60 + ")" * 60, "more than 50 groups"), (r"\x4", "without an end"),
        ("\\", "an escape without an end"), (r"\ud800", "the code of no character"),
        ("(?<1>a)", "a group whose name"), ("a^", "within the text"),
    ],
)  # fmt: skip
def test_what_no_grammar_can_say_is_refused_by_name(expression: str, named: str) -> None:
    """Some of it would keep llama.cpp busy for ever."""
    with pytest.raises(ConstraintNotSupported) as caught:
        of_regex(expression)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_long_expressions_end_soon() -> None:
    began = time.monotonic()
    for expression in (
        "(" * 500_000,
        "a|" * 500_000,
        "[" + "a-" * 500_000,
        "a" * 1_000_000,
        "[" + "ab" * 500_000 + "]",
    ):
        with pytest.raises(ConstraintNotSupported):
            of_regex(expression)
    assert time.monotonic() - began < 20
