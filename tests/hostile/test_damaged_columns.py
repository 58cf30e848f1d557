"""A wrongly typed value in any column of the log: missing, or one line; never in the way of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.damaged_rows import GROUPS, NAMES, look_everywhere, plot, session
from tests.support.fake import FakeSession

__all__ = ["session"]  # pytest finds the fixture here


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_value_hides_no_other(
    session: FakeSession, tmp_path: Path, name: str, group: str
) -> None:
    """All tables have all rows, those of the other runs as they were; no look fails."""
    look_everywhere(session, tmp_path, name, group)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_values_are_plotted_as_missing(session: FakeSession, name: str) -> None:
    """Every figure is drawn, or one line says why there is nothing to draw."""
    plot(session, name)
