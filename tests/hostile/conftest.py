"""Hostile files, texts and machines: how many were tried and what each ended in is printed last.

pytest tests/hostile            what the tests of the project run, some minutes
pytest tests/hostile --long     all of it
"""

from __future__ import annotations

import pytest

from tests.support.report import Report

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


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[REPORT].lines()
    if lines:
        terminalreporter.section("what was tried, and what it ended in")
        for line in lines:
            terminalreporter.write_line(line)
