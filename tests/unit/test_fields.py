"""Adding a field to a request takes its definition and its column, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "llmwit_magic"
FAKE = PACKAGE.parent / "tests" / "support" / "fake.py"
DEFINITION = """
    flavour: Annotated[Text | None, Setting(metavar="NAME")] = Field(
        default=None, description="what the answer tastes of"
    )
"""
COLUMN = '    Column("flavour", "text", "what the answer tastes of"),\n'
PROGRAM = """
import importlib.util
from llmwit_magic.contract.events import End
from llmwit_magic.contract.request import Request
from llmwit_magic.engines.local.wire import Run as RunCommand, decoded, encoded
from llmwit_magic.magics.cell import read_cell
from llmwit_magic.magics.infer import InferMagics
from llmwit_magic.requests.options import BY_DEST
from llmwit_magic.requests.snippets import forms
from llmwit_magic.running.batch import batch_name
from llmwit_magic.running.replay import replay_request
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session

# By its path: another package may have modules named `tests`.
spec = importlib.util.spec_from_file_location("fake", FAKE)
fake = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake)

plain, sweet = (Request(model="m", prompt="p", flavour=value) for value in (None, "sweet"))
assert read_cell("-m m --flavour sweet", "p\\n", {}, {}).requests == (sweet,)
assert "what the answer tastes of" in InferMagics.infer.__doc__
assert BY_DEST["flavour"].metavar == "NAME"
assert "flavour" in InferMagics.class_trait_names(config=True)
assert "--flavour sweet" in forms(sweet, {})["cell"]
assert "flavour='sweet'" in forms(sweet, {})["Python"]
assert '"flavour": "sweet"' in forms(sweet, {})["JSON"]
assert decoded(encoded(RunCommand(sweet, 0))).request == sweet
assert batch_name("t", plain) != batch_name("t", sweet)

session = Session(":memory:", engines=[fake.FakeEngine()])
run = session.run(sweet)
assert run.wait(10) and run.error is None, run.error
assert session.log.row(1)["flavour"] == "sweet"
assert session.log[1].request.flavour == "sweet"
assert session.log.to_frame()["flavour"].tolist() == ["sweet"]
assert replay_request(session, session.log[1], {})[0].flavour == "sweet"
assert replay_request(session, session.log[1], {"flavour": "sour"})[0].flavour == "sour"
session.close()
"""


def changed(path: Path, before: str, more: str) -> None:
    """Puts a text before the first place where another text stands."""
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, more.lstrip("\n") + before, 1), encoding="utf-8")


def outcome(tmp_path: Path, with_column: bool) -> str:
    """The error output of a program in a package with the new field: empty where all is well."""
    package = tmp_path / "llmwit_magic"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    changed(package / "contract" / "request.py", "    control_tokens: Annotated[", DEFINITION)
    if with_column:
        changed(package / "runlog" / "columns.py", '    Column("control_tokens"', COLUMN)
    folders = [str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys\nsys.path[:0] = {folders!r}\nFAKE = {str(FAKE)!r}\n{PROGRAM}"],
        capture_output=True, text=True, timeout=50, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode == 0) == (not done.stderr)
    return done.stderr


def test_a_field_takes_its_definition_and_its_column(tmp_path: Path) -> None:
    """Option, help, default, forms, wire, log, replay and batches follow from these two places."""
    assert outcome(tmp_path, with_column=True) == ""


def test_a_field_without_a_column_is_an_error_at_once(tmp_path: Path) -> None:
    """So nobody can forget to log a field."""
    assert "KeyError: 'flavour'" in outcome(tmp_path, with_column=False)
