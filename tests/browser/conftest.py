"""JupyterLab in headless Chromium, with notebooks that have the extension loaded."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from llmwit_magic.runlog.log import RunLog
from tests.support.browser import Lab, Notebook, wait_until

START_SECONDS = 60
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false"},
    # All cells are in the page, also those below its end.
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


@pytest.fixture(scope="package")
def lab(default_model_loaded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The default model is there before the server starts: no test waits for a download."""
    base = tmp_path_factory.mktemp("lab")
    folders = {
        name: base / name.lower()
        for name in (
            "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "XDG_DATA_HOME",
            "XDG_CONFIG_HOME", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
        )
    }  # fmt: skip
    root = base / "root"
    for folder in (root, *folders.values()):
        folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = os.urandom(12).hex()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    with (base / "server.log").open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    log = RunLog(folders["XDG_DATA_HOME"] / "llmwit-magic" / "runs.sqlite3")
    lab = Lab(
        process,
        f"http://127.0.0.1:{port}",
        token,
        root,
        folders["JUPYTERLAB_SETTINGS_DIR"],
        log,
    )
    try:
        wait_until(lab.ready, START_SECONDS, "JupyterLab answers")
        for plugin, values in SETTINGS.items():
            lab.set(plugin, values)
        yield lab
        lab.shut_kernels_down()
    finally:
        log.close()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _chromium() -> str | None:
    """The browser to use; None is Playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Not for the whole session: Playwright's event loop would run under the other tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def context(lab: Lab, browser: Browser) -> BrowserContext:
    """One for all tests: JupyterLab's scripts are fetched and compiled once."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=lab.url)
    context.set_default_timeout(15_000)
    return context


SETUP = "%load_ext llmwit_magic"


@pytest.fixture
def open_notebook(
    lab: Lab, context: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Notebook]]:
    """Opens a notebook of the cells given, below one that loads the extension, and runs that one.

    At the end no page has thrown, and none has asked another machine.
    """
    opened: list[Notebook] = []

    def open_(*cells: str, setup: str = SETUP, width: int = 1000) -> Notebook:
        name = re.sub(r"\W+", "_", request.node.name) + f"{len(opened) or ''}.ipynb"
        notebook = Notebook(lab, context, name)
        notebook.page.set_viewport_size({"width": width, "height": 800})
        opened.append(notebook)
        notebook.write(setup, *cells)
        notebook.open()
        notebook.setup()
        return notebook

    yield open_
    foreign = [url for notebook in opened for url in notebook.foreign_requests()]
    errors = [error for notebook in opened for error in notebook.errors]
    for number, notebook in enumerate(opened):
        if not notebook.page.is_closed():
            notebook.picture(Path(notebook.name).stem + (f"_{number}" if number else ""))
    for page in context.pages:
        page.close()
    lab.shut_kernels_down()
    assert not foreign, f"requests that leave the machine: {foreign}"
    assert not errors, f"uncaught in the page: {errors}"
