"""A run as a person sees it in JupyterLab: while it goes on, when it has ended, and the next day."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from playwright.sync_api import Locator, expect

from llmwit_magic.runlog.log import RunLog
from tests.support.browser import Lab, Notebook, wait_until

Open = Callable[..., Notebook]

LONG = "%%infer --max-tokens 6000 --seed 9 --temperature 0.9\nOnce upon a time"
"""This seed fills the context of the default model, which takes many seconds."""
SHORT = "%%infer --max-tokens 12 --seed 3\nThe capital of France is"
LIVE = ".jp-OutputArea .llmwit-scroll > .llmwit-text"

WATCH = """(selector) => {
  window.seen = [];
  new MutationObserver(() => {
    const text = document.querySelector(selector);
    if (!text) return;
    const lines = [...text.closest(".llmwit").querySelectorAll(":scope > .llmwit-status")];
    window.text = text.textContent;
    window.seen.push([text.textContent.length, lines.map((line) => line.innerText).join("\\n")]);
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def button(output: Locator, name: str) -> Locator:
    return output.get_by_role("button", name=name, exact=True)


def copied(notebook: Notebook, output: Locator, name: str) -> str:
    """What the clipboard holds after a choice from the menu."""
    notebook.page.evaluate("navigator.clipboard.writeText('nothing')")
    button(output, "Copy ▾").click()
    notebook.page.get_by_role("menuitem", name=name, exact=True).click()
    expect(notebook.page.get_by_role("menu")).to_have_count(0)
    wait_until(lambda: notebook.clipboard() != "nothing", 3, f"{name} has copied")
    # Browsers end each line of a clipboard's text as their system does.
    return notebook.clipboard().replace("\r\n", "\n")


def last_row(lab: Lab) -> dict[str, Any]:
    return lab.log.rows()[-1]


IMPROBABLE = "document.querySelector('.llmwit-token[style]')"

STAGES = ["■", "loading", "reading", "writing"]
"""How the status begins, in order: with the Stop button alone at first."""


def stages(seen: list[tuple[int, str]]) -> list[str]:
    """The first word of each status that was seen, in the order in which they came."""
    words = [status.split(" ")[0] for _, status in seen]
    return [word for word, _ in itertools.groupby(words)]


def test_text_grows_while_the_cell_runs(open_notebook: Open, lab: Lab) -> None:
    """The text gets longer at least three times before the end; the status follows the stages.

    A stage that is over between two looks, such as reading a short prompt, need not be seen.
    """
    notebook = open_notebook(LONG.replace("6000", "300"))
    notebook.page.evaluate(WATCH, LIVE)
    output = notebook.run(1)
    seen = notebook.page.evaluate("window.seen")
    lengths = [length for length, _ in seen]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    # Nothing of it was lost on the way.
    text = last_row(lab)["text"].replace("\n", "")
    assert text.startswith(notebook.page.evaluate("window.text"))
    assert lengths[-1] > 0.9 * len(text)
    said = stages(seen)
    assert said == [stage for stage in STAGES if stage in said], seen
    assert said[-1] == "writing"
    expect(output.locator(".llmwit-text")).to_have_text(last_row(lab)["text"], use_inner_text=True)


def test_a_long_prompt_is_seen_being_read(open_notebook: Open, lab: Lab) -> None:
    """While a prompt of many blocks is read, the status counts its tokens up."""
    notebook = open_notebook("%%infer --max-tokens 30\n" + "Once upon a time. " * 200)
    notebook.page.evaluate(WATCH, LIVE)
    notebook.run(1)
    seen = notebook.page.evaluate("window.seen")
    said = stages(seen)
    assert said == [stage for stage in STAGES if stage in said], seen
    counts = [
        int(match[1].replace(",", ""))
        for _, status in seen
        if (match := re.match(r"reading\D*([\d,]+)", status))
    ]
    assert len(set(counts)) > 1, seen
    assert counts == sorted(counts)
    assert counts[-1] <= last_row(lab)["prompt_token_count"]


def test_stop_ends_the_run_and_keeps_its_text(open_notebook: Open, lab: Lab) -> None:
    """The click ends the run long before its end; text, badge and row say what there was."""
    notebook = open_notebook(LONG)
    notebook.start(1)
    live = notebook.page.locator(LIVE)
    wait_until(lambda: live.count() and len(live.inner_text()) > 200, 30, "some text is there")
    notebook.page.evaluate(
        "document.addEventListener('click', () => (window.clicked = Date.now() / 1000), true)"
    )
    before = live.text_content()
    button(notebook.output(1), "■ Stop").click()
    row = wait_until(
        lambda: last_row(lab)["status"] != "running" and last_row(lab), 15, "the row is ended"
    )
    [engine] = lab.engines()
    used = sum(engine.cpu_times()[:2])
    time.sleep(0.3)  # an engine that still writes would use all of it
    assert sum(engine.cpu_times()[:2]) - used < 0.1
    notebook.wait(1, 5)

    ended = datetime.fromisoformat(row["started_at"]).timestamp() + row["total_seconds"]
    seconds = ended - notebook.page.evaluate("window.clicked")
    # 0.2 s on an idle machine. No limit is asserted: a busy one takes as long as it takes.
    print(f"from the click to the engine's end: {seconds:.3f} s")
    assert row["status"] == "interrupted"
    text = notebook.output(1).locator(".llmwit-text")
    expect(text).to_have_text(row["text"], use_inner_text=True)
    assert len(row["text"]) >= len(before or "")
    assert row["generated_token_count"] < 6000
    expect(notebook.output(1).locator(".llmwit-badge")).to_have_text("interrupted")


def test_the_badge_says_why_a_run_ended(open_notebook: Open) -> None:
    """Stop sequence, limit and content filter each have a badge in words, and a detail beside it."""
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
    """Text, JSON and WAVE are those of the run; the cell and the Python, pasted, repeat it."""
    notebook = open_notebook(
        "%%infer -o first --max-tokens 20 --temperature 0.7 --top-k 50\nMy favourite season is"
    )
    output = notebook.run(1)
    row = last_row(lab)
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
    assert last_row(lab)["text"] == row["text"]
    assert last_row(lab)["run_id"] == row["run_id"] + 1

    copied(notebook, output, "Python")
    pasted = notebook.new_cell(pasted)
    notebook.page.keyboard.press("Control+v")
    notebook.page.keyboard.insert_text("\nprint(result.text == first.text)")
    expect(notebook.run(pasted)).to_contain_text("True")


def test_thumbs_write_the_rating(open_notebook: Open, lab: Lab) -> None:
    """👍 is pressed and in the log; the other one replaces it; pressed again it is taken back."""
    notebook = open_notebook(SHORT)
    output = notebook.run(1)
    good, bad = button(output, "good answer"), button(output, "bad answer")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")
    assert last_row(lab)["rating"] == 1
    bad.click()
    expect(bad).to_have_attribute("aria-pressed", "true")
    expect(good).to_have_attribute("aria-pressed", "false")
    assert last_row(lab)["rating"] == -1
    bad.click()
    expect(bad).to_have_attribute("aria-pressed", "false")
    assert last_row(lab)["rating"] is None


def test_thumbs_write_into_a_log_chosen_later(open_notebook: Open, lab: Lab) -> None:
    """A log set after the extension was loaded gets the rating of its runs."""
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
    """Tab reaches the first token, arrows the others; each shows its alternatives until Escape."""
    notebook = open_notebook(SHORT.replace("%%infer", "%%infer --top-logprobs 3"))
    output = notebook.run(1)
    keyboard, page = notebook.page.keyboard, notebook.page
    tokens = output.locator(".llmwit-token")
    assert tokens.count() == last_row(lab)["generated_token_count"]
    for _ in range(12):
        keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.llmwit-token')"):
            break
    expect(tokens.nth(0)).to_be_focused()
    table = page.locator(".llmwit-alternatives")
    expect(table).to_be_visible()
    assert table.locator("tr").count() >= 3
    assert table.locator("tr", has_text="▸").count() == 1
    # Who does not see the table hears it with its token, and nothing twice.
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

    # One stop for Tab: it leaves the tokens, and comes back to where it was.
    keyboard.press("ArrowRight")
    keyboard.press("Tab")
    expect(output.get_by_role("button").first).to_be_focused()
    expect(table).to_have_count(0)
    keyboard.press("Shift+Tab")
    expect(tokens.nth(1)).to_be_focused()


def test_tokens_are_read_with_the_mouse(open_notebook: Open) -> None:
    """The alternatives of the token under the pointer show; switched off, the text is plain."""
    notebook = open_notebook(
        LONG.replace("6000", "40").replace("%%infer", "%%infer --top-logprobs 3")
    )
    output = notebook.run(1)
    token, table = (
        output.locator(".llmwit-token").nth(2),
        notebook.page.locator(".llmwit-alternatives"),
    )
    token.hover()
    expect(table).to_be_visible()
    # One that was improbable enough: the first may well be likely.
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
    """With its kernel alive the view is there after a reload, and its buttons work."""
    notebook = open_notebook(SHORT)
    notebook.run(1)
    text = last_row(lab)["text"]
    notebook.save()
    notebook.reload()
    output = notebook.output(1)
    expect(output.locator(".llmwit-text")).to_have_text(text, use_inner_text=True)
    expect(output.locator(".llmwit-badge")).to_have_text("length")
    button(output, "good answer").click()
    expect(button(output, "good answer")).to_have_attribute("aria-pressed", "true")
    assert last_row(lab)["rating"] == 1


def test_a_reopened_notebook_shows_the_finished_view(open_notebook: Open, lab: Lab) -> None:
    """Saved, shut down and opened again: text and status are there, without any widget."""
    notebook = open_notebook(SHORT.replace("%%infer", "%%infer --top-logprobs 3"))
    notebook.run(1)
    text = last_row(lab)["text"]
    [shown] = notebook.save().cells[1].outputs
    assert set(shown.data) == {"text/html", "text/plain"}
    assert text in shown.data["text/plain"]
    notebook.shut_down()

    other = notebook.again()
    output = other.output(1)
    expect(output.locator(".llmwit-text")).to_have_text(text, use_inner_text=True)
    expect(output.locator(".llmwit-badge")).to_have_text("length")
    expect(other.page.get_by_text("Error displaying widget")).to_have_count(0)
    # Nothing that cannot work is shown, and nothing is behind a button.
    expect(output.locator(".llmwit-status")).to_contain_text("seed 3")
    expect(output.get_by_role("button")).to_have_count(0)
    other.picture("reopened")
    assert not other.foreign_requests()
    assert not other.errors


def test_the_rest_is_there_on_demand(open_notebook: Open, lab: Lab) -> None:
    """One line says why the run ended, tokens and speed; a button opens model, seed and number."""
    notebook = open_notebook(SHORT)
    output = notebook.run(1)
    line = output.locator(".llmwit-status")
    brief = line.inner_text()
    assert re.fullmatch(r"length · max tokens · 5 \+ 12 tokens · [\d.]+ tokens/s", brief)
    assert line.bounding_box()["height"] < 30
    button(output, "Details").click()
    expect(line).to_contain_text(f"seed 3 · run {last_row(lab)['run_id']}")
    button(output, "Details").click()
    assert line.inner_text() == brief


def test_the_copy_menu_is_used_with_the_keyboard(open_notebook: Open) -> None:
    """Enter opens it, arrows go through its forms, Escape closes it and leads back."""
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
