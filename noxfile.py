"""The project's commands. Each makes its own environment and does all its set-up.

nox -s quickstart    run examples/quickstart.ipynb for real
nox -s tests         all tests: lint, unit, integration, model
"""

from __future__ import annotations

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
    for folder in ("unit", "integration", "model"):
        session.run("pytest", f"tests/{folder}")
