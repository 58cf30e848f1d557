"""A very long answer: the page stays fast while it is written, and while it is scrolled."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from playwright.sync_api import expect

from tests.support.browser import Notebook

WRITE = """
import time
from IPython.display import display
from llmwit_magic.views.live import LiveWidget
widget = LiveWidget()
display(widget)
for number in range(400):
    widget.send({"t": f"{number} " + "some words of an answer " * 10 + ("\\n" if number % 3 else "")})
    time.sleep(0.02)
"""

FRAMES = """() => {
  window.frames_seen = [];
  let last = performance.now();
  const step = (now) => {
    window.frames_seen.push(now - last);
    last = now;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}"""


def test_a_hundred_thousand_characters(open_notebook: Callable[..., Notebook]) -> None:
    """The time between two frames does not grow with the text, neither in writing nor scrolling.

    The scrolling box has a name and can be reached with the keyboard.
    """
    notebook = open_notebook(WRITE)
    notebook.page.evaluate(FRAMES)
    output = notebook.run(1, 60)
    scroll = output.get_by_role("region", name="answer")
    expect(scroll).to_have_attribute("tabindex", "0")
    written = notebook.page.evaluate("window.frames_seen.splice(0)")
    assert len(output.locator(".llmwit-text").text_content() or "") > 95_000
    scroll.evaluate("(box) => (box.scrollTop = 0)")
    for _ in range(40):
        scroll.evaluate("(box) => (box.scrollTop += 300)")
        notebook.page.wait_for_timeout(20)
    scrolled = notebook.page.evaluate("window.frames_seen.splice(0)")
    fifth = len(written) // 5
    first, last = statistics.median(written[:fifth]), statistics.median(written[-fifth:])
    print(
        f"milliseconds a frame: {first:.0f} at first, {last:.0f} at the end of 100,000 characters, "
        f"{statistics.median(scrolled):.0f} while scrolling"
    )
    assert last < 100
    assert last < 4 * first + 20
    assert statistics.median(scrolled) < 100
