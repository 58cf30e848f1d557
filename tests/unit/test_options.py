"""The table of a cell's options: their names, values, help and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.magics.cell import Cell, with_options
from llmwit_magic.requests import presets
from llmwit_magic.requests.options import DEFAULTS, OPTIONS, Option
from llmwit_magic.requests.shape_options import OPTIONS_OF_SHAPES
from tests.support.cells import read


@with_options
def infer(self: Any, line: str, cell: str) -> None:
    """Run the prompt in this cell."""


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
    "exact": ("", True),
    "anyway": ("", True),
    "accept": ("context,file", ("context", "file")),
    "system": ("'Be brief.'", "Be brief."),
    "chat_template": ("rag", "rag"),
    "template_options": ("enable_thinking=false", {"enable_thinking": False}),
    "engine": ("llama.cpp", "llama.cpp"),
    "control_tokens": ("none", "none"),
    "context_length": ("512", 512),
    "gpu_layers": ("2", 2),
    "device": ("Vulkan0", "Vulkan0"),
    "threads": ("1", 1),
    "top_logprobs": ("5", 5),
    "model_type": ("gpt2", "gpt2"),
    "preset": ("mine", "mine"),
    "choice": ("yes", Constraint(kind="choices", source='["yes"]')),
    "choices": ("labels", Constraint(kind="choices", source='["a", "b"]')),
    "regex": ("a+", Constraint(kind="regex", source="a+")),
    "json_schema": ("schema", Constraint(kind="json_schema", source='{"type": "null"}')),
    "grammar": ("rules", Constraint(kind="grammar", source='start: "a"')),
    "prompts": ("prompts", None),
    "pivot": ("temperature,seed", ("temperature", "seed")),
    "metrics": ("len", {"len": len}),
    "output": ("answer", "answer"),
    "tags": ("a=b", {"a": "b"}),
    "no_interpolate": ("", None),
    "dry_run": ("", True),
    "tune": ("", True),
    "continue": ("", None),
    "conversation": ("owl", None),
    "reply_to": ("12", None),
    "drop_oldest": ("--continue", True),
    "quiet": ("", True),
    "continuation": ("Paris", "Paris"),
    "prompt_logprobs": ("", True),
    "normalize": ("token", "token"),
    "end_of_text": ("never", "never"),
    "score": ("", None),
    "probabilities": ("", True),
    "render": ("markdown", "markdown"),
}
BESIDE = {
    "pivot": "--temperature 0,1 ",
    "prompt_logprobs": "--continuation x ", "probabilities": "--choice a ",
    "normalize": "--choice a --probabilities ", "end_of_text": "--choice a --probabilities ",
}  # fmt: skip
"""What stands on the line besides, for an option that means nothing alone."""


NAMESPACE = {
    "prompt": "p",
    "prompts": ["p"],
    "len": len,
    "labels": ["a", "b"],
    "schema": {"type": "null"},
    "rules": 'start: "a"',
}


def value_of(cell: Cell, dest: str) -> Any:
    request = cell.requests[0]
    if dest in OPTIONS_OF_SHAPES:
        return request.constraint
    if dest == "anyway":
        return request.takes_long_context
    for holder in (request.params, request, cell):
        if hasattr(holder, dest):
            return getattr(holder, dest)
    return None


@pytest.mark.parametrize(
    ("option", "flag"), [(option, flag) for option in OPTIONS for flag in option.flags], ids=str
)
def test_every_option_sets_its_value(
    option: Option, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its names works, with the value in the next word or after an equals sign."""
    monkeypatch.setattr(presets, "user_file", lambda: tmp_path / "presets.toml")
    presets.keep("mine", {"model": "tiny"})
    text, wanted = EXAMPLES[option.dest]
    wanted = wanted and flag != option.off_flag if option.is_flag else wanted
    beside = BESIDE.get(option.dest, "")
    line = f"{beside}{flag} {text}"
    assert value_of(read(line, "{{prompt}}", NAMESPACE), option.dest) == wanted
    if not option.is_flag:
        line = f"{beside}{flag}={text}"
        assert value_of(read(line, "{{prompt}}", NAMESPACE), option.dest) == wanted


@pytest.mark.parametrize("name", ["chat", "exact"])
def test_a_line_overrules_the_configured_default_of_a_flag(name: str) -> None:
    """Both ways; and the last of several counts."""
    for configured in (True, False):
        for words, wanted in (
            ("", configured), (f"--{name}", True), (f"--no-{name}", False),
            (f"--{name} --no-{name}", False), (f"--no-{name} --{name}", True),
        ):  # fmt: skip
            assert value_of(read(words, **{name: configured}), name) is wanted


def test_every_field_of_the_contract_has_its_long_name() -> None:
    """Each field of the params is an option by its name, with dashes as the WIT writes it."""
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
    """`%%infer?` shows the names, the meaning of the defaults, and the contract's ranges."""
    text = " ".join(infer.__doc__.split())
    assert "Run the prompt in this cell." in text
    for option in OPTIONS:
        assert all(flag in text for flag in option.flags)
    assert "0 < p ≤ 1" in text


def test_the_defaults_that_can_be_configured() -> None:
    """All params have one, and no option does that belongs to one cell alone."""
    assert set(InferencingParams.model_fields) <= set(DEFAULTS)
    assert not {"model", "tags", "model_type", "output", "dry_run", "quiet"} & set(DEFAULTS)
