"""The example components, built once for all test runs, with the default model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.components.build import build
from llmwit_magic import Component
from llmwit_magic.running.session import Session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session with a log of its own, for the tests of a file."""
    session = Session(tmp_path_factory.mktemp("log") / "runs.sqlite3")
    yield session
    session.close()


@pytest.fixture
def example(session: Session, default_model_loaded: Path) -> Callable[..., Component]:
    """Makes a component of an example's name."""

    def made(name: str, **options: Any) -> Component:
        return Component(build(name), session=session, **options)

    return made
