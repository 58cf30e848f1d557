"""What the kernel can tell about the front end of a cell."""

from __future__ import annotations

from typing import Any

import pytest

from llmwit_magic.views.frontend import Reach, has_page, reach_of


class Shell:
    """A kernel's shell while it handles a request."""

    kernel: Any = object()
    display_pub: Any = None

    def __init__(self, metadata: dict[str, Any], allow_stdin: bool = True) -> None:
        self.metadata, self.allow_stdin = metadata, allow_stdin

    def get_parent(self) -> dict[str, Any]:
        return {
            "header": {"msg_type": "execute_request", "msg_id": "1", "session": "nobody"},
            "metadata": self.metadata,
            "content": {"allow_stdin": self.allow_stdin},
        }


class ColabShell(Shell):
    """The shell of Colab's own kernel."""


ColabShell.__module__ = "google.colab._shell"

CELL = {"cellId": "a"}


@pytest.mark.parametrize(
    ("shell", "reach", "page"),
    [
        (Shell(CELL), Reach.LIVE, True),
        (Shell({}), Reach.PRINT, True),
        (Shell({}, allow_stdin=False), Reach.UNKNOWN, False),
        (ColabShell({}), Reach.UPDATES, False),
        # Colab's page with a kernel on the user's own machine.
        (Shell({"colab": {"cell_id": "x"}}), Reach.UPDATES, False),
    ],
)
def test_what_reaches_the_person(shell: Shell, reach: Reach, page: bool) -> None:
    """A notebook is live, a console prints, a program is unknown, and Colab only has displays."""
    assert reach_of(shell) is reach
    assert has_page(shell) is page


def test_databricks_is_not_known_to_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databricks is unknown whatever the request says. A terminal on its machine prints."""
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "15.4")
    for metadata in ({}, CELL):
        assert reach_of(Shell(metadata)) is Reach.UNKNOWN
        assert not has_page(Shell(metadata))
    terminal = Shell({})
    terminal.kernel = None
    assert reach_of(terminal) is Reach.PRINT
