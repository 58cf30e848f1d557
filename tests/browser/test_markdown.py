"""Answers as Markdown, as a person sees and uses them, and as nobody else can use them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Locator, Page, expect

from tests.support.axe import faults
from tests.support.browser import THEME, Lab, Notebook
from tests.support.contrast import CONTRAST
from tests.support.markdown_texts import ANSWER, HOSTILE_MARKDOWN
from tests.support.tiny_models import QUESTION, write_llama_gguf

PIECES = tuple(re.findall(r".+\n+", ANSWER))
TEMPLATE = "{{ messages[0]['content'] }}"
HOSTILE = "\n\n".join(text for text in HOSTILE_MARKDOWN.values() if len(text) < 5_000)
# Results of a run with another text: the page shows what a kernel makes of them.
SHOW = "_infer.model_copy(update={{'text': {text!r}, 'tokens': None}})"
SEES_EVERYTHING = """() => {
  window.evil = () => (window.owned = true);
  window.titles = [];
  const own = Object.getOwnPropertyDescriptor(Document.prototype, "title");
  Object.defineProperty(document, "title", {
    get: () => own.get.call(document),
    set: (value) => { window.titles.push(value); own.set.call(document, value); },
  });
}"""
ACTIVE = """(output) => [...output.querySelectorAll(".llmwit-markdown, .llmwit-markdown *")].filter(
  (one) => /^(script|iframe|img|svg|style|link|base|meta|object|embed|form)$/i.test(one.localName)
    || [...one.attributes].some(({name, value}) => name.startsWith("on") || name === "src"
      || (name === "href" && !/^(https?:[/][/]|mailto:)/.test(value)))
    || (one.id && !/^(mjx|MJX)/.test(one.id)))
  .map((one) => one.outerHTML.slice(0, 100))"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model whose most probable answer is one in Markdown."""
    path = tmp_path_factory.mktemp("markdown") / "markdown.gguf"
    return write_llama_gguf(path, tied=False, weights="successor", answer=PIECES, template=TEMPLATE)


def assert_inert(notebook: Notebook, *outputs: Locator) -> None:
    """Nothing of the model has run, is active, or was asked for."""
    page = notebook.page
    assert not page.evaluate("window.owned")
    assert "owned" not in page.evaluate("window.titles ?? []")
    for output in outputs:
        assert output.evaluate(ACTIVE) == []
    assert not [url for url in notebook.requests if "evil" in url or url.endswith(("/x", ".png"))]
    assert not notebook.foreign_requests()
    assert not notebook.errors


def assert_shown(output: Locator) -> None:
    """Code, table, formula, link and image are what they are with and without a kernel."""
    answer = output.locator(".llmwit-markdown")
    expect(answer.locator("mjx-container")).to_have_count(3, timeout=20_000)
    expect(answer.locator("pre")).to_contain_text("def area(radius: float) -> float:")
    expect(answer.locator("tr")).to_have_count(3)
    link = answer.locator("a").first
    expect(link).to_have_text("https://example.org/a?b=1&c=2")
    assert (
        "noopener" in (link.get_attribute("rel") or "") or link.get_attribute("rel") == "nofollow"
    )
    expect(answer).to_contain_text(
        "[image, not loaded: A picture, https://evil.example/picture.png]"
    )
    expect(answer).to_contain_text("<script>document.title='owned'</script><img src=x onerror=")
    assert answer.locator("h1, h2, h3").count() == 0


