"""axe-core: what a page's part does wrong for those who do not see it, or see it otherwise."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from playwright.sync_api import Locator

from tests.support.contrast import CONTRAST

RUN = "(element) => axe.run(element, {resultTypes: ['violations', 'incomplete']})"


@cache
def script() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def faults(*parts: Locator) -> list[str]:
    """The serious and critical faults within the parts, a line each.

    Where axe cannot tell a contrast, as under colours laid over others, the formula tells it.
    """
    page = parts[0].page
    if not page.evaluate("'axe' in window"):
        page.evaluate(script())
    found = []
    for part in parts:
        result: Any = part.evaluate(RUN)
        assert result["passes"], "axe has looked at nothing"
        found += [
            f"{fault['id']}: {fault['help']}: {node['html'][:200]}"
            for fault in result["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
        for fault in result["incomplete"]:
            if fault["id"] == "color-contrast":
                for node in fault["nodes"]:
                    contrast = page.locator(node["target"][0]).first.evaluate(CONTRAST)
                    if contrast < 4.5:
                        found.append(f"contrast {contrast:.2f}: {node['html'][:200]}")
    return found
