"""The line and the text of a cell to requests: every option, sweeps, quotes, and what is wrong."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from IPython.core.error import UsageError

from llmwit_magic.magics.cell_args import (
    DEFAULTS,
    MAX_SWEEP,
    OPTIONS,
    Cell,
    Option,
    complete,
    read_cell,
    split_line,
    with_options,
)
from llmwit_magic.protocol import Request
from llmwit_magic.wit import InferencingParams


@with_options
def infer(self: Any, line: str, cell: str) -> None:
    """Run the prompt in this cell."""


def read(
    line: str = "",
    cell: str = "prompt\n",
    namespace: dict[str, Any] | None = None,
    **defaults: Any,
) -> Cell:
    return read_cell(line, cell, namespace or {}, {"model": "default"} | defaults)


def one(line: str = "", cell: str = "prompt\n", **more: Any) -> Request:
    requests = read(line, cell, **more).requests
    assert len(requests) == 1
    return requests[0]


def refused(line: str = "", cell: str = "prompt\n", **more: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read(line, cell, **more)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# Options


EXAMPLES: dict[str, tuple[str, Any]] = {
    "model": ("tiny", "tiny"),
    "max_tokens": ("7", 7),
    "stop": ("END", ("END",)),
    "temperature": ("0.25", 0.25),
    "top_k": ("3", 3),
    "top_p": ("0.5", 0.5),
    "repeat_penalty": ("1.5", 1.5),
    "repeat_penalty_last_n_token_count": ("9", 9),
    "seed": ("42", 42),
    "chat": ("", True),
    "anyway": ("", True),
    "accept": ("context,file", ("context", "file")),
    "system": ("'Be brief.'", "Be brief."),
    "chat_template": ("rag", "rag"),
    "control_tokens": ("none", "none"),
    "context_length": ("512", 512),
    "gpu_layers": ("2", 2),
    "threads": ("1", 1),
    "top_logprobs": ("5", 5),
    "model_type": ("gpt2", "gpt2"),
    "output": ("answer", "answer"),
    "tags": ("a=b", {"a": "b"}),
    "no_interpolate": ("", None),
    "dry_run": ("", True),
    "tune": ("", True),
    "quiet": ("", True),
}


def value_of(cell: Cell, dest: str) -> Any:
    request = cell.requests[0]
    for holder in (request.params, request, cell):
        if hasattr(holder, dest):
            return getattr(holder, dest)
    return None


@pytest.mark.parametrize(
    ("option", "flag"), [(option, flag) for option in OPTIONS for flag in option.flags], ids=str
)
def test_every_option_sets_its_value(option: Option, flag: str) -> None:
    """By each of its names, with the value in the next word or after an equals sign."""
    text, wanted = EXAMPLES[option.dest]
    assert value_of(read(f"{flag} {text}"), option.dest) == wanted
    if not option.is_flag:
        assert value_of(read(f"{flag}={text}"), option.dest) == wanted


def test_every_field_of_the_contract_has_its_long_name() -> None:
    """The WIT's names with dashes are options; ours and the WIT's parameters are all there."""
    flags = {flag: option.dest for option in OPTIONS for flag in option.flags}
    for name in InferencingParams.model_fields:
        assert flags["--" + name.replace("_", "-")] == name


def test_options_stand_once() -> None:
    """No name of an option is used twice, and each has help."""
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert len({option.dest for option in OPTIONS}) == len(OPTIONS)
    assert all(option.help for option in OPTIONS)


def test_the_help_has_every_option_with_its_range() -> None:
    """`%%infer?` shows names, defaults' meaning and ranges from the contract."""
    text = " ".join(infer.__doc__.split())
    assert "Run the prompt in this cell." in text
    for option in OPTIONS:
        assert all(flag in text for flag in option.flags)
    assert "0 < p ≤ 1" in text


def test_a_bare_line_has_the_contract_s_defaults() -> None:
    """One request with the default params, the default model and no group."""
    cell = read()
    assert cell.requests == (Request(model="default", prompt="prompt"),)
    assert (cell.is_sweep, cell.dry_run, cell.quiet) == (False, False, False)
    assert (cell.varying, cell.output) == ((), None)


