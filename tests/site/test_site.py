"""The documentation site in a browser, as `nox -s docs` has built it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support import axe
from tests.support.lab import running_browser

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
PICTURES = ROOT / "output" / "site"
PAGES = (
    "README", "docs/index", "docs/cells", "docs/options", "docs/python", "examples/quickstart",
)  # fmt: skip
"""A page of each kind, and no long one, since axe takes seconds for those."""
LOOKS = {"light": ("light", 1300), "dark": ("dark", 1300), "narrow": ("light", 480)}
"""The colour scheme, and the width in pixels."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built: nox -s docs")
    with running_browser() as browser:
        yield browser


@pytest.fixture(params=LOOKS)
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of these looks, which may load nothing from another machine."""
    scheme, width = LOOKS[request.param]
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    foreign = []
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or foreign.append(r.url))
    yield page
    page.close()
    assert not foreign


@pytest.mark.parametrize("name", PAGES)
def test_a_page_reads_well(page: Page, name: str, request: pytest.FixtureRequest) -> None:
    """It has its pictures, does not scroll sideways, and axe finds nothing serious in its text."""
    page.goto((SITE / f"{name}.html").as_uri())
    PICTURES.mkdir(parents=True, exist_ok=True)
    looks = request.node.callspec.params["page"]
    page.screenshot(path=PICTURES / f"{name.replace('/', '-')}-{looks}.png")
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if looks != "narrow":  # the colours are those of light
        assert axe.faults(page.locator("article")) == []


def test_the_first_page_leads_to_the_docs(page: Page) -> None:
    page.goto((SITE / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")
