"""JupyterLab in headless Chromium, with notebooks that have the extension loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.support.browser import Lab, Notebook
from tests.support.lab import running_browser, running_lab


@pytest.fixture(scope="package")
def lab(default_model_loaded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab. The default model is loaded before, so that no test waits for a download."""
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium for the tests of this folder; elsewhere Playwright's event loop would disturb."""
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="package")
def context(lab: Lab, browser: Browser) -> BrowserContext:
    """One context for all tests, so that JupyterLab's scripts are fetched and compiled once."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=lab.url)
    context.set_default_timeout(15_000)
    return context


SETUP = "%load_ext llmwit_magic"


@pytest.fixture
def open_notebook(
    lab: Lab, context: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Notebook]]:
    """Opens a notebook with these cells under a first cell that loads the extension, which it runs.

    Fails if a page has an uncaught error or has sent a request to another machine.
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
