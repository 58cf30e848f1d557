"""A wrongly typed value in one row of the log: missing, or one line; never in the way of others.

SQLite keeps what it is given. One column of each kind gets each kind of wrong value, and every way to
look at the log is tried. tests/hostile does it with all columns.
"""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from llmwit_magic.errors import LogWarning
from llmwit_magic.runlog.columns import COLUMNS
from tests.support.damaged_rows import (
    GROUPS,
    NAMES,
    look_everywhere,
    plot,
    session,
)
from tests.support.fake import FakeSession

__all__ = ["session"]  # pytest finds the fixture here

_FIRST = {column.kind: column.name for column in reversed(COLUMNS) if column.name in NAMES}
SAMPLE = sorted({*_FIRST.values(), "status", "temperature", "token_infos", "tags"} & {*NAMES})
"""A column of each kind, and some that much depends on."""


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", SAMPLE)
def test_a_wrong_value_hides_no_other(
    session: FakeSession, tmp_path: Path, name: str, group: str
) -> None:
    """All tables have all rows, those of the other runs as they were; no look fails."""
    look_everywhere(session, tmp_path, name, group)


@pytest.mark.parametrize("name", SAMPLE)
def test_wrong_values_are_plotted_as_missing(session: FakeSession, name: str) -> None:
    """Every figure is drawn, or one line says why there is nothing to draw."""
    plot(session, name)


def test_what_is_missing_is_said(session: FakeSession) -> None:
    """One warning for each column, with a run to look at; the value is missing, and no other."""
    log = session.log
    log._writer.update(2, {"rating": "up", "started_at": "yesterday", "top_k": 1.5})
    log._writer.update(3, {"top_k": b"x", "generated_token_count": 9e999, "tags": '"x"'})
    with pytest.warns(LogWarning) as caught:
        frame = log.to_frame().head(3)
    assert sorted(str(item.message) for item in caught) == [
        "generated_token_count of run 3 is damaged, and read as missing",
        "rating of run 2 is damaged, and read as missing",
        "started_at of run 2 is damaged, and read as missing",
        "tags of run 3 is damaged, and read as missing",
        "top_k of run 2 (and of 1 other run) is damaged, and read as missing",
    ]
    assert frame["rating"].tolist() == [1, pandas.NA, 1]
    assert frame["top_k"].tolist() == [40, pandas.NA, pandas.NA]
    assert frame["started_at"].isna().tolist() == [False, True, False]
    assert frame["generated_token_count"].tolist() == [1, 1, pandas.NA]
    assert frame["tag.k"].tolist() == ["v", "v", pandas.NA]
