"""The magics in a real IPython shell, over a fake engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets import TraitError
from traitlets.config import Config

from llmwit_magic.contract.request import Request
from llmwit_magic.engines.backends.llamacpp.llama_sources import file_name
from llmwit_magic.errors import EngineDied, EngineFailed, Interrupted, InvalidInput
from llmwit_magic.magics import extension, infer
from llmwit_magic.running.run import Run
from tests.support.fake import FakeEngine, FakeSession, prepared


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def shell(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    session = FakeSession(engine)
    monkeypatch.setattr(infer, "current_session", lambda: session)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    yield shell
    session.close()


def cell(shell: Any, line: str, text: str = "a prompt\n") -> Any:
    return shell.run_cell_magic("infer", line, text)


def test_a_cell_reaches_the_engine_as_a_request(shell: Any, engine: FakeEngine) -> None:
    """The engine gets options, variables, and the prompt without the notebook's newline."""
    shell.user_ns["name"] = "Ada"
    cell(shell, "--temperature 0.5 --stop '\\n' --tag a=b -o answer", "Hello {{name}}\n")
    (request,) = engine.requests
    assert request.prompt == "Hello Ada"
    assert (request.params.temperature, request.params.stop) == (0.5, ("\n",))
    assert request.params.max_tokens is None
    assert dict(request.tags) == {"a": "b"}
    assert shell.user_ns["answer"].text == "Hello world"
    assert shell.user_ns["_infer"] is shell.user_ns["answer"]


def test_runs_of_a_sweep_share_a_seed(shell: Any, engine: FakeEngine) -> None:
    """The runs of a sweep have one seed, unless the seed is what varies."""
    cell(shell, "--temperature 0,1,2")
    assert len({request.params.seed for request in engine.requests}) == 1
    assert len({request.group_id for request in engine.requests}) == 1
    assert len(shell.user_ns["_infer"]) == 3


def test_defaults_are_configured(shell: Any, engine: FakeEngine) -> None:
    """`%config InferMagics.…` sets the value of what a cell leaves open; the line overrides it."""
    shell.run_line_magic("config", "InferMagics.temperature = 0.25")
    shell.run_line_magic("config", "InferMagics.max_tokens = 7")
    cell(shell, "")
    cell(shell, "--temperature 1")
    assert [r.params.temperature for r in engine.requests] == [0.25, 1.0]
    assert [r.params.max_tokens for r in engine.requests] == [7, 7]


def test_a_bad_default_is_refused_when_it_is_set(shell: Any) -> None:
    """The old value stays, and the message is that of the contract."""
    magics = shell.find_cell_magic("infer").__self__
    with pytest.raises(TraitError, match=r"temperature: -1\.0 is not valid"):
        magics.temperature = -1
    shell.run_line_magic("config", "InferMagics.temperature = -1")
    shell.run_line_magic("config", "InferMagics.stop = ''")
    shell.run_line_magic("config", "InferMagics.content_filters = ['(']")
    assert (magics.temperature, magics.stop, magics.content_filters) == (0.8, (), [])
    cell(shell, "")


def test_the_library_of_llama_cpp_is_configured(shell: Any, tmp_path: Path) -> None:
    """A path without a library is refused in one line, and the old one stays."""
    magics = shell.find_cell_magic("infer").__self__
    assert (magics.llama_library, magics.session.llama_library) == (None, "")
    library = tmp_path / file_name("llama")
    library.touch()
    shell.run_line_magic("config", f"InferMagics.llama_library = {str(tmp_path)!r}")
    assert magics.session.llama_library == str(tmp_path)
    nowhere = tmp_path / "nowhere"
    with pytest.raises(TraitError) as caught:
        magics.llama_library = str(nowhere)
    assert str(caught.value) == (f"llama_library names {nowhere}, where there is no {library.name}")
    assert magics.session.settings.llama_library == str(tmp_path)
    shell.run_line_magic("config", "InferMagics.llama_library = None")
    assert magics.session.llama_library == ""


def test_a_configured_library_that_is_gone(session: Any, tmp_path: Path) -> None:
    """The extension loads all the same: other engines do not need it."""
    configured = {
        "InferMagics": {"llama_library": str(tmp_path)}, "HistoryManager": {"enabled": False},
    }  # fmt: skip
    shell = InteractiveShell(config=Config(configured))
    magics = infer.InferMagics(shell, session)
    assert magics.session.llama_library == str(tmp_path)
    with pytest.raises(EngineFailed, match=r"^llama_library names "):
        session.find(Request(model="m.gguf", prompt="", engine="llama.cpp"))


def test_idle_models_are_configured(shell: Any) -> None:
    """`None` keeps models in memory. A bad span of time is refused, and the old one stays."""
    magics = shell.find_cell_magic("infer").__self__
    assert magics.session.local.pool.idle_unload_minutes is None
    shell.run_line_magic("config", "InferMagics.idle_unload_minutes = 30")
    assert magics.session.local.pool.idle_unload_minutes == 30
    with pytest.raises(TraitError):
        magics.idle_unload_minutes = -1
    with pytest.raises(InvalidInput, match="idle_unload_minutes: nan is not valid"):
        magics.session.local.pool.idle_unload_minutes = float("nan")
    assert magics.session.local.pool.idle_unload_minutes == 30
    magics.session.local.pool.idle_unload_minutes = float("inf")
    shell.run_line_magic("config", "InferMagics.idle_unload_minutes = None")
    assert magics.session.local.pool.idle_unload_minutes is None


