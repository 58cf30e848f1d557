"""Options under a name: kept, listed, taken by cells and by calls, and refused with the reason."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from IPython.core import completer
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import llmwit_magic
from llmwit_magic import api
from llmwit_magic.errors import InvalidInput
from llmwit_magic.magics import extension, infer
from llmwit_magic.magics.cell import read_cell
from llmwit_magic.requests import presets
from llmwit_magic.running import conversations
from llmwit_magic.views import text
from tests.support.fake import FakeEngine, FakeSession


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSession]:
    """A session in a folder of its own, without any preset."""
    session = FakeSession(FakeEngine(), tmp_path / "runs.sqlite3")
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setattr(presets, "user_file", lambda: tmp_path / "config" / "presets.toml")
    for module in (infer, api, conversations):
        monkeypatch.setattr(module, "current_session", lambda: session)
    yield session
    session.close()


@pytest.fixture
def shell(session: FakeSession) -> Any:
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    return shell


def keep(shell: Any, line: str) -> None:
    shell.run_line_magic("infer_preset", line)


def refused(shell: Any, line: str) -> str:
    with pytest.raises(UsageError) as caught:
        keep(shell, line)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def asked(shell: Any, session: FakeSession, line: str) -> Any:
    """The request that the engine gets for a cell."""
    shell.run_cell_magic("infer", f"--quiet {line}", "p\n")
    return session.engine.requests[-1]


def write(path: Path, content: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")


# Kept and taken -------------------------------------------------------------------------


def test_a_cell_takes_what_was_kept(shell: Any, session: FakeSession) -> None:
    """Model, params and the system message come from the preset. Its row and result say which."""
    keep(shell, "brief -m m --temperature 0 --stop . --system 'Be\\nbrief' --tag a=1 --tag b=2")
    request = asked(shell, session, "--preset brief --tag b=3")
    assert (request.model, request.system) == ("m", "Be\nbrief")
    assert (request.params.temperature, request.params.repeat_penalty) == (0, 1)
    assert (request.params.stop, request.params.max_tokens) == ((".",), None)
    assert request.tags == {"a": "1", "b": "3"}
    assert session.log.row(1)["preset"] == "brief"
    assert session.log[1].preset == shell.user_ns["_infer"].preset == "brief"
    assert "preset brief" in text.plain(shell.user_ns["_infer"])
    assert asked(shell, session, "").preset is None


def test_the_line_counts_first(shell: Any) -> None:
    """Also a sweep, and a constraint; a default that is configured counts last."""
    keep(shell, "p --temperature 0.5 --top-k 5 --repeat-penalty 1.1 --choice a --choice b")
    defaults = {"model": "m", "top_k": 9}
    (request,) = read_cell("--preset p --temperature 0 --regex x+", "p\n", {}, defaults).requests
    assert (request.params.temperature, request.params.top_k) == (0, 5)
    assert request.params.repeat_penalty == pytest.approx(1.1), "it was given"
    assert request.constraint
    assert request.constraint.kind == "regex"
    sweep = read_cell("--preset p --temperature 0.1,0.2", "p\n", {}, defaults).requests
    assert [one.params.temperature for one in sweep] == pytest.approx([0.1, 0.2])
    assert all(one.constraint and one.constraint.choices == ("a", "b") for one in sweep)


def test_every_kind_of_value_comes_back(shell: Any, session: FakeSession) -> None:
    """None, texts with all signs, flags, lists and mappings are the same after the file."""
    keep(
        shell,
        r"all --max-tokens none --stop '\n' --stop '\"é' --no-exact --gpu-layers auto --threads 2 "
        "--template-option a=[1,true,2] --template-option b={} --top-logprobs 3 "
        "--accept context,file",
    )
    values = presets.preset("all")
    assert values == {
        "max_tokens": None, "stop": ("\n", '"é'), "exact": False, "gpu_layers": "auto", "threads": 2,
        "template_options": {"a": [1, True, 2], "b": {}}, "top_logprobs": 3,
        "accept": ("context", "file"), "preset": "all",
    }  # fmt: skip
    presets.keep("again", {key: value for key, value in values.items() if key != "preset"})
    assert presets.preset("again") == values | {"preset": "again"}


def test_values_are_filled_in_once(shell: Any, session: FakeSession) -> None:
    """`{{name}}` is filled in when the preset is kept. What a file has is a text."""
    shell.user_ns["who"] = "a {{owl}}"
    keep(shell, "p --system 'You are {{who}}'")
    assert asked(shell, session, "--preset p").system == "You are a {{owl}}"


def test_a_conversation_goes_on_with_its_settings(shell: Any, session: FakeSession) -> None:
    """The next turn keeps settings and label, and reads the file no more."""
    keep(shell, "p --temperature 0 --system S --max-tokens 7")
    asked(shell, session, "--preset p --conversation c")
    keep(shell, "p --delete")
    request = asked(shell, session, "--continue")
    assert (request.preset, request.system, request.params.max_tokens) == ("p", "S", 7)
    keep(shell, "q --max-tokens 8")
    request = asked(shell, session, "--continue --preset q")
    assert (request.preset, request.system, request.params.max_tokens) == ("q", "S", 8)


def test_a_copied_cell_needs_no_preset(shell: Any, session: FakeSession) -> None:
    """All settings stand in the copied forms, so they stay the same when the file changes."""
    keep(shell, "p --temperature 0 --system S")
    asked(shell, session, "--preset p --seed 4")
    forms = shell.magics_manager.magics["cell"]["infer"].__self__.forms(session.log[1].request)
    assert "--temperature 0" in forms["cell"]
    assert all("preset" not in form for form in forms.values())


def test_python(shell: Any, session: FakeSession) -> None:
    """`preset=`, or the options themselves; arguments count first."""
    keep(shell, "p -m m --temperature 0.5 --top-k 5 --system S")
    for request in (
        _request(session, "hi", {"top_k": 7}, preset="p"),
        _request(session, "hi", **{**llmwit_magic.preset("p"), "top_k": 7}),
    ):
        assert (request.model, request.system, request.prompt) == ("m", "S", "hi")
        assert (request.params.temperature, request.params.top_k) == (0.5, 7)
        assert request.preset == "p"
    assert _request(session, "n", "hi", preset="p", system="T").model == "n"
    frame = llmwit_magic.infer_frame(
        pandas.DataFrame({"a": [1]}), "{{a}}", progress=False, preset="p"
    )
    assert len(frame) == 1
    assert (session.engine.requests[-1].model, session.engine.requests[-1].preset) == ("m", "p")
    talk = llmwit_magic.Conversation(preset="p")
    talk.ask("a")
    assert talk.ask("b", {"top_k": 2}).preset == "p"
    request = session.engine.requests[-1]
    assert (request.system, request.params.temperature, request.params.top_k) == ("S", 0.5, 2)
    keep(shell, "q --top-k 1")
    assert talk.ask("c", preset="q").params.top_k == 1
    assert talk.ask("d", {"top_k": 3}, preset="q").params.top_k == 3
    replayed = llmwit_magic.replay(1, {"seed": 5}, preset="q", anyway=True).result
    assert (replayed.params.top_k, replayed.params.seed, replayed.preset) == (1, 5, "q")
    with pytest.raises(InvalidInput, match="there is no preset 'pp'"):
        llmwit_magic.infer("hi", preset="pp")


def _request(session: FakeSession, *given: Any, **options: Any) -> Any:
    llmwit_magic.infer(*given, **options)
    return session.engine.requests[-1]


def test_a_replay_takes_one(shell: Any, session: FakeSession) -> None:
    """`%infer_replay N --with --preset NAME`."""
    keep(shell, "p --top-k 3")
    asked(shell, session, "--seed 1")
    shell.run_line_magic("infer_replay", "1 --with --preset p")
    assert session.engine.requests[-1].params.top_k == 3
    assert session.engine.requests[-1].preset == "p"


@pytest.mark.skipif(not hasattr(completer, "context_matcher"), reason="IPython before 8.6")
def test_tab_offers_names(shell: Any) -> None:
    """After `--preset` and as the first word of `%infer_preset`, where options come next."""
    keep(shell, "brief --top-k 3")
    keep(shell, "broad --top-k 3")

    def offered(code: str) -> list[str]:
        with completer.provisionalcompleter():
            return sorted(item.text for item in shell.Completer.completions(code, len(code)))

    assert offered("%%infer --preset br") == ["brief", "broad"]
    assert offered("%infer_replay 1 --with --preset bro") == ["broad"]
    assert offered("%infer_preset brie") == ["brief"]
    assert offered("%infer_preset brief --te") == ["--temperature", "--template-option"]
    assert offered("%infer_preset brief --pro") == [
        "--probabilities",
        "--project",
        "--prompt-logprobs",
        "--prompts",
    ]
    write(presets.user_file(), "not TOML")
    assert offered("%%infer --preset br") == []


# The files ------------------------------------------------------------------------------


def test_comments_and_other_presets_stay(shell: Any) -> None:
    """A file that a person writes is changed only where it must be."""
    path = presets.user_file()
    write(path, "\ufeff# mine\n[presets.a]\ntop_k = 3  # few\n\n[presets.b]\ntop_k = 4\n")
    keep(shell, "b --top-k 5")
    keep(shell, "c --temperature 0")
    written = path.read_text(encoding="utf-8")
    assert "# mine\n[presets.a]\ntop_k = 3  # few\n" in written
    found = tomllib.loads(written)["presets"]
    assert found == {"a": {"top_k": 3}, "b": {"top_k": 5}, "c": {"temperature": 0}}
    keep(shell, "b --delete")
    assert "# mine" in path.read_text(encoding="utf-8")
    assert [one.name for one in presets.presets()] == ["a", "c"]
    assert [path.name for path in path.parent.iterdir()] == ["presets.toml"]


def test_the_projects_counts_first(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The list says which one is hidden."""
    keep(shell, "p --top-k 1")
    keep(shell, "p --project --top-k 2")
    assert tomllib.loads(Path("llmwit.toml").read_text()) == {"presets": {"p": {"top_k": 2}}}
    assert presets.preset("p")["top_k"] == 2
    capsys.readouterr()
    keep(shell, "")
    assert capsys.readouterr().out.splitlines() == [
        "p  top_k 2  (llmwit.toml, beside the notebook)",
        "p  top_k 1  (yours, hidden by the project's)",
    ]
    keep(shell, "p --delete --project")
    assert presets.preset("p")["top_k"] == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[presets.p]\ntemperature = 'hot'", "temperature: 'hot' is not valid: it must be a finite"),
        ("[presets.p]\ntopk = 1", "'topk' is no setting of a preset: did you mean top_k?"),
        ("[presets.p]\nprompt = 'x'", "'prompt' is no setting of a preset"),
        ("[presets.p]\ntop_k = [1, 2]", "top_k: [1, 2] is not valid"),
        ("[presets]\np = 1", "it is no table of settings"),
        ("[presets.p]\nprobabilities = true", "there are no choices"),
        ("[presets.p.constraint]\nkind = 'regex'", "Constraint needs 'source'"),
    ],
)  # fmt: skip
def test_one_that_is_not_valid_says_why(
    shell: Any, session: FakeSession, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    """It names its file, and the others can be used."""
    write(presets.user_file(), f"{content}\n[presets.good]\ntop_k = 3\n")
    with pytest.raises(UsageError) as caught:
        asked(shell, session, "--preset p")
    assert f"preset 'p' in {presets.user_file()}: " in str(caught.value)
    assert said in str(caught.value)
    assert asked(shell, session, "--preset good").params.top_k == 3
    keep(shell, "")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("p  "))
    assert line.startswith("p  not valid: ")
    assert said in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("accept = ['filters']", "accept: a project's file cannot set it"),
        ("control_tokens = 'all'", "control_tokens: a project's file cannot set it"),
        ("model = 'HTTP://evil/v1#m'", "cannot name a server by its address"),
        ("content_filters = []", "'content_filters' is no setting of a preset"),
        ("log_path = ':memory:'", "'log_path' is no setting of a preset"),
        ("servers = {}", "'servers' is no setting of a preset"),
    ],
)
def test_what_a_project_cannot_set(
    shell: Any, session: FakeSession, content: str, said: str
) -> None:
    """A file of somebody else takes no protection away, and sends no prompt to a server of theirs."""
    Path("llmwit.toml").write_text(f"[presets.p]\n{content}\n")
    with pytest.raises(UsageError) as caught:
        asked(shell, session, "--preset p")
    assert said in str(caught.value)
    assert session.engine.requests == []


