"""What a user's program, and its tools, see of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import llmwit_magic
from llmwit_magic import api
from llmwit_magic.contract.request import Request
from llmwit_magic.errors import InvalidInput
from llmwit_magic.running.replay import replay_request
from tests.support.fake import FakeEngine, FakeSession

USER_CODE = Path(__file__).parents[1] / "support" / "typed" / "user_code.py"


def test_dir_names_all_that_is_public() -> None:
    """`dir(llmwit_magic)`, and so Tab, has every public name before it is used."""
    code = "import llmwit_magic; print(*dir(llmwit_magic))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert {*llmwit_magic.__all__, "__version__"} <= set(done.stdout.split()), done.stderr


@pytest.mark.timeout(240)
def test_a_users_program_is_typed(tmp_path: Path) -> None:
    """mypy, strict and without pydantic's plugin, finds no error in a user's program."""
    pytest.importorskip("mypy")  # the fast tests with the lowest versions have none
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nstrict = true\n[mypy-pyarrow.*]\nignore_missing_imports = true\n")
    program = tmp_path / "user_code.py"
    program.write_text(USER_CODE.read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--config-file", str(settings), "--follow-imports=silent",
            "--cache-dir", str(tmp_path / "cache"), str(program),
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=230,
        env=os.environ | {"MYPYPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# A filter that is no pattern ------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine of the functions' session."""
    engine = FakeEngine()
    monkeypatch.setattr(api, "current_session", lambda: FakeSession(engine))
    return engine


@pytest.mark.parametrize("pattern", ["(", "a*", "(?r)a", "[", "a{2,1}"])
@pytest.mark.parametrize("function", ["infer", "stream"])
def test_a_bad_pattern_is_refused_before_an_engine_starts(
    engine: FakeEngine, function: str, pattern: str
) -> None:
    """`infer()` raises the error at once, and no engine gets the request."""
    with pytest.raises(InvalidInput, match="content filter "):
        getattr(llmwit_magic, function)(None, "p", content_filters=["good", pattern])
    assert engine.requests == []


def test_a_bad_pattern_leaves_no_row() -> None:
    """Nothing is run, as with any other bad value. A replay does the same."""
    session = FakeSession(FakeEngine())
    session.finish(Request(model="fake", prompt="p"))
    request, _ = replay_request(session, session.log[1], {"content_filters": ["("]})
    with pytest.raises(InvalidInput, match="content filter '\\('"):
        session.run(request)
    assert len(session.log) == 1
    session.close()
