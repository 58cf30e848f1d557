"""The tuning panel over a tiny real model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.requests.options import SLIDERS
from llmwit_magic.requests.snippets import forms
from llmwit_magic.running.session import Session
from llmwit_magic.views.tuning import TuningPanel

PROMPT = "A language model reads a prompt and predicts"


@pytest.fixture
def panel(session: Session, tiny_model: Path) -> Iterator[TuningPanel]:
    request = Request(
        model=str(tiny_model), prompt=PROMPT, params=InferencingParams(max_tokens=30, seed=1)
    )
    panel = TuningPanel(session, request, lambda request: forms(request, {}), SLIDERS)
    assert panel.wait(30)
    yield panel
    panel.close()
    assert panel.wait(10)


def test_a_change_runs_again_with_one_token_evaluated(panel: TuningPanel, session: Session) -> None:
    """Each change is a run of the same group, and the prompt is not evaluated again."""
    for temperature in (0.1, 0.5, 1.2):
        panel.controls["temperature"].value = temperature
        assert panel.wait(30)
    rows = session.log.rows()
    assert [row["temperature"] for row in rows] == [0.8, 0.1, 0.5, 1.2]
    assert {row["group_id"] for row in rows} == {panel.group_id}
    assert all(row["prompt_token_count"] - row["cached_token_count"] <= 1 for row in rows[1:])


def test_the_newest_change_wins(panel: TuningPanel, session: Session) -> None:
    """Fifty changes in a hurry: one run at a time, every row ended, the last setting shown."""
    for step in range(50):
        panel.controls["temperature"].value = round(0.02 * (step + 1), 2)
        panel.controls["max_tokens"].value = 100 + step
        time.sleep(0.02)
    assert panel.wait(30)
    rows = session.log.rows()
    assert rows[-1]["temperature"] == 1.0
    assert rows[-1]["max_tokens"] == 149
    assert rows[-1]["status"] == "ok"
    assert {row["status"] for row in rows} <= {"ok", "interrupted"}
    times = [(row["started_at"], row["total_seconds"]) for row in rows]
    assert len(times) < 51
    assert "run " + str(rows[-1]["run_id"]) in panel.finished.value
    deadline = time.monotonic() + 5
    names = {"llmwit-tune", "llmwit-run"}
    while left := names & {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_the_line_repeats_what_is_shown(panel: TuningPanel) -> None:
    """The panel's line is the cell that runs these settings."""
    panel.controls["temperature"].value = 0.35
    panel.controls["stop"].value = "a\\n⏎b"
    assert "--temperature 0.35" in panel.line.value
    assert panel.request.params.stop == ("a\n", "b")
    panel.controls["no_limit"].value = True
    assert panel.request.params.max_tokens is None
    assert panel.wait(30)


def test_a_setting_that_makes_no_request_is_said(panel: TuningPanel, session: Session) -> None:
    """An empty prompt is a line in the panel, not a run."""
    count = len(session.log)
    panel.prompt.value = "  "
    assert panel.wait(30)
    assert "the prompt is empty" in panel.problem.value
    assert len(session.log) == count
    panel.prompt.value = "again"
    assert panel.wait(30)
    assert panel.problem.value == ""
    assert len(session.log) == count + 1


def test_a_failure_is_shown_in_the_panel(panel: TuningPanel) -> None:
    """A prompt too long for the context is one line in the panel; the next change works."""
    panel.prompt.value = PROMPT * 200
    assert panel.wait(30)
    assert "the prompt has" in panel.finished.value
    panel.prompt.value = PROMPT
    assert panel.wait(30)
    assert "llmwit-badge" in panel.finished.value


def test_history_and_keep(panel: TuningPanel) -> None:
    """Earlier outputs come back with their settings; a kept one stays beside the next."""
    panel.controls["temperature"].value = 0
    assert panel.wait(30)
    panel.keep.click()
    assert "--temperature 0" in panel.kept.value
    panel.back.click()
    assert "1 of 2: %%infer" in panel.place.value
    assert "run 1" in panel.finished.value
    panel.forward.click()
    assert "run 2" in panel.finished.value
    assert panel.kept.layout.display == ""


def test_closing_ends_the_run(panel: TuningPanel, session: Session) -> None:
    """When the panel leaves the page, its run is cancelled."""
    before = len(panel.runs)
    panel.controls["no_limit"].value = True
    panel.controls["temperature"].value = 1.5
    while len(panel.runs) == before:
        time.sleep(0.01)
    panel._receive(None, {"closed": True}, None)
    assert panel.wait(5)
    assert panel.runs[-1].status in ("interrupted", "ok")
    assert not [thread for thread in threading.enumerate() if thread.name == "llmwit-tune"]
