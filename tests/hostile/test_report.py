"""The report of this folder says what was tried."""

from __future__ import annotations

import pytest

from tests.support.report import PROMISES, Report


def test_outcomes_and_promises_are_counted() -> None:
    """A line for each kind, its outcomes counted; then one for each promise."""
    report = Report()
    report.tried("bit flips", "refused", 3)
    report.tried("bit flips", "ran")
    report.promise("log rows lost", True)
    lines = report.lines()
    assert lines[0].split() == ["bit", "flips", "4", "3", "refused,", "1", "ran"]
    assert len(lines) == 2 + len(PROMISES)
    (rows,) = [line for line in lines if line.startswith("log rows lost")]
    assert rows.split()[3:] == ["0", "looked", "at", "1", "times"]
    assert "not looked at" in lines[2]


def test_a_broken_promise_fails_the_test() -> None:
    """And is counted."""
    report = Report()
    report.tried("bit flips", "ended the kernel")
    with pytest.raises(AssertionError, match="kernel deaths: SIGSEGV"):
        report.promise("kernel deaths", False, "SIGSEGV")
    assert report.lines()[2].split()[:3] == ["kernel", "deaths", "1"]


def test_nothing_tried_says_nothing() -> None:
    assert Report().lines() == []
