"""The output of a model is text in every view on a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Lab, Notebook, wait_until
from tests.support.tiny_models import QUESTION, write_llama_gguf

Open = Callable[..., Notebook]

PIECES = (
    "<img", " src=x", " onerror=", "\"document.title='owned'\">", "<script>",
    "document.title='owned'", "</script>", "\x1b[31m", "\x1b]0;owned\x07", "\u202e", "reversed",
)  # fmt: skip
HOSTILE = "".join(PIECES)
SHOWN = HOSTILE.replace("\x1b", "␛").replace("\x07", "␇").replace("\u202e", "⟨U+202E⟩")
OPTIONS = f"--max-tokens {len(PIECES)} --repeat-penalty 1"

# JupyterLab sets its own title all the time, so the trap keeps each title that is set.
TRAP = """() => {
  window.titles = [];
  const own = Object.getOwnPropertyDescriptor(Document.prototype, "title");
  Object.defineProperty(document, "title", {
    get: () => own.get.call(document),
    set: (value) => { window.titles.push(value); own.set.call(document, value); },
  });
}"""


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model whose most probable answer to the prompt is the hostile text."""
    path = tmp_path_factory.mktemp("hostile") / "hostile.gguf"
    return write_llama_gguf(path, tied=False, weights="successor", answer=PIECES)


def assert_harmless(page: Page) -> None:
    """The hostile text has run no code, made no element, and caused no request."""
    assert "owned" not in page.evaluate("window.titles ?? []")
    assert page.title() != "owned"
    assert page.locator(".jp-OutputArea :is(img, script), body > img").count() == 0


def test_hostile_text_stays_text_in_a_notebook(
    open_notebook: Open, lab: Lab, hostile_model: Path
) -> None:
    """It is text in the live and the finished view, with tokens, in a comparison, and in the log.

    It is also text as the value at a cell's end.
    """
    model = f"-m '{hostile_model}' {OPTIONS}"
    notebook = open_notebook(
        f"%%infer {model} --temperature 0\n{QUESTION}",
        f"%%infer {model} --temperature 0 --top-logprobs 3\n{QUESTION}",
        f"%%infer {model} --temperature 0,0.01\n{QUESTION}",
        "%infer_log",
        f"%%infer {model} --temperature 0 --quiet\n{QUESTION}",
        "_infer",
    )
    page = notebook.page
    page.evaluate(TRAP)
    page.evaluate(
        """() => {
          window.live = "";
          new MutationObserver(() => {
            const text = document.querySelector(".jp-OutputArea .llmwit-scroll > .llmwit-text");
            if (text) window.live = text.textContent;
          }).observe(document.body, {subtree: true, childList: true, characterData: true});
        }"""
    )
    finished = notebook.run(1)
    assert lab.last_row()["text"] == HOSTILE
    assert page.evaluate("window.live") == SHOWN
    expect(finished.locator(".llmwit-text")).to_have_text(SHOWN)
    finished.get_by_role("button", name="Copy").click()
    page.get_by_role("menuitem", name="text").click()
    expect(finished.get_by_role("button", name="copied")).to_be_visible()
    assert notebook.clipboard() == HOSTILE
    assert_harmless(page)

    tokens = notebook.run(2)
    expect(tokens.locator(".llmwit-text")).to_have_text(SHOWN)
    tokens.locator(".llmwit-token").first.hover()
    expect(page.locator(".llmwit-alternatives")).to_contain_text("<img")
    assert_harmless(page)

    table = notebook.run(3)
    for text in table.locator(".llmwit-text").all_text_contents():
        assert text == SHOWN
    table.get_by_label("compare with").select_option(index=1)
    table.get_by_role("columnheader", name="text").get_by_role("button").click()
    assert table.locator(".llmwit-text").first.text_content() == SHOWN
    assert_harmless(page)

    expect(notebook.run(4).locator("table")).to_contain_text("<img src=x")
    assert_harmless(page)
    notebook.run(5)
    expect(notebook.run(6).locator(".llmwit-text")).to_have_text(SHOWN)
    assert_harmless(page)
    assert not [url for url in notebook.requests if url.endswith("/x")]

    # A page that trusts everything shows the saved HTML like this.
    saved = notebook.save()
    static = notebook.context.new_page()
    static.set_content("<title>safe</title>")
    static.evaluate(TRAP)
    for cell in saved.cells[1:]:
        for output in cell.outputs:
            if html := output.get("data", {}).get("text/html"):
                static.evaluate(
                    """(html) => {
                      const range = document.createRange();
                      document.body.append(range.createContextualFragment(html));
                    }""",
                    html,
                )
    expect(static.locator("body")).to_contain_text("onerror=")
    assert static.locator("img, script").count() == 0
    assert "owned" not in static.evaluate("window.titles")
    assert static.title() == "safe"


def test_hostile_text_stays_text_in_the_tuning_panel(
    open_notebook: Open, lab: Lab, hostile_model: Path
) -> None:
    """It is text in the answer, in a kept answer, and in the line to copy."""
    notebook = open_notebook(
        f"%%infer -m '{hostile_model}' {OPTIONS} --temperature 0 --stop '<b onclick=x>' --tune\n"
        f"{QUESTION}"
    )
    page = notebook.page
    page.evaluate(TRAP)
    panel = notebook.run(1)
    expect(panel.locator(".llmwit-text").first).to_have_text(SHOWN, timeout=30_000)
    expect(panel.locator("code").first).to_contain_text("--stop '<b onclick=x>'")
    panel.get_by_role("button", name="keep").click()
    handle = panel.locator(".widget-slider").filter(has_text="seed").first.locator(".noUi-handle")
    handle.focus()
    before = lab.last_row()["run_id"]
    handle.press("ArrowRight")
    wait_until(
        lambda: (row := lab.last_row())["run_id"] > before and row["status"] == "ok",
        20,
        "the changed setting has run",
    )
    texts = panel.locator(".llmwit-text").all_text_contents()
    assert len(texts) >= 2
    assert set(texts) == {SHOWN}
    assert panel.locator("b[onclick]").count() == 0
    assert_harmless(page)
    assert not [url for url in notebook.requests if url.endswith("/x")]
