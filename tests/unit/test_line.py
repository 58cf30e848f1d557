"""The line of a cell: words, quotes, escapes, sweeps, refusals and completion."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from IPython.core.error import UsageError

from llmwit_magic.requests.line import MAX_SWEEP, complete, split_line
from llmwit_magic.requests.options import OPTIONS
from tests.support.cells import one, read, refused

# Values


def test_the_words_of_a_line() -> None:
    """Quotes group and vanish, backslashes stay, and # begins no comment."""
    assert split_line(r"a 'b c' #d \n ''") == ["a", "b c", "#d", r"\n", ""]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"'\n\n'", "\n\n"),
        (r"\n", "\n"),
        (r'"\t"', "\t"),
        (r"'\x41\u00e9\U0001F600\N{BULLET}'", "Aé😀•"),
        (r"'\\n'", r"\n"),
        (r"'\0'", "\0"),
        (r"'\d+\.'", r"\d+\."),
        (r"'\x4'", r"\x4"),
        (r"'C:\q'", r"C:\q"),
        ("'###  two  spaces'", "###  two  spaces"),
        ('"it\'s"', "it's"),
        (r"'\"'", '"'),
        ("'# no comment'", "# no comment"),
        ("日本", "日本"),
        ("a'b c'd", "ab cd"),
    ],
)
def test_escapes_and_quotes_of_stop(text: str, wanted: str) -> None:
    """Python's escapes are decoded, other backslashes stay, and quotes group words."""
    assert one(f"--stop {text}").params.stop == (wanted,)
    assert one(f"--stop={text}").params.stop == (wanted,)


def test_stop_sequences_keep_their_order() -> None:
    """Each --stop adds one sequence."""
    assert one("--stop b --stop a --stop b").params.stop == ("b", "a", "b")


@pytest.mark.parametrize(
    ("line", "stop"),
    [
        ("--stop -", "-"),
        ("--stop --", "--"),
        ("--stop ---", "---"),
        ("--stop=--", "--"),
        ("--stop ' x'", " x"),
        ("--stop '- item'", "- item"),
        ("--stop -5", "-5"),
        ("--stop -x=1", "-x=1"),
        ("--stop=--chat", "--chat"),
        ("--stop=--seed=5", "--seed=5"),
        ("--stop==", "="),
    ],
)
def test_values_may_begin_with_a_dash(line: str, stop: str) -> None:
    """The next word is the value unless it is an option. After = any text is the value."""
    assert one(line).params.stop == (stop,)


def test_texts_decode_escapes() -> None:
    """A system message has escapes as a stop sequence does. A path keeps its backslashes."""
    request = one(r"-m 'C:\new\model.gguf' --system 'a\nb'")
    assert (request.model, request.system) == (r"C:\new\model.gguf", "a\nb")


def test_tags_are_pairs() -> None:
    """The first equals sign ends the key. The value may be empty, or have more of them."""
    tags = one("--tag a=1 --tag 'b c=x=y' --tag d=").tags
    assert dict(tags) == {"a": "1", "b c": "x=y", "d": ""}


# Sweeps


def values(line: str, name: str) -> list[Any]:
    return [getattr(request.params, name) for request in read(line).requests]


@pytest.mark.parametrize(
    ("line", "name", "wanted"),
    [
        ("--temperature 0.2,0.8", "temperature", [0.2, 0.8]),
        ("--seed 1:5", "seed", [1, 2, 3, 4, 5]),
        ("--seed 3:3", "seed", [3]),
        ("--seed 1:3,7,9:10", "seed", [1, 2, 3, 7, 9, 10]),
        ("--max-tokens none,5", "max_tokens", [None, 5]),
        ("--top-k '1, 2'", "top_k", [1, 2]),
        ("--top-k 2,2", "top_k", [2, 2]),
    ],
)
def test_the_values_of_a_sweep(line: str, name: str, wanted: list[Any]) -> None:
    """A comma separates values. A colon stands between the first and the last value of a range."""
    assert values(line, name) == wanted
    cell = read(line)
    assert cell.is_sweep == (len(wanted) > 1)
    assert cell.varying == ((name,) if len(wanted) > 1 else ())


@pytest.mark.parametrize(
    "line",
    ["--seed 1:1001", "--seed 1:100 --top-k 1:11", "--seed 0:9223372036854775807",
     "--seed 1:1000,2000"],
)  # fmt: skip
def test_too_large_a_sweep_is_refused(line: str) -> None:
    """It is refused before anything is built. The message has the limit."""
    assert f"{MAX_SWEEP:,}" in refused(line)


