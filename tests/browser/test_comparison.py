"""A sweep as a person sees it: its progress, and then a table of its answers."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Locator, expect

from llmwit_magic.views.comparison import differences
from tests.support.browser import Lab, Notebook, wait_until

Open = Callable[..., Notebook]

SWEEP = "%%infer --temperature 0,0.9 --repeat-penalty 1.1 --seed 1,2,3 --max-tokens 16 -o results\nMy favourite season is"
# These answers begin alike and then differ.
SIMILAR = "%%infer --repeat-penalty 1,1.02,1.05 --temperature 0 --max-tokens 24\nThe sea is"
WATCH = """() => {
  window.said = new Set();
  new MutationObserver(() => {
    for (const line of document.querySelectorAll(".jp-OutputArea .llmwit-status")) {
      window.said.add(line.innerText);
    }
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def rows(output: Locator) -> Locator:
    return output.locator("tbody tr")


def column(output: Locator, name: str) -> list[str]:
    """The texts of a column, from the top."""
    headers = output.locator("thead th").all_inner_texts()
    return output.locator(f"tbody td:nth-child({headers.index(name) + 1})").all_inner_texts()


def marks(output: Locator, row: int) -> int:
    return rows(output).nth(row).locator(".llmwit-mark").count()


def marked(text: str, base: str) -> bool:
    """Whether some of the text should be marked when it is compared with that base."""
    return any(mark for _, mark in differences(text, base) or ())


def test_answers_stand_side_by_side(open_notebook: Open, lab: Lab) -> None:
    """The table has a row for each run, a column for each setting that varies, and totals.

    What differs from the first answer is marked.
    """
    notebook = open_notebook(SWEEP)
    output = notebook.run(1)
    headers = output.locator("thead th").all_inner_texts()
    assert headers == ["run", "temperature", "seed", "text", "finish", "tokens", "seconds"]
    logged = lab.log.rows()[-6:]
    assert column(output, "run") == [str(row["run_id"]) for row in logged]
    assert column(output, "temperature") == ["0"] * 3 + ["0.9"] * 3
    assert column(output, "seed") == ["1", "2", "3"] * 2
    texts = output.locator("tbody .llmwit-text").all_inner_texts()
    assert [text.strip() for text in texts] == [row["text"].strip() for row in logged]

    # At temperature 0 the seed changes nothing. Differences are marked unless there are too many.
    texts = [row["text"].strip("\n") for row in logged]
    assert [marks(output, row) > 0 for row in range(6)] == [
        marked(text, texts[0]) for text in texts
    ]
    assert not any(marks(output, row) for row in range(3))
    expect(output.get_by_label("compare with")).to_have_value("0")
    summary = output.locator("tfoot tr").inner_text()
    generated = sum(row["generated_token_count"] for row in logged)
    assert re.match(rf"6 runs\s+{generated} generated\s+\d+\.\d\d", summary), summary
    assert (
        notebook.page.evaluate(
            "getComputedStyle(document.querySelector('.llmwit-mark')).textDecorationLine"
        )
        == "underline"
    )  # not by colour alone


def test_another_base_moves_the_marks(open_notebook: Open) -> None:
    """One control chooses the base. In all other answers, words that the base lacks are marked."""
    notebook = open_notebook(SIMILAR)
    output = notebook.run(1)
    texts = output.locator("tbody .llmwit-text").all_text_contents()
    base_control = output.get_by_label("compare with")
    expect(base_control).to_have_count(1)
    runs = column(output, "run")
    assert base_control.locator("option").all_inner_texts() == [f"run {run}" for run in runs]
    base_control.select_option(label=f"run {runs[2]}")
    assert [marks(output, row) > 0 for row in range(3)] == [
        marked(text, texts[2]) for text in texts
    ]
    assert marks(output, 0) > 0
    base = set(re.findall(r"\S+", texts[2]))
    found = {word.strip() for word in rows(output).nth(0).locator(".llmwit-mark").all_inner_texts()}
    missing = {word for word in re.findall(r"\S+", texts[0]) if word not in base}
    assert missing <= found
    # Marking changes no text.
    assert output.locator("tbody .llmwit-text").all_text_contents() == texts


def test_a_header_sorts_both_ways(open_notebook: Open) -> None:
    """A header sorts up, then down. `aria-sort` says which. Numbers sort as numbers.

    The row with the totals stays last.
    """
    notebook = open_notebook("%%infer --max-tokens 2,10,1 --temperature 0\nOnce upon a time")
    output = notebook.run(1)

    def sort(name: str) -> Locator:
        header = output.get_by_role("columnheader", name=name, exact=True)
        header.get_by_role("button").click()
        return header

    header = sort("max_tokens")
    expect(header).to_have_attribute("aria-sort", "ascending")
    assert column(output, "max_tokens") == ["1", "2", "10"]
    header = sort("max_tokens")
    expect(header).to_have_attribute("aria-sort", "descending")
    assert column(output, "max_tokens") == ["10", "2", "1"]

    other = sort("seconds")
    expect(other).to_have_attribute("aria-sort", "ascending")
    assert header.get_attribute("aria-sort") is None
    seconds = [float(text) for text in column(output, "seconds")]
    assert seconds == sorted(seconds)
    sort("tokens")
    assert column(output, "max_tokens") == ["1", "2", "10"]
    sort("text")
    texts = column(output, "text")
    assert len(texts) == 3
    sort("run")
    assert column(output, "max_tokens") == ["2", "10", "1"]
    expect(output.locator("tfoot")).to_contain_text("3 runs")


def test_progress_over_the_sweep_is_visible(open_notebook: Open) -> None:
    """While a sweep runs, its status counts the finished runs, with a bar.

    A slow filter makes each run take more than a second, so that the page draws each state.
    """
    notebook = open_notebook(
        "import time\ndef slowly(text):\n    time.sleep(0.04)",
        "%config InferMagics.content_filters = [slowly]",
        SWEEP.replace("16", "30"),
    )
    notebook.run(1)
    notebook.run(2)
    notebook.page.evaluate(WATCH)
    notebook.start(3)
    page = notebook.page
    status = page.locator(".jp-OutputArea .llmwit-status", has_text="2 of 6 runs")
    expect(status).to_be_visible(timeout=30_000)
    # The bar stays while the third run writes.
    live = page.locator(".jp-OutputArea .llmwit-unfinished", has_text="2 of 6 runs")
    expect(live).to_contain_text("writing")
    bar = page.locator(".jp-OutputArea progress:visible").first
    assert bar.get_attribute("max") == "6" or bar.evaluate("bar => bar.max") == 6
    notebook.picture("sweep_running")
    notebook.wait(3)
    said = page.evaluate("[...window.said]")
    counts = {int(n) for line in said for n in re.findall(r"(\d+) of 6 runs", line)}
    assert {1, 2, 3, 4, 5} <= counts
    assert any(re.search(r"about \d+ s left", line) for line in said)


def test_an_interrupted_sweep_keeps_what_is_finished(open_notebook: Open, lab: Lab) -> None:
    """After Stop in the third run, a long one, the table and `_infer` have all runs up to it."""
    notebook = open_notebook(
        "%%infer --max-tokens 3,4,6000,5 --temperature 0\nOnce upon a time",
        "print([result.status for result in _infer], len(_infer.to_frame()))",
    )
    before = len(lab.log)
    notebook.start(1)
    wait_until(lambda: len(lab.log) >= before + 3, 40, "the third run has begun")
    notebook.output(1).get_by_role("button", name="Stop").click()
    notebook.wait(1, 10)
    output = notebook.output(1)
    expect(rows(output)).to_have_count(3)
    assert [text.split(":")[0] for text in column(output, "finish")] == [
        "length", "length", "interrupted",
    ]  # fmt: skip
    expect(output.locator("tfoot")).to_contain_text("3 runs")
    expect(notebook.run(2)).to_contain_text("['ok', 'ok', 'interrupted'] 3")
