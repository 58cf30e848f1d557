"""Prompts side by side: a list or a dict as an axis of a sweep, and the sweep by two settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmwit_magic.errors import InvalidInput
from llmwit_magic.magics import extension, infer
from llmwit_magic.requests.interpolation import fill
from tests.support.fake import FakeEngine, FakeSession

PROMPTS = {"plain": "Capital of {{land}}:", "polite": "Please: capital of {{land}}:"}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine(), tmp_path / "runs.sqlite3")
    yield session
    session.close()


@pytest.fixture
def shell(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(infer, "current_session", lambda: session)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)

    def polite(result: Any) -> bool:
        return result.prompt.startswith("Please") or result.params.seed == 2

    shell.user_ns.update(prompts=PROMPTS, land="France", polite=polite)
    return shell


def sweep(shell: Any, line: str, text: str = "{{prompt}}\n") -> Any:
    shell.run_cell_magic("infer", f"--quiet {line}", text)
    return shell.user_ns["_infer"]


def refused(shell: Any, line: str, text: str = "{{prompt}}\n") -> str:
    with pytest.raises(UsageError) as caught:
        sweep(shell, line, text)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_named_prompts_are_an_axis(shell: Any, session: FakeSession) -> None:
    """Each prompt runs with each other setting; values are put in, and the log has the names."""
    found = sweep(shell, "--prompts prompts --temperature 0,1 --seed 3")
    assert [(one.prompt_name, one.prompt, one.params.temperature) for one in found] == [
        ("plain", "Capital of France:", 0), ("plain", "Capital of France:", 1),
        ("polite", "Please: capital of France:", 0), ("polite", "Please: capital of France:", 1),
    ]  # fmt: skip
    assert found.to_frame()["prompt_name"].tolist() == ["plain"] * 2 + ["polite"] * 2
    assert session.log[1].prompt_name == session.log[1].request.prompt_name == "plain"
    assert session.engine.requests[0].data_spans == ((11, 17),)
    head = shell.display_formatter.format(found)[0]["text/plain"].splitlines()[0]
    assert head.split()[:3] == ["run", "prompt", "temperature"]


def test_the_cell_has_the_place_of_each_prompt(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands around it is shared, and each run is headed by its prompt's name."""
    assert shell.run_cell("%%infer --prompts prompts\nQ: {{ prompt }}\nA:").success
    out = capsys.readouterr().out
    assert "[prompt plain]" in out
    assert "[prompt polite]" in out
    assert [one.prompt for one in shell.user_ns["_infer"]] == [
        "Q: Capital of France:\nA:", "Q: Please: capital of France:\nA:"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "prompts", [["a", "b"], ("a", "b"), pandas.Series(["a", "b"], index=[1, 2])]
)
def test_a_list_is_named_by_numbers(shell: Any, prompts: Any) -> None:
    """From 1 on; a Series by its index."""
    shell.user_ns["prompts"] = prompts
    found = sweep(shell, "--prompts prompts")
    assert [(one.prompt_name, one.prompt) for one in found] == [("1", "a"), ("2", "b")]


def test_braces_stay_where_that_is_asked(shell: Any) -> None:
    """`--no-interpolate` counts for the prompts, too."""
    assert sweep(shell, "--prompts prompts --no-interpolate")[0].prompt == PROMPTS["plain"]


@pytest.mark.parametrize(
    ("prompts", "line", "text", "said"),
    [
        (None, "", "{{prompt}}", "--prompts: there is no variable 'prompts'"),
        (3, "", "{{prompt}}", "--prompts: prompts is int: it must be a list of texts"),
        ("text", "", "{{prompt}}", "--prompts: prompts is str"),
        ([], "", "{{prompt}}", "--prompts: prompts: there is no prompt in it"),
        (["a", 3], "", "{{prompt}}", "prompt 2 is 3: it must be a text"),
        (["a", " "], "", "{{prompt}}", "prompt 2 is ' '"),
        ({1: "a", "1": "b"}, "", "{{prompt}}", "two prompts have the same name"),
        (["a"], "", "a text", "--prompts: write {{prompt}} in the cell, where"),
        (["a"], "--continue", "{{prompt}}", "leave out --prompts"),
        (["a", "b"], "--score", "{{prompt}}", "needs --continuation"),
        (["a", "b"], "--pivot prompt", "{{prompt}}", "--pivot: 'prompt' is not valid"),
        (["a", "b"], "--pivot prompt,size", "{{prompt}}", "--pivot: 'size' is not valid"),
        (["a", "b"], "--pivot prompt,prompt", "{{prompt}}", "is there twice"),
        (["a"], "--pivot prompt,seed", "{{prompt}}", "this cell is one run"),
        (["a"] * 600, "--temperature 0,1", "{{prompt}}", "a sweep of 1,200 runs"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    shell: Any, session: FakeSession, prompts: Any, line: str, text: str, said: str
) -> None:
    """One line says what is wrong, and nothing runs."""
    shell.user_ns["prompts"] = prompts
    assert said in refused(shell, f"--prompts prompts {line}", text)
    assert len(session.log) == 0


def test_a_sweep_is_shown_by_two_settings(shell: Any) -> None:
    """A row for each prompt, a column for each temperature, and in the cells mean and deviation."""
    found = sweep(
        shell,
        "--prompts prompts --temperature 0,1 --seed 1:3 --metric polite --pivot prompt,temperature",
    )
    data = shell.display_formatter.format(found)[0]
    assert data["text/plain"].splitlines() == [
        "prompt  temperature 0  temperature 1",
        "plain   0.333 ± 0.58   0.333 ± 0.58",
        "polite  1 ± 0          1 ± 0",
        "── 12 runs: mean ± standard deviation of polite",
    ]  # fmt: skip
    assert data["text/html"].count("<tr>") == 3
    assert "0.333 ± 0.58" in data["text/html"]
    assert len(found) == 12


def test_without_metrics_the_answers_are_shown(shell: Any) -> None:
    """Each different one with how often it came; a part of a sweep keeps its table."""
    shell.user_ns["prompts"] = ["<b>", "b"]
    found = sweep(shell, "--prompts prompts --seed 1:3").pivot("prompt", "max-tokens")
    lines = shell.display_formatter.format(found)[0]["text/plain"].splitlines()
    assert lines[1].split("  ")[-1].strip() == "3× Hello world"
    assert found[:2].by == ("prompt_name", "max_tokens")
    with pytest.raises(InvalidInput, match="pivot: 'speed' is not valid"):
        found.pivot("prompt", "speed")


@pytest.mark.parametrize(
    "value", [["a"], ("a",), {"a": 1}, {"a"}, pandas.DataFrame({"a": [1]}), numpy.array([1, 2])]
)
def test_a_structure_in_a_prompt_warns(value: Any) -> None:
    """It goes in as Python prints it, and a warning of one line says so."""
    with pytest.warns(
        UserWarning, match=r"\{\{rows\}\} is a \w+, and stands in the prompt"
    ) as said:
        assert fill("{{rows}}", {"rows": value}).text == str(value)
    assert len(str(said[0].message).splitlines()) == 1


@pytest.mark.parametrize("value", ["a", 1, 2.5, None, numpy.float64(1), pandas.Timestamp(0)])
def test_single_values_do_not_warn(value: Any) -> None:
    """Warnings are errors here."""
    assert fill("{{value}}", {"value": value}).text == str(value)
