"""Conversations in cells: `--chat`, `--continue`, `--conversation` and `--reply-to`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmwit_magic.contract.constraint import CONSTRAINT_KINDS
from llmwit_magic.contract.engine import Capabilities
from llmwit_magic.contract.request import Request
from llmwit_magic.errors import InvalidInput
from llmwit_magic.magics import extension, infer
from llmwit_magic.running.conversations import Conversation
from llmwit_magic.views.text import plain
from tests.support.conversing import Counting, asked, conversing
from tests.support.fake import FakeSession


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeSession]:
    with conversing(monkeypatch, tmp_path) as session:
        yield session


@pytest.fixture
def shell(session: FakeSession) -> Any:
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    return shell


def cell(shell: Any, line: str, text: str) -> str:
    """Runs a cell; what its status line says."""
    shell.run_cell_magic("infer", f"-m fake {line}" if "-m" not in line else line, text)
    return plain(shell.user_ns["_infer"]).splitlines()[-1]


def test_a_cell_goes_on_with_the_newest_conversation(shell: Any, session: FakeSession) -> None:
    """Each run of a cell is a further turn, and the status line says which."""
    assert "turn" not in cell(shell, "--chat --system S --top-k 7", "a")
    session.finish(Request(model="fake", prompt="in between"))
    assert " · turn 2 · " in cell(shell, "--continue", "b")
    assert " · turn 3 · " in cell(shell, "--continue", "b")
    assert asked(session)[-1] == ["S", "a", "Hello world", "b", "Hello world", "b"]
    assert session.engine.requests[-1].params.top_k == 7
    assert [row["reply_to"] for row in session.log.rows()] == [None, None, 1, 3]
    assert shell.user_ns["_conversation"].messages[-2]["content"] == "b"


def test_a_score_is_no_turn(shell: Any, session: FakeSession) -> None:
    """A chat that is scored begins no conversation, and none goes on with one."""
    session.engine.capabilities = Capabilities(scores=True, constraints=CONSTRAINT_KINDS)
    cell(shell, "--chat", "a")
    cell(shell, "--chat --continuation b", "c")
    cell(shell, "--chat --choice b --choice c --probabilities", "c")
    assert "turn 2" in cell(shell, "--continue", "d")
    assert asked(session)[-1] == ["a", "Hello world", "d"]
    said = "a score is no turn of a conversation"
    with pytest.raises(InvalidInput, match=said):
        Conversation("fake").ask("a", continuation="b")
    with pytest.raises(InvalidInput, match=said):
        Conversation("fake", continuation="b")
    with pytest.raises(InvalidInput, match="run 2 is no turn of a conversation"):
        Conversation.load(2)


def test_a_shape_belongs_to_one_turn(shell: Any, session: FakeSession) -> None:
    session.engine.capabilities = Capabilities(constraints=CONSTRAINT_KINDS)
    talk = Conversation("fake")
    talk.ask("a", choices=["b", "c"])
    talk.ask("a", regex="b|c")
    talk.ask("a")
    cell(shell, "--chat --choice b", "a")
    cell(shell, "--continue", "a")
    kinds = [one.constraint and one.constraint.kind for one in session.engine.requests]
    assert kinds == ["choices", "regex", None, "choices", None]
    with pytest.raises(InvalidInput, match=r"belongs to one turn: give it to ask\(\)"):
        Conversation("fake", choices=["b"])


def test_settings_of_a_conversation_without_a_turn_count_in_a_cell(
    shell: Any, session: FakeSession
) -> None:
    Conversation("fake", params={"temperature": 0, "max_tokens": 7}, name="x")
    cell(shell, "--conversation x", "a")
    params = session.engine.requests[-1].params
    assert (params.temperature, params.max_tokens, params.repeat_penalty) == (0, 7, 1.0)


def test_a_cell_goes_on_with_a_named_one(shell: Any, session: FakeSession) -> None:
    assert "turn 1 of one · " in cell(shell, "--conversation one --temperature 0", "a")
    cell(shell, "--conversation two", "b")
    assert "turn 2 of one · " in cell(shell, "--conversation one", "c")
    assert asked(session)[-1] == ["a", "Hello world", "c"]
    assert session.engine.requests[-1].params.temperature == 0
    assert "turn 3 of one · " in cell(shell, "--continue", "d")
    known = session.conversations.by_name["one"].id
    session.conversations = type(session.conversations)()  # another kernel
    assert f"turn 4 of one · conversation {known}".split(" · ")[0] in cell(
        shell, f"--conversation {known}", "e"
    )
    assert "turn 5 of one" in cell(shell, "--conversation one", "f")


def test_a_name_begins_anew_in_another_kernel(shell: Any, session: FakeSession) -> None:
    """So running a whole notebook again gives the same messages again."""
    cell(shell, "--conversation one", "a")
    session.conversations = type(session.conversations)()
    assert "turn 1 of one" in cell(shell, "--conversation one", "a")


def test_a_cell_replies_to_a_run(shell: Any, session: FakeSession) -> None:
    """A run in the middle makes a fork, however often the cell is run. The newest one goes on."""
    cell(shell, "--conversation one", "a")
    cell(shell, "--continue", "b")
    for _ in range(2):
        assert "turn 2 of one" in cell(shell, "--reply-to 1", "c")
    assert asked(session)[-1] == ["a", "Hello world", "c"]
    ids = [row["conversation_id"] for row in session.log.rows()]
    assert len(set(ids)) == 3
    assert [row["reply_to"] for row in session.log.rows()] == [None, 1, 1, 1]
    assert "turn 3 of one" in cell(shell, "--reply-to 2", "d")
    assert session.log.row(-1)["conversation_id"] == ids[0]


def test_the_form_of_a_turn_is_a_cell(shell: Any, session: FakeSession) -> None:
    """The copied cell replies to the same run with the same settings."""
    cell(shell, "--chat --temperature 0.5", "a")
    cell(shell, "--continue --temperature 0.8", "b")
    request = session.log[2].request
    line, _, text = infer.forms(request, {})["cell"].removeprefix("%%infer ").partition("\n")
    assert line.startswith("--reply-to 1 ")
    shell.run_cell_magic("infer", line, text)
    again = session.log[3].request
    fork = {"conversation_id"}
    assert again.model_dump(exclude=fork) == request.model_dump(exclude=fork)


def test_values_that_stay_are_not_filled_in_again(shell: Any, session: FakeSession) -> None:
    """Braces that a value has brought in are text in the turns that follow."""
    shell.user_ns.update(value="{{secret}}", secret="S")
    cell(shell, "--chat --system '{{value}}'", "{{value}}")
    cell(shell, "--continue", "b {{secret}}")
    assert asked(session)[-1] == ["{{secret}}", "{{secret}}", "Hello world", "b S"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--continue", "this kernel has no conversation yet"),
        ("--continue --conversation a", "--continue and --conversation: give one of them"),
        ("--conversation a --temperature 0,1", "--conversation takes one value"),
        ("--conversation a --tune", "--conversation takes one value"),
        ("--conversation a --no-chat", "--conversation: a conversation is a chat"),
        ("--drop-oldest", "--drop-oldest goes with --continue"),
        ("--reply-to x", "--reply-to"),
        ("--conversation ' '", "is not a name"),
        ("--conversation owl-01234567", "the log has no conversation 'owl-01234567'"),
    ],
)
def test_lines_that_cannot_be(shell: Any, session: FakeSession, line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cell(shell, line, "a")
    assert session.engine.requests == []


def test_a_sweep_and_a_dry_run_are_no_turns(shell: Any, session: FakeSession) -> None:
    cell(shell, "--chat --conversation c", "a")
    shell.run_cell_magic("infer", "-m fake --chat --temperature 0,1", "b")
    shell.run_cell_magic("infer", "--continue --dry-run", "b")
    assert "turn 2 of c" in cell(shell, "--continue", "d")
    assert asked(session)[-1] == ["a", "Hello world", "d"]
    assert [row["turn"] for row in session.log.rows()] == [1, None, None, 2]


def test_a_cell_drops_the_oldest_turns(shell: Any, session: FakeSession) -> None:
    session.engine = Counting()
    cell(shell, "--chat --max-tokens 30", "a")
    for text in "bcd":
        cell(shell, "--continue", text)
    assert "turn 1 dropped" in cell(shell, "--continue --drop-oldest", "e")
    newest = session.log[-1]
    line, _, text = infer.forms(newest.request, {})["cell"].removeprefix("%%infer ").partition("\n")
    shell.run_cell_magic("infer", line, text)
    assert session.log[-1].request.history == newest.request.history
