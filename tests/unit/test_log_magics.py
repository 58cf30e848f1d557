"""`%infer_log` and `%infer_replay` in a real IPython shell, over a fake engine."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmwit_magic.contract.request import Request
from llmwit_magic.errors import EngineDied, LogError, ModelNotSupported, RunNotFound
from llmwit_magic.magics import extension, infer
from llmwit_magic.magics.infer_log import _nothing
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.run import Run
from llmwit_magic.views.table import LogTable
from tests.support.fake import FakeEngine, FakeSession


@pytest.fixture
def session(tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine(), tmp_path / "runs.sqlite3")
    yield session
    session.close()


@pytest.fixture
def shell(session: FakeSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A shell in a folder of its own, with three runs of this kernel and one of another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(infer, "current_session", lambda: session)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    for line in ("--tag k=v --temperature 0", "--temperature 0.5", "-m other"):
        shell.run_cell_magic("infer", f"--quiet --seed 3 {line}", "a prompt\n")
    other = RunLog(session.log.path)
    other.begin(Run(Request(model="theirs", prompt="p")).row())
    other.close()
    session.log.rate(2, -1)
    return shell


def infer_log(shell: Any, line: str = "") -> Any:
    return shell.run_line_magic("infer_log", line)


def replay(shell: Any, line: str) -> Any:
    return shell.run_line_magic("infer_replay", line)


def refused(shell: Any, magic: str, line: str) -> str:
    with pytest.raises(UsageError) as caught:
        shell.run_line_magic(magic, line)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# The table ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", [1, 2, 3]),
        ("--all", [1, 2, 3, 4]),
        ("--model other", [3]),
        ("-m theirs", []),
        ("--all --status running", [4]),
        ("--since 1h", [1, 2, 3]),
        ("--since '2020-01-01 10:00' --last 2", [2, 3]),
        ("--grep 'A PROMPT' --last 1", [3]),
        ("--tag k=v", [1]),
        ("--tag k", [1]),
        ("--rating down", [2]),
        ("--rating -1", [2]),
        ("--group {group}", []),
    ],
)
def test_filters_choose_the_rows(shell: Any, line: str, wanted: list[int]) -> None:
    """The table has this kernel's runs, or all, that meet all options. Variables are put in."""
    shell.user_ns["group"] = "g"
    table = infer_log(shell, line)
    assert isinstance(table, LogTable)
    assert table.index.tolist() == wanted


def test_a_sweep_is_found_by_its_group(shell: Any) -> None:
    """The results of a sweep have the name that `--group` takes."""
    shell.run_cell_magic("infer", "--quiet --temperature 0,1 -o sweep", "p\n")
    shell.user_ns["group"] = shell.user_ns["sweep"].group_id
    assert infer_log(shell, "--group {group}").index.tolist() == [5, 6]


def test_a_table_without_runs_says_where_there_are_some(
    shell: Any, session: FakeSession, tmp_path: Path
) -> None:
    """A kernel that has just begun has no runs, and the log may have many of others."""
    assert repr(infer_log(shell, "--status error")) == (
        "no runs of this kernel meet that: --all looks at all 4 of the log"
    )
    assert repr(infer_log(shell, "--all --metric 'a>1'")) == "no runs meet that"
    assert _nothing(session.log, False, {"last": 5}) == (  # what a new kernel says
        "no runs of this kernel: --all looks at all 4 of the log"
    )
    session.use_log(tmp_path / "new.sqlite3")
    assert repr(infer_log(shell)) == repr(infer_log(shell, "--model other")) == "no runs"


def test_columns_are_chosen(shell: Any) -> None:
    """They stand in the order of their names on the line. The run's number is always there."""
    assert list(infer_log(shell, "--columns seed,text").columns) == ["seed", "text"]
    assert list(infer_log(shell, "--columns 'run_id, note'").columns) == ["note"]
    everything = infer_log(shell, "--columns all")
    assert list(everything.columns) == list(infer_log(shell).columns)
    assert "columns" not in repr(everything)
    assert list(infer_log(shell, "--columns tags,seed").columns) == ["tag.k", "seed"]
    assert list(infer_log(shell, "--columns tag.k").columns) == ["tag.k"]
    assert list(infer_log(shell, "--last 1 --columns tags,seed").columns) == ["seed"]


