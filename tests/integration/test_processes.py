"""Child processes: when they end, who starts them, and what a broken one costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.events import Cancelled, Chunk
from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.local import conversation
from llmwit_magic.engines.local.model_files import resolve
from llmwit_magic.engines.local.model_process import ModelProcess
from llmwit_magic.engines.local.outbox import GATHERING_SECONDS
from llmwit_magic.engines.local.pipe import ChildProcess
from llmwit_magic.engines.local.wire import Failed, Prepare, Started
from llmwit_magic.errors import EngineDied, EngineFailed
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.apart import ROOT, python_apart
from tests.support.broken_children import child_with
from tests.support.kernel import still_alive

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")

PARAMS = InferencingParams(max_tokens=4, temperature=0)
STOP = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


def ask(session: Session, model: Path, **options: Any) -> Run:
    return session.run(Request(model=str(model), prompt="Once", params=PARAMS, **options))


def works(session: Session, model: Path) -> int:
    """A run that is as it should be. Returns the process id of its engine."""
    run = ask(session, model)
    assert run.wait(30)
    run.raise_failure()
    ((_, pid),) = session.local.pool.loaded_models()
    return pid


# What they end with ----------------------------------------------------------------------

KERNEL = """
import sys, time
from llmwit_magic.engines.local.pipe import ChildProcess
from llmwit_magic.contract.request import Request
from llmwit_magic.running.session import Session
ahead = ChildProcess()
session = Session(":memory:")
run = session.run(Request(model=sys.argv[1], prompt="Once"))
run.wait()
run.raise_failure()
print(ahead.pid, session.local.pool.loaded_models()[0][1], flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child")
def test_a_stopped_child_ends_with_its_kernel(tiny_model: Path) -> None:
    """A child that is stopped, loaded or not yet, ends when its kernel is killed."""
    command = [sys.executable, "-c", KERNEL, str(tiny_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as kernel:
        assert kernel.stdout is not None
        children = [psutil.Process(int(pid)) for pid in kernel.stdout.readline().split()]
        assert len(children) == 2
        for child in children:
            child.suspend()
        kernel.kill()
    assert still_alive(children) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child")
def test_a_child_whose_parent_ended_first_ends() -> None:
    """A child asks for its own end with its parent's. It ends also if that came before."""
    code = (
        "import os, subprocess, sys\n"
        "from llmwit_magic.base.children import beginning\n"
        "code = 'import time; time.sleep(1)\\n' + beginning() + 'time.sleep(60)'\n"
        "print(subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.DEVNULL,\n"
        "    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    orphan = psutil.Process(int(done.stdout))
    assert still_alive([orphan], 10) == []


# Who starts them -------------------------------------------------------------------------


def test_a_child_outlives_the_thread_that_asked_for_it(session: Session, tiny_model: Path) -> None:
    """A child belongs to the process, and not to the thread that needed it."""
    made: list[ChildProcess] = []

    def ask_for_one() -> None:
        child = ChildProcess()
        # It has no model, but then it has begun.
        child.send(Prepare(Request(model="m", prompt="p")))
        said = [type(child.answers.get(timeout=20)) for _ in range(2)]
        assert said == [Started, Failed]
        made.append(child)

    thread = threading.Thread(target=ask_for_one)
    thread.start()
    thread.join()
    (child,) = made
    time.sleep(0.3)
    assert child.alive
    session.local.pool.stand_by(child)
    assert works(session, tiny_model) == child.pid
    assert works(session, tiny_model) == child.pid  # the first run's thread has ended


def test_a_fork_has_engines_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    """A forked process starts its own children, which end with it. Those of its parent go on. It
    does so although another thread was just asking for the session, which it does not have."""
    code = """
import json, os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks where threads are
from llmwit_magic import infer
from llmwit_magic.running import session
from llmwit_magic.running.session import current_session
current_session().use_log(sys.argv[2])

def run():
    assert infer(sys.argv[1], "Once", params={"max_tokens": 2}).status == "ok"
    return current_session().local.pool.loaded_models()[0][1]

before = run()
ours, theirs = os.pipe()
held, over = threading.Event(), threading.Event()

def ask():
    with session._current_lock:
        held.set()
        over.wait(30)

threading.Thread(target=ask).start()
held.wait(10)
if (pid := os.fork()) == 0:
    signal.alarm(20)  # which ends a process that waits for ever
    os.write(theirs, str(run()).encode())
    os._exit(0)
over.set()
os.waitpid(pid, 0)
os.close(theirs)
print("SAID", json.dumps([before, int(os.read(ours, 100)), run()]))
"""
    before, forked, after = python_apart(code, tiny_model, tmp_path / "runs.sqlite3")
    assert before == after != forked
    assert not psutil.pid_exists(forked) or not still_alive([psutil.Process(forked)])


def test_a_command_that_cannot_be_started_says_why() -> None:
    """The error is raised where the child was asked for. The starting thread goes on."""
    from llmwit_magic.base.children import start

    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            start(["/no/such/program"])
    assert start([sys.executable, "-c", ""]).wait(20) == 0


def test_an_interrupted_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child is ended if its caller was interrupted meanwhile."""
    from llmwit_magic.base import children

    made: list[subprocess.Popen[Any]] = []
    popen = subprocess.Popen

    def slowly(*arguments: Any, **how: Any) -> subprocess.Popen[Any]:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        made.append(popen(*arguments, **how))
        return made[-1]

    monkeypatch.setattr(subprocess, "Popen", slowly)
    with pytest.raises(KeyboardInterrupt):
        children.start([sys.executable, "-c", "import time; time.sleep(60)"])
    deadline = time.monotonic() + 10
    while not made or made[0].returncode is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert made[0].returncode == -signal.SIGKILL


# What a dead one costs ---------------------------------------------------------------------


def _run(session: Session, request: Request) -> None:
    run = session.run(request)
    assert run.wait(30)
    run.raise_failure()


WORK: dict[str, Callable[[Session, Request], object]] = {
    "run": _run,
    "prepare": lambda session, request: session.prepare(request),
    "embed": lambda session, request: session.embed(request, ["Once"]),
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("loaded", [True, False])
def test_a_child_that_dies_idle_costs_no_run(
    session: Session, tiny_model: Path, work: str, loaded: bool
) -> None:
    """A child that dies before it takes a command up is replaced, without a word.

    It is stopped first, so that it lives when it is asked and never hears of it.
    """
    request = Request(model=str(tiny_model), prompt="Once", params=PARAMS)
    if loaded:
        pid = works(session, tiny_model)
    else:
        child = ChildProcess()
        pid = child.pid
        session.local.pool.stand_by(child)
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    timer.start()
    WORK[work](session, request)
    timer.join()
    ((_, other),) = session.local.pool.loaded_models()
    assert other != pid
    assert works(session, tiny_model) == other


def test_a_child_that_always_dies_is_replaced_once(
    session: Session, tiny_model: Path, tmp_path: Path
) -> None:
    """If the next child dies too before it begins, its death is the error."""
    count = tmp_path / "count"
    die = f"""
from llmwit_magic.engines.local import child
send = child.Child._send
def deadly(self, answer):
    if type(answer).__name__ == "Started" and self._loaded:
        with open({str(count)!r}, "a") as file:
            file.write("x")
        os._exit(3)
    send(self, answer)
child.Child._send = deadly
"""
    with child_with(f"import os\n{die}", last=True):
        run = ask(session, tiny_model)
        assert run.wait(30)
    assert isinstance(run.error, EngineDied)
    assert "exited with code 3 while reading the prompt" in str(run.error)
    assert count.read_text() == "xx"
    works(session, tiny_model)


# How a quick one speaks --------------------------------------------------------------------


def test_quick_tokens_wake_the_kernel_seldom(session: Session, tiny_model: Path) -> None:
    """Tokens of less than a millisecond come in few chunks, with each token's text and count."""
    params = InferencingParams(max_tokens=200, temperature=0)
    request = Request(model=str(tiny_model), prompt="Once", params=params, top_logprobs=0)
    began = time.monotonic()
    run = session.run(request)
    assert run.wait(30)
    run.raise_failure()
    seconds = time.monotonic() - began
    chunks = [event for event in run.events if isinstance(event, Chunk)]
    # The first one comes at once, and the last one before the end.
    assert 2 <= len(chunks) <= 2 + seconds / GATHERING_SECONDS
    assert "".join(chunk.text for chunk in chunks) == run.text
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert len(tokens) == chunks[-1].generated_token_count == 200
    assert b"".join(token.bytes for token in tokens).decode(errors="replace") == run.text


# What a broken one says ----------------------------------------------------------------------


def broken_child(deed: str) -> str:
    """The code of a child that does `deed` with its `events` when it gets a prompt, and then
    hangs."""
    return f"""
import time
from llmwit_magic.engines.local import child
def hang(*anything):
    events = served._outbox._pipe
    {deed}
    time.sleep(60)
child.TextParts = hang
serve = child.Child.serve
def remember(self):
    global served
    served = self
    serve(self)
child.Child.serve = remember
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("b'[' * 200_000", "RecursionError"),
        ("""b'{"kind": "Chunk", "value": ' + b'[' * 200_000""", "RecursionError"),
        ("""b'{"kind": "Chunk", "value": 5}'""", "TypeError"),
        ("""b'{"kind": "End", "value": {}}'""", "TypeError"),
        ("""b'{"kind": "Prepared", "value": {"params": {}}}'""", "TypeError"),
        ("""b'{"kind": "Failed", "value": 5}'""", "TypeError"),
        ("""b'{"kind": [], "value": 5}'""", "TypeError"),
    ],
)
def test_a_child_that_says_what_nobody_expects(
    session: Session, tiny_model: Path, line: str, said: str
) -> None:
    """An invalid answer fails the run with that name, and the child is replaced."""
    with child_with(broken_child(f"events.write({line} + b'\\n'); events.flush()"), last=True):
        run = ask(session, tiny_model)
        assert run.wait(30)
    assert type(run.error) is EngineFailed, run.error
    assert "failed while evaluating the prompt: run the cell again" in str(run.error)
    assert said in str(run.error)
    assert session.local.pool.loaded_models() == []
    works(session, tiny_model)


def test_a_child_that_is_ended_here_is_not_told_as_short_of_memory(
    session: Session, tiny_model: Path
) -> None:
    """We end a child that closes its pipe and lives on. The error does not speak of memory."""
    with child_with(broken_child("events.close()"), last=True):
        run = ask(session, tiny_model)
        assert run.wait(30)
    assert isinstance(run.error, EngineDied)
    assert "broke off and did not end by itself while evaluating the prompt" in str(run.error)
    assert "memory" not in str(run.error)
    assert "SIGKILL" not in str(run.error)
    works(session, tiny_model)


# Cancelled, then unloaded ------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["load", "run"])
def test_a_cancelled_run_that_is_unloaded_is_interrupted(
    session: Session, tiny_model: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped before its model is unloaded counts as interrupted."""
    monkeypatch.setattr(conversation, "CANCEL_SECONDS", 20)
    pid = works(session, tiny_model)
    if moment == "run":
        os.kill(pid, signal.SIGSTOP)
        run = ask(session, tiny_model)
        time.sleep(0.3)
    else:
        session.local.pool.unload()
        with child_with(STOP):
            run = ask(session, tiny_model)
            while not (run.progress and run.progress.stage == "load"):
                time.sleep(0.01)
    run.cancel()
    session.local.pool.unload()
    assert run.wait(10)
    assert (run.status, run.error) == ("interrupted", None)
    assert run.run_id is not None
    row = session.log.row(run.run_id)
    assert (row["status"], row["error_type"]) == ("interrupted", None)


def test_a_run_that_waits_for_an_engine_that_is_unloaded_is_interrupted(
    session: Session, tiny_model: Path
) -> None:
    """So does a run that was cancelled before its turn came."""
    found = resolve(str(tiny_model), None, {}, lambda progress: None)
    engine = ModelProcess(found.load_command(ModelSpec(model="m"), kept_prompts=1))
    engine.close()
    cancel = threading.Event()
    with pytest.raises(EngineFailed, match=r"was unloaded"):
        engine.load(lambda event: None, cancel)
    cancel.set()
    with pytest.raises(Cancelled):
        engine.load(lambda event: None, cancel)