@pytest.mark.parametrize("line", ["", "--temperature 0,1"])
def test_an_interrupt_before_the_first_run_is_one(
    shell: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line is raised where there is no result yet, and no run is left behind."""
    session = shell.find_cell_magic("infer").__self__.session

    def torn(run: Run, *arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "start", torn)
        with pytest.raises(Interrupted, match=r"^stopped; the log has what was run$"):
            cell(shell, line)
    assert not session._runs
    cell(shell, line)


def test_an_interrupt_while_a_cell_is_read_is_one_line(
    shell: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first cell imports for a second, and a person may press Stop then."""

    def torn(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(infer, "read_cell", torn)
    shell.run_cell("%%infer\na prompt")
    said = capsys.readouterr()
    assert said.out + said.err == "Interrupted: stopped; the log has what was run\n"


def test_an_interrupted_sweep_says_how_far_it_came(
    shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that was stopped, and how many of the runs had begun."""
    follow = Run.follow

    def stopped(run: Run, *arguments: Any) -> None:
        follow(run, *arguments)
        if run.request.params.seed == 2:
            raise run.interrupted()

    monkeypatch.setattr(Run, "follow", stopped)
    with pytest.raises(Interrupted, match=r"in run 2 of the log; 2 of 5 runs were begun$"):
        cell(shell, "--seed 1:5")
    assert len(shell.user_ns["_infer"]) == 2


def test_failures_raise(shell: Any, engine: FakeEngine) -> None:
    """A failure of the engine is an exception of the cell. The partial result is in `_infer`."""
    engine.last = EngineDied("gone")
    with pytest.raises(EngineDied, match="gone"):
        cell(shell, "")
    assert shell.user_ns["_infer"].text == "Hello world"
    assert shell.user_ns["_infer"].status == "error"


def test_errors_show_one_line(shell: Any, engine: FakeEngine) -> None:
    """A failure and a wrong input show no traceback."""
    assert EngineDied("gone")._render_traceback_() == ["EngineDied: gone"]
    with pytest.raises(UsageError) as caught:
        cell(shell, "--temprature 1")
    assert str(caught.value) == "unknown option --temprature: did you mean --temperature?"


def test_quiet_shows_nothing(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`--quiet` shows no output."""
    cell(shell, "--quiet")
    assert capsys.readouterr().out == ""


def test_help_lists_every_option(shell: Any) -> None:
    """`%%infer?` has the flags, the help and the range of each option."""
    text = shell.find_cell_magic("infer").__doc__
    for piece in ("--max-tokens", "--repeat-penalty-last-n-token-count", "0 < p", "--dry-run"):
        assert piece in text


def test_completion_knows_options_and_models(shell: Any) -> None:
    """Tab completes options, words such as none, and names of models."""
    from llmwit_magic.requests.line import complete

    assert "--temperature" in complete(["--te"], list)
    assert complete(["--max-tokens", "n"], list) == ["none"]
    assert complete(["-m", "sm"], lambda: ["smollm2", "other"]) == ["smollm2"]


def test_infer_log_gives_a_frame(shell: Any) -> None:
    """`%infer_log` shows this kernel's runs, and `-o` keeps them."""
    cell(shell, "--quiet")
    frame = shell.run_line_magic("infer_log", "")
    assert frame["text"].tolist() == ["Hello world"]
    shell.run_line_magic("infer_log", "-o log")
    assert len(shell.user_ns["log"]) == 1


def test_a_dry_run_asks_for_no_run(
    shell: Any, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--dry-run` shows prompt, counts and params, and the engine runs nothing."""
    cell(shell, "--dry-run --seed 4")
    out = capsys.readouterr().out
    assert "5 prompt tokens" in out
    assert "123 of 128 left" in out
    assert "seed 4" in out
    assert engine.requests == []


@pytest.mark.parametrize("line", ["a b.gguf", "'a b.gguf'", '"a b.gguf"', '  "a b".gguf '])
def test_a_model_with_a_space_is_named_with_quotes_or_without(shell: Any, line: str) -> None:
    """`%infer_unload` takes quotes off its words, as the other lines do."""
    with pytest.raises(UsageError, match=r"the model a b\.gguf is not in memory \(loaded: none\)"):
        shell.run_line_magic("infer_unload", line)


def test_an_open_quote_unloads_nothing(shell: Any) -> None:
    """It is an error, and does not mean all models."""
    with pytest.raises(UsageError, match="a quote is not closed"):
        shell.run_line_magic("infer_unload", "'a")


def test_unloading_takes_the_magics_away(shell: Any) -> None:
    """After `%unload_ext` there is no `%%infer`, and the extension can be loaded again."""
    extension.unload(shell)
    assert shell.find_cell_magic("infer") is None
    extension.load(shell)
    assert shell.find_cell_magic("infer") is not None


def test_loading_is_light() -> None:
    """`%load_ext` imports neither pandas nor ctransformers nor gguf nor tokenizers."""
    code = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell(); shell.run_line_magic('load_ext', 'llmwit_magic')\n"
        "heavy = {'wasmtime', 'pandas', 'ctransformers', 'gguf', 'tokenizers', 'numpy', 'torch',"
        " 'huggingface_hub', 'anywidget', 'ipywidgets', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


def test_a_dry_run_says_what_there_is_to_know(
    shell: Any,
    engine: FakeEngine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The notices of a prompt stand under it, as they do under an answer."""
    monkeypatch.setattr(
        engine, "prepare",
        lambda request, emit, cancel: replace(prepared(request), notices=("moved",)),
    )  # fmt: skip
    cell(shell, "--dry-run")
    assert "\n── moved\n" in capsys.readouterr().out