def test_a_table_shows_in_a_notebook(shell: Any) -> None:
    """At the end of a cell, a table shows as HTML and as text."""
    data, _ = shell.display_formatter.format(infer_log(shell, "--columns text,status"))
    assert "Hello world" in data["text/html"]
    assert "Hello world" in data["text/plain"]


def test_output_keeps_it(shell: Any) -> None:
    """`-o` puts the table or the figure into a variable, and shows nothing."""
    assert infer_log(shell, "--model other -o kept") is None
    assert shell.user_ns["kept"].index.tolist() == [3]
    assert type(shell.user_ns["kept"]) is pandas.DataFrame
    infer_log(shell, "--columns text,seed -o kept")
    assert type(shell.user_ns["kept"]) is pandas.DataFrame
    assert list(shell.user_ns["kept"].columns) == ["text", "seed"]
    assert infer_log(shell, "--plot finish -o figure") is None
    assert "RunPlot" in repr(shell.user_ns["figure"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--status done", "--status: 'done' is not valid: it must be one of running, ok"),
        ("--since long", "--since: 'long' is not valid: it must be an age such as"),
        ("--last 0", "--last: 0 is not valid: it must be a whole number"),
        ("--last x", "--last: 'x' is not valid: it must be a whole number: %infer_log? lists the"),
        ("--last", "--last needs a value: %infer_log? lists the options"),
        ("--lats 3", "unknown option --lats: did you mean --last?"),
        ("--lats=3", "unknown option --lats: did you mean --last?"),
        ("last week", "unexpected 'last': %infer_log? lists the options"),
        ("--rating 3", "--rating: '3' is not valid: it must be one of up, down"),
        ("--columns prompts", "--columns: the log has no column 'prompts': did you mean prompt?"),
        (
            "--columns xyzzy",
            "--columns: the log has no column 'xyzzy': docs/run-log-columns.md lists them",
        ),
        ("--plot pie", "--plot: 'pie' is not valid: it must be one of metric, length"),
        ("--plot speed --by heat", "--by: the log has no column 'heat'"),
        ("--by model", "--by: that goes with --plot"),
        ("--schema otel", "--schema: that goes with --export"),
        ("--export a.csv --schema x", "--schema: 'x' is not valid: it must be log or otel"),
        ("--export a", "a has no known ending"),
        ("--prune soon", "--prune: 'soon' is not valid"),
        ("-o 1x", "-o: '1x' is not the name of a variable"),
        ("--heat 3", "unknown option --heat: %infer_log? lists the options"),
        ("--grep 'x", "a quote is not closed"),
    ],
)
def test_wrong_lines_are_refused(shell: Any, line: str, message: str) -> None:
    """The error is one line, in the words of the options."""
    assert message in refused(shell, "infer_log", line)


def test_help_says_what_there_is(shell: Any) -> None:
    """`%infer_log?` lists the options, and says how CSV is made harmless."""
    text = " ".join(shell.find_line_magic("infer_log").__doc__.split())
    for piece in ("--grep TEXT", "--prune", "an apostrophe stands before what a spreadsheet"):
        assert piece in text
    assert "options of %%infer" in shell.find_line_magic("infer_replay").__doc__


# Files, figures, house-keeping ------------------------------------------------------------


