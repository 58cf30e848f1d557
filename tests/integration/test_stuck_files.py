"""Stop, while a thread sits in the system over a file and never comes back."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas
import psutil
import pytest
from IPython.core.interactiveshell import InteractiveShell

import llmwit_magic
from llmwit_magic import api
from llmwit_magic.analysis import splitting
from llmwit_magic.engines.local import local_engine
from llmwit_magic.errors import Interrupted
from llmwit_magic.magics.infer import InferMagics
from llmwit_magic.models import catalog
from llmwit_magic.running import run as runs
from llmwit_magic.running.session import Session
from tests.support.tiny_models import write_llama_gguf

pytestmark = [
    pytest.mark.timeout(40),
    pytest.mark.skipif(sys.platform == "win32", reason="interrupts and pipes are POSIX's"),
]

GRACE = 0.5


class DeadMount:
    """A folder that every look at waits for, until the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "m.gguf"
        self.reached = threading.Event()
        self.back = threading.Event()
        self._stat = os.stat

    def stat(self, path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str | os.PathLike) and self.folder in Path(path).parents:
            self.reached.set()
            while not self.back.is_set():
                with suppress(KeyboardInterrupt):  # the system heeds none
                    self.back.wait(60)
        return self._stat(path, *arguments, **options)


@pytest.fixture
def dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeadMount]:
    mount = DeadMount(tmp_path / "mount")
    mount.folder.mkdir()
    write_llama_gguf(mount.model)
    monkeypatch.setattr(os, "stat", mount.stat)
    monkeypatch.setattr(local_engine, "GRACE_SECONDS", GRACE)
    yield mount
    mount.back.set()


@pytest.fixture
def shell(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    for module in (api, splitting):
        monkeypatch.setattr(module, "current_session", lambda: session)
    shell = InteractiveShell()
    shell.register_magics(InferMagics(shell, session))
    yield shell
    InteractiveShell.clear_instance()


def stopped(work: Callable[[], object], reached: threading.Event) -> float:
    """The seconds from the interrupt, which comes while a thread is stuck, to its exception."""
    sent = 0.0

    def interrupt() -> None:
        nonlocal sent
        assert reached.wait(20)
        time.sleep(0.2)
        sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        return time.monotonic() - sent
    finally:
        thread.join()


def frame(model: Path) -> object:
    return api.infer_frame(
        pandas.DataFrame({"a": ["x"]}), "{{a}}", model=str(model), progress=False
    )


WAYS: dict[str, Callable[[InteractiveShell, Path], object]] = {
    "cell": lambda shell, path: shell.run_cell_magic("infer", f"-m {path} --quiet", "Hello"),
    "dry run": lambda shell, path: shell.run_cell_magic("infer", f"-m {path} --dry-run", "Hello"),
    "infer": lambda shell, path: llmwit_magic.infer(path, "Hello"),
    "embeddings": lambda shell, path: llmwit_magic.generate_embeddings(path, "Hello"),
    "tokens": lambda shell, path: llmwit_magic.count_tokens("Hello", path),
    "frame": lambda shell, path: frame(path),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_dead_mount(way: str, dead: DeadMount, session: Session, shell: InteractiveShell) -> None:
    """One interrupt frees the kernel, the run is in the log as interrupted, no process is left."""
    before = set(psutil.Process().children(recursive=True))
    seconds = stopped(lambda: WAYS[way](shell, dead.model), dead.reached)
    assert seconds < GRACE + 2
    assert {row["status"] for row in session.log.rows()} <= {"interrupted"}
    assert bool(session.log.rows()) == (way in ("cell", "infer", "embeddings"))
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [child for child in left if child.is_running()]


def test_the_next_run_works(
    dead: DeadMount, session: Session, shell: InteractiveShell, tiny_model: Path
) -> None:
    """What was left behind is in nobody's way, and once it is back, that model works too."""
    stopped(lambda: llmwit_magic.infer(dead.model, "Hello"), dead.reached)
    assert llmwit_magic.infer(tiny_model, "Hello", {"max_tokens": 2}).status == "ok"
    dead.back.set()
    assert llmwit_magic.infer(dead.model, "Hello", {"max_tokens": 2}).status == "ok"


def test_a_mount_that_dies_later(
    tmp_path: Path, dead: DeadMount, session: Session, shell: InteractiveShell
) -> None:
    """A model that is known is looked at before each run: that can be stopped too."""
    dead.back.set()
    assert llmwit_magic.infer(dead.model, "Hello", {"max_tokens": 2}).status == "ok"
    dead.back.clear()
    dead.reached.clear()
    assert stopped(lambda: llmwit_magic.infer(dead.model, "Hello"), dead.reached) < GRACE + 2


def test_a_list_of_models(
    dead: DeadMount, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`%infer_models` looks at folders, and can be stopped."""
    monkeypatch.chdir(dead.folder)
    line = lambda: shell.run_line_magic("infer_models", "")  # noqa: E731
    assert stopped(line, dead.reached) < 2


def test_a_pipe_in_the_place_of_the_file(
    tmp_path: Path, session: Session, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that becomes a named pipe after it was looked at is opened, which waits for ever."""
    monkeypatch.setattr(local_engine, "GRACE_SECONDS", GRACE)
    path = tmp_path / "x.gguf"
    os.mkfifo(path)
    reached = threading.Event()
    monkeypatch.setattr(catalog, "_check_kind", lambda path: reached.set())
    assert stopped(lambda: llmwit_magic.infer(path, "Hello"), reached) < GRACE + 2
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # lets it go


def test_a_run_whose_thread_never_ends(
    session: Session, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stuck elsewhere, as over its log, is left behind as interrupted."""
    monkeypatch.setattr(runs, "STOP_SECONDS", GRACE)
    reached, back = threading.Event(), threading.Event()

    def begin(run: object) -> None:
        reached.set()
        back.wait(60)

    monkeypatch.setattr(session.log, "begin", begin)
    run = session.run(llmwit_magic.Request(model=str(tiny_model), prompt="Hello"))
    assert stopped(run.follow, reached) < GRACE + 2
    assert run.status == run.result.status == "interrupted"
    with pytest.raises(Interrupted):
        run.raise_failure()
    back.set()
