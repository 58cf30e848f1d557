"""A value under an answer: as a table in HTML and in text, bounded, and harmless."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, InferencingResult
from llmwit_magic.magics.infer import dry_run_text
from llmwit_magic.requests.shapes import with_constraint
from llmwit_magic.views import sweep_text, terminal, text
from llmwit_magic.views.comparison import comparison_html
from llmwit_magic.views.html import ELEMENTS, html_of
from llmwit_magic.views.value_table import (
    MAX_COLUMNS,
    MAX_ROWS,
    MAX_TEXT,
    table_of,
    value_lines,
)
from tests.support.constrained import Invoice, Point, finished
from tests.support.fake import end, prepared, run_of
from tests.support.hostile import (
    HOSTILE,
    Page,
    assert_harmless_on_a_page,
    assert_harmless_on_a_terminal,
)


def shown(value: Any) -> InferencingResult:
    """A result with that value."""
    request = Request(model="fake", prompt="p")
    run = run_of([prepared(request), Chunk("{}", 1), end(1, FinishDetail.CONSTRAINT)], request)
    return run.result.model_copy(update={"value": value})


def cells(markup: str) -> list[list[str]]:
    """The texts of the value's table."""
    table = re.findall(
        r'<div class="llmwit-value[^>]*><table[^>]*>(.*?)</table>', markup, re.DOTALL
    )
    rows = table[0].split("</tr>")[:-1] if table else []
    return [[Page(part).shown for part in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
            for row in rows]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ({"name": "Ada", "n": 1.5, "in": {"a": [None, True]}},
         [["name", "Ada"], ["n", "1.5"], ["in", '{"a": [null, true]}']]),
        (Invoice(name="Ada", amount=2), [["name", "Ada"], ["amount", "2.0"], ["due", "null"]]),
        ([Point(1, 2), Point(3, 4)], [["x", "y"], ["1", "2"], ["3", "4"]]),
        ([{"a": 1}, {"b": "c"}], [["a", "b"], ["1", ""], ["", "c"]]),
        (["x", 1], [["0", "x"], ["1", "1"]]),
        ({"a": object()}, None),
    ],
)  # fmt: skip
def test_a_record_is_a_table(value: Any, rows: list[list[str]] | None) -> None:
    """Keys and values, or a row for each record; nested values are JSON on one line."""
    found = cells(html_of(shown(value)))
    assert found == rows if rows else found[0][0] == "a"
    lines = text.plain(shown(value)).splitlines()
    assert lines[1] == "── value"
    for row, line in zip(rows or (), lines[2:], strict=False):
        assert line.split() == " ".join(row).split()


@pytest.mark.parametrize("value", [None, "good", 5, 2.5, True, {}, []])
def test_a_plain_value_needs_no_table(value: Any) -> None:
    """The text of the answer says as much."""
    assert table_of(value) is None
    assert "llmwit-value" not in html_of(shown(value))
    assert "value" not in text.plain(shown(value))


def test_tables_are_bounded() -> None:
    """So many rows, columns and characters, and a line that says what is left out."""
    many = [{f"k{column}": "x" * 1000 for column in range(30)} for _ in range(5000)]
    for value, notes in (
        (many, (f"the first {MAX_ROWS} of 5,000 rows", f"{MAX_COLUMNS} of 30 columns")),
        (many[0] | {"y" * 900: 1}, ("the first 20 of 31 keys",)),
        (list(range(25)), ("the first 20 of 25 rows",)),
    ):
        table = table_of(value)
        assert table is not None
        assert table.notes == notes
        assert len(table.rows) <= MAX_ROWS
        assert all(len(cell) <= MAX_TEXT for row in (table.head, *table.rows) for cell in row)
        markup, plain = html_of(shown(value)), text.plain(shown(value))
        assert len(markup) < 100_000
        assert all(note in markup and note in plain for note in notes)
        assert max(map(len, plain.splitlines())) < 600