def test_the_line_overrides_the_defaults() -> None:
    """What the line leaves open comes from the defaults, of params and of the request alike."""
    defaults = {"temperature": 0.1, "top_k": 5, "stop": ("x",), "chat": True, "threads": 1}
    request = one("--temperature 0.9 --stop y --threads auto", **defaults)
    assert (request.params.temperature, request.params.top_k) == (0.9, 5)
    assert (request.params.stop, request.chat, request.threads) == (("y",), True, "auto")
    assert one("--seed none", seed=5).params.seed is None
    assert one(**defaults).params.stop == ("x",)


def test_the_defaults_that_can_be_configured() -> None:
    """Every value of the contract, and none that belongs to one cell alone."""
    assert set(InferencingParams.model_fields) <= set(DEFAULTS)
    assert not {"model", "tags", "model_type", "output", "dry_run", "quiet"} & set(DEFAULTS)


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        ("", 100),
        ("--stop END", None),
        ("--stop END --max-tokens 5", 5),
        ("--max-tokens none", None),
        ("--max-tokens NONE", None),
        ("--temperature 1", 100),
    ],
)
def test_a_stop_sequence_lifts_the_default_limit(line: str, limit: int | None) -> None:
    """Without --max-tokens a cell with --stop runs until the stop; others have the default."""
    assert one(line).params.max_tokens == limit


def test_a_configured_limit_stays_beside_a_stop() -> None:
    """Only the standard limit makes room for --stop; a configured stop does not lift any."""
    assert one("--stop END", max_tokens=7).params.max_tokens == 7
    assert one("--stop END", max_tokens=100).params.max_tokens is None
    assert one(max_tokens=7, stop=("END",)).params.max_tokens == 7


# Values


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
    """Python's escapes are decoded, other backslashes stay, quotes group words."""
    assert one(f"--stop {text}").params.stop == (wanted,)
    assert one(f"--stop={text}").params.stop == (wanted,)


def test_stop_sequences_keep_their_order() -> None:
    """Each --stop adds one."""
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
    """The next word is the value unless it is an option; after = anything is."""
    assert one(line).params.stop == (stop,)


def test_texts_decode_escapes() -> None:
    """A system message may have lines, as a stop sequence; a path keeps its backslashes."""
    request = one(r"-m 'C:\new\model.gguf' --system 'a\nb'")
    assert (request.model, request.system) == (r"C:\new\model.gguf", "a\nb")


def test_tags_are_pairs() -> None:
    """The first equals sign divides; the value may be empty or hold more of them."""
    tags = one("--tag a=1 --tag 'b c=x=y' --tag d=").tags
    assert dict(tags) == {"a": "1", "b c": "x=y", "d": ""}


def test_the_prompt_is_the_cell_without_its_last_newline() -> None:
    """One newline is the notebook's; all other whitespace is the person's."""
    assert one(cell="  a\n b \n\n").prompt == "  a\n b \n"
    assert one(cell="a").prompt == "a"


def test_variables_are_put_into_the_prompt() -> None:
    """Unless the line says not to."""
    assert one(cell="Hi {{name}}", namespace={"name": "Ada"}).prompt == "Hi Ada"
    assert one("--no-interpolate", "Hi {{name}}").prompt == "Hi {{name}}"
    assert "there is no variable 'name' (--no-interpolate" in refused(cell="Hi {{name}}")


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
    """Commas list values, a colon means a range with its end."""
    assert values(line, name) == wanted
    cell = read(line)
    assert cell.is_sweep == (len(wanted) > 1)
    assert cell.varying == ((name,) if len(wanted) > 1 else ())


def test_sweeps_are_the_product_in_the_order_of_the_table() -> None:
    """The last option of the table turns fastest, wherever it stands on the line."""
    cell = read("--seed 1:2 --temperature 0.2,0.8 -m b -m a --top-k 5")
    found = [(r.model, r.params.temperature, r.params.seed) for r in cell.requests]
    assert found == [(m, t, s) for m in "ba" for t in (0.2, 0.8) for s in (1, 2)]
    assert cell.varying == ("model", "temperature", "seed")
    assert {r.params.top_k for r in cell.requests} == {5}


