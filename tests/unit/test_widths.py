"""Texts of every script and emoji in a terminal's columns."""

from __future__ import annotations

import pandas
import pytest
from wcwidth import wcswidth

from llmwit_magic.base import printable
from llmwit_magic.base.widths import StandIns, filled, width
from llmwit_magic.contract.events import Chunk, Progress
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.running.results import Results
from llmwit_magic.views import sweep_text, terminal
from llmwit_magic.views.table import LogTable
from tests.support.fake import end, prepared, run_of

FAMILY = "👨‍👩‍👧‍👦"
FLAG = "🇩🇪"
TEXTS = {
    "plain": ("abc", 3),
    "none": ("", 0),
    "east Asian": ("日本語", 6),
    "a family": (FAMILY, 2),
    "a flag and a skin": (f"{FLAG}👍🏽", 4),
    "an emoji by a selector": ("❤️", 2),
    "an accent": ("cafe\u0301", 4),
    "a mark of direction": ("a\u200eb", 2),
    "joined": ("a\u200db", 2),
    "private use": ("\U000f0001\U000f0000", 2),
}
every_text = pytest.mark.parametrize("name", TEXTS)


@every_text
def test_a_text_takes_its_columns(name: str) -> None:
    """A cluster counts once, however many code points it has."""
    shown, columns = TEXTS[name]
    assert width(shown) == columns
    assert filled(shown, 9) == shown + " " * (9 - columns)


@every_text
def test_a_stand_in_has_the_columns_of_its_text_as_characters(name: str) -> None:
    """And gives the text back, among others and cut at its end by nothing."""
    shown, columns = TEXTS[name]
    stand_ins = StandIns()
    other = stand_ins.put(f"{FAMILY}é")
    put = stand_ins.put(shown)
    assert len(put) == columns
    assert stand_ins.take(f"[{put}|{other}]") == f"[{shown}|{FAMILY}é]"


def test_a_lone_mark_gets_a_column() -> None:
    """Nothing before it takes one that it could share."""
    stand_ins = StandIns()
    assert len(stand_ins.put("\u200e")) == 1
    assert width(stand_ins.take(stand_ins.put("\u200e"))) == 1


@pytest.mark.parametrize(
    ("whole", "columns", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("日本語", 6, "日本語"),
        ("日本語x", 6, "日本…"),
        (FAMILY * 3, 6, FAMILY * 3),
        (FAMILY * 4, 6, FAMILY * 2 + "…"),
        ("abcde\u0301f", 5, "abcd…"),
        ("abcde\u0301", 5, "abcde\u0301"),
        (FLAG * 40, 5, FLAG * 2 + "…"),
        ("a\nb\x1bc", 5, "a⏎b␛c"),
        ("a\r\nb", 4, "a␍⏎b"),
        ("", 5, ""),
    ],
)  # fmt: skip
def test_a_text_is_cut_at_a_column(whole: str, columns: int, shown: str) -> None:
    """In as many columns as fit, and no cluster in two."""
    assert printable.short(whole, columns) == shown


def test_of_a_long_text_only_the_beginning_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a table costs the same, however long its answer is."""
    looked: list[str] = []
    visible = printable.visible
    monkeypatch.setattr(printable, "visible", lambda part: looked.append(part) or visible(part))
    assert printable.short("é" * 1_000_000, 10) == "é" * 9 + "…"
    assert len(looked) == 11


ANSWERS = ("plain", FAMILY, "日本語", "cafe\u0301 ❤️", f"{FLAG * 40}", "x" * 70, "👩‍🚀" * 50)


def columns_before(line: str, word: str) -> int:
    return wcswidth(line[: line.rindex(word)])


def test_the_columns_of_a_sweep_stand_under_each_other() -> None:
    """Whatever the answers are made of, and where they are cut."""
    results = []
    for number, answer in enumerate(ANSWERS):
        request = Request(model="fake", prompt="p", params=InferencingParams(seed=number + 1))
        run = run_of([prepared(request), Chunk(answer, 1), end(1)], request)
        results.append(run)
    header, *rows = sweep_text.plain_table(Results(results)).splitlines()
    place = columns_before(header, "finish")
    assert [columns_before(row, "stop") for row in rows] == [place] * len(rows)
    assert all(wcswidth(row) <= 140 for row in rows)


def test_the_columns_of_the_log_stand_under_each_other() -> None:
    """Texts and names of columns, in a table that pandas lays out."""
    frame = pandas.DataFrame(
        {"text": ANSWERS, f"tag.{FAMILY}": ANSWERS, "status": "ok"}, index=pandas.Index(ANSWERS)
    )
    with pandas.option_context("display.width", 400):
        header, *rows = repr(LogTable(frame)).splitlines()[: len(ANSWERS) + 1]
    place = wcswidth(header)
    assert header.endswith("status")
    assert [wcswidth(row) for row in rows] == [place] * len(rows)
    for row, answer in zip(rows[:4], ANSWERS, strict=False):
        assert row.count(answer) == 3


def test_a_line_of_progress_is_overwritten_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one with the name of a file in a wide script."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    view = terminal.TerminalView()
    view.draw_progress(Progress("load", note="日本語モデル"))
    first = capsys.readouterr().err
    view.draw_progress(None)
    assert width(capsys.readouterr().err.strip("\r")) == width(first.strip("\r"))
