"""The live view in a page of its own, without JupyterLab: other front ends, right-to-left text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.views.html import html_of
from llmwit_magic.views.live import PAGE_CSS, PAGE_JS
from tests.support.fake import end, prepared, run_of

OPEN = """async ([code, traits, wsUrl, outcome]) => {
  const module = await import(URL.createObjectURL(new Blob([code], {type: "text/javascript"})));
  const listeners = [];
  window.tell = (message) => listeners.forEach((listen) => listen(message));
  const interrupts = {ok: () => Promise.resolve(), refused: () => Promise.reject(new Error("no"))};
  const kernel = {serverSettings: {wsUrl}, interrupt: interrupts[outcome]};
  const model = {
    get: (name) => traits[name], on: (_, listen) => listeners.push(listen), send: () => {},
    widget_manager: {kernel},
  };
  module.default.initialize({model});
  module.default.render({model, el: document.querySelector("#live")});
}"""


@pytest.fixture
def page(browser: Browser) -> Any:
    page = browser.new_page(viewport={"width": 700, "height": 600})
    page.set_content(f"<style>{PAGE_CSS}</style><div id=live></div><div id=finished></div>")
    yield page
    page.close()


def show(page: Page, outcome: str = "ok", ws_url: str = "ws://127.0.0.1:8888/") -> None:
    traits = {"role": "live", "key": "k", "stoppable": True}
    page.evaluate(OPEN, [PAGE_JS, traits, ws_url, outcome])


def test_vs_code_has_no_stop(page: Page) -> None:
    """VS Code's kernel object has an `interrupt` without effect, so there is no Stop button."""
    show(page, ws_url="BOGUS_PVSC")
    page.evaluate("tell({s: 'writing …', t: 'some text'})")
    expect(page.get_by_text("some text")).to_be_visible()
    expect(page.get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize("outcome", ["ok", "refused"])
def test_stop_names_another_way(page: Page, outcome: str) -> None:
    """When Stop fails, the view names the notebook's own Stop, also to screen readers.

    It does so at once where the interrupt is refused, and after two seconds where it has no effect.
    """
    began = datetime(2026, 1, 1, tzinfo=UTC)
    page.clock.install(time=began)
    page.clock.pause_at(began + timedelta(hours=1))  # from now on only `run_for` moves it
    show(page, outcome)
    page.get_by_role("button", name="Stop").click()
    hint = page.locator("#live").get_by_text("use the notebook's own Stop")
    if outcome == "ok":
        page.clock.run_for(1900)
        expect(hint).to_have_count(0)
        expect(page.get_by_role("button", name="stopping …")).to_be_focused()
        page.clock.run_for(200)
    expect(hint).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("use the notebook's own Stop")
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()


HEBREW, ARABIC = "שלום עולם", "مرحبا بالعالم: " + "هذا سطر طويل " * 12
ANSWERS = [f"{HEBREW}\n\n{ARABIC}\nin English\n123 …", f"in English\n{HEBREW}\n123 …\n{ARABIC}"]

# The left, right and top of each line of the text.
LINES = """([selector, step]) => {
  const whole = document.querySelector(selector);
  const lines = step ? [...whole.children] : [...whole.firstChild.data.matchAll(/[^\\n]+/g)];
  return lines.filter((line) => !step || line.textContent).map((line) => {
    const range = document.createRange();
    range.selectNodeContents(step ? line : whole);
    if (!step) range.setStart(whole.firstChild, line.index);
    if (!step) range.setEnd(whole.firstChild, line.index + line[0].length);
    const box = range.getBoundingClientRect();
    return [box.left, box.right, box.top - whole.getBoundingClientRect().top];
  });
}"""


@pytest.mark.parametrize("answer", ANSWERS)
def test_right_to_left_text_stays_where_it_is(page: Page, answer: str) -> None:
    """Each line of a streamed answer has the same place as in the finished answer."""
    show(page)
    for start in range(0, len(answer), 7):
        page.evaluate("(t) => tell({t})", answer[start : start + 7])
    request = Request(model="fake", prompt="p", params=InferencingParams(seed=9))
    result = run_of([prepared(request), Chunk(answer, 3), end(3)], request).result
    page.evaluate(
        "(html) => (document.querySelector('#finished').innerHTML = html)", html_of(result)
    )
    live = page.evaluate(LINES, ["#live .llmwit-text", True])
    finished = page.evaluate(LINES, ["#finished .llmwit-text", False])
    assert len(live) == len(finished) == 4
    for one, other in zip(live, finished, strict=True):
        assert one == pytest.approx(other, abs=1)
    right = [line[1] == max(line[1] for line in live) for line in live]
    assert sum(right) == 2, live


def test_reasoning_is_open_while_it_is_written(page: Page) -> None:
    """It folds when the answer begins, unless a person has folded or unfolded it."""
    show(page)
    folds, label = page.locator("#live details"), page.locator("#live summary")
    page.evaluate("tell({r: 'Let me <b>see</b>\\n', s: 'thinking …'})")
    page.evaluate("tell({r: 'once more.'})")
    expect(label).to_have_text("thinking …")
    expect(page.get_by_text("once more.")).to_be_visible()
    expect(folds.locator("> div > div")).to_have_text(["Let me <b>see</b>", "once more."])
    page.evaluate("tell({r: ' And', t: 'Paris'})")
    expect(label).to_have_text("reasoning")
    expect(folds).to_have_js_property("open", False)
    expect(page.get_by_text("once more. And")).to_be_hidden()
    expect(page.locator("#live .llmwit-text > div")).to_have_text("Paris")
    label.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("once more. And")).to_be_visible()

    page.evaluate("tell({clear: true, r: 'New.'})")
    expect(page.get_by_text("Paris")).to_have_count(0)
    label.click()
    label.click()
    page.evaluate("tell({t: 'Rome'})")
    expect(page.get_by_text("New.")).to_be_visible()
    page.evaluate("tell({r: 'Again.'})")
    expect(folds).to_have_count(2)
