"""Hostile lines and cells: each is read rightly, or refused in one printable line, in bounded time."""

from __future__ import annotations

import ast
import keyword
import shlex
import time
from typing import Any

import pytest
from hypothesis import strategies as st
from IPython.core.error import UsageError

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import InvalidInput
from llmwit_magic.magics.cell import read_cell
from llmwit_magic.requests.interpolation import interpolate
from llmwit_magic.requests.line import MAX_SWEEP, split_line
from llmwit_magic.requests.options import OPTIONS
from tests.support.report import Report
from tests.support.trials import trials

pytestmark = pytest.mark.timeout(230)

SECONDS = 5.0
"""Within which any line and cell is read or refused, also one of a megabyte."""
MEGABYTE = 1_000_000
AWKWARD = (
    "\0\a\b\t\n\v\f\r\x1b\x7f\x85\x9b\xa0\xad\u061c\u200b\u200d\u200e\u2028\u2029\u202e\u2066\ufeff"
    "\ufffd\ufffe\ue000\U000e0041\U0010ffff\ud800\udfff'\"\\{}[]()=,:;-%!$#@|&~` éß日本😀👩🏽‍🚀ﷺ\u0301"
)  # fmt: skip
FLAGS = [flag for option in OPTIONS for flag in option.flags]

awkward = st.text(AWKWARD, max_size=8)
anything = awkward | st.text(max_size=12)
pieces = st.sampled_from(
    [*FLAGS, "--", "-", "none", "auto", "0", "1:5", "1:99999999999", "0.2,0.8", "nan", "-inf", "1e999",
     "1_0", "٣", "'", '"', "''", "\\n", "\\x", "\\N{", "\\ud800", "a=b", "=", ",", " ", "{{x}}", "x"]
) | anything  # fmt: skip
lines = st.builds(lambda words, gap: gap.join(words), st.lists(pieces, max_size=10),
                  st.sampled_from([" ", " ", "=", "", "\t", "' '"]))  # fmt: skip


def ends(report: Report, kind: str, line: str, cell: str, namespace: dict[str, Any]) -> Any:
    """The cell as it was read; None where it was refused, as it must be."""
    began = time.perf_counter()
    try:
        read = read_cell(line, cell, namespace, {"model": "default"})
    except UsageError as error:
        read, message = None, str(error)
        assert message
        assert message.isprintable()
        assert len(message) < 1100
    assert time.perf_counter() - began < SECONDS
    report.tried(kind, "read" if read else "refused in one line")
    return read


def test_any_line_and_cell(report: Report, long: bool) -> None:
    """Whatever stands in them: requests within the limits, or one printable line."""

    @trials(long, 600, line=lines, cell=anything | st.just("a prompt\n"))
    def check(line: str, cell: str) -> None:
        read = ends(report, "text in: options", line, cell, {"x": "value"})
        if read:
            assert 1 <= len(read.requests) <= MAX_SWEEP
            lines_of_models = cell.replace("\r\n", "\n").replace("\r", "\n")
            assert read.requests[0].prompt == lines_of_models.removesuffix("\n")


def quoted(text: str) -> str:
    """The text as one word, in the quotes that it does not have."""
    return f"'{text}'" if "'" not in text else f'"{text}"'


one_quote = anything.filter(lambda text: not ("'" in text and '"' in text))


def test_what_is_given_arrives(report: Report, long: bool) -> None:
    """Each value comes out as it went in, or is refused as the contract itself refuses it."""

    @trials(
        long, 300, model=one_quote.filter(bool), stop=st.lists(anything, max_size=3),
        tag=one_quote, system=anything, temperature=st.floats(0, 9), seed=st.integers(0, 2**63),
    )  # fmt: skip
    def check(model: str, stop: list[str], tag: str, system: str, temperature: float, seed: int) -> None:  # fmt: skip
        def escaped(text: str) -> str:
            return "'" + text.encode("unicode_escape", "surrogatepass").decode().replace("'", "\\x27") + "'"  # fmt: skip

        words = [f"-m={quoted(model)}", *(f"--stop={escaped(text)}" for text in stop)]
        words += [f"--tag={quoted('k=' + tag)}", f"--system={escaped(system)}"]
        words += [f"--temperature {temperature!r}", f"--seed={seed}", "--no-interpolate"]
        try:
            limit = None if stop else 100
            params = {"stop": tuple(stop)} if stop else {}
            wanted = Request(
                model=model, prompt="p", system=system, tags={"k": tag},
                params=InferencingParams(temperature=temperature, seed=seed, max_tokens=limit, **params),
            )  # fmt: skip
        except InvalidInput:
            wanted = None
        read = ends(report, "text in: values", " ".join(words), "p", {})
        assert (read.requests if read else None) == ((wanted,) if wanted else None)