class Rude:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_a_type_that_cannot_be_written_is_named() -> None:
    """A class of the user's may do what it likes: the answer is shown all the same."""
    loop: list[Any] = []
    loop.append(loop)
    assert "Rude" in html_of(shown({"a": Rude()})) or "llmwit-value" in html_of(shown(Rude()))
    for value in (Rude(), {"a": Rude()}, loop, {"a": loop}, {1, 2}):
        assert "llmwit-answer" in html_of(shown(value))
        assert text.plain(shown(value))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_inert(name: str) -> None:
    """Keys and values of an answer are text, in a page and in a terminal."""
    said = HOSTILE[name]
    allowed = {(element, "") for element in ELEMENTS} | {
        (element, attribute) for element in ELEMENTS for attribute in ("class", "style", "dir", "title")
    }  # fmt: skip
    for value in ({said: said}, [{said: said}, {"a": [said]}], [said], {"a": {said: said}}):
        result = shown(value)
        page = assert_harmless_on_a_page(html_of(result), allowed)
        assert "\n\n" not in html_of(result)
        assert page.shown
        assert_harmless_on_a_terminal(text.plain(result))
        (_, *lines) = value_lines(value)
        assert len(lines) == len(value) + (isinstance(value, list) and isinstance(value[0], dict))
    run = finished(said, Constraint(kind="choices", source='["a"]'))
    assert_harmless_on_a_page(html_of(run.result), allowed | {("div", "data-raw")})
    assert_harmless_on_a_terminal("\n".join(text.status_parts(run.result)), None)
    line = text.constraint_text(with_constraint({"choices": [said]})["constraint"])
    assert_harmless_on_a_terminal(line, 1)


def test_the_status_line_says_what_ended_the_text_and_why_there_is_no_value() -> None:
    """`constraint` where that ended the text; the reason in one part."""
    choices = Constraint(kind="choices", source='["yes", "no"]')
    assert text.brief_parts(finished("no", choices).result)[:3] == [
        "stop", "constraint", "5 + 1 tokens",
    ]  # fmt: skip
    cut = finished("y", choices, detail=FinishDetail.MAX_TOKENS).result
    assert text.brief_parts(cut)[:3] == ["length", "max tokens", "no value: cut by max tokens"]
    wrong = finished("x" * 5000, choices).result
    assert text.brief_parts(wrong)[2].startswith("no value: not valid: 'xxx")
    assert "no value: cut by max tokens" in html_of(cut)
    stopped = finished("y", choices, detail=None).result
    assert not [part for part in text.brief_parts(stopped) if "no value" in part]


def test_a_sweep_says_how_many_runs_have_no_value() -> None:
    """Under its table."""
    choices = Constraint(kind="choices", source='["yes", "no"]')
    results = [finished(said, choices).result for said in ("yes", "maybe", "no")]
    said = "1 of 3 runs have no value: not valid: 'maybe' is none of the choices"
    assert said in sweep_text.plain_table(results)
    assert said.replace("'", "&#x27;") in comparison_html(results)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"choices": ["a", "it's"]}, '── the answer is one of "a" | "it\'s"'),
        ({"regex": r"\d+"}, r"── the answer matches \d+"),
        ({"returns": {"type": "null"}}, '── the answer is JSON of the schema {"type": "null"}'),
        ({"grammar": 'start: "a"\n'}, '── the answer is made by the grammar start: "a"⏎'),
    ],
)
def test_a_dry_run_shows_the_shape(options: dict[str, Any], said: str) -> None:
    """On its last line; a run without one has no such line."""
    request = Request(model="fake", prompt="p", **with_constraint(options))
    lines = dry_run_text(prepared(request), request.params, request.constraint).splitlines()
    assert lines[-1] == said
    assert "answer" not in dry_run_text(prepared(request), request.params).splitlines()[-1]


def test_a_console_prints_the_value_between_the_answer_and_its_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The text streams as it comes; the table follows when the run has ended."""
    run = finished(
        '{"name": "Ada", "amount": 2}', with_constraint({"returns": Invoice})["constraint"]
    )
    terminal.TerminalView().draw(run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        '{"name": "Ada", "amount": 2}', "── value", "name    Ada", "amount  2.0", "due     null",
    ]  # fmt: skip
    assert lines[5].startswith("── stop · constraint")
