"""Answers of a model that thinks: the reasoning is folded, and everyone can unfold it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.axe import faults
from tests.support.browser import THEME, Lab, Notebook
from tests.support.contrast import CONTRAST
from tests.support.tiny_models import QUESTION, write_llama_gguf

PIECES = (
    "<think>", "\n \n", "The capital of France", " is asked for.\n\n", "<img src=x onerror=",
    '"document.title=1">', " Is it", " Paris?", "</think>", "\n\t\n", "Paris", " it is!",
)  # fmt: skip
REASONING = (
    'The capital of France is asked for.\n\n<img src=x onerror="document.title=1"> Is it Paris?'
)
TEMPLATE = "{{ messages[0]['content'] }}{# <think></think> #}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model that thinks before it answers."""
    path = tmp_path_factory.mktemp("thinking") / "thinking.gguf"
    return write_llama_gguf(path, tied=False, weights="successor", answer=PIECES,
                            marks=("<think>", "</think>"), template=TEMPLATE)  # fmt: skip


def test_reasoning_is_folded_and_unfolds(
    open_notebook: Callable[..., Notebook], lab: Lab, model: Path
) -> None:
    """With the keyboard, with its tokens, in a sweep, in the dark, and in an untrusted notebook."""
    lab.set(THEME, {"theme": "JupyterLab Dark"})
    asked = f"%%infer -m '{model}' --chat --max-tokens 20"
    notebook = open_notebook(
        f"{asked} --temperature 0\n{QUESTION}",
        f"{asked} --temperature 0 --top-logprobs 2\n{QUESTION}",
        f"{asked} --temperature 0,0.01 --repeat-penalty 1\n{QUESTION}",
    )
    page, keyboard = notebook.page, notebook.page.keyboard
    answer = notebook.run(1)
    assert lab.last_row()["reasoning"] == REASONING
    thoughts, label = answer.locator(".llmwit-thoughts"), answer.locator("summary")
    expect(label).to_have_text("reasoning: 10 tokens")
    expect(thoughts).to_be_hidden()
    expect(answer.locator("pre").last).to_have_text("Paris it is!")
    for _ in range(9):
        keyboard.press("Tab")
        if label.evaluate("(element) => element === document.activeElement"):
            break
    for key in ("Enter", "Space", "Space"):
        keyboard.press(key)
    expect(thoughts).to_be_visible()
    expect(thoughts).to_have_text(REASONING, use_inner_text=True)
    assert page.locator(".jp-OutputArea img").count() == 0
    for part in (label, thoughts):
        assert part.evaluate(CONTRAST) >= 4.5
    assert faults(answer) == []
    answer.get_by_role("button", name="Copy").click()
    page.get_by_role("menuitem", name="text").click()
    expect(answer.get_by_role("button", name="copied")).to_be_visible()
    assert notebook.clipboard() == "Paris it is!"
    notebook.picture("thinking_dark")

    tokens = notebook.run(2)
    tokens.locator("summary").click()
    tokens.locator(".llmwit-thoughts .llmwit-token").nth(1).hover()
    expect(page.locator(".llmwit-alternatives")).to_contain_text("asked")
    assert tokens.locator(".llmwit-shaded").count() == 2
    tokens.get_by_role("button", name="Tokens").click()
    assert tokens.locator(".llmwit-shaded").count() == 0
    page.mouse.move(1, 1)

    table = notebook.run(3)
    expect(table.locator("summary")).to_have_count(2)
    table.get_by_label("compare with").select_option(index=1)
    table.get_by_role("columnheader", name="text").get_by_role("button").click()
    assert (
        table.locator(".llmwit-text:not(.llmwit-thoughts)").all_inner_texts()
        == ["Paris it is!"] * 2
    )
    assert faults(table) == []
    table.locator("summary").first.click()
    table.scroll_into_view_if_needed()
    notebook.picture("thinking_table")

    # Somebody else's notebook is not trusted, and its page has no module of ours.
    saved = notebook.save()
    notebook.shut_down()
    lab.set(THEME, {"theme": "JupyterLab Light"})
    other = notebook.somebodys(saved)
    answer = other.output(1)
    expect(answer.locator("summary")).to_have_text("reasoning: 10 tokens")
    thoughts = answer.locator("pre").first
    expect(thoughts).to_be_hidden()
    answer.locator("summary").click()
    expect(thoughts).to_have_text(REASONING, use_inner_text=True)
    assert other.page.locator(".jp-OutputArea :is([data-forms], img)").count() == 0
    other.picture("thinking_untrusted")