def test_words_are_those_of_the_shell(report: Report, long: bool) -> None:
    """The words of any line are what `shlex` makes of it, without its escapes and comments."""

    @trials(long, 400, line=st.text(" \t\n'\"\\#ab=\0\x1b日", max_size=30) | lines)
    def check(line: str) -> None:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
        try:
            wanted: list[str] | None = list(lexer)
        except ValueError:
            wanted = None
        try:
            words: list[str] | None = split_line(line)
        except InvalidInput:
            words = None
        assert words == wanted
        report.tried("text in: words", "split" if words is not None else "refused in one line")


LONG_LINES = {
    "a word": "a" * MEGABYTE,
    "a quoted word": "--stop '" + "a" * MEGABYTE + "'",
    "an unknown option": "--" + "a" * MEGABYTE,
    "quotes": "'" * MEGABYTE,
    "quotes in quotes": "'\"" * (MEGABYTE // 2),
    "an open quote at the end": "--stop " + "''" * (MEGABYTE // 2) + "'",
    "dashes": "-" * MEGABYTE,
    "equals signs": "--stop" + "=" * MEGABYTE,
    "spaces": " " * MEGABYTE,
    "NULs": "\0" * MEGABYTE,
    "surrogates": "--stop " + "\ud800" * MEGABYTE,
    "tags": "--tag a=b " * (MEGABYTE // 10),
    "stop sequences": "--stop a " * (MEGABYTE // 9),
    "flags": "--chat " * (MEGABYTE // 7),
    "models": "-ma -m b " * (MEGABYTE // 9),
    "commas": "--seed " + "," * MEGABYTE,
    "values": "--seed " + "1," * (MEGABYTE // 2) + "1",
    "ranges": "--seed " + "1:1000," * (MEGABYTE // 7) + "1",
    "digits": "--seed " + "9" * MEGABYTE,
    "a long fraction": "--temperature 0." + "1" * MEGABYTE,
    "escapes": "--stop '" + "\\x41" * (MEGABYTE // 4) + "'",
    "broken escapes": "--stop '" + "\\N{" * (MEGABYTE // 3) + "'",
    "backslashes": "--system '" + "\\" * MEGABYTE + "'",
}


@pytest.mark.parametrize("name", LONG_LINES)
def test_lines_of_a_megabyte(name: str, report: Report) -> None:
    """Their reading takes a time that grows with their length, and no more memory than that."""
    ends(report, "text in: lines of a megabyte", LONG_LINES[name], "a prompt", {})


LONG_CELLS = {
    "text": "a" * MEGABYTE,
    "opening braces": "{{" * (MEGABYTE // 2),
    "openings": "{{x" * (MEGABYTE // 3),
    "places": "{{x}}" * (MEGABYTE // 5),
    "a long name": "{{" + "a" * MEGABYTE + "}}",
    "attributes": "{{x" + ".a" * (MEGABYTE // 2) + "}}",
    "subscripts": "{{x" + "[0]" * (MEGABYTE // 3) + "}}",
    "brackets": "{{" + "(" * MEGABYTE + "}}",
    "signs": "{{x[" + "-" * MEGABYTE + "1]}}",
    "sums": "{{x[" + "1+" * (MEGABYTE // 2) + "1j]}}",
    "a tuple": "{{x[" + "1," * (MEGABYTE // 2) + "]}}",
    "digits": "{{x[" + "9" * MEGABYTE + "]}}",
    "negations": "{{" + "not " * (MEGABYTE // 4) + "x}}",
    "spaces": "{{x" + " " * MEGABYTE + "}}",
    "a power": "{{9**9**9**9}}",
    "a repetition": "{{'a' * 99999999999}}",
}


@pytest.mark.parametrize("name", LONG_CELLS)
def test_cells_of_a_megabyte(name: str, report: Report) -> None:
    """Nothing in braces is computed, however long or deep it is."""
    kind = "text in: cells of a megabyte"
    read = ends(report, kind, "", LONG_CELLS[name], {"x": "value"})
    if name in ("text", "opening braces", "openings"):
        assert read.requests[0].prompt == LONG_CELLS[name]
    elif name in ("places", "spaces"):
        assert read.requests[0].prompt == "value" * LONG_CELLS[name].count("x")
    else:
        assert read is None


# What stands in braces ------------------------------------------------------------


class Trap:
    """Says who came near it; all its public attributes and items are itself."""

    touched: list[str]

    def __getattribute__(self, name: str) -> Any:
        object.__getattribute__(self, "touched").append(name)
        return self

    def __getitem__(self, key: object) -> Any:
        return self

    def __call__(self, *arguments: object, **named: object) -> Any:
        object.__getattribute__(self, "touched").append("_called")
        return self

    def __add__(self, other: object) -> Any:
        return self()

    __radd__ = __sub__ = __mul__ = __matmul__ = __or__ = __add__

    def __str__(self) -> str:
        return "trapped"


SIMPLE = ["x", "é", "1", "'a'", "b'a'", "None", "...", "__import__('os')", "exec('x()')", "_x",
          "lambda: x()", "[x() for y in (1,)]", "(y := x())", "f'{x()}'", "await x", "yield",
          "import os", "from os import *", "x; x()", "*x", "**x", "x if x else x", "x\\", "print(x)",
          "__builtins__", "globals()", "\N{FULLWIDTH LOW LINE}x", "𝔵", "ｘ"]  # fmt: skip
GROW = ["{}.a", "{}.__class__", "{}._a", "{}.\uff3f\uff3fclass\uff3f\uff3f", "{}.𝒂", "{}()", "{}(x)",
        "{}[0]", "{}[-1]", "{}['a']", "{}[x]", "{}[x()]", "{}[1:2]", "{}[1][0]", "{}.mro()", "({})",
        "{}[0].__init__.__globals__", "x[{}]", "-{}", "not {}", "{} + x", "x @ {}", "{}, x",
        "{}!r", "{}:>9", "{} # x", "{}\0", "{}\x1b[31m", "[{}]", "x[lambda: {}]", "{}.a.b.__dict__",
        " {} ", "{}.if", "{}.\u202ea"]  # fmt: skip
expressions = st.recursive(
    st.sampled_from(SIMPLE) | awkward,
    lambda inner: st.builds(lambda form, part: form.replace("{}", part), st.sampled_from(GROW), inner),
    max_leaves=6,
)  # fmt: skip


def test_nothing_in_braces_runs(report: Report, long: bool) -> None:
    """A variable with public attributes and literal subscripts, or a quoted text, is read; all
    else is refused."""

    @trials(long, 800, expression=expressions)
    def check(expression: str) -> None:
        trap = Trap()
        object.__setattr__(trap, "touched", [])
        cell = "{{" + expression + "}}"
        try:
            text = interpolate(cell, {"x": trap, "é": trap})
            # Braces and line ends inside make it no place at all.
            assert (
                set(expression) & set("{}\n")
                or text == "trapped"
                or expression == ""
                or text == ast.literal_eval(expression.strip())
            )
            outcome = "replaced" if text == "trapped" else "left alone"
        except InvalidInput as error:
            outcome = "refused in one line" if str(error).isprintable() else "refused badly"
        assert outcome != "refused badly"
        touched = object.__getattribute__(trap, "touched")
        assert not [name for name in touched if name.startswith("_")]
        assert not [name for name in touched if keyword.iskeyword(name)]
        report.tried("text in: {{…}}", outcome)
