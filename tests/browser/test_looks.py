"""The looks of all views: pictures for a person to judge, and what can be measured of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.support.axe import faults
from tests.support.browser import THEME, Lab, Notebook, wait_until
from tests.support.contrast import CONTRAST

Open = Callable[..., Notebook]

CELLS = (
    "%%infer --max-tokens 60 --seed 4\nOnce upon a time",
    "%%infer --max-tokens 40 --seed 4 --top-logprobs 4\nOnce upon a time",
    "%%infer --temperature 0,0.7,1.5 --max-tokens 24 --seed 3\nMy favourite season is",
    "%%infer --max-tokens 6000 --seed 5 --temperature 0.9\nOnce upon a time",
    "%%infer --tune --max-tokens 24 --seed 3\nThe best thing about the sea is",
    "%infer_log --last 3 --columns all",
    "%config InferMagics.content_filters = [lambda text: 1 / 0]",
    "%%infer --max-tokens 9\nOnce upon a time",
)
OVERFLOW = """(element) => {
  const area = element.closest(".jp-OutputArea").getBoundingClientRect();
  return Math.max(element.scrollWidth - element.clientWidth,
                  element.getBoundingClientRect().right - area.right);
}"""


@pytest.fixture(params=["light", "dark", "narrow"])
def looks(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    """Sets a theme, or a window 480 pixels wide; its name."""
    theme = "JupyterLab Dark" if request.param == "dark" else "JupyterLab Light"
    lab.set(THEME, {"theme": theme})
    yield request.param
    lab.set(THEME, {"theme": "JupyterLab Light"})


def assert_readable(*elements: Locator) -> None:
    for element in elements:
        contrast = element.evaluate(CONTRAST)
        assert contrast >= 4.5, f"{element}: contrast {contrast:.2f}"


def assert_fits(*elements: Locator) -> None:
    for element in elements:
        assert element.evaluate(OVERFLOW) < 1, element


def test_the_views_are_readable_and_fit(open_notebook: Open, looks: str) -> None:
    """The contrast of text and status is at least 4.5:1, and no answer is wider than its place.

    axe-core finds no serious fault in any view.
    """
    notebook = open_notebook(*CELLS, width=480 if looks == "narrow" else 1000)
    page = notebook.page
    expect(page.locator("body")).to_have_attribute(
        "data-jp-theme-light", "false" if looks == "dark" else "true"
    )
    finished = notebook.run(1)
    assert_readable(*finished.locator(".llmwit-text, .llmwit-status, .llmwit-badge").all())
    assert_readable(*finished.get_by_role("button").all())
    assert_fits(finished.locator(".llmwit-text"), finished.locator(".llmwit-status"))
    assert faults(finished) == []
    finished.scroll_into_view_if_needed()
    notebook.picture(f"finished_{looks}")

    tokens = notebook.run(2)
    token = tokens.locator(".llmwit-token").nth(9)
    token.hover()
    box = page.locator(".llmwit-alternatives")
    expect(box).to_be_visible()
    assert_readable(token, *tokens.locator(".llmwit-token").all()[:20], box.locator("td").nth(1))
    assert_fits(tokens.locator(".llmwit-text"))
    assert faults(tokens, box) == []
    place = box.bounding_box()
    assert place
    assert place["x"] >= 0
    assert place["x"] + place["width"] <= page.viewport_size["width"]
    notebook.picture(f"tokens_{looks}")
    page.mouse.move(1, 1)

    table = notebook.run(3)
    assert_readable(*table.locator(".llmwit-mark, td, th, .llmwit-text").all())
    assert table.locator(".llmwit-wide").bounding_box()["width"] <= page.viewport_size["width"]
    # A narrow page scrolls the table. It does not make the answers too narrow to read.
    assert all(text.bounding_box()["width"] > 200 for text in table.locator(".llmwit-text").all())
    assert faults(table) == []
    table.scroll_into_view_if_needed()
    notebook.picture(f"comparison_{looks}")

    notebook.start(4)
    live = page.locator(".jp-OutputArea .llmwit-scroll")
    wait_until(lambda: live.count() and len(live.inner_text()) > 400, 30, "some text is there")
    running = notebook.output(4)
    assert_readable(running.locator(".llmwit-text"), running.locator(".llmwit-status").first)
    assert_fits(live)
    assert faults(running) == []
    running.get_by_role("button", name="Stop").scroll_into_view_if_needed()
    notebook.picture(f"running_{looks}")
    running.get_by_role("button", name="Stop").click()
    notebook.wait(4, 10)
    panel = notebook.run(5)
    expect(panel.locator(".llmwit-badge").first).to_be_visible(timeout=30_000)
    assert_readable(*panel.locator(".llmwit-line code, .llmwit-status, .widget-label").all())
    assert_fits(*panel.locator(".widget-slider, textarea, .llmwit-line").all())
    assert faults(panel) == []
    panel.scroll_into_view_if_needed()
    notebook.picture(f"panel_{looks}")
    log = notebook.run(6)
    assert_readable(*log.locator("td, th").all()[:20])
    assert faults(log) == []
    log.scroll_into_view_if_needed()
    notebook.picture(f"log_{looks}")
    notebook.run(7)
    failed = notebook.run(8)
    expect(failed.locator(".llmwit-badge")).to_have_text("failed")
    assert_readable(failed.locator(".llmwit-status"))
    assert faults(failed.locator(".llmwit-answer")) == []
    # The page itself never scrolls sideways.
    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0


VALUES = """from llmwit_magic import InferencingResult, InferencingUsage
def shown(text, value, **more):
    return InferencingResult(text=text, finish_reason="stop", finish_detail="constraint",
                             usage=InferencingUsage(), value=value, **more)
