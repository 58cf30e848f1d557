"""`%infer_component` in a shell, with a real engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmwit_magic.contract.request import Request
from llmwit_magic.errors import ComponentFailed, InvalidInput
from llmwit_magic.magics.infer import InferMagics
from llmwit_magic.magics.infer_component import ComponentMagics
from llmwit_magic.running.session import Session
from tests.support.tiny_models import write_llama_gguf
from tests.support.wat_guests import RUNAWAYS, forwarder, runaway
from tests.support.wat_interfaces import ENVIRONMENT, FIRST, SECOND

LONG = {"temperature": 0, "repeat_penalty": 0.1}
"""The same token again and again, so that no end of text comes."""


@pytest.fixture
def shell(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    infer = InferMagics(shell, session)
    shell.register_magics(infer)
    shell.register_magics(ComponentMagics(shell, infer))
    for name, text in {
        "first": forwarder(FIRST), "second": forwarder(SECOND), "loop": runaway(RUNAWAYS["loop"]),
        "environment": forwarder(ENVIRONMENT),
    }.items():  # fmt: skip
        (tmp_path / f"{name}.wasm").write_text(text, encoding="utf-8")
    return shell


def call(shell: Any, line: str) -> Any:
    return shell.run_line_magic("infer_component", line)


def test_an_argument_is_a_text_json_or_a_variable(
    shell: Any, session: Session, tiny_model: Path
) -> None:
    """A text has its `{{…}}` filled in, and a variable alone is the value itself."""
    shell.user_ns |= {"name": "fox", "params": None, "texts": pandas.Series(["one", "two"])}
    answer = call(shell, f'first.wasm infer m "The {{{{name}}}}" null -m {tiny_model} --seed 5')
    run = session.run(Request(model=str(tiny_model), prompt="The fox", params={"seed": 5}))
    run.wait(30)
    assert answer["text"] == run.text
    again = call(shell, f"first.wasm infer m 'The fox' {{{{params}}}} --seed 5 -m {tiny_model}")
    assert again == answer | {"usage": again["usage"]}
    vectors = call(shell, f"first.wasm generate-embeddings m {{{{texts}}}} -m {tiny_model}")
    assert len(vectors["embeddings"]) == 2
    assert vectors == call(
        shell, f'first.wasm generate-embeddings m \'["one", "two"]\' -m {tiny_model}'
    )


def test_without_an_export_it_lists_what_there_is(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each function stands there with its parameters and their types."""
    call(shell, "first.wasm")
    said = capsys.readouterr().out
    assert "generate-embeddings(model: string, texts: list<string>)" in said
    assert re.search(r"infer\(model: string, prompt: string, params: option<record", said)


def test_the_notebook_s_model_answers_by_its_name(
    shell: Any, session: Session, tiny_model: Path
) -> None:
    """Without -m, a component may use the notebook's model alone."""
    shell.magics_manager.registry["InferMagics"].model = "small"
    session.aliases = {"small": str(tiny_model)}
    assert call(shell, "first.wasm infer small Hello null")["finish_reason"]
    with pytest.raises(ComponentFailed, match="model-not-supported"):
        call(shell, f"first.wasm infer {tiny_model} Hello null")


def test_runs_are_shown_where_that_is_asked_for(
    shell: Any, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --show, the answer stands there with its status line; without it, nothing is printed."""
    line = f"first.wasm infer m Hello null -m {tiny_model} --seed 5"
    answer = call(shell, line)
    assert capsys.readouterr().out == ""
    call(shell, f"{line} --show")
    said = capsys.readouterr().out
    assert "length · max tokens" in said
    assert answer["text"][:3] in said


def test_what_is_granted_on_the_line(shell: Any, tmp_path: Path) -> None:
    """--env gives a variable, and a bad folder is named."""
    assert call(shell, "environment.wasm get-environment --env A=b --env C=d=e") == [
        ("A", "b"), ("C", "d=e"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="dirs: /x: gone is no folder"):
        call(shell, "environment.wasm get-environment --dir /x=gone")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "needs a file"), ("gone.wasm", "gone.wasm: it cannot be read: No such file"),
        (". go", r"\.: it "), ("first.wasm gone", "'gone' is not exported"),
        ("first.wasm infer a b c --seconds x", "--seconds x: it must be a number > 0"),
        ("first.wasm infer a b c --seed -1", "--seed"),
        ("first.wasm infer a b {{gone}}", "there is no variable 'gone'"),
        ("first.wasm infer 'a", "a quote is not closed"),
        ("first.wasm infer a b c --colour x", "unknown option --colour"),
        ("first.wasm infer a b c --shwo", r"--shwo: did you mean --show\?"),
        ("first.wasm infer a b c --env x", "--env x: write --env NAME=VALUE"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_told_in_one_line(shell: Any, line: str, said: str) -> None:
    """It names what is wrong, and nothing runs."""
    with pytest.raises(UsageError, match=said) as error:
        call(shell, line)
    assert "\n" not in str(error.value)


def test_limits_on_the_line(shell: Any, tmp_path: Path, session: Session) -> None:
    """--seconds and --memory bound the call, also while its run is shown."""
    slow = write_llama_gguf(tmp_path / "slow.gguf", context_length=8192, embedding=512, blocks=6)
    shell.user_ns["request"] = {
        "model": "m", "prompt": {"text": "The"}, "params": LONG | {"stop": []}, "logprobs": "no",
        "echo": False,
    }  # fmt: skip
    with pytest.raises(ComponentFailed, match=r"ended after 1\.5 s"):
        call(shell, f"second.wasm infer {{{{request}}}} -m {slow} --show --seconds 1.5")
    assert session.log[-1].status == "interrupted"
    with pytest.raises(ComponentFailed, match=r"loop: the call was ended after 0\.3 s"):
        call(shell, "loop.wasm go --seconds 0.3")
    with pytest.raises(ComponentFailed, match="more memory than it may have"):
        call(shell, "loop.wasm go --memory 0.01")


def test_an_argument_that_does_not_fit_is_named(shell: Any) -> None:
    """The name of the parameter and the value stand in the error."""
    with pytest.raises(InvalidInput, match=r"params: 3 is not valid: it must be a mapping"):
        call(shell, "first.wasm infer m Hello 3")