def test_runs_are_exported(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`--export` writes the selected runs, and says how many and where."""
    infer_log(shell, "--all --export runs.csv")
    infer_log(shell, "--last 1 --export 'my runs.jsonl'")
    assert capsys.readouterr().out == "4 runs written to runs.csv\n1 run written to my runs.jsonl\n"
    with Path("runs.csv").open(newline="") as file:
        assert [row["run_id"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    assert json.loads(Path("my runs.jsonl").read_text())["run_id"] == 3


def test_runs_are_exported_for_otel(shell: Any) -> None:
    """`--schema otel` writes the names of OpenTelemetry's conventions."""
    infer_log(shell, "--export runs.jsonl --schema otel --last 1")
    assert json.loads(Path("runs.jsonl").read_text())["gen_ai.request.model"] == "other"


def test_an_export_that_fails_is_one_line(shell: Any) -> None:
    """Its folder does not exist."""
    with pytest.raises(LogError, match="cannot be written: No such file"):
        infer_log(shell, "--export no/runs.csv")


def test_the_log_is_copied(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`--copy` copies all runs of all kernels. The log itself is refused as its target."""
    infer_log(shell, "--copy 'my copy.sqlite3'")
    assert capsys.readouterr().out == "4 runs copied to my copy.sqlite3\n"
    copy = RunLog("my copy.sqlite3")
    assert [row["run_id"] for row in copy.rows()] == [1, 2, 3, 4]
    copy.close()
    with pytest.raises(LogError, match="in use: name another file"):
        infer_log(shell, "--copy runs.sqlite3")


def test_runs_are_plotted(shell: Any) -> None:
    """`--plot` draws all but the speed; a kind and a column draw one plot. A notebook shows an image."""
    figure = infer_log(shell, "--plot")
    assert len(figure.axes) == 3
    data, _ = shell.display_formatter.format(infer_log(shell, "--plot finish --by model"))
    assert data["image/png"]
    assert "Why runs ended" in data["text/plain"]


def test_old_runs_are_pruned(
    shell: Any, session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--prune` does not ask. Runs that go on stay, and it says what was removed."""
    infer_log(shell, "--prune")
    infer_log(shell, "--prune 0s --model other")
    infer_log(shell, "--prune 0s")
    assert [line.split(";")[0] for line in capsys.readouterr().out.splitlines()] == [
        "0 runs removed, 4 left", "1 run removed, 3 left", "2 runs removed, 1 left",
    ]  # fmt: skip
    assert [row["run_id"] for row in session.log.rows()] == [4]


def test_the_place_of_the_log_is_said(
    shell: Any, session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--info` names the file, and says its number of runs and its size."""
    infer_log(shell, "--info")
    path, said = capsys.readouterr().out.rsplit(": ", 1)
    assert path == session.log.path
    assert re.fullmatch(r"4 runs, 0\.\d MB\n", said)


# Runs again -----------------------------------------------------------------------------


def test_a_replay_is_the_run_again(
    shell: Any, session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same request reaches the engine. The new row says which run it repeats."""
    result = replay(shell, "2")
    assert result.identical
    first, again = session.engine.requests[1], session.engine.requests[-1]
    assert again == first.model_copy(update={"replay_of": 2})
    assert session.log.rows()[-1]["replay_of"] == 2
    assert shell.user_ns["_infer"].run_id == result.result.run_id == 5
    assert capsys.readouterr().out.startswith("Hello world\n── stop · end of text")
    data, _ = shell.display_formatter.format(result)
    assert data["text/plain"] == "── identical to run 2"
    assert "identical to run 2" in data["text/html"]


def test_a_replay_shows_a_difference(
    shell: Any, session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --quiet nothing shows while it runs. At the end of the cell, both answers do."""
    session.engine.chunks = ["Hello", " there"]
    result = replay(shell, "--quiet 1 --with --temperature 1 --max-tokens none --tag a=b")
    assert capsys.readouterr().out == ""
    said = "differs from run 1: at character 7 it had 'world', now 'there'"
    assert result.verdict == f"{said} · changed: max tokens, temperature"
    request = session.engine.requests[-1]
    assert (request.params.temperature, request.params.max_tokens) == (1.0, None)
    assert dict(request.tags) == {"a": "b"}
    data, _ = shell.display_formatter.format(result)
    assert "Hello" in data["text/html"]
    assert "llmwit-mark" in data["text/html"]


def test_the_newest_run_and_a_variable_can_be_meant(shell: Any) -> None:
    """`-1` counts from the end, over all kernels. `{n}` is a variable."""
    shell.user_ns["n"] = 3
    assert replay(shell, "{n} --quiet").original.run_id == 3
    assert replay(shell, "-1 --quiet").original.run_id == 5


def test_a_replay_that_fails_raises(shell: Any, session: FakeSession) -> None:
    """The cell raises the error, and the row is there."""
    session.engine.last = EngineDied("gone")
    with pytest.raises(EngineDied, match="gone"):
        replay(shell, "1 --quiet")
    row = session.log.rows()[-1]
    assert (row["replay_of"], row["status"]) == (1, "error")


def test_another_model_file_needs_anyway(shell: Any, session: FakeSession) -> None:
    """It is refused in one line. `--anyway` runs it, and the verdict says so."""
    session.model = session.model.model_copy(update={"sha256": "1" * 64})
    with pytest.raises(
        ModelNotSupported, match=r"is not the one of run 1 .*: --accept file runs it"
    ):
        replay(shell, "1")
    verdict = replay(shell, "1 --quiet --anyway").verdict
    assert verdict.startswith("identical to run 1 · the model file /fake.gguf is not the one")


@pytest.mark.parametrize(
    "line",
    [
        "1 --quiet --accept context --with --context-length 9000",
        "1 --quiet --with --context-length 9000 --accept context",
        "--accept=context 1 --with --context-length 9000 --quiet",
        "1 --quiet --with --context-length 9000 --anyway",
        "1 --quiet --anyway --with --context-length 9000",
    ],
)
def test_a_replay_may_have_a_longer_context(shell: Any, session: FakeSession, line: str) -> None:
    """`--accept` may stand before `--with` or after it. `--anyway` works too."""
    verdict = replay(shell, line).verdict
    assert verdict == "identical to run 1 · changed: context length"
    request = session.engine.requests[-1]
    assert request.context_length == 9000
    assert request.takes_long_context


@pytest.mark.parametrize("line", ["1 --quiet --accept file", "1 --with --quiet --accept=file"])
def test_another_model_file_is_accepted_by_name(
    shell: Any, session: FakeSession, line: str
) -> None:
    """`--accept file` runs it, `--accept context` does not."""
    session.model = session.model.model_copy(update={"sha256": "1" * 64})
    assert "the model file /fake.gguf is not the one" in replay(shell, line).verdict
    with pytest.raises(ModelNotSupported, match="--accept file runs it"):
        replay(shell, "1 --accept context")


def test_configured_functions_filter_again(shell: Any, session: FakeSession) -> None:
    """A filter that is a function comes from the configuration. A missing one is an error."""
    magics = shell.find_cell_magic("infer").__self__

    def secret(text: str) -> int | None:
        return None

    magics.content_filters = [secret]
    shell.run_cell_magic("infer", "--quiet", "p\n")
    assert replay(shell, "-1 --quiet").identical
    assert session.engine.requests[-1].content_filters == (secret,)
    magics.content_filters = []
    assert "<function secret>, which is not among" in refused(shell, "infer_replay", "5")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "give a run's number: %infer_replay 12 [--with OPTION…] [--accept …]"),
        ("x", "'x' is not the number of a run"),
        ("--5", "'--5' is not the number of a run"),
        ("²", "'²' is not the number of a run"),
        ("1 2", "'1 2' is not the number of a run"),
        ("1 --temperature 1", "'1 --temperature 1' is not the number of a run"),
        ("1 --with --temprature 1", "unknown option --temprature: did you mean --temperature?"),
        ("1 --with --temperature 0,1", "--temperature: one value, and no sweep"),
        ("1 --with -m a -m b", "--model: one value, and no sweep"),
        ("1 --with -o x", "--output says nothing of how a run is done"),
        ("1 --with --temperature -1", "--temperature: -1.0 is not valid: it must be"),
        ("1 --with --top-logprobs 999", "--top-logprobs: 999 is not valid: it must be"),
        ("1 --with --seed", "--seed needs a value"),
        ("'1", "a quote is not closed"),
        ("1 --accept", "--accept needs a value"),
        ("1 --accept all", "--accept: 'all' is not valid: it must be one or more of context, file"),
        ("1 --with --accept file,x", "--accept: 'x' is not valid"),
    ],
)
def test_wrong_replays_are_refused(shell: Any, line: str, message: str) -> None:
    """The error is one line, in the words of the options, and nothing is run."""
    assert message in refused(shell, "infer_replay", line)


@pytest.mark.parametrize("number", ["9", "0", "-9", "99999999999999999999"])
def test_a_run_that_is_not_there_is_said(shell: Any, number: str) -> None:
    """The error has the numbers that exist."""
    with pytest.raises(RunNotFound, match=f"there is no run {number} in the log: it has runs 1 to"):
        replay(shell, number)


def test_a_run_of_the_log_shows_as_it_did(shell: Any, session: FakeSession) -> None:
    """`runs[1]` at the end of a cell shows the answer, its status line and its buttons."""
    data, _ = shell.display_formatter.format(session.log[1])
    assert data["text/plain"].startswith("Hello world\n── stop · end of text · 5 + 2 tokens")
    assert data["text/plain"].endswith("seed 3 · run 1")
    assert "Hello world" in data["text/html"]
    assert 'data-run="1"' in data["text/html"]
    assert "data-log" in data["text/html"]
    assert "--temperature 0 --seed 3 --tag k=v" in data["text/html"]
