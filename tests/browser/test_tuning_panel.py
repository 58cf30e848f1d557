"""The tuning panel as a person uses it."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, expect

from tests.support.browser import Lab, Notebook, wait_until

Open = Callable[..., Notebook]

PANEL = "%%infer --tune --max-tokens 12 --seed 3\nThe best thing about the sea is"


SLIDERS = [
    "max-tokens", "temperature", "top-k", "top-p", "repeat-penalty", "repeat-penalty-last-n", "seed",
]  # fmt: skip


def slider(output: Locator, name: str) -> Locator:
    """The handle of a setting's slider."""
    row = output.locator(".widget-slider").filter(has_text=name).first
    return row.locator(".noUi-handle")


def opened(open_notebook: Open, *more: str) -> tuple[Notebook, Locator]:
    notebook = open_notebook(PANEL, *more)
    output = notebook.run(1)
    expect(output.locator(".llmwit-badge").first).to_be_visible(timeout=30_000)
    return notebook, output


def test_a_slider_runs_the_prompt_again(open_notebook: Open, lab: Lab) -> None:
    """Arrow keys move a slider. The new setting is run, shown, and in the line to copy."""
    notebook, output = opened(open_notebook)
    handle = slider(output, "temperature")
    handle.focus()
    for _ in range(4):
        handle.press("ArrowLeft")
    row = wait_until(
        lambda: (row := lab.last_row())["temperature"] == 0.6 and row["status"] == "ok" and row,
        20,
        "the last setting has run",
    )
    expect(output.locator(".llmwit-more").first).to_contain_text(f"run {row['run_id']}")
    expect(output.locator("code").first).to_contain_text("--temperature 0.6")
    rows = [other for other in lab.log.rows() if other["group_id"] == row["group_id"]]
    assert len(rows) >= 2
    assert all(r["prompt_token_count"] - r["cached_token_count"] <= 1 for r in rows[1:])
    notebook.picture("tuning")


def test_the_newest_of_many_changes_wins(open_notebook: Open, lab: Lab) -> None:
    """After fifty quick changes all rows have ended, and the panel shows the last output."""
    notebook, output = opened(open_notebook)
    handle = slider(output, "top-k")
    handle.focus()
    for _ in range(50):
        handle.press("ArrowRight")
    row = wait_until(
        lambda: (row := lab.last_row())["top_k"] == 90 and row["status"] == "ok" and row,
        30,
        "the last setting has run",
    )
    rows = [other for other in lab.log.rows() if other["group_id"] == row["group_id"]]
    assert {other["status"] for other in rows} <= {"ok", "interrupted"}
    expect(output.locator(".llmwit-more").first).to_contain_text(f"run {row['run_id']}")
    expect(output.locator("code").first).to_contain_text("--top-k 90")
    assert notebook.errors == []


def test_cells_run_beside_the_panel(open_notebook: Open, lab: Lab) -> None:
    """Another cell runs while the panel's run goes on."""
    notebook, output = opened(open_notebook, "print(6 * 7)")
    output.get_by_role("checkbox").check()
    slider(output, "temperature").focus()
    slider(output, "temperature").press("ArrowRight")
    wait_until(lambda: lab.last_row()["status"] == "running", 10, "the panel writes")
    expect(notebook.run(2)).to_contain_text("42")


def test_keep_and_history(open_notebook: Open, lab: Lab) -> None:
    """*keep* pins an output beside the next one. The arrows show earlier ones with their settings."""
    _, output = opened(open_notebook)
    output.get_by_role("button", name="keep").click()
    expect(output.get_by_text("kept:")).to_be_visible()
    handle = slider(output, "temperature")
    handle.focus()
    handle.press("ArrowLeft")
    expect(output.get_by_text("2 of 2", exact=False).first).to_be_visible(timeout=20_000)
    output.get_by_role("button", name="earlier").click()
    expect(output.get_by_text("1 of 2: %%infer", exact=False).first).to_be_visible()


def test_deleting_the_cell_leaves_nothing_running(open_notebook: Open, lab: Lab) -> None:
    """When its cell is deleted, the panel's run ends, and no thread is left in the kernel."""
    notebook, output = opened(
        open_notebook,
        "import threading\n"
        "print([t.name for t in threading.enumerate() if t.name.startswith('llmwit-tune')])",
    )
    output.get_by_role("checkbox").check()
    slider(output, "temperature").focus()
    slider(output, "temperature").press("ArrowRight")
    wait_until(lambda: lab.last_row()["status"] == "running", 10, "the panel writes")
    notebook.page.locator(".jp-Notebook .jp-CodeCell").nth(1).locator(".jp-InputPrompt").click()
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("d")
    notebook.page.keyboard.press("d")
    wait_until(lambda: lab.last_row()["status"] == "interrupted", 10, "the run has ended")
    expect(notebook.run(1)).to_contain_text("[]")


def test_the_panel_is_compact(open_notebook: Open) -> None:
    """The box fits the prompt, defaults are marked, and controls have the options' names."""
    notebook, output = opened(open_notebook)
    box = output.locator("textarea")
    assert box.bounding_box()["height"] < 60
    box.fill("\n".join(f"line {number}" for number in range(8)))
    assert box.bounding_box()["height"] > 100
    assert box.evaluate("(box) => box.scrollHeight - box.clientHeight") <= 2
    names = [text.split("\n")[0] for text in output.locator(".widget-slider").all_inner_texts()]
    assert names == SLIDERS
    # Screen readers find each control by its role and name.
    for name in names:
        expect(output.get_by_role("slider", name=name, exact=True)).to_have_count(1)
        expect(output.get_by_role("textbox", name=f"{name}, as a number")).to_have_count(1)
    expect(output.get_by_role("textbox", name="prompt", exact=True)).to_have_count(1)
    expect(output.get_by_role("textbox", name="stop", exact=True)).to_have_count(1)
    expect(output.get_by_role("checkbox", name="no limit of tokens")).to_have_count(1)
    # All settings but the seed have a default. The temperature's handle stands on its default.
    marks = output.locator(".llmwit-default")
    expect(marks).to_have_count(6)
    row = output.locator(".widget-slider").filter(has_text="temperature")
    handle, mark = (
        row.locator(part).bounding_box() for part in (".noUi-handle", ".llmwit-default")
    )
    assert abs(handle["x"] + handle["width"] / 2 - mark["x"] - mark["width"] / 2) < 2
    notebook.picture("panel")
