"""Hostile files, texts and machines: how many were tried and what each ended in is printed last.

pytest tests/hostile            what the tests of the project run, some minutes
pytest tests/hostile --long     all of it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hostile_kernel import Kernel
from tests.support.hostile_session import HostileSession
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Where a test says what it tried and what that ended in."""
    return request.config.stash[REPORT]


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form was asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def hostile_session() -> Iterator[Callable[..., HostileSession]]:
    """Makes sessions that use a hostile text everywhere, and closes them after the test."""
    made: list[HostileSession] = []

    def session(said: str, log_path: Path | str = ":memory:") -> HostileSession:
        made.append(HostileSession(said, log_path))
        return made[-1]

    yield session
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is loaded as it is."""
    path = tmp_path_factory.mktemp("models") / "spm.gguf"
    return write_llama_gguf(path, vocabulary="spm", context_length=1024)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[REPORT].lines()
    if lines:
        terminalreporter.section("what was tried, and what it ended in")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def llama_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """What runs files by llama.cpp, with a cache of its own."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        kernel = Kernel(folder, engine="llama.cpp")
        yield kernel
        kernel.session.close()