def test_markdown_is_shown_and_stays_inert(
    open_notebook: Callable[..., Notebook], lab: Lab, model: Path
) -> None:
    """In a live notebook, on a narrow page, in the dark, by keyboard, untrusted and exported."""
    asked = f"%%infer -m '{model}' --chat --temperature 0 --max-tokens {len(PIECES)}"
    notebook = open_notebook(
        f"{asked}\n{QUESTION}",
        f"{asked} --render text\n{QUESTION}",
        SHOW.format(text=HOSTILE),
        f"%config InferMagics.render = 'text'\n{SHOW.format(text='**text**')}",
    )
    page = notebook.page
    page.evaluate(SEES_EVERYTHING)
    answer = notebook.run(1)
    assert lab.last_row()["text"] == ANSWER
    assert_shown(answer)
    notebook.picture("markdown_light", answer)
    assert faults(answer) == []

    # The parts of the code have colours that are easy to read, and a button that copies it.
    code = answer.locator(".llmwit-code")
    assert_readable(answer)
    colours = {code.locator(f".{name}").first.evaluate(COLOUR) for name in ("k", "nf", "n", "ge")}
    assert len(colours) == 4
    code.get_by_role("button", name="copy code 1").click()
    expect(code.get_by_text("copied")).to_be_visible()
    copied = notebook.clipboard().replace("\r\n", "\n")
    assert copied == ANSWER.partition("```python\n")[2].partition("\n```")[0]

    # The text and the Markdown, by keyboard; what is copied is the text in either case.
    toggle = answer.get_by_role("button", name="Text", exact=True)
    toggle.focus()
    page.keyboard.press("Enter")
    expect(toggle).to_have_attribute("aria-pressed", "true")
    expect(answer.locator(".llmwit-text")).to_be_visible()
    expect(answer.locator(".llmwit-text")).to_have_text(ANSWER, use_inner_text=True)
    expect(answer.locator(".llmwit-markdown")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(answer.locator(".llmwit-markdown")).to_be_visible()
    answer.get_by_role("button", name="Copy ▾").click()
    page.get_by_role("menuitem", name="text").click()
    expect(answer.get_by_role("button", name="copied")).to_be_visible()
    assert notebook.clipboard().replace("\r\n", "\n") == ANSWER

    text = notebook.run(2)
    expect(text.locator(".llmwit-text")).to_have_text(ANSWER, use_inner_text=True)
    assert text.locator(".llmwit-markdown").count() == 0
    hostile = notebook.run(3)
    expect(hostile.locator(".llmwit-markdown")).to_contain_text("javascript:evil()")
    expect(hostile.locator("mjx-container")).to_have_count(1, timeout=20_000)
    assert faults(hostile) == []
    notebook.picture("markdown_hostile", hostile)
    for link in hostile.locator(".llmwit-markdown a").all():
        assert link.inner_text() == link.get_attribute("href")
    assert_inert(notebook, answer, text, hostile)
    expect(notebook.run(4).locator(".llmwit-text")).to_have_text("**text**")

    # On a narrow page the table and the code scroll, and the page does not.
    page.set_viewport_size({"width": 480, "height": 800})
    for box in (answer.locator(".llmwit-scrolling"), code.locator("pre")):
        expect(box).to_have_attribute("role", "region")
        expect(box).to_have_attribute("tabindex", "0")
    assert answer.locator(".llmwit-markdown").evaluate(
        "(box) => box.scrollWidth <= box.clientWidth + 1"
    )
    assert faults(answer) == []
    notebook.picture("markdown_narrow", answer)
    page.set_viewport_size({"width": 1000, "height": 800})

    # Somebody else's notebook is not trusted, and its page has no module of ours.
    saved = notebook.save()
    data = saved.cells[1].outputs[0]["data"]
    assert data["text/plain"].startswith(ANSWER)
    notebook.shut_down()
    lab.set(THEME, {"theme": "JupyterLab Dark"})
    other = notebook.somebodys(saved)
    other.page.evaluate(SEES_EVERYTHING)
    answer, hostile = other.output(1), other.output(3)
    assert_shown(answer)
    assert_inert(other, answer, hostile)
    expect(answer.locator("details pre")).to_be_hidden()
    answer.locator("summary").focus()
    other.page.keyboard.press("Enter")
    expect(answer.locator("details pre")).to_have_text(ANSWER, use_inner_text=True)
    other.page.keyboard.press("Enter")
    other.picture("markdown_untrusted_dark", answer)
    assert_readable(answer)
    assert faults(answer) == []

    # A kernel that loads the extension gives the page its module, and the saved answers their buttons.
    trusted = notebook.again()
    trusted.setup()
    trusted.page.evaluate(SEES_EVERYTHING)
    answer = trusted.output(1)
    assert_shown(answer)
    expect(answer.get_by_role("button", name="copy code 1")).to_be_visible()
    assert_readable(answer)
    assert faults(answer, trusted.output(3)) == []
    assert answer.locator("a").first.get_attribute("rel") == "noopener noreferrer"
    trusted.picture("markdown_dark", answer)
    assert_inert(trusted, answer, trusted.output(3))
    lab.set(THEME, {"theme": "JupyterLab Light"})
    assert_a_page_of_nbconvert_is_inert(trusted.context.new_page(), saved)


def assert_readable(answer: Locator) -> None:
    """All parts of the code, its links and its headings have enough contrast."""
    for part in answer.locator(".llmwit-markdown :is(pre span, a, b, code)").all():
        assert part.evaluate(CONTRAST) >= 4.5, part.evaluate("(part) => part.outerHTML")


COLOUR = "(part) => getComputedStyle(part).color"


def assert_a_page_of_nbconvert_is_inert(page: Page, saved: object) -> None:
    """It asks for nothing that a page of another notebook does not ask for."""
    body, _ = HTMLExporter().from_notebook_node(saved)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/*", lambda route: route.abort())
    page.evaluate(SEES_EVERYTHING)
    page.set_content(body, wait_until="domcontentloaded")
    answer = page.locator(".llmwit-markdown").first
    expect(answer.locator("pre")).to_contain_text("def area")
    assert len({answer.locator(f".{name}").first.evaluate(COLOUR) for name in ("k", "n")}) == 2
    assert page.locator(".llmwit-markdown").last.evaluate(ACTIVE) == []
    assert page.evaluate("[window.owned, window.titles]") == [None, []]
    page.wait_for_timeout(300)
    assert not [url for url in asked if "cdnjs.cloudflare.com" not in url], json.dumps(asked)
    page.close()