record = {"name": "Ada Lovelace", "amount": 1843.5, "due": "2026-12-01", "paid": False,
          "lines": [{"item": "notes on the engine", "price": 1800}, {"item": "post", "price": 43.5}],
          "note": "to be paid by the end of the year, " * 6}"""
VALUE_CELLS = (
    VALUES,
    "import json; shown(json.dumps(record), record)",
    "rows = [record | {'name': f'person {n}', 'unbroken': 'x' * 200} for n in range(25)]\n"
    "shown('[…]', rows)",
    "shown('12', None, value_error=\"not valid: '12' is none of the choices\")",
)


def test_values_are_readable_and_fit(open_notebook: Open, looks: str) -> None:
    """A record is a table under its answer; a list of records scrolls in its own box."""
    notebook = open_notebook(*VALUE_CELLS, width=480 if looks == "narrow" else 1000)
    page = notebook.page
    notebook.run(1)
    record, rows, without = notebook.run(2), notebook.run(3), notebook.run(4)
    for output in (record, rows):
        value = output.locator(".llmwit-value")
        assert_readable(*value.locator("td, th").all()[:20], *value.locator(".llmwit-status").all())
        box = value.bounding_box()
        assert box
        assert box["x"] + box["width"] <= page.viewport_size["width"]
        assert faults(output) == []
    assert record.locator("th[scope=row]").all_inner_texts()[:2] == ["name", "amount"]
    assert rows.locator("th[scope=col]").all_inner_texts()[:2] == ["name", "amount"]
    if looks == "narrow":  # a box that scrolls can be reached with the keyboard
        expect(rows.locator(".llmwit-value")).to_have_attribute("aria-label", "value")
    expect(without.locator(".llmwit-status")).to_contain_text("no value: not valid: '12' is none")
    record.scroll_into_view_if_needed()
    notebook.picture(f"value_{looks}")
    without.scroll_into_view_if_needed()
    notebook.picture(f"values_{looks}")
    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0


SCORES = """from llmwit_magic import InferencingResult, InferencingUsage
from llmwit_magic.contract.scores import ChoiceScore, choice_probabilities
def chosen(**logprobs):
    scores = tuple(ChoiceScore(choice=name, probability=0, logprob=value)
                   for name, value in logprobs.items())
    choices = choice_probabilities(scores, "sum", end_of_text=False)
    return InferencingResult(text=choices.best, finish_reason="stop", finish_detail="scored",
                             usage=InferencingUsage(), choices=choices)"""
SCORE_CELLS = (
    SCORES,
    "chosen(**{' positive': -0.4, ' negative': -1.4, 'neither of the two, as far as anyone can '"
    " * 4: -3.0, 'x' * 300: -9.0})",
    "chosen(**{f'label {n}': -0.1 * n for n in range(40)})",
)


def test_charts_are_readable_and_fit(open_notebook: Open, looks: str) -> None:
    """The probabilities of choices are a table with bars, as wide as there is room."""
    notebook = open_notebook(*SCORE_CELLS, width=480 if looks == "narrow" else 1000)
    page = notebook.page
    notebook.run(1)
    few, many = notebook.run(2), notebook.run(3)
    for output in (few, many):
        chart = output.locator(".llmwit-chart")
        assert_readable(*chart.locator("td, th").all()[:12])
        box = chart.bounding_box()
        assert box
        assert box["x"] + box["width"] <= page.viewport_size["width"]
        assert faults(output) == []
    bars = few.locator(".llmwit-chart td > div[style*=background]").all()
    widths = [bar.bounding_box()["width"] for bar in bars]  # type: ignore[index]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 1.5 * widths[1] > 20
    expect(many.locator(".llmwit-chart")).to_contain_text("and 20 more in .probabilities")
    few.scroll_into_view_if_needed()
    notebook.picture(f"choices_{looks}")
    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
