"""A component of Python tries to reach what it was not granted. componentize-py builds it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from llmwit_magic import Component
from llmwit_magic.errors import ComponentFailed
from tests.support.python_guest import python_guest

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def guest() -> Path:
    """A component that runs any code of Python."""
    return python_guest()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a file, and beside it a secret, to which a link in the folder leads."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_text("granted", encoding="utf-8")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    if sys.platform != "win32":
        (folder / "link").symlink_to(tmp_path / "secret")
    return folder


@pytest.mark.parametrize(
    "code",
    [
        "answer = os.listdir('/')", "open(r'SECRET')", "open('SECRET', 'w')", "os.mkdir('/new')",
        "socket.socket().connect(('127.0.0.1', PORT))", "socket.create_server(('127.0.0.1', 0))",
        "os.system('true')", "import subprocess; subprocess.run(['true'])",
    ],
)  # fmt: skip
def test_nothing_outside_is_reached(guest: Path, data: Path, code: str) -> None:
    """Files, folders, the network and other programs are out of reach."""
    code = code.replace("SECRET", str(data.parent / "secret")).replace("PORT", "9")
    with pytest.raises(ComponentFailed, match=r"Error"):
        Component(guest).call("run", code)
    assert (data.parent / "secret").read_text(encoding="utf-8") == "secret"


def test_a_granted_folder_ends_at_its_edge(guest: Path, data: Path) -> None:
    """A folder can be read, and written only with `rw`. No path and no link leads out of it."""
    reads = Component(guest, dirs={"/data": data})
    assert reads.call("run", "answer = open('/data/file').read()") == "granted"
    out = ["open('/data/../secret')", "os.remove('/data/file')", "open('/data/new', 'w')"]
    for code in out + (["open('/data/link')"] if sys.platform != "win32" else []):
        with pytest.raises(ComponentFailed, match=r"not permitted|No such file"):
            reads.call("run", code)
    writes = Component(guest, dirs={"/data": (data, "rw")})
    writes.call("run", "open('/data/new', 'w').write('new')")
    assert (data / "new").read_text(encoding="utf-8") == "new"
    with pytest.raises(ComponentFailed, match="not permitted"):
        writes.call("run", "open('/data/../outside', 'w')")


def test_the_environment_is_what_was_granted(guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this process is there."""
    monkeypatch.setenv("LLMWIT_SECRET", "secret")
    assert os.environ["LLMWIT_SECRET"]
    answer = Component(guest, env={"NAME": "value"}).call("run", "answer = dict(os.environ)")
    assert answer == "{'NAME': 'value'}"


def test_an_exception_is_told_by_its_own_words(guest: Path) -> None:
    """What a guest prints comes in order, and its exception is the message."""
    printed: list[str] = []
    component = Component(guest, output=printed.append)
    assert component.call("run", "print('one'); print('two', file=sys.stderr); answer = 3") == "3"
    assert "".join(printed) == "one\ntwo\n"
    with pytest.raises(
        ComponentFailed, match=r"^guest-\w+ has trapped: ZeroDivisionError: division"
    ):
        component.call("run", "1 / 0")
    with pytest.raises(ComponentFailed, match="it has ended itself, with exit status"):
        component.call("run", "sys.exit(3)")
    with pytest.raises(ComponentFailed, match="MemoryError"):
        component.call("run", "bytes(2**30)")


def test_calls_know_nothing_of_each_other(guest: Path) -> None:
    """Each call is a new instance."""
    component = Component(guest)
    component.call("run", "os.kept = 1")
    assert component.call("run", "answer = hasattr(os, 'kept')") == "False"


@pytest.mark.parametrize("code", ["while True: pass", "while True: print('x' * 1000)"])
def test_an_endless_program_ends(guest: Path, code: str) -> None:
    """And so does one that prints for ever, of which a mebibyte is shown."""
    printed: list[str] = []
    component = Component(guest, seconds=0.5, output=printed.append)
    began = time.monotonic()
    with pytest.raises(ComponentFailed, match=r"ended after 0\.5 s"):
        component.call("run", code)
    assert time.monotonic() - began < 10
    assert len("".join(printed)) <= 2**20
