"""The data for the buttons under an answer, and the marks of a comparison."""

from __future__ import annotations

import re

from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.running.run import Run
from llmwit_magic.views.comparison import comparison_html
from llmwit_magic.views.html import Extras, html_of
from tests.support.fake import end, prepared, run_of

REQUEST = Request(model="fake", prompt="p")


def answered(text: str, run_id: int | None = None) -> Run:
    run = run_of([prepared(REQUEST), Chunk(text, 3), end(3)], REQUEST)
    run.run_id = run_id
    return run


def test_thumbs_need_a_row_in_a_log() -> None:
    """An answer has the data for its thumbs only if a log has a row for it.

    A rating is kept in that row.
    """
    for run_id, log_path, thumbs in (
        (7, "/runs.sqlite3", 1), (7, "", 0), (None, "/runs.sqlite3", 0), (None, "", 0),
    ):  # fmt: skip
        markup = html_of(answered("hello", run_id).result, Extras(log_path=log_path))
        assert markup.count("data-run=") == thumbs, (run_id, log_path)
        assert markup.count("data-log=") == thumbs, (run_id, log_path)


def marks(base: str, other: str) -> list[str]:
    markup = comparison_html([answered(base, 1).result, answered(other, 2).result])
    return re.findall(r'<b class="llmwit-mark"[^>]*>(.*?)</b>', markup)


def test_marks_have_words_in_them() -> None:
    """Words that only this answer has are marked. Words that it lacks leave no mark."""
    assert marks("one two three", "one two three") == []
    assert marks("one two three", "one three") == []
    assert marks("one two three", "") == []
    assert marks("one three", "one two three") == ["two "]
    assert marks("one two", "one six") == ["six"]
