"""A cell becomes requests: its prompt, its defaults, the values in it, and its sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.magics.cell import read_changes
from tests.support.cells import one, read, refused

# The prompt


def test_the_prompt_is_the_cell_without_its_last_newline() -> None:
    """The notebook adds one newline. All other whitespace belongs to the prompt."""
    assert one(cell="  a\n b \n\n").prompt == "  a\n b \n"
    assert one(cell="a").prompt == "a"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_are_those_of_models(end: str) -> None:
    """The same cell is the same prompt, whatever line ends its file has."""
    cell = end.join(["List two animals:", "", "- cat", ""])
    assert one(cell=cell).prompt == "List two animals:\n\n- cat"


def test_a_line_that_ends_with_a_backslash_goes_on_below() -> None:
    """Long lines of options can be broken, as in a shell. A path of Windows ends no line."""
    request = one("--seed 4 \\", "  --stop . \\ \r\n--max-tokens 9\nHi \\\nyou")
    assert (request.params.seed, request.params.stop, request.params.max_tokens) == (4, (".",), 9)
    assert request.prompt == "Hi \\\nyou"
    assert one("-m C:\\models\\", "Hi").model == "C:\\models\\"
    assert "write the prompt below" in refused("--seed 4 \\", "--stop .")


@pytest.mark.parametrize("cell", ["", "\n", "  \n\t\n"])
def test_an_empty_cell_is_refused(cell: str) -> None:
    """The error says where the prompt goes."""
    assert "write the prompt below" in refused(cell=cell)


def test_a_lone_surrogate_in_the_prompt_is_refused() -> None:
    """The error has its position, also where it comes from a variable."""
    assert "position 2" in refused(cell="ab\udc80")
    assert "'\\udc80'" in refused(cell="{{x}}", namespace={"x": "\udc80"})


# Values put in


def test_variables_are_put_into_the_prompt() -> None:
    """With --no-interpolate the braces stay."""
    assert one(cell="Hi {{name}}", namespace={"name": "Ada"}).prompt == "Hi Ada"
    assert one("--no-interpolate", "Hi {{name}}").prompt == "Hi {{name}}"
    assert "there is no variable 'name' (--no-interpolate" in refused(cell="Hi {{name}}")


def test_values_keep_their_line_ends() -> None:
    """Only the line ends that are written in the cell change."""
    assert one(cell="{{x}}\r\n", namespace={"x": "a\r\nb"}).prompt == "a\r\nb"


def test_values_are_put_into_options_too() -> None:
    """They go into system message, stop sequences and tags, after escapes are decoded."""
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
    """They also go into a system message and stop sequences that are configured defaults."""
    request = one(namespace={"lang": "French"}, system="In {{lang}}", stop=("{{lang}}",))
    assert (request.system, request.params.stop) == ("In French", ("French",))


@pytest.mark.parametrize("line", ["--system {{nope}}", "--stop {{nope}}", "--tag a={{nope}}"])
def test_a_misspelt_name_in_an_option_is_refused(line: str) -> None:
    """The error is one line, which says how to keep the braces."""
    message = refused(line, namespace={"name": 1})
    assert "there is no variable 'nope'" in message
    assert "--no-interpolate leaves the braces" in message
    request = one(f"{line} --no-interpolate")
    assert "{{nope}}" in f"{request.system} {request.params.stop} {request.tags}"


def test_a_stop_sequence_of_no_text_is_refused() -> None:
    """It is refused also where a value is the empty text."""
    assert "--stop" in refused("--stop {{mark}}", namespace={"mark": ""})


# Defaults


def test_a_bare_line_has_the_contract_s_defaults() -> None:
    """It makes one request with the default params, the default model and no group."""
    cell = read()
    assert cell.requests == (Request(model="default", prompt="prompt"),)
    assert (cell.is_sweep, cell.dry_run, cell.quiet) == (False, False, False)
    assert (cell.varying, cell.output) == ((), None)


def test_the_line_overrides_the_defaults() -> None:
    """Params and other fields that the line leaves open have their defaults."""
    defaults = {"temperature": 0.1, "top_k": 5, "stop": ("x",), "chat": True, "threads": 1}
    request = one("--temperature 0.9 --stop y --threads auto", **defaults)
    assert (request.params.temperature, request.params.top_k) == (0.9, 5)
    assert (request.params.stop, request.chat, request.threads) == (("y",), True, "auto")
    assert one("--seed none", seed=5).params.seed is None
    assert one(**defaults).params.stop == ("x",)


def test_a_model_may_stand_in_a_variable() -> None:
    """A path, as of a download, and one of several models."""
    names = {"path": Path("models") / "a.gguf", "other": "b.gguf"}
    assert one("-m {{path}}", namespace=names).model == str(names["path"])
    both = read("-m {{path}} -m {{other}}", namespace=names).requests
    assert [request.model for request in both] == [str(names["path"]), "b.gguf"]
    assert one("-m {{path}} --no-interpolate", namespace=names).model == "{{path}}"
    assert read_changes(["-m", "{{other}}"], names) == {"model": "b.gguf"}
    assert "did you mean other? (--no-interpolate" in refused("-m {{othr}}", namespace=names)


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
    """With --stop and without --max-tokens, there is no limit of tokens."""
    assert one(line).params.max_tokens == limit


def test_a_configured_limit_stays_beside_a_stop() -> None:
    """--stop lifts only the contract's own limit, and a configured stop lifts none."""
    assert one("--stop END", max_tokens=7).params.max_tokens == 7
    assert one("--stop END", max_tokens=100).params.max_tokens is None
    assert one(max_tokens=7, stop=("END",)).params.max_tokens == 7


