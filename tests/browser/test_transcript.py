"""A conversation in JupyterLab: the line under a turn, and the transcript in each theme."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.test_looks import assert_fits, assert_readable
from tests.support.axe import faults
from tests.support.browser import THEME, Lab, Notebook

CELLS = (
    "%%infer --conversation owl --system 'Be brief.' --max-tokens 24 --seed 3\nWhat is an owl?",
    "%%infer --continue\n<b>What</b> does it eat? " + "x" * 200,
    "_conversation.start('Is it wise?')\n_conversation",
)


@pytest.mark.parametrize("looks", ["light", "dark", "narrow"])
def test_a_transcript_is_readable_text(open_notebook: Callable[..., Notebook], lab: Lab, looks: str) -> None:  # fmt: skip
    """Its texts are text, it fits its place, and axe-core finds no serious fault in it."""
    theme = "JupyterLab Dark" if looks == "dark" else "JupyterLab Light"
    lab.set(THEME, {"theme": theme})
    try:
        notebook = open_notebook(*CELLS, width=480 if looks == "narrow" else 1000)
        expect(notebook.run(1).locator(".llmwit-status")).to_contain_text("turn 1 of owl")
        turn = notebook.run(2)
        expect(turn.locator(".llmwit-status")).to_contain_text("turn 2 of owl")
        expect(turn.locator(".llmwit-status")).to_contain_text("tokens left")
        output = notebook.run(3)
        view = output.locator(".llmwit-transcript")
        assert view.locator(".llmwit-role").all_inner_texts() == [
            "system", *["user", "assistant"] * 3
        ]  # fmt: skip
        expect(view.locator(".llmwit-status").last).to_contain_text("turn 3 of owl")
        expect(view.locator("pre").nth(3)).to_contain_text("<b>What</b> does it eat?")
        assert view.locator("pre b").count() == 0
        assert_readable(*view.locator(".llmwit-role, .llmwit-status, pre").all())
        assert_fits(view, *view.locator("pre").all())
        # axe-core tells nothing of text outside of the window.
        view.locator(".llmwit-role").last.scroll_into_view_if_needed()
        assert faults(output) == []
        notebook.picture(f"transcript_{looks}")
    finally:
        lab.set(THEME, {"theme": "JupyterLab Light"})