def test_the_largest_sweep() -> None:
    """The limit itself is allowed, by one option or by several. One run more is refused."""
    assert len(read("--seed 1:100 --top-k 1:10").requests) == MAX_SWEEP == 1000
    assert len(read("--seed 1:1000").requests) == 1000
    assert len(read("--seed 1:999,5:5").requests) == 1000
    assert "a sweep of 1,001 runs" in refused("--seed 1:77 --top-k 1:13")
    assert "a sweep of 1,001 runs" in refused("--seed 1:1000,5:5")
    assert "'1:1001' makes more than 1,000 values" in refused("--seed 1:1001")
    assert "'7:7' makes more than 1,000 values" in refused("--seed 1:1000,5:5,7:7")


# What is wrong


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--temprature 1", ["unknown option --temprature", "did you mean --temperature?"]),
        ("--xyzzy", ["unknown option --xyzzy", "%%infer?"]),
        ("--temp 1", ["unknown option --temp"]),
        ("--", ["unknown option --: %%infer? lists the options"]),
        ("-5", ["unknown option -5"]),
        ("-t 1", ["unknown option -t: %%infer? lists the options"]),
        ("--t 1", ["unknown option --t: did you mean --temperature?"]),
        ("--temperature", ["--temperature needs a value: --temperature T"]),
        ("--temperature 0 --temperature 1", ["stands twice", "write --temperature 0,1"]),
        ("--seed 1 --seed 1 --seed 2", ["stands twice", "write --seed 1,2"]),
        ("--seed 1:3 --seed 7", ["stands twice", "write --seed 1:3,7"]),
        ("--system a --system b", ["--system stands twice", "'a' and 'b': write it once"]),
        ("--stop --chat", ["--stop needs a value: --stop TEXT"]),
        ("--stop --seed=5", ["--stop needs a value"]),
        ("--temperature -m x", ["--temperature needs a value"]),
        ("--chat=yes", ["--chat takes no value"]),
        ("tell me a joke", ["unexpected 'tell'", "the prompt goes below it", "quotes"]),
        ("--stop two words", ["unexpected 'words'", "quotes"]),
        ("--stop 'open", ["a quote is not closed"]),
        ("='", ["a quote is not closed"]),
        ("--stop=a'b", ["a quote is not closed"]),
        ("--stop ''", ["--stop: ''", "non-empty text"]),
        (r"--stop '\N{NO SUCH THING}'", ["--stop", "is not a character"]),
        (r"--stop '\U00110000'", ["--stop", "is not a character"]),
        (r"--stop '\ud800'", ["--stop"]),
        ("--temperature hot", ["--temperature: 'hot'", "a finite number ≥ 0"]),
        ("--temperature -1", ["--temperature: -1.0", "a finite number ≥ 0"]),
        ("--temperature nan", ["--temperature: nan", "a finite number ≥ 0"]),
        ("--temperature 0.1:0.5", ["--temperature: '0.1:0.5' is a range", "whole numbers"]),
        ("--temperature 0.1,,0.5", ["--temperature: ''", "a finite number ≥ 0"]),
        ("--top-p 0", ["--top-p: 0", "0 < p ≤ 1"]),
        ("--top-p 0.5,2", ["--top-p: 2.0", "0 < p ≤ 1"]),
        ("--top-k 1.5", ["--top-k: '1.5'", "a whole number ≥ 0"]),
        ("--top-k 1_000", ["--top-k: '1_000'", "a whole number ≥ 0"]),
        ("--top-k none", ["--top-k: 'none'", "a whole number ≥ 0"]),
        ("--max-tokens -1", ["--max-tokens: -1", "a whole number ≥ 0, or none"]),
        ("--max-tokens 5000000000", ["--max-tokens: 5000000000", "a whole number"]),
        ("--seed 5:1", ["--seed: '5:1' is no range", "1:5"]),
        ("--seed 1:", ["--seed", "a whole number"]),
        ("--seed -1", ["--seed: -1", "from 0 to 2⁶³−1"]),
        ("--max-tokens none:5", ["--max-tokens: 'none:5' is no range"]),
        ("--repeat-penalty 0", ["--repeat-penalty: 0", "a finite number > 0"]),
        ("--repeat-penalty-last-n x", ["--repeat-penalty-last-n: 'x'", "a whole number ≥ 0"]),
        ("--context-length 0", ["--context-length: 0", "a whole number ≥ 1"]),
        ("--context-length 1,2", ["--context-length: '1,2'", "a whole number ≥ 1"]),
        ("--gpu-layers all", ["--gpu-layers: 'all'", "or auto"]),
        ("--threads 0", ["--threads: 0", "or auto"]),
        ("--top-logprobs 101", ["--top-logprobs: 101", "from 0 to 100"]),
        ("--tag x", ["--tag: 'x'", "KEY=VALUE"]),
        ("--tag =x", ["--tag: '=x'", "KEY=VALUE"]),
        ("--template-option x", ["--template-option: 'x'", "KEY=JSON", "enable_thinking=false"]),
        ("--template-option =1", ["--template-option: '=1'", "KEY=JSON"]),
        ("--template-option x=no", ["--template-option: 'x=no'", "KEY=JSON"]),
        ('--template-option x="high"', ["'x=high'", """as in 'effort="high"'"""]),
        ("--template-option x=" + "[" * 10_000, ["KEY=JSON"]),
        ("--template-option x=NaN", ["--template-option: the value of x is not JSON", "finite"]),
        ("--template-option x=1e999", ["--template-option: the value of x is not JSON"]),
        (r"""--template-option 'x="\ud800"'""", ["--template-option: the value of x is not JSON"]),
        ("--template-option messages=[]", ["--template-option: messages is set", "leave it out"]),
        ("--template-option a-b=1", ["--template-option: 'a-b' is not the name of a variable"]),
        ("-o 2x", ["-o: '2x'", "variable"]),
        ("-o a.b", ["-o: 'a.b'", "variable"]),
        ("-o class", ["-o: 'class'", "variable"]),
        ("--top-k " + "9" * 5000, ["--top-k", "a whole number ≥ 0"]),
        ("--system '\ud800'", ["--system: a lone surrogate", "position 0"]),
        ("-m '\ud800'", ["--model: a lone surrogate", "position 0"]),
    ],
)  # fmt: skip
def test_wrong_lines_are_refused_in_one_line(line: str, words: list[str]) -> None:
    """The message says what was wrong, and what to write."""
    message = refused(line)
    for word in words:
        assert word in message


