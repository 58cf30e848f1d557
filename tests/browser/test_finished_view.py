"""A finished answer as a person sees and uses it in JupyterLab, at once and the next day."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from playwright.sync_api import Locator, expect

from llmwit_magic.runlog.log import RunLog
from tests.support.browser import Lab, Notebook, wait_until

Open = Callable[..., Notebook]

SHORT = "%%infer --max-tokens 12 --seed 3\nThe capital of France is"

IMPROBABLE = "document.querySelector('.llmwit-token[style]')"


def button(output: Locator, name: str) -> Locator:
    return output.get_by_role("button", name=name, exact=True)


def copied(notebook: Notebook, output: Locator, name: str) -> str:
    """The text in the clipboard after this entry of the Copy menu was chosen."""
    notebook.page.evaluate("navigator.clipboard.writeText('nothing')")
    button(output, "Copy ▾").click()
    notebook.page.get_by_role("menuitem", name=name, exact=True).click()
    expect(notebook.page.get_by_role("menu")).to_have_count(0)
    wait_until(lambda: notebook.clipboard() != "nothing", 3, f"{name} has copied")
    # Browsers end each line of a clipboard's text as their system does.
    return notebook.clipboard().replace("\r\n", "\n")


def test_the_badge_says_why_a_run_ended(open_notebook: Open) -> None:
    """A stop sequence, a limit and a content filter each have a badge and a detail in words."""
    notebook = open_notebook(
        "%%infer --temperature 0 --stop ,\nOne, two, three, four",
        SHORT,
        "%config InferMagics.content_filters = ['[Pp]aris']",
        SHORT.replace("--seed 3", "--temperature 0"),
    )
    for index in range(1, 5):
        notebook.run(index)
    badges = {
        index: notebook.output(index).locator(".llmwit-status").inner_text() for index in (1, 2, 4)
    }
    assert badges[1].startswith('stop · stop sequence ","')
    assert badges[2].startswith("length · max tokens")
    assert badges[4].startswith("content filter · the rest is left out")
    expect(notebook.output(4).locator(".llmwit-text")).not_to_contain_text("Paris")


def test_a_run_is_copied_in_each_form(open_notebook: Open, lab: Lab) -> None:
    """Copy gives the run's text, JSON and WAVE. The copied cell and Python code repeat the run."""
    notebook = open_notebook(
        "%%infer -o first --max-tokens 20 --temperature 0.7 --top-k 50\nMy favourite season is"
    )
    output = notebook.run(1)
    row = lab.last_row()
    assert copied(notebook, output, "text") == row["text"]
    assert copied(notebook, output, "WAVE") == (
        "{max-tokens: some(20), repeat-penalty: 1.1, repeat-penalty-last-n-token-count: 64, "
        "stop: [], temperature: 0.7, top-k: 50, top-p: 0.9}"
    )
    given = json.loads(copied(notebook, output, "JSON"))
    assert given["prompt"] == row["prompt"]
    assert given["params"]["seed"] == row["seed"]

    cell = copied(notebook, output, "cell")
    assert cell.startswith(
        f"%%infer --max-tokens 20 --temperature 0.7 --top-k 50 --seed {row['seed']}"
    )
    pasted = notebook.new_cell(1)
    notebook.page.keyboard.press("Control+v")
    again = notebook.run(pasted)
    expect(again.locator(".llmwit-text")).to_have_text(row["text"], use_inner_text=True)
    assert lab.last_row()["text"] == row["text"]
    assert lab.last_row()["run_id"] == row["run_id"] + 1

    copied(notebook, output, "Python")
    pasted = notebook.new_cell(pasted)
    notebook.page.keyboard.press("Control+v")
    notebook.page.keyboard.insert_text("\nprint(result.text == first.text)")
    expect(notebook.run(pasted)).to_contain_text("True")


