"""Outputs that are each a sandboxed frame of another origin, as in Google Colab.

The source of Colab's widget manager (googlecolab/colab-cdn-widget-manager) says what it does: a
frame makes only the models whose views it shows. The model that gives finished views their buttons
is shown nowhere, so no frame makes it, unless a later version of Colab does.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect

from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams, TokenInfo
from llmwit_magic.runlog.frame import frame_of_rows
from llmwit_magic.running.results import row_of
from llmwit_magic.views.comparison import comparison_html
from llmwit_magic.views.html import Extras, html_of, log_key
from llmwit_magic.views.live import PAGE_JS
from llmwit_magic.views.table import LogTable
from tests.support.fake import end, prepared, run_of

NOTEBOOK, OUTPUTS = "https://notebook.test/", "https://outputs.test/"
SANDBOX = "allow-scripts allow-same-origin allow-forms allow-popups allow-downloads allow-modals"
LOG = "/log.sqlite3"

TOKEN = TokenInfo(id=1, bytes=b"An answer", logprob=-5.0, rank=9)
"""An improbable token, so that the answer has shades, and a button if the module is there."""
MODELS = """
  import module from "./page.js";
  window.sent = [];
  const model = (values) => ({
    get: (name) => values[name], send: (content) => window.sent.push(content),
    on() {}, off() {}, widget_manager: {},
  });
"""
LIVE = f"""<script type="module">{MODELS}
  const live = model({{ role: "live", key: "k", stoppable: true }});
  module.initialize({{ model: live }});
  module.render({{ model: live, el: document.querySelector("#widget") }});
  document.body.dataset.ready = "";
</script>"""
OPENED = f"""<script type="module">{MODELS}
  module.initialize({{ model: model({{ role: "page", log: "{log_key(LOG)}" }}) }});
  document.body.dataset.ready = "";
</script>"""


def answer() -> str:
    """A finished answer that is in the log, with its tokens and its forms."""
    request = Request(model="fake", prompt="p", params=InferencingParams(seed=1), top_logprobs=1)
    run = run_of([prepared(request), Chunk("An answer", 1, (TOKEN,)), end(1)], request)
    run.run_id = 7
    return html_of(run.result, Extras(LOG, None, {"cell": "%%infer\np", "JSON": "{}"}))


def table() -> str:
    runs = []
    for seed in (1, 2):
        request = Request(model="fake", prompt="p", params=InferencingParams(seed=seed))
        runs.append(run_of([prepared(request), Chunk(f"answer {seed}", 1), end(1)], request))
    sweep = comparison_html([run.result for run in runs])
    log = LogTable(frame_of_rows([row_of(run) for run in runs]))._repr_html_()
    return f"{sweep}{log}"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.grant_permissions(["clipboard-read"], origin=NOTEBOOK)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not errors


def framed(page: Page, markup: str) -> FrameLocator:
    """A page with the markup in a frame of another origin."""
    page.route(f"{OUTPUTS}page.js", lambda route: route.fulfill(
        body=PAGE_JS, content_type="text/javascript"))  # fmt: skip
    page.route(OUTPUTS, lambda route: route.fulfill(
        body=f"<!doctype html><meta charset=utf-8><body>{markup}", content_type="text/html"))  # fmt: skip
    frame = f'<iframe src="{OUTPUTS}" sandbox="{SANDBOX}" width=800 height=500></iframe>'
    page.route(NOTEBOOK, lambda route: route.fulfill(body=frame, content_type="text/html"))
    page.goto(NOTEBOOK)
    return page.frame_locator("iframe")


@pytest.mark.parametrize("script", ["", LIVE], ids=["no-module", "live-module"])
def test_finished_views_have_no_dead_buttons(page: Page, script: str) -> None:
    """Without a `page` model there are no buttons, also after a live view. All text is there."""
    frame = framed(page, f"<div id=widget></div>{script}")
    if script:
        expect(frame.locator("body[data-ready]")).to_be_attached()
    inside = page.frames[1]
    inside.evaluate(
        "markup => document.querySelector('#widget').innerHTML = markup", answer() + table()
    )
    # The module would make buttons before the next frame is drawn.
    inside.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    expect(frame.locator("button, select, [tabindex]")).to_have_count(0)
    shown = frame.locator("body").inner_text()
    for text in ("An answer", "end of text", "seed 1", "answer 2", "2 runs"):
        assert text in shown
    assert html.escape("%%infer") not in shown


def test_buttons_in_a_frame_work_where_they_are(page: Page) -> None:
    """With a `page` model in a frame, Copy works without a permission, and a thumb is sent."""
    frame = framed(page, f"<div id=widget>{answer()}</div>{OPENED}")
    frame.get_by_role("button", name="Copy").click()
    frame.get_by_role("menuitem", name="text").click()
    expect(frame.get_by_role("button", name="copied")).to_be_visible()
    page.bring_to_front()
    page.locator("body").click(position={"x": 850, "y": 550})
    assert page.evaluate("navigator.clipboard.readText()") == "An answer"
    frame.get_by_role("button", name="good answer").click()
    sent = page.frames[1].evaluate("JSON.stringify(window.sent)")
    assert json.loads(sent) == [{"hello": True}, {"rate": 7, "value": 1}]
    frame.get_by_role("button", name="Tokens").click()
    expect(frame.locator(".llmwit-shaded")).to_have_count(0)
