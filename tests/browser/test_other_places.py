"""An answer where updates of a display do not arrive, and in an untrusted notebook."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.support.browser import Lab, Notebook, wait_until

Open = Callable[..., Notebook]

CALL = "get_ipython().run_cell_magic('infer', '--max-tokens 8 --seed 3', 'Two lines:\\n')"
OUTPUTS = {
    "with": f"import ipywidgets as w\nout = w.Output()\ndisplay(out)\nwith out:\n    {CALL}",
    "capture": (
        "import ipywidgets as w\nout = w.Output()\ndisplay(out)\n"
        f"@out.capture()\ndef work():\n    {CALL}\nwork()"
    ),
    "interact": f"import ipywidgets as w\n@w.interact(n=1)\ndef work(n):\n    {CALL}",
}
BUTTON = (
    "import ipywidgets as w\nout, b = w.Output(), w.Button(description='Ask')\n"
    f"def work(b):\n    with out:\n        {CALL}\nb.on_click(work)\ndisplay(b, out)"
)


@pytest.mark.parametrize("place", OUTPUTS)
def test_an_output_widget_shows_the_answer(open_notebook: Open, lab: Lab, place: str) -> None:
    """The `Output` has the finished answer with its buttons. Nothing says that the run goes on."""
    notebook = open_notebook(OUTPUTS[place])
    output = notebook.run(1)
    inside = output.locator(".widget-output .llmwit-answer")
    expect(inside).to_have_count(1, timeout=20_000)
    expect(inside.locator(".llmwit-badge")).to_have_text("length")
    expect(inside.get_by_role("button", name="good answer")).to_be_visible()
    expect(output.get_by_text("running …")).to_have_count(0)
    assert lab.last_row()["status"] == "ok"


def test_a_button_shows_its_answer(open_notebook: Open) -> None:
    """Each click runs the model. The `Output` has all answers, the newest last."""
    notebook = open_notebook(BUTTON)
    output = notebook.run(1)
    for count in (1, 2):
        output.get_by_role("button", name="Ask").click()
        expect(output.locator(".widget-output .llmwit-answer")).to_have_count(count, timeout=20_000)


CELLS = (
    "%%infer --max-tokens 30 --seed 5\nA poem of several lines:\n\n",
    "%%infer --max-tokens 30 --seed 5 --top-logprobs 3 --temperature 1.2\nA poem:\n\n",
    "%%infer --temperature 0,0.7 --max-tokens 12 --seed 3\nMy favourite season is",
    "%infer_log --last 2",
)


def test_an_untrusted_notebook_reads_well(open_notebook: Open, lab: Lab) -> None:
    """A notebook from somebody else keeps its lines, has no buttons and needs no style sheet."""
    notebook = open_notebook(*CELLS)
    for index in range(1, 5):
        notebook.run(index)
    texts = [row["text"] for row in lab.log.rows()[-4:]]
    shown = notebook.output(1).locator(".llmwit-text").inner_text()
    saved = notebook.save()
    notebook.shut_down()

    other = notebook.somebodys(saved)
    page = other.page
    assert page.evaluate("document.documentElement.dataset.llmwit") is None
    for index in range(1, 5):
        output = other.output(index)
        expect(output.get_by_role("button")).to_have_count(0)
        assert page.locator(".jp-OutputArea [data-forms], .jp-OutputArea [data-top]").count() == 0
        for word in ("{", "Copy", "WAVE", "JSON", "base"):
            assert word not in output.inner_text()
    answer = other.output(1).locator(".llmwit-text")
    assert answer.inner_text().strip("\n") == shown.strip("\n") == texts[0].strip("\n")
    assert "\n" in texts[0].strip("\n")
    assert "length · max tokens" in other.output(1).inner_text()
    # The colours of shades and of a table's marks are in the elements themselves.
    backgrounds = (
        other.output(2)
        .locator(".llmwit-token[style]")
        .evaluate_all("tokens => tokens.map((token) => getComputedStyle(token).backgroundColor)")
    )
    assert backgrounds
    assert "rgba(0, 0, 0, 0)" not in backgrounds
    assert [text.strip() for text in other.output(3).locator(".llmwit-text").all_inner_texts()] == [
        text.strip() for text in texts[2:]
    ]
    other.picture("untrusted")
    assert not other.errors


def test_buttons_of_an_untrusted_answer_do_what_they_can(open_notebook: Open, lab: Lab) -> None:
    """With the extension loaded, its text can be copied. Buttons that need data are left out."""
    notebook = open_notebook(CELLS[0])
    notebook.run(1)
    saved = notebook.save()
    notebook.shut_down()
    other = notebook.somebodys(saved)
    other.run(0)
    output = other.output(1)
    expect(output.get_by_role("button", name="Copy")).to_be_visible()
    assert output.get_by_role("button").all_inner_texts() == ["Details", "Copy"]
    output.get_by_role("button", name="Copy").click()
    wait_until(lambda: other.clipboard() == lab.last_row()["text"], 3, "the text is copied")
    other.shut_down()


def test_the_page_tells_the_kernel_that_it_is_there(open_notebook: Open) -> None:
    """After that, its client's runs are drawn live, also if a request does not name its cell."""
    notebook = open_notebook(
        "from llmwit_magic.views.frontend import _answered, current_request\n"
        "print(current_request(get_ipython())['header']['session'] in _answered)"
    )
    expect(notebook.run(1)).to_contain_text("True")