def test_the_runs_of_a_sweep_share_a_group() -> None:
    """One identifier for a cell, another for the next, none for a single run."""
    first, second = read("--seed 1:3"), read("--seed 1:3")
    groups = {request.group_id for request in (*first.requests, *second.requests)}
    assert len(groups) == 2
    assert None not in groups
    assert len({request.group_id for request in first.requests}) == 1
    assert one("--seed 1").group_id is None


@pytest.mark.parametrize(
    "line",
    ["--seed 1:1001", "--seed 1:100 --top-k 1:11", "--seed 0:9223372036854775807",
     "--seed 1:1000,2000"],
)  # fmt: skip
def test_too_large_a_sweep_is_refused(line: str) -> None:
    """Before anything is built; the message has the limit."""
    assert f"{MAX_SWEEP:,}" in refused(line)


def test_the_largest_sweep() -> None:
    """The limit itself is allowed, in one list and in several; one more is not."""
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
        ("-o 2x", ["-o: '2x'", "variable"]),
        ("-o a.b", ["-o: 'a.b'", "variable"]),
        ("-o class", ["-o: 'class'", "variable"]),
        ("--top-k " + "9" * 5000, ["--top-k", "a whole number ≥ 0"]),
        ("--system '\ud800'", ["--system: a lone surrogate", "position 0"]),
        ("-m '\ud800'", ["--model: a lone surrogate", "position 0"]),
    ],
)  # fmt: skip
def test_wrong_lines_are_refused_in_one_line(line: str, words: list[str]) -> None:
    """The message says what was wrong and what to write."""
    message = refused(line)
    for word in words:
        assert word in message


@pytest.mark.parametrize("cell", ["", "\n", "  \n\t\n"])
def test_an_empty_cell_is_refused(cell: str) -> None:
    """And says where the prompt goes."""
    assert "write the prompt below" in refused(cell=cell)


def test_a_lone_surrogate_in_the_prompt_is_refused() -> None:
    """With its position; also where it comes out of a variable."""
    assert "position 2" in refused(cell="ab\udc80")
    assert "'\\udc80'" in refused(cell="{{x}}", namespace={"x": "\udc80"})


def test_a_lone_surrogate_in_a_configured_system_message_is_refused() -> None:
    """It is named as the option that it is the default of."""
    assert "--system: a lone surrogate" in refused(system="\ud800")


def test_a_bad_default_is_named_as_the_option() -> None:
    """A configured value that is out of range is refused like one on the line."""
    assert refused(temperature=-1).startswith("--temperature: -1")


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
@settings(max_examples=500, deadline=None)
def test_any_line_is_read_or_refused(line: str, cell: str) -> None:
    """Nothing but `UsageError` is raised, and it is one line."""
    try:
        message = ""
        requests = read(line, cell, {"x": "value"}).requests
        assert 1 <= len(requests) <= MAX_SWEEP
    except UsageError as error:
        message = str(error)
    assert "\n" not in message


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="'\\"), min_size=1))
@settings(max_examples=200, deadline=None)
def test_quoted_text_arrives_as_it_is(text: str) -> None:
    """Between single quotes everything but the quote and the backslash means itself."""
    assert one(f"--stop='{text}'").params.stop == (text,)
    assert one(f"--system='{text}'").system == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="'"), min_size=1))
@settings(max_examples=200, deadline=None)
def test_escaped_text_comes_back(text: str) -> None:
    """What Python's own escaping makes of a text is undone."""
    escaped = text.encode("unicode_escape").decode()
    assert one(f"--stop='{escaped}'").params.stop == (text,)


# Completion


def test_the_words_of_a_line() -> None:
    """Quotes group and vanish, backslashes stay, # begins no comment."""
    assert split_line(r"a 'b c' #d \n ''") == ["a", "b c", "#d", r"\n", ""]


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["--temp"], ["--temperature"]),
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
    """Long names of options, then their words; names of models after -m."""
    assert complete(typed, lambda: ["tiny", "large"]) == wanted