def test_a_project_names_a_server_of_yours(shell: Any, session: FakeSession) -> None:
    """`lab::m` leads where the person who runs it has said."""
    keep(shell, "p --project -m lab::m")
    assert asked(shell, session, "--preset p").model == "lab::m"
    assert "by its address" in refused(shell, "q --project -m http://h/v1#m")
    assert "accept" in refused(shell, "q --project --accept context")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[servers]\nlab = 1", "has 'servers': a project's file holds presets only"),
        (b"presets = 3", "each preset is a table"),
        (b"[presets.p", "is not valid TOML"),
        (b"a = " + b"[" * 5000, "is not valid TOML"),
        (b"\xff", "cannot be read: it is not UTF-8"),
        (b"#" * 1_000_001, "is no file of at most 1,000,000 bytes"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read(
    shell: Any, session: FakeSession, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    """It is never replaced, its reason is said, and the other file's presets can be used."""
    Path("llmwit.toml").write_bytes(content)
    keep(shell, "mine --top-k 3")
    assert asked(shell, session, "--preset mine").params.top_k == 3
    with pytest.raises(UsageError) as caught:
        asked(shell, session, "--preset p")
    assert said in str(caught.value)
    assert said in refused(shell, "p --project --top-k 3")
    assert Path("llmwit.toml").read_bytes() == content
    capsys.readouterr()
    keep(shell, "")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--temperature 0", "the preset's name stands first"),
        ("a/b --top-k 3", "'a/b' is not valid as the name"),
        ("p --top-k 1,2", "--top-k: one value, and no sweep"),
        ("p --quiet", "--quiet says nothing of how a run is done"),
        ("p --top-k -1", "--top-k: -1 is not valid"),
        ("p --project", "there is no preset 'p'"),
        ("p", "there is no preset 'p' (known: none): %infer_preset makes one"),
        ("p --delete", "there is no preset 'p' in "),
        ("p --delete --top-k 3", "--delete takes no options"),
        ("p --continuation x", "'continuation' is no setting"),
        ("p --template-option a=null", "a preset cannot keep null"),
        ("p --stop '", "a quote is not closed"),
    ],
)  # fmt: skip
def test_lines_that_are_refused(shell: Any, line: str, said: str) -> None:
    """One line says what is wrong, and nothing is kept."""
    assert said in refused(shell, line)
    assert presets.presets() == []


