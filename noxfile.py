"""The project's commands. Each makes its own environment and does all its set-up.

nox -s quickstart    run examples/quickstart.ipynb for real
nox -s pictures      take the README's pictures again
nox -s tests         all tests: lint, unit, integration, model, hostile, browser
"""

from __future__ import annotations

import os
import shutil

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def quickstart(session: nox.Session) -> None:
    """Execute the quickstart notebook, fetching the default model at first use."""
    session.install("-q", "-e", ".[notebook]")
    session.run("python", "examples/run.py", "examples/quickstart.ipynb", "--to", "output")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, the fast ones first; arguments go to pytest instead of the folders."""
    session.install("-q", "-e", ".[test,lint]")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    browser = find_browser() or install_browser(session)
    for folder in ("unit", "integration", "model", "hostile"):
        session.run("pytest", f"tests/{folder}")
    session.run("pytest", "tests/browser", env={"CHROMIUM": browser})


@nox.session
def pictures(session: nox.Session) -> None:
    """Take the README's pictures again, in a real JupyterLab."""
    session.install("-q", "-e", ".[test]")
    browser = find_browser() or install_browser(session)
    session.run("pytest", "tests/browser/pictures.py", env={"CHROMIUM": browser})


def find_browser() -> str | None:
    """A Chromium that is there already."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def install_browser(session: nox.Session) -> str:
    """Debian's Chromium where that can be had, else the browser that Playwright brings."""
    if shutil.which("apt-get"):
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        fonts = ["fonts-noto-core", "fonts-noto-color-emoji"]
        session.run(*root, "apt-get", "update", "-qq", external=True)
        session.run(
            *root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium",
            *fonts, external=True, silent=True,
        )  # fmt: skip
        if found := find_browser():
            return found
    session.run("playwright", "install", "chromium")
    return ""
