"""A run that goes on, as a person sees it in JupyterLab: its text grows, and Stop ends it."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from datetime import datetime

from playwright.sync_api import expect

from tests.support.browser import Lab, Notebook, wait_until

Open = Callable[..., Notebook]

LONG = "%%infer --max-tokens 6000 --seed 9 --temperature 0.9\nOnce upon a time"
"""This seed fills the context of the default model, which takes many seconds."""
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

STAGES = ["■", "loading", "reading", "writing"]
"""The first words of the status, in order. At first it is the Stop button alone."""


def stages(seen: list[tuple[int, str]]) -> list[str]:
    """The first word of each status that was seen, in the order in which they came."""
    words = [status.split(" ")[0] for _, status in seen]
    return [word for word, _ in itertools.groupby(words)]


def test_text_grows_while_the_cell_runs(open_notebook: Open, lab: Lab) -> None:
    """The text grows at least three times before the run ends, and the status follows the stages.

    A short stage, such as reading a short prompt, may end before the page draws it.
    """
    notebook = open_notebook(LONG.replace("6000", "300"))
    notebook.page.evaluate(WATCH, LIVE)
    output = notebook.run(1)
    seen = notebook.page.evaluate("window.seen")
    lengths = [length for length, _ in seen]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    # No text was lost between the kernel and the page.
    text = lab.last_row()["text"].replace("\n", "")
    assert text.startswith(notebook.page.evaluate("window.text"))
    assert lengths[-1] > 0.9 * len(text)
    said = stages(seen)
    assert said == [stage for stage in STAGES if stage in said], seen
    assert said[-1] == "writing"
    expect(output.locator(".llmwit-text")).to_have_text(lab.last_row()["text"], use_inner_text=True)


def test_a_long_prompt_is_seen_being_read(open_notebook: Open, lab: Lab) -> None:
    """While a long prompt is read, the status counts the tokens that are read."""
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
    assert counts[-1] <= lab.last_row()["prompt_token_count"]


def test_stop_ends_the_run_and_keeps_its_text(open_notebook: Open, lab: Lab) -> None:
    """A click on Stop ends the run early. Its text is kept, and badge and row say "interrupted"."""
    notebook = open_notebook(LONG)
    notebook.start(1)
    live = notebook.page.locator(LIVE)
    wait_until(lambda: live.count() and len(live.inner_text()) > 200, 30, "some text is there")
    notebook.page.evaluate(
        "document.addEventListener('click', () => (window.clicked = Date.now() / 1000), true)"
    )
    before = live.text_content()
    notebook.output(1).get_by_role("button", name="■ Stop", exact=True).click()
    row = wait_until(
        lambda: lab.last_row()["status"] != "running" and lab.last_row(), 15, "the row is ended"
    )
    [engine] = lab.engines()
    used = sum(engine.cpu_times()[:2])
    time.sleep(0.3)  # an engine that still wrote would compute all the time
    assert sum(engine.cpu_times()[:2]) - used < 0.1
    notebook.wait(1, 5)

    ended = datetime.fromisoformat(row["started_at"]).timestamp() + row["total_seconds"]
    seconds = ended - notebook.page.evaluate("window.clicked")
    # 0.2 s on an idle machine. No limit is asserted, as a busy machine may take much longer.
    print(f"from the click to the engine's end: {seconds:.3f} s")
    assert row["status"] == "interrupted"
    text = notebook.output(1).locator(".llmwit-text")
    expect(text).to_have_text(row["text"], use_inner_text=True)
    assert len(row["text"]) >= len(before or "")
    assert row["generated_token_count"] < 6000
    expect(notebook.output(1).locator(".llmwit-badge")).to_have_text("interrupted")