def test_thumbs_write_the_rating(open_notebook: Open, lab: Lab) -> None:
    """A thumb is pressed and in the log. The other one replaces it. A second click takes it back."""
    notebook = open_notebook(SHORT)
    output = notebook.run(1)
    good, bad = button(output, "good answer"), button(output, "bad answer")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")
    assert lab.last_row()["rating"] == 1
    bad.click()
    expect(bad).to_have_attribute("aria-pressed", "true")
    expect(good).to_have_attribute("aria-pressed", "false")
    assert lab.last_row()["rating"] == -1
    bad.click()
    expect(bad).to_have_attribute("aria-pressed", "false")
    assert lab.last_row()["rating"] is None


def test_thumbs_write_into_a_log_chosen_later(open_notebook: Open, lab: Lab) -> None:
    """A log that is chosen after the extension was loaded gets the ratings of its runs."""
    path = lab.root / "later.sqlite3"
    notebook = open_notebook(f"%config InferMagics.log_path = {str(path)!r}", SHORT)
    notebook.run(1)
    output = notebook.run(2)
    button(output, "good answer").click()
    expect(button(output, "good answer")).to_have_attribute("aria-pressed", "true")
    log = RunLog(path)
    assert [row["rating"] for row in log.rows()] == [1]
    log.close()


def test_tokens_are_read_with_the_keyboard(open_notebook: Open, lab: Lab) -> None:
    """Tab reaches the first token, and arrow keys the others. Each shows its alternatives.

    Escape hides them.
    """
    notebook = open_notebook(SHORT.replace("%%infer", "%%infer --top-logprobs 3"))
    output = notebook.run(1)
    keyboard, page = notebook.page.keyboard, notebook.page
    tokens = output.locator(".llmwit-token")
    assert tokens.count() == lab.last_row()["generated_token_count"]
    for _ in range(12):
        keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.llmwit-token')"):
            break
    expect(tokens.nth(0)).to_be_focused()
    table = page.locator(".llmwit-alternatives")
    expect(table).to_be_visible()
    assert table.locator("tr").count() >= 3
    assert table.locator("tr", has_text="▸").count() == 1
    # A screen reader reads the table with its token, and reads nothing twice.
    expect(tokens.nth(0)).to_have_accessible_description(re.compile(r"▸.*%"))
    assert output.locator(".llmwit-token[title]").count() == 0
    first = table.inner_text()

    keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(table).to_be_visible()
    assert table.inner_text() != first
    keyboard.press("ArrowDown")
    expect(tokens.nth(2)).to_be_focused()
    keyboard.press("ArrowLeft")
    keyboard.press("ArrowUp")
    expect(tokens.nth(0)).to_be_focused()
    keyboard.press("End")
    expect(tokens.last).to_be_focused()
    keyboard.press("Home")
    expect(tokens.nth(0)).to_be_focused()
    notebook.picture("token_alternatives")
    keyboard.press("Escape")
    expect(table).to_have_count(0)
    expect(tokens.nth(0)).to_have_accessible_description("")

    # All tokens are one stop for Tab. It leaves them, and comes back to the same token.
    keyboard.press("ArrowRight")
    keyboard.press("Tab")
    expect(output.get_by_role("button").first).to_be_focused()
    expect(table).to_have_count(0)
    keyboard.press("Shift+Tab")
    expect(tokens.nth(1)).to_be_focused()


def test_tokens_are_read_with_the_mouse(open_notebook: Open) -> None:
    """The token under the pointer shows its alternatives. Without shades the text is plain."""
    notebook = open_notebook(
        "%%infer --top-logprobs 3 --max-tokens 40 --seed 9 --temperature 0.9\nOnce upon a time"
    )
    output = notebook.run(1)
    token, table = (
        output.locator(".llmwit-token").nth(2),
        notebook.page.locator(".llmwit-alternatives"),
    )
    token.hover()
    expect(table).to_be_visible()
    # The shaded token must be looked for: the first one may be probable.
    shaded = f"getComputedStyle({IMPROBABLE}).backgroundColor"
    assert notebook.page.evaluate(shaded) != "rgba(0, 0, 0, 0)"
    expect(output.locator(".llmwit-legend")).to_contain_text("less than 10% 3% 1%")
    notebook.page.keyboard.press("Escape")
    expect(table).to_have_count(0)
    button(output, "Tokens").click()
    expect(output.locator(".llmwit-legend")).to_be_hidden()
    expect(button(output, "Tokens")).to_have_attribute("aria-pressed", "false")
    token.hover()
    expect(table).to_have_count(0)
    assert notebook.page.evaluate(shaded) == "rgba(0, 0, 0, 0)"