def test_completion_offers_every_option_at_the_start() -> None:
    """Each long name, the WIT's too."""
    found = complete([""], list)
    assert found == complete([], list)
    assert set(found) == {
        flag for option in OPTIONS for flag in option.flags if flag.startswith("--")
    }


# Values in options, line ends, and greedy runs


def test_values_are_put_into_options_too() -> None:
    """System message, stop sequences and tags, after their escapes have been read."""
    request = one(
        r"--system 'Use {{ lang }}.\n' --stop '{{mark}}\n' --stop x --tag {{lang}}=1 "
        """--tag "by={{d['a=b']}}" """,
        "Say {{lang}}\n",
        namespace={"lang": "French", "mark": "{{lang}}", "d": {"a=b": "Ada"}},
    )
    assert request.system == "Use French.\n"
    assert request.params.stop == ("{{lang}}\n", "x")
    assert request.tags == {"French": "1", "by": "Ada"}
    assert (request.prompt, request.data_spans) == ("Say French", ((4, 10),))


def test_values_are_put_into_configured_options() -> None:
    """A default system message is one of the cell as well."""
    request = one(namespace={"lang": "French"}, system="In {{lang}}", stop=("{{lang}}",))
    assert (request.system, request.params.stop) == ("In French", ("French",))


@pytest.mark.parametrize("line", ["--system {{nope}}", "--stop {{nope}}", "--tag a={{nope}}"])
def test_a_misspelt_name_in_an_option_is_refused(line: str) -> None:
    """In one line, which says how to keep the braces."""
    message = refused(line, namespace={"name": 1})
    assert "there is no variable 'nope'" in message
    assert "--no-interpolate leaves the braces" in message
    request = one(f"{line} --no-interpolate")
    assert "{{nope}}" in f"{request.system} {request.params.stop} {request.tags}"


def test_a_stop_sequence_of_no_text_is_refused() -> None:
    """Also where a value made it so."""
    assert "--stop" in refused("--stop {{mark}}", namespace={"mark": ""})


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_are_those_of_models(end: str) -> None:
    """The same cell is the same prompt, whatever system wrote it."""
    cell = end.join(["List two animals:", "", "- cat", ""])
    assert one(cell=cell).prompt == "List two animals:\n\n- cat"


def test_values_keep_their_line_ends() -> None:
    """Only what stands in the cell is its text."""
    assert one(cell="{{x}}\r\n", namespace={"x": "a\r\nb"}).prompt == "a\r\nb"


def test_temperature_0_is_greedy() -> None:
    """Without a penalty on the line or configured, there is none; one that is given is honoured."""
    standard = {"repeat_penalty": 1.1, "temperature": 0.8}
    assert one("--temperature 0", **standard).params.repeat_penalty == 1
    assert one("--temperature 0.8", **standard).params.repeat_penalty == 1.1
    assert one("--temperature 0 --repeat-penalty 1.1", **standard).params.repeat_penalty == 1.1
    assert one("--temperature 0", **standard | {"repeat_penalty": 1.3}).params.repeat_penalty == 1.3
    assert one("", **standard | {"temperature": 0}).params.repeat_penalty == 1


def test_a_sweep_over_temperatures_varies_the_penalty() -> None:
    """It is shown with the temperature, where it is off for one of them and not for another."""
    cell = read("--temperature 0,0.8")
    assert cell.varying == ("temperature", "repeat_penalty")
    assert [request.params.repeat_penalty for request in cell.requests] == [1, 1.1]
    assert read("--temperature 0,0.8 --repeat-penalty 1.1").varying == ("temperature",)
    assert read("--temperature 0.5,0.8").varying == ("temperature",)


def test_the_name_of_a_result_is_pythons() -> None:
    """`-o µ` makes what `µ` reads, which is the Greek letter."""
    namespace: dict[str, Any] = {str(read("-o µ").output): 1}
    assert eval("µ", namespace) == 1


def test_control_tokens_has_three_words() -> None:
    """Any other is refused with them."""
    assert "it must be none, typed or all" in refused("--control-tokens some")
