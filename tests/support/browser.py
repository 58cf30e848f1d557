"""A real JupyterLab, and notebooks opened in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import psutil
from playwright.sync_api import BrowserContext, Locator, Page, expect

from llmwit_magic.runlog.log import RunLog

THEME = "@jupyterlab/apputils-extension/themes"
ARTEFACTS = Path(__file__).parents[2] / "output" / "browser"


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of the condition; fails with `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


@dataclass
class Lab:
    """A running JupyterLab with folders of its own."""

    process: subprocess.Popen[bytes]
    url: str
    token: str
    root: Path
    settings: Path
    log: RunLog
    """The run log that its kernels write, opened a second time."""

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """A call of Jupyter's REST API; what it answered."""
        request = urllib.request.Request(
            f"{self.url}/api/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"token {self.token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def ready(self) -> bool:
        """Whether it answers yet."""
        if self.process.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {self.process.returncode}")
        try:
            return bool(self.api("GET", "status"))
        except OSError:
            return False

    def set(self, plugin: str, values: dict[str, Any]) -> None:
        """Write a setting as a user would have; pages opened later follow it."""
        path = self.settings / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))

    def last_row(self) -> dict[str, Any]:
        """The newest row of the log."""
        return self.log.rows()[-1]

    def shut_kernels_down(self) -> None:
        for session in self.api("GET", "sessions"):
            self.api("DELETE", f"sessions/{session['id']}")

    def engines(self) -> list[psutil.Process]:
        """The engine processes of all its kernels."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if any("llmwit_magic.engines.local.child" in part for part in child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def rows(self, after: int = 0) -> list[dict[str, Any]]:
        """The log's rows, those with a greater run_id than that."""
        return [row for row in self.log.rows() if row["run_id"] > after]


class Notebook:
    """A notebook in a page of its own; its cells are numbered from 0."""

    def __init__(self, lab: Lab, context: BrowserContext, name: str) -> None:
        self.lab = lab
        self.name = name
        self.context = context
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        """The address of each request that the page has made."""
        self.errors: list[str] = []
        """What JavaScript has thrown and nothing has caught."""
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    @property
    def path(self) -> Path:
        return self.lab.root / self.name

    def write(self, *cells: str) -> None:
        """Write the file, each cell a code cell."""
        notebook = nbformat.v4.new_notebook(
            metadata={
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
            }
        )
        notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
        nbformat.write(notebook, self.path)

    def open(self) -> None:
        """Open it, or open it again, and wait until its kernel is ready."""
        self.page.goto(f"{self.lab.url}/doc/tree/{self.name}?token={self.lab.token}&reset")
        self.wait_ready()

    def reload(self) -> None:
        self.page.reload()
        self.wait_ready()

    def wait_ready(self) -> None:
        expect(self.page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=40_000)
        # The indicator in the toolbar says idle before there is a connection.
        idle = self.page.locator("#jp-main-statusbar").get_by_text("| Idle")
        expect(idle).to_be_visible(timeout=40_000)

    # Cells ---------------------------------------------------------------------------

    def cell(self, index: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def output(self, index: int) -> Locator:
        return self.cell(index).locator(".jp-Cell-outputArea")

    def start(self, index: int) -> None:
        """Run a cell with the keyboard; return while it runs."""
        editor = self.cell(index).locator(".cm-content")
        editor.click()
        expect(editor).to_be_focused()
        self.page.keyboard.press("Control+Enter")

    def wait(self, index: int, seconds: float = 40) -> None:
        """Wait until the cell has ended."""
        prompt = self.cell(index).locator(".jp-InputArea-prompt").first
        expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=1000 * seconds)

    def run(self, index: int, seconds: float = 40) -> Locator:
        """Run a cell to its end; its output."""
        # The number of an earlier run must not be taken for that of this one.
        prompt = self.cell(index).locator(".jp-InputArea-prompt").first
        before = prompt.inner_text()
        self.start(index)
        expect(prompt).not_to_have_text(before, timeout=5000)
        self.wait(index, seconds)
        return self.output(index)

    def setup(self) -> None:
        """Run the first cell, which loads the extension, and wait for the page's module."""
        self.run(0)
        self.page.wait_for_function("document.documentElement.dataset.llmwit !== undefined")

    def new_cell(self, below: int) -> int:
        """An empty cell below that one, with the cursor in it; its number."""
        self.cell(below).locator(".jp-InputArea-prompt").first.click()
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("b")
        self.page.keyboard.press("Enter")
        expect(self.cell(below + 1).locator(".cm-content")).to_be_focused()
        return below + 1

    # The notebook -----------------------------------------------------------------------

    def save(self) -> Any:
        """Save with the keyboard; the notebook as it is in the file."""
        before = self.path.stat().st_mtime_ns
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Control+s")
        wait_until(lambda: self.path.stat().st_mtime_ns != before, 10, "the notebook is saved")
        return wait_until(self._read, 5, "the file can be read")

    def _read(self) -> Any:
        try:
            return nbformat.read(self.path, as_version=4)
        except (OSError, ValueError):
            return None

    def _kernel(self) -> str:
        for session in self.lab.api("GET", "sessions"):
            if session["path"] == self.name:
                return str(session["kernel"]["id"])
        raise LookupError(f"{self.name} has no kernel")

    def restart_kernel(self) -> None:
        self.lab.api("POST", f"kernels/{self._kernel()}/restart")

    def shut_down(self) -> None:
        """End the page and the kernel, as at the end of a working day."""
        self.page.close()
        self.lab.shut_kernels_down()

    def again(self) -> Notebook:
        """The same file in a new page, as on the next morning."""
        other = Notebook(self.lab, self.context, self.name)
        other.open()
        return other

    def somebodys(self, saved: Any) -> Notebook:
        """Open what was saved as somebody else's notebook. This server has not signed it."""
        saved.metadata.pop("widgets", None)  # a style sheet in there would hide a fault
        saved.metadata["author"] = "somebody else"
        name = f"somebodys_{self.name}"
        nbformat.write(saved, self.lab.root / name)
        other = Notebook(self.lab, self.context, name)
        other.open()
        return other

    def picture(self, name: str, of: Locator | None = None) -> Path:
        """A screenshot of the page or of a part of it, kept as an artefact."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        (of or self.page).screenshot(path=path)
        return path

    def clipboard(self) -> str:
        return str(self.page.evaluate("navigator.clipboard.readText()"))

    def foreign_requests(self) -> list[str]:
        """Requests to anything but the server."""
        return [
            url
            for url in self.requests
            if not url.startswith(("blob:", "data:")) and urlsplit(url).hostname != "127.0.0.1"
        ]