def test_control_tokens_has_three_words() -> None:
    """Any other word is refused, and the message lists the three."""
    assert "it must be none, typed or all" in refused("--control-tokens some")


# Anything at all


words = st.sampled_from(
    [flag for option in OPTIONS for flag in option.flags]
    + ["--", "-", "=", "none", "auto", "1:5", "0.2,0.8", "-1", "'", '"', "\\n", "a=b", "{{x}}", ","]
)  # fmt: skip


lines = (
    st.text(max_size=40)
    | st.lists(words | st.text(max_size=5), max_size=8).map(" ".join)
    | st.lists(words, max_size=8).map("=".join)
)


@given(lines, st.text(max_size=30) | st.sampled_from(["a", "{{x}}", "{{y.z}}"]))
@example("--stop \ud800", "a")
@example("-o=\u2028", "a")
@settings(max_examples=500)
def test_any_line_is_read_or_refused(line: str, cell: str) -> None:
    """Only `UsageError` is raised, and its message is one line."""
    try:
        message = ""
        requests = read(line, cell, {"x": "value"}).requests
        assert 1 <= len(requests) <= MAX_SWEEP
    except UsageError as error:
        message = str(error)
    assert "\n" not in message


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="'\\"), min_size=1))
@settings(max_examples=200)
def test_quoted_text_arrives_as_it_is(text: str) -> None:
    """Between single quotes, all but the quote and the backslash stands for itself."""
    assert one(f"--stop='{text}'").params.stop == (text,)
    assert one(f"--system='{text}'").system == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="'"), min_size=1))
@settings(max_examples=200)
def test_escaped_text_comes_back(text: str) -> None:
    """Python's own escapes of a text are decoded to that text."""
    escaped = text.encode("unicode_escape").decode()
    assert one(f"--stop='{escaped}'").params.stop == (text,)


# Completion


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["--temp"], ["--temperature", "--template-option"]),
        (["--top-"], ["--top-k", "--top-p", "--top-logprobs"]),
        (["-m", ""], ["tiny", "large"]),
        (["--model", "t"], ["tiny"]),
        (["--max-tokens", ""], ["none"]),
        (["--gpu-layers", "a"], ["auto"]),
        (["--temperature", ""], []),
        (["--chat", "--qu"], ["--quiet"]),
        (["word"], []),
    ],
)
def test_completion(typed: list[str], wanted: list[str]) -> None:
    """It offers long names of options, then their words, and names of models after -m."""
    assert complete(typed, lambda: ["tiny", "large"]) == wanted


def test_completion_offers_every_option_at_the_start() -> None:
    """It offers each long name, also the WIT's."""
    found = complete([""], list)
    assert found == complete([], list)
    assert set(found) == {
        flag for option in OPTIONS for flag in option.flags if flag.startswith("--")
    }