def test_a_reloaded_page_keeps_the_finished_view(open_notebook: Open, lab: Lab) -> None:
    """While its kernel lives, the view is there after a reload, and its buttons work."""
    notebook = open_notebook(SHORT)
    notebook.run(1)
    text = lab.last_row()["text"]
    notebook.save()
    notebook.reload()
    output = notebook.output(1)
    expect(output.locator(".llmwit-text")).to_have_text(text, use_inner_text=True)
    expect(output.locator(".llmwit-badge")).to_have_text("length")
    button(output, "good answer").click()
    expect(button(output, "good answer")).to_have_attribute("aria-pressed", "true")
    assert lab.last_row()["rating"] == 1


def test_a_reopened_notebook_shows_the_finished_view(open_notebook: Open, lab: Lab) -> None:
    """A notebook that was saved and shut down shows text and status without a widget."""
    notebook = open_notebook(SHORT.replace("%%infer", "%%infer --top-logprobs 3"))
    notebook.run(1)
    text = lab.last_row()["text"]
    [shown] = notebook.save().cells[1].outputs
    assert set(shown.data) == {"text/html", "text/plain"}
    assert text in shown.data["text/plain"]
    notebook.shut_down()

    other = notebook.again()
    output = other.output(1)
    expect(output.locator(".llmwit-text")).to_have_text(text, use_inner_text=True)
    expect(output.locator(".llmwit-badge")).to_have_text("length")
    expect(other.page.get_by_text("Error displaying widget")).to_have_count(0)
    # No button is shown, as none could work. What one would open is shown.
    expect(output.locator(".llmwit-status")).to_contain_text("seed 3")
    expect(output.get_by_role("button")).to_have_count(0)
    other.picture("reopened")
    assert not other.foreign_requests()
    assert not other.errors


def test_the_rest_is_there_on_demand(open_notebook: Open, lab: Lab) -> None:
    """One line says why the run ended, its tokens and its speed. A button shows the rest."""
    notebook = open_notebook(SHORT)
    output = notebook.run(1)
    line = output.locator(".llmwit-status")
    brief = line.inner_text()
    assert re.fullmatch(r"length · max tokens · 5 \+ 12 tokens · [\d.]+ tokens/s", brief)
    assert line.bounding_box()["height"] < 30
    button(output, "Details").click()
    expect(line).to_contain_text(f"seed 3 · run {lab.last_row()['run_id']}")
    button(output, "Details").click()
    assert line.inner_text() == brief


def test_the_copy_menu_is_used_with_the_keyboard(open_notebook: Open) -> None:
    """Enter opens the menu. Arrow keys go through it. Escape closes it and returns to the button."""
    notebook = open_notebook(SHORT)
    output = notebook.run(1)
    keyboard, menu = notebook.page.keyboard, notebook.page.get_by_role("menu")
    opener = button(output, "Copy ▾")
    opener.focus()
    keyboard.press("Enter")
    names = menu.get_by_role("menuitem").all_inner_texts()
    assert names == ["text", "cell", "Python", "JSON", "WAVE"]
    expect(menu.get_by_role("menuitem").nth(0)).to_be_focused()
    keyboard.press("ArrowDown")
    expect(menu.get_by_role("menuitem").nth(1)).to_be_focused()
    keyboard.press("End")
    expect(menu.get_by_role("menuitem").last).to_be_focused()
    keyboard.press("Home")
    expect(menu.get_by_role("menuitem").nth(0)).to_be_focused()
    keyboard.press("Escape")
    expect(menu).to_have_count(0)
    expect(opener).to_be_focused()
    keyboard.press("Enter")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    expect(output.get_by_role("button", name="copied")).to_be_visible()
    assert notebook.clipboard().startswith("%%infer")
