"""A run that goes on while its notebook is saved, or its output is cleared, or its cell deleted.

Also: a Stop that fails, and what screen readers say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from playwright.sync_api import Locator, Route, expect

from tests.support.browser import Lab, Notebook, wait_until

Open = Callable[..., Notebook]

LONG = "%%infer --max-tokens 6000 --seed 9 --temperature 0.9\nOnce upon a time"
"""This seed fills the context of the default model."""
LONGER = LONG.replace("--seed 9", "--seed 9:17")
LIVE = ".llmwit-scroll > .llmwit-text"


def writing(notebook: Notebook, index: int) -> Locator:
    """Start a cell, and wait for some text; the cell's output."""
    notebook.start(index)
    live = notebook.output(index).locator(LIVE)
    wait_until(lambda: live.count() and len(live.inner_text()) > 100, 30, "some text is there")
    return notebook.output(index)


def stop(output: Locator) -> Locator:
    return output.get_by_role("button", name="■ Stop", exact=True)


def fulfil(status: int, route: Route) -> None:
    """Answer a request with that status, in place of the server."""
    route.fulfill(status=status)


def select(notebook: Notebook, index: int) -> None:
    """Select a cell, so that keyboard commands act on it."""
    notebook.cell(index).locator(".jp-InputPrompt").click()
    notebook.page.keyboard.press("Escape")


def menu(notebook: Notebook, *names: str) -> None:
    """Choose from the menus. The names of entries may be followed by their keys."""
    for name in names:
        begins = re.compile(f"^{re.escape(name)}")
        notebook.page.get_by_role("menuitem", name=begins).click()


def test_saved_in_the_middle_it_says_where_the_answer_is(open_notebook: Open, lab: Lab) -> None:
    """A notebook saved during a run names the run. Without its kernel it shows that line.

    No widget is missing in it.
    """
    notebook = open_notebook(LONG)
    output = writing(notebook, 1)
    [kept] = notebook.save().cells[1].outputs
    place = f"runs[{lab.last_row()['run_id']}]"
    assert set(kept.data) == {"text/html", "text/plain"}
    assert place in kept.data["text/html"]
    assert place in kept.data["text/plain"]

    menu(notebook, "Kernel", "Restart Kernel…")
    notebook.page.get_by_role("dialog").get_by_role("button", name="Confirm Kernel Restart").click()
    expect(output).to_contain_text("lost: its kernel is gone")
    expect(output.get_by_role("button")).to_have_count(0)
    assert len(output.locator(LIVE).inner_text()) > 100
    notebook.wait_ready()  # the server does not shut down a kernel during its restart
    notebook.shut_down()

    other = notebook.again()
    expect(other.output(1)).to_contain_text(
        f"running … · if this line stays, the answer is in {place}"
    )
    expect(other.page.get_by_text("Error displaying widget")).to_have_count(0)
    other.picture("saved_in_the_middle")


def test_an_interrupt_in_vain_is_said(open_notebook: Open, lab: Lab) -> None:
    """If the server refuses an interrupt or it has no effect, the view names another way.

    Stop can then be clicked again.
    """
    notebook = open_notebook(LONG)
    output = writing(notebook, 1)
    for status in (500, 204):
        notebook.page.route("**/interrupt*", partial(fulfil, status))
        stop(output).click()
        expect(output.get_by_text("use the notebook's own Stop")).to_be_visible(timeout=5000)
        notebook.page.unroute("**/interrupt*")
    notebook.picture("stop_in_vain")
    assert lab.last_row()["status"] == "running"

    stop(output).focus()
    notebook.page.keyboard.press("Enter")
    notebook.wait(1)
    assert lab.last_row()["status"] == "interrupted"
    expect(output.locator(".llmwit-badge")).to_have_text("interrupted")
    # The cell has the focus.
    expect(notebook.cell(1)).to_be_focused()


