"""What Tab offers on the lines of our magics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core import completer
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmwit_magic.magics import completion, extension, infer
from tests.support.constrained import Invoice, Mood, Point
from tests.support.fake import FakeEngine, FakeSession


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("tiny.gguf", "notes.txt", "with space.gguf", ".hidden.gguf"):
        (tmp_path / name).touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "old.bin").touch()
    session = FakeSession(FakeEngine())
    monkeypatch.setattr(infer, "current_session", lambda: session)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    shell.user_ns["tempting"] = 1
    yield shell
    session.close()


has_matchers = pytest.mark.skipif(
    not hasattr(completer, "context_matcher"), reason="this IPython has no matchers for it"
)


def offered(shell: Any, code: str, position: int | None = None) -> list[str]:
    with provisionalcompleter():
        found = shell.Completer.completions(code, len(code) if position is None else position)
        return [item.text for item in found]


@has_matchers
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("%%infer --te", ["--temperature", "--template-option"]),
        ("%%infer --gpu-layers ", ["auto"]),
        ("%%infer --max-tokens n", ["none"]),
        ("%%infer -m sm", ["smollm2-135m-instruct"]),
        # Nothing that is to be completed: no names of Python's either.
        ("%%infer --temperature ", []),
        ("%%infer --temperature t", []),
        ("%%infer --seed ", ["none"]),
        ("%%infer -o ", []),
        ("%%infer --stop 'tem", []),
        ("%%infer tem", []),
        # Paths of models.
        ("%%infer -m ~/", ["~/models/", "~/tiny.gguf"]),
        ("%%infer -m ./t", ["./tiny.gguf"]),
        ("%%infer --model models/", ["models/old.bin"]),
        ("%%infer -m ~/nowhere/", []),
        # Where the cell is indented, or begins with an empty line.
        ("    %%infer --te", ["--temperature", "--template-option"]),
        ("\n%%infer --te", ["--temperature", "--template-option"]),
        ("\n  %%infer --temperature ", []),
        # Where the line goes on below.
        ("%%infer --seed 4 \\\n  --stop . \\\n--te", ["--temperature", "--template-option"]),
        ("%infer_log --gr", ["--grep", "--group"]),
        ("%infer_log --status l", ["lost"]),
        ("log = %infer_log --pl", ["--plot"]),
        ("%infer_log --plot s", ["speed"]),
        ("%infer_log --columns fin", ["finish_detail", "finish_reason"]),
        ("%infer_log --since ", []),
        ("%infer_log --export ~/mod", ["~/models/"]),
        ("x = 1\n%infer_log --la", ["--last"]),
        ("%infer_replay --", ["--accept", "--anyway", "--metric", "--quiet", "--with"]),
        ("%infer_replay 12 --accept fi", ["file", "filters"]),
        ("%infer_replay 12 --with --te", ["--temperature", "--template-option"]),
        ("%infer_replay 1", []),
        ("%infer_models ", []),
        ("%infer_unload sm", ["smollm2-135m-instruct"]),
        ("%infer_llama_server sm", ["smollm2-135m-instruct"]),
        ("%infer_llama_server ./t", ["./tiny.gguf"]),
        ("%infer_llama_server tiny --sl", ["--slots"]),
        ("%infer_llama_server tiny --slots ", []),
        ("%infer_llama_server tiny --gpu-layers ", ["auto"]),
        ("%infer_llama_server --stop ", []),
    ],
)
def test_only_what_fits_is_offered(shell: Any, code: str, expected: list[str]) -> None:
    """It offers options and their words, models and paths, and otherwise nothing."""
    assert sorted(offered(shell, code)) == expected


def test_paths_of_windows(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path typed with backslashes keeps them, on a simulated Windows."""
    monkeypatch.setattr(completion, "_SEPARATORS", ("\\", "/"))
    monkeypatch.setattr(completion, "Path", lambda text: Path(text.replace("\\", "/")))
    found = completion._paths(r".\models\o", (".bin",))
    assert list(found) == [r".\models\old.bin"]
    assert list(completion._paths(r"~\t", (".gguf",))) == [r"~\tiny.gguf"]


@has_matchers
def test_options_of_the_log_are_all_offered(shell: Any) -> None:
    """`%infer_log --` offers each of its options."""
    found = offered(shell, "%infer_log --")
    assert {"--all", "--export", "--info", "--prune"} <= set(found)
    assert all(item.startswith("--") for item in found)


@has_matchers
def test_the_cell_below_is_left_alone(shell: Any) -> None:
    """In a prompt nothing of ours is offered, and in Python code only Python's names."""
    assert "--temperature" not in offered(shell, "%%infer\n--te")
    assert "tempting" in offered(shell, "tempt")
    assert "tempting" in offered(shell, "x = 1\ntempt")
    code = "%%infer -m sm\nhello"
    assert offered(shell, code, 13) == ["smollm2-135m-instruct"]


def test_an_old_ipython_loads_without_our_completions(
    monkeypatch: pytest.MonkeyPatch, shell: Any
) -> None:
    """IPython before 8.6 has no matchers: the magics work, and Tab offers Python's names."""
    extension.unload(shell)
    monkeypatch.delattr(completer, "context_matcher", raising=False)
    extension.load(shell)
    assert shell.find_cell_magic("infer")
    assert "--temperature" not in offered(shell, "%%infer --te")
    assert "tempting" in offered(shell, "tempt")


@pytest.mark.parametrize("name", ["infer_log", "infer_replay"])
def test_help_is_shown(shell: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` on the line of a log magic shows its options, and does nothing else."""
    assert shell.run_line_magic(name, "--help") is None
    out = capsys.readouterr().out
    assert f"%{name}" in out
    assert ("--grep" if name == "infer_log" else "--with") in out


@has_matchers
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("%%infer --choices ", ["Mood", "labels"]),
        ("%%infer --choices la", ["labels"]),
        ("%%infer --choices ./", []),
        ("%%infer --json-schema ", ["Invoice", "Mood", "Point", "schema"]),
        ("%%infer --json-schema ./", ["./models/", "./shape.json"]),
        ("%%infer --grammar r", ["rules", "rules.gbnf"]),
        ("%%infer --grammar ./", ["./models/", "./rules.gbnf"]),
        ("%infer_replay 1 --with --choices l", ["labels"]),
        ("%%infer --choice ", []),
        ("%%infer --regex ", []),
        ("%%infer --cho", ["--choice", "--choices"]),
    ],
)
def test_shapes_of_answers(shell: Any, tmp_path: Path, code: str, expected: list[str]) -> None:
    """Variables that can be one, and files with the endings of one."""
    for name in ("shape.json", "rules.gbnf", "notes.md"):
        (tmp_path / name).touch()
    shell.user_ns |= {
        "labels": ["a"], "Mood": Mood, "Invoice": Invoice, "Point": Point, "rules": 'start: "a"',
        "schema": {"type": "object"}, "_hidden": ["a"], "numbers": [1.5], "nothing": [],
        "settings": {"a": 1}, "plain": int,
    }  # fmt: skip
    assert offered(shell, code) == expected
