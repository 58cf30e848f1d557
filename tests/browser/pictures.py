"""Takes the README's pictures, light and dark: `nox -s pictures`.

Its name keeps pytest from collecting it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.support.browser import THEME, Lab, Notebook

DOCS = Path(__file__).parents[2] / "docs"

FIRST = "%%infer --temperature 0 --stop .\nThe capital of France is"
TOKENS = "%%infer --max-tokens 40 --seed 4 --top-logprobs 5\nOnce upon a time"
SWEEP = "%%infer --temperature 0.2,0.5,0.8 --max-tokens 20 --seed 3\nThe three primary colours are"
PROMPTS = """\
prompts = {"bare": "The capital of France is",
           "list": "Italy: Rome\\nSpain: Madrid\\nFrance:",
           "exam": "Fill in. France's capital city is called",
           "chatty": "Hello! Please tell me: what is the capital of France?"}

def paris(result):
    return "Paris" in result.text"""
PIVOT = """\
%%infer --prompts prompts --temperature 0,0.7,1.2 --seed 1:5 --max-tokens 8 \\
--metric paris --pivot prompt,temperature
{{prompt}}"""
PLOT = "_infer.plot('metric')"
TUNE = "%%infer --tune --max-tokens 24 --seed 3\nThe best thing about the sea is"


@pytest.fixture(params=["", "-dark"])
def ending(lab: Lab, request: pytest.FixtureRequest) -> Iterator[str]:
    """Sets the light or the dark theme; how the names of its pictures end."""
    lab.set(THEME, {"theme": "JupyterLab Dark" if request.param else "JupyterLab Light"})
    yield request.param
    lab.set(THEME, {"theme": "JupyterLab Light"})


def take(notebook: Notebook, cells: list[Locator], name: str) -> None:
    """Write the part of the page that these cells fill as a picture into `docs/`."""
    boxes = [box for cell in cells if (box := cell.bounding_box())]
    left, top = min(b["x"] for b in boxes), min(b["y"] for b in boxes)
    right = max(b["x"] + b["width"] for b in boxes)
    bottom = max(b["y"] + b["height"] for b in boxes)
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    notebook.page.screenshot(path=DOCS / name, clip=clip)


def test_first_cell(open_notebook: Callable[..., Notebook], ending: str) -> None:
    """An answer with its status line, and one with shaded tokens."""
    notebook = open_notebook(FIRST, TOKENS, width=900)
    notebook.run(1)
    output = notebook.run(2)
    # A token at the end of a line, so that its alternatives do not hide the status line.
    output.locator(".llmwit-token", has_text=re.compile(r"^ they")).first.hover()
    box = notebook.page.locator(".llmwit-alternatives")
    expect(box).to_be_visible()
    take(notebook, [notebook.cell(1), notebook.cell(2), box], f"first-cell{ending}.png")


def test_comparison(open_notebook: Callable[..., Notebook], ending: str) -> None:
    """The table of a sweep."""
    notebook = open_notebook(SWEEP, width=900)
    notebook.run(1)
    take(notebook, [notebook.cell(1)], f"comparison{ending}.png")


def test_tuning(open_notebook: Callable[..., Notebook], ending: str) -> None:
    """The tuning panel with an output kept beside the next one."""
    notebook = open_notebook(TUNE, width=900)
    output = notebook.run(1)
    expect(output.locator(".llmwit-badge").first).to_be_visible(timeout=30_000)
    output.get_by_role("button", name="keep").click()
    handle = output.locator(".widget-slider").filter(has_text="temperature").locator(".noUi-handle")
    handle.focus()
    for _ in range(8):
        handle.press("ArrowRight")
    expect(output.locator("code").first).to_contain_text("--temperature 1.2")
    expect(output.get_by_text("2 of 2")).to_be_visible(timeout=20_000)
    expect(output.locator(".llmwit-badge")).to_have_count(2, timeout=20_000)
    take(notebook, [notebook.cell(1)], f"tuning{ending}.png")


def test_prompts_side_by_side(open_notebook: Callable[..., Notebook], ending: str) -> None:
    """Four prompts by three temperatures by five seeds: their table, and its plot."""
    notebook = open_notebook(PROMPTS, PIVOT, PLOT, width=900)
    notebook.run(1)
    notebook.run(2)
    notebook.run(3)
    take(notebook, [notebook.cell(2)], f"prompts{ending}.png")
    take(notebook, [notebook.cell(3)], f"plot{ending}.png")