def test_a_cleared_output_comes_again(open_notebook: Open, lab: Lab) -> None:
    """After its output was cleared, a run is shown below the cell, with all its text.

    It is shown until the cell has another output.
    """
    notebook = open_notebook(LONG)
    output = writing(notebook, 1)
    select(notebook, 1)
    menu(notebook, "Edit", "Clear Cell Output")
    cell = notebook.cell(1)
    live = cell.locator(LIVE)
    wait_until(lambda: live.count() and len(live.inner_text()) > 100, 10, "it is there again")
    notebook.picture("cleared")
    stop(cell).click()
    wait_until(lambda: lab.last_row()["status"] == "interrupted", 10, "the run has ended")
    expect(output).to_contain_text(f"the text is kept in run {lab.last_row()['run_id']}")
    expect(live).to_have_count(0)


def test_a_deleted_cell_ends_its_run(open_notebook: Open, lab: Lab) -> None:
    """Three seconds after its cell was deleted, a run ends.

    If the deletion is undone before, the run goes on and is shown again.
    """
    notebook = open_notebook(LONGER, "1")
    output = writing(notebook, 1)
    select(notebook, 1)
    notebook.page.keyboard.press("d")
    notebook.page.keyboard.press("d")
    expect(output.locator(LIVE)).to_have_count(0)
    notebook.page.wait_for_timeout(500)  # the page notices meanwhile that the cell is gone
    notebook.page.keyboard.press("z")
    expect(output.locator(LIVE)).to_have_count(1)
    notebook.page.wait_for_timeout(3000)
    assert lab.last_row()["status"] == "running"

    select(notebook, 1)
    notebook.page.keyboard.press("d")
    notebook.page.keyboard.press("d")
    wait_until(lambda: lab.last_row()["status"] == "interrupted", 10, "the run has ended")


HEAR = """() => {
  window.heard = [];
  new MutationObserver((changes) => {
    for (const {target} of changes) {
      const role = target.closest?.('[role="status"], [role="alert"], [aria-live]')?.getAttribute("role");
      if (target.closest?.(".llmwit-speaker")) window.heard.push([role, target.textContent]);
    }
  }).observe(document.body, {childList: true, characterData: true, subtree: true});
}"""


def test_what_is_heard(open_notebook: Open, lab: Lab) -> None:
    """Screen readers say a run's stages and end, a sweep's count, and errors, but no answer."""
    notebook = open_notebook(
        "%%infer --max-tokens 60 --seed 5\nOnce upon a time",
        "%%infer --temperature 0,0.5,1 --max-tokens 8 --seed 3\nOnce upon a time",
        "%%infer -m no/such/file.gguf\nOnce upon a time",
        "%%infer --tune --max-tokens 8 --seed 3\nOnce upon a time",
    )
    notebook.page.evaluate(HEAR)

    def heard() -> list[list[str]]:
        return notebook.page.evaluate("window.heard.splice(0)")

    notebook.run(1)
    *stages, ending = heard()
    # A very short stage may not be announced.
    possible = ["loading …", "reading the prompt …", "writing"]
    assert stages == [["status", stage] for stage in possible if ["status", stage] in stages]
    assert stages[-1] == ["status", "writing"]
    row = lab.last_row()
    assert ending[0] == "status"
    assert ending[1].startswith(f"length, max tokens, 4 + {row['generated_token_count']} tokens, ")

    notebook.run(2)
    assert heard()[-3:] == [
        ["status", "1 of 3"],
        ["status", "2 of 3"],
        ["status", "ended: 3 of 3 runs"],
    ]

    notebook.run(3)
    assert heard() == [["alert", "failed: there is no file no/such/file.gguf"]]

    output = notebook.run(4)
    expect(output.locator(".llmwit-badge").first).to_be_visible(timeout=30_000)
    assert heard()[-1][1].startswith("length, max tokens, ")
    output.locator("textarea").fill("")
    expect(output.get_by_role("alert")).to_have_text("the prompt is empty")
