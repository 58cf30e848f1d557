"""The run log as a table: what is shown shortened, and what stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pandas
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.runlog.columns import COLUMNS
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.views.table import MAX_ROWS, TEXT_COLUMNS, LogTable
from tests.support.fake import FakeEngine, FakeSession

HOSTILE = "<script>alert(1)</script>\n$x$\t\x1b[31m\u202e & " + "long " * 100
STARTED = datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC)


@pytest.fixture
def log() -> Iterator[RunLog]:
    session = FakeSession(FakeEngine([HOSTILE]))
    for temperature in (0, 0.123456789):
        run = session.finish(
            Request(
                model="fake", prompt="p", tags={"k": "v"},
                params=InferencingParams(max_tokens=None, temperature=temperature, seed=2**53),
            )
        )  # fmt: skip
        session.log._writer.update(run.run_id or 0, {"started_at": STARTED.isoformat()})
    yield session.log
    session.close()


def cells(html: str) -> list[list[str]]:
    """The texts of the table's rows, the head first."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def test_values_stay_whole(log: RunLog) -> None:
    """What is shown short is whole in the DataFrame."""
    table = LogTable(log.to_frame())
    pandas.testing.assert_frame_equal(pandas.DataFrame(table), log.to_frame())
    assert table["text"].tolist() == [HOSTILE] * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda table: table.copy(),
        lambda table: table[table.temperature > 0],
        lambda table: table[["text"]],
        lambda table: table.pivot_table(index="model", values="seed", aggfunc="count"),
        lambda table: table.groupby("status").first(),
        lambda table: table.reset_index(),
        lambda table: table.sort_values("seed"),
        lambda table: pandas.concat([table, table]),
        lambda table: table.merge(table, on="seed"),
        lambda table: table.T,
        lambda table: table.describe(),
    ],
)
def test_the_short_form_travels_with_nothing(log: RunLog, make: Any) -> None:
    """What pandas makes of the shown table is a plain DataFrame, which pandas shows."""
    made = make(LogTable(log.to_frame()))
    assert type(made) is pandas.DataFrame


def test_a_whole_table_shows_its_telling_columns(log: RunLog) -> None:
    """Of all columns those that a person reads, and how to see the others."""
    table = LogTable(log.to_frame())
    brief = [column.name for column in COLUMNS if column.brief]
    assert [name for name in table.columns if name.startswith("tag.")] == ["tag.k"]
    head, *rows = cells(table._repr_html_() or "")
    assert head == brief
    assert [row[0] for row in rows] == ["1", "2"]
    said = f"{len(brief) - 1} of {len(COLUMNS) - 2} columns: --columns all shows the others"
    assert len(table.columns) == len(COLUMNS) - 2  # without tags, metrics and run_id, with tag.k
    assert said in (table._repr_html_() or "")
    assert repr(table).endswith(said)


def test_chosen_columns_show_as_chosen(log: RunLog) -> None:
    """In their order, also one that comes twice; nothing is said of others."""
    table = LogTable(log.to_frame()[["seed", "tag.k", "seed", "chat"]])
    assert cells(table._repr_html_() or "") == [
        ["run_id", "seed", "tag.k", "seed", "chat"],
        ["1", str(2**53), "v", str(2**53), "False"],
        ["2", str(2**53), "v", str(2**53), "False"],
    ]
    assert "columns" not in repr(table)


def test_texts_are_short_and_harmless(log: RunLog) -> None:
    """One line with an ellipsis; markup, terminal codes and formulas are shown, not obeyed."""
    table = LogTable(log.to_frame()[["text"]])
    html = table._repr_html_() or ""
    assert "<script>" not in html
    assert "mathjax_ignore" in html
    shown = cells(html)[1][1]
    assert shown.startswith("&lt;script&gt;alert(1)&lt;/script&gt;⏎$x$⇥␛[31m⟨U+202E⟩ &amp; long")
    assert shown.endswith("…")
    plain = repr(table)
    assert "\x1b" not in plain
    assert "\u202e" not in plain
    assert len(plain.splitlines()) == 4


def test_the_width_of_a_text_is_that_of_its_shown_form() -> None:
    """A short text is not cut; signs that stand for unseen characters count as they show."""
    frame = pandas.DataFrame({"text": ["x" * TEXT_COLUMNS, "\u202e" * TEXT_COLUMNS]})
    whole, cut = (row[1] for row in cells(LogTable(frame)._repr_html_() or "")[1:])
    assert whole == "x" * TEXT_COLUMNS
    assert (len(cut), cut[-1]) == (TEXT_COLUMNS, "…")


def test_times_and_numbers_are_readable(log: RunLog) -> None:
    """Times are local and to the second, reals have four digits, what is missing is empty."""
    table = LogTable(log.to_frame()[["started_at", "temperature", "max_tokens", "note"]])
    local = f"{STARTED.astimezone():%Y-%m-%d %H:%M:%S}"
    assert cells(table._repr_html_() or "")[1:] == [
        ["1", local, "0", "", ""], ["2", local, "0.1235", "", ""],
    ]  # fmt: skip
    assert "<NA>" not in repr(table)


def test_many_runs_show_the_last(log: RunLog) -> None:
    """Of many rows the newest are shown, and how many there are."""
    table = LogTable(pandas.concat([log.to_frame()] * 40).reset_index(drop=True))
    assert len(cells(table._repr_html_() or "")) == MAX_ROWS + 1
    assert "the newest 20 of 80 runs: --last 80 shows the other 60" in repr(table)
    assert "\n79" in repr(table)
    table.rows = 80
    assert len(cells(table._repr_html_() or "")) == 80 + 1
    assert "newest" not in repr(table)


def test_long_prompts_are_told_apart_by_their_ends(log: RunLog) -> None:
    """Where beginnings agree, ends are shown, in a terminal and as HTML; values stay whole."""
    beginning = "日本 the same beginning " * 20
    frame = log.to_frame()
    frame["prompt"] = [beginning + "one", beginning + "two"]
    table = LogTable(frame)
    for shown in (table._repr_html_() or "", repr(table)):
        assert "beginning one" in shown
        assert "beginning two" in shown
    assert table["prompt"].tolist() == [beginning + "one", beginning + "two"]
    frame["prompt"] = [beginning + "one", "another" + beginning]
    assert "beginning one" not in repr(LogTable(frame))
    frame["prompt"] = pandas.Series([["a list"], None], frame.index)  # a column of another name
    assert "a list" in repr(LogTable(frame))


def test_no_runs_say_so(log: RunLog) -> None:
    """An empty table is a word, and no list of columns."""
    table = LogTable(log.to_frame(model="other"))
    assert repr(table) == "no runs"
    assert ">no runs<" in (table._repr_html_() or "")


def test_other_tables_show_too(log: RunLog) -> None:
    """Rows of a join without a run, statistics and turned tables have no times or texts."""
    frame = log.to_frame()
    assert cells(LogTable(frame.reindex([1, 99]))._repr_html_() or "")[2][:3] == ["99", "", ""]
    for other in (frame.describe(), frame.T, frame.groupby("model").first(), frame.iloc[:0]):
        assert repr(LogTable(other))
        assert "<table" in (LogTable(other)._repr_html_() or "")


def test_all_columns_are_shown_where_they_are_asked_for(log: RunLog) -> None:
    """`--columns all` leaves nothing out, and says nothing of others."""
    table = LogTable(log.to_frame())
    table.brief = False
    head, *_ = cells(table._repr_html_() or "")
    assert head == ["run_id", *log.to_frame().columns]
    assert "--columns all" not in repr(table)