def test_temperature_0_is_greedy() -> None:
    """The penalty is off, unless the line or the configuration gives one."""
    standard = {"repeat_penalty": 1.1, "temperature": 0.8}
    assert one("--temperature 0", **standard).params.repeat_penalty == 1
    assert one("--temperature 0.8", **standard).params.repeat_penalty == 1.1
    assert one("--temperature 0 --repeat-penalty 1.1", **standard).params.repeat_penalty == 1.1
    assert one("--temperature 0", **standard | {"repeat_penalty": 1.3}).params.repeat_penalty == 1.3
    assert one("", **standard | {"temperature": 0}).params.repeat_penalty == 1


def test_a_bad_default_is_named_as_the_option() -> None:
    """A configured value out of its range is refused as one on the line is."""
    assert refused(temperature=-1).startswith("--temperature: -1")


def test_a_lone_surrogate_in_a_configured_system_message_is_refused() -> None:
    """The error names the option whose default it is."""
    assert "--system: a lone surrogate" in refused(system="\ud800")


# Sweeps


def test_sweeps_are_the_product_in_the_order_of_the_table() -> None:
    """The last option of the table turns fastest, wherever it stands on the line."""
    cell = read("--seed 1:2 --temperature 0.2,0.8 -m b -m a --top-k 5")
    found = [(r.model, r.params.temperature, r.params.seed) for r in cell.requests]
    assert found == [(m, t, s) for m in "ba" for t in (0.2, 0.8) for s in (1, 2)]
    assert cell.varying == ("model", "temperature", "seed")
    assert {r.params.top_k for r in cell.requests} == {5}


def test_the_runs_of_a_sweep_share_a_group() -> None:
    """The next cell has another group, and a single run has none."""
    first, second = read("--seed 1:3"), read("--seed 1:3")
    groups = {request.group_id for request in (*first.requests, *second.requests)}
    assert len(groups) == 2
    assert None not in groups
    assert len({request.group_id for request in first.requests}) == 1
    assert one("--seed 1").group_id is None


def test_a_sweep_over_temperatures_varies_the_penalty() -> None:
    """The penalty varies too, where it is off at one temperature and on at another."""
    cell = read("--temperature 0,0.8")
    assert cell.varying == ("temperature", "repeat_penalty")
    assert [request.params.repeat_penalty for request in cell.requests] == [1, 1.1]
    assert read("--temperature 0,0.8 --repeat-penalty 1.1").varying == ("temperature",)
    assert read("--temperature 0.5,0.8").varying == ("temperature",)


# The result


def test_the_name_of_a_result_is_pythons() -> None:
    """`-o µ` sets the variable that `µ` reads, which has the Greek letter as its name."""
    namespace: dict[str, Any] = {str(read("-o µ").output): 1}
    assert eval("µ", namespace) == 1
