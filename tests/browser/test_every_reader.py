"""The views on paper and in forced colours, and what they say where a click has failed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from playwright.sync_api import Browser, Locator, expect

from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.views.comparison import comparison_html
from llmwit_magic.views.html import MAX_UNSCROLLED, html_of
from llmwit_magic.views.table import LogTable
from tests.support.browser import ARTEFACTS, Lab, Notebook
from tests.support.contrast import CONTRAST
from tests.support.fake import FakeEngine, FakeSession, end, prepared, run_of

Open = Callable[..., Notebook]

PAPER = {"width": 718, "height": 1046}
"""A4 in pixels, less Chromium's margins."""
LINE = "A line of an answer that is about as long as a line of a book.\n"
LONG = LINE * (MAX_UNSCROLLED // len(LINE) + 60)

CUT_OFF = """(box) => {
  for (let e = box; e && e !== document.body; e = e.parentElement) {
    if (e.scrollHeight > e.clientHeight + 1 && e.clientHeight) return `${e.className}: height`;
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth) return `${e.className}: width`;
  }
  return null;
}"""
"""The first enclosing box that shows only a part of its content."""


def assert_whole(*parts: Locator) -> None:
    for part in parts:
        assert part.evaluate(CUT_OFF) is None


def saved_page() -> str:
    """nbconvert's page of a long answer, a sweep and the log, each as large as it gets."""
    request = Request(model="fake", prompt="p")
    answer = run_of([prepared(request), Chunk(LONG, 9), end(9)], request).result
    sweep = []
    for temperature in (0, 0.7):
        params = InferencingParams(temperature=temperature, seed=1)
        request = Request(model="fake", prompt="p", params=params)
        text = f"The answer at {temperature} goes on for a while. " * 5
        sweep.append(run_of([prepared(request), Chunk(text, 9), end(9)], request).result)
    session = FakeSession(FakeEngine(["An answer that goes on for a while. " * 5]))
    session.finish(Request(model="a-model-135m-instruct", prompt="What is the capital? " * 5))
    log = LogTable(
        session.log.to_frame().assign(
            status="interrupted", finish_detail="max_tokens", generated_token_count=1024,
            tokens_per_second=123.4, rating=-1,
        )
    )  # fmt: skip
    session.close()
    notebook = new_notebook()
    for markup in (html_of(answer), comparison_html(sweep), log._repr_html_() or ""):
        cell = new_code_cell("%%infer")
        cell.outputs = [new_output("display_data", {"text/html": markup})]
        notebook.cells.append(cell)
    return str(HTMLExporter().from_notebook_node(notebook)[0])


def test_a_saved_notebook_is_printed_whole(browser: Browser) -> None:
    """Without a kernel nothing is cut off on paper or page, and nothing looks like a button."""
    page = browser.new_page(viewport=PAPER)
    page.route("**/*", lambda route: route.abort())
    page.set_content(saved_page(), wait_until="domcontentloaded")
    for media in ("screen", "print"):
        page.emulate_media(media=media)
        assert_whole(*page.locator(".llmwit-text, .llmwit table").all())
        assert page.locator(".llmwit :is(button, select, [role], [tabindex])").count() == 0
        cursors = page.locator(".llmwit, .llmwit *").evaluate_all(
            "all => all.map((one) => getComputedStyle(one).cursor)"
        )
        assert set(cursors) <= {"auto"}
    page.screenshot(path=ARTEFACTS / "paper.png", full_page=True)
    page.emulate_media(media=None)
    sheets = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    height = page.locator(".llmwit-text").first.evaluate("text => text.scrollHeight")
    assert sheets >= height / PAPER["height"]
    page.close()


LONG_ANSWER = f"""from IPython.display import HTML, display
from llmwit_magic.views.html import html_of
display(HTML(html_of(_infer.model_copy(update={{"text": {LINE!r} * {LONG.count(LINE)}}}))))"""
CELLS = (
    "%%infer --max-tokens 24 --seed 5 --top-logprobs 3 --temperature 1.2\nA poem:\n\n",
    "%%infer --max-tokens 4 --seed 3\nThe capital of France is",
    LONG_ANSWER,
    "%infer_log --last 2 --columns all",
)


def colour(part: Locator) -> str:
    return str(part.evaluate("part => getComputedStyle(part).backgroundColor"))


def test_what_scrolls_what_is_printed_and_what_colours_remain(open_notebook: Open) -> None:
    """In a notebook, scrolling boxes are regions for the keyboard, and paper has no buttons.

    Forced colours keep the shades, the marks and a readable text.
    """
    notebook = open_notebook(*CELLS)
    page = notebook.page
    for index in range(1, 5):
        notebook.run(index)
    tokens, short, long, log = (notebook.output(index) for index in range(1, 5))

    for output, name in ((long, "answer"), (log, "table of runs")):
        region = output.get_by_role("region", name=name)
        expect(region).to_have_attribute("tabindex", "0")
        region.focus()
        expect(region).to_be_focused()
    expect(short.get_by_role("region")).to_have_count(0)
    assert short.locator("[tabindex='0']").count() == 0

    toggle = tokens.get_by_role("button", name="Tokens")
    thumb = tokens.get_by_role("button", name="good answer")
    other = tokens.get_by_role("button", name="bad answer")
    for part in (toggle, other):
        part.hover()
        assert part.evaluate(CONTRAST) >= 4.5
    thumb.click()
    expect(thumb).to_have_attribute("aria-pressed", "true")
    page.mouse.move(1, 1)
    # A pressed button differs by more than its border, and its text is readable.
    assert colour(thumb) != colour(other)
    assert thumb.evaluate(CONTRAST) >= 4.5
    notebook.picture("pressed", tokens)

    page.emulate_media(media="print")
    assert_whole_in = "(box) => box.scrollHeight <= box.clientHeight + 1"
    assert long.locator(".llmwit-text").evaluate(assert_whole_in)
    table = log.locator("table")
    width = table.evaluate("table => [table.offsetWidth, table.parentElement.clientWidth]")
    assert page.locator(".jp-OutputArea .llmwit :is(button, select):visible").count() == len(
        log.locator("th").all()
    )  # a table's buttons are its headings
    expect(tokens.locator(".llmwit-more")).to_be_visible()
    print("the log's table on paper:", width)
    page.emulate_media(media="screen", forced_colors="active")
    plain, *shaded = (
        painted(part)
        for part in (
            tokens.locator(".llmwit-token:not([style])").first,
            *tokens.locator(".llmwit-token[style]").all(),
        )
    )
    assert shaded
    assert plain not in shaded
    assert len({painted(part) for part in tokens.locator(".llmwit-legend span").all()}) == 3
    assert painted(thumb) != painted(other)
    notebook.picture("forced_colours", tokens)
    page.emulate_media(forced_colors="none")


def painted(part: Locator) -> tuple[int, ...]:
    """The most frequent drawn colour. The computed style does not have the forced colours."""
    picture = Image.open(io.BytesIO(part.screenshot())).convert("RGB")
    return max(picture.getcolors(picture.width * picture.height))[1]


REFUSE = """from llmwit_magic.errors import LogError
from llmwit_magic.runlog.log import RunLog
def refuse(*rating):
    raise LogError("the run log cannot be written")
RunLog.rate, kept = refuse, RunLog.rate"""
PAGE = '[...globalThis[Symbol.for("llmwit.pages")].values()][0]'
# A kernel without subshells reads a page's messages only between two cells.
BUSY = """() => {
  const pages = globalThis[Symbol.for("llmwit.pages")];
  const [log, page] = [...pages][0];
  let said;
  pages.set(log, {send: (message) => (said = message), widget_manager: {kernel: {status: "busy"}}});
  window.idle = () => {
    pages.set(log, page);
    page.send(said);
  };
}"""
NO_CLIPBOARD = """() => {
  Object.defineProperty(navigator, "clipboard", {value: undefined, configurable: true});
  document.execCommand = () => false;
}"""


def test_what_did_not_happen_is_not_said_to_have(open_notebook: Open, lab: Lab) -> None:
    """A button says that it failed: clipboard or log refuse, the kernel is busy or gone."""
    notebook = open_notebook(
        "%%infer --max-tokens 4 --seed 3\nThe capital of France is",
        REFUSE, "RunLog.rate = kept",
    )  # fmt: skip
    page, output = notebook.page, notebook.run(1)
    opener = output.get_by_role("button", name=re.compile("Copy|copied|copy failed"))

    def copy() -> None:
        opener.click()
        page.get_by_role("menuitem", name="text", exact=True).click()

    page.evaluate(NO_CLIPBOARD)
    copy()
    expect(opener).to_have_text("copy failed")
    expect(opener).to_be_focused()
    expect(opener).to_have_text("Copy ▾")
    page.evaluate("() => delete document.execCommand")
    copy()  # by the old way, which works on a page without https
    expect(opener).to_have_text("copied")

    note = output.get_by_role("status")
    good = output.get_by_role("button", name="good answer")
    notebook.run(2)
    good.click()
    expect(note).to_have_text("not kept: the run log cannot be written")
    expect(good).to_have_attribute("aria-pressed", "false")
    assert note.evaluate(CONTRAST) >= 4.5
    notebook.picture("not_kept", output)

    notebook.run(3)
    page.evaluate(BUSY)
    good.click()
    expect(note).to_have_text("not kept yet: the kernel is busy", timeout=10_000)
    page.evaluate("window.idle()")
    expect(good).to_have_attribute("aria-pressed", "true")
    expect(note).to_have_text("")
    assert lab.last_row()["rating"] == 1

    notebook.restart_kernel()
    notebook.wait_ready()
    good.click()
    expect(note).to_have_text("not kept: the kernel that made this run has gone", timeout=10_000)
    expect(good).to_have_attribute("aria-pressed", "true")
    page.evaluate(f"window.page = {PAGE}")
    notebook.run(0)  # another kernel, which has the log
    page.wait_for_function(f"window.page !== {PAGE}")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "false")
    expect(note).to_have_text("")
    assert lab.last_row()["rating"] is None