def test_a_folder_that_takes_no_file(shell: Any, tmp_path: Path) -> None:
    """As where the configuration folder is a file."""
    (tmp_path / "config").write_text("")
    assert "cannot be written: " in refused(shell, "p --top-k 3")


def test_a_link_stays_a_link(shell: Any, tmp_path: Path) -> None:
    """The file that it leads to is replaced."""
    path, target = presets.user_file(), tmp_path / "dotfiles.toml"
    target.write_text("")
    path.parent.mkdir()
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this system has no links for everyone")
    keep(shell, "p --top-k 3")
    assert path.is_symlink()
    assert tomllib.loads(target.read_text()) == {"presets": {"p": {"top_k": 3}}}


def test_settings_for_people(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What is kept is said in one line, and `--help` says how."""
    keep(shell, "p --stop . --max-tokens none --template-option a=1 --choice x --choice y")
    out = capsys.readouterr().out
    assert out.startswith(f"preset p kept in {presets.user_file()}: ")
    for said in ('stop ["."]', 'max_tokens "none"', f"template_options {json.dumps({'a': 1})}"):
        assert said in out
    assert out.count("\n") == 1
    keep(shell, "p")
    assert "(yours)" in capsys.readouterr().out
    keep(shell, "--help")
    assert "%infer_preset NAME" in capsys.readouterr().out
