"""The tuning panel with the default model: what a change costs."""

from __future__ import annotations

import statistics
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

WORDS = "The old lighthouse keeper wrote in his log that the sea was calm and the lamp was lit. "


@pytest.fixture
def panel(session: Session, default_model_source: Path) -> Iterator[TuningPanel]:
    request = Request(
        model=str(default_model_source),
        prompt=WORDS * 20,
        params=InferencingParams(max_tokens=12, seed=1),
    )
    panel = TuningPanel(session, request, lambda request: forms(request, {}), SLIDERS)
    assert panel.wait(100)
    yield panel
    panel.close()


def test_a_change_evaluates_one_token_of_the_prompt(panel: TuningPanel, session: Session) -> None:
    """From a slider's release to the first new text, over a prompt of some 400 tokens."""
    seconds = []
    for step in range(8):
        released = time.monotonic()
        panel.controls["temperature"].value = 0.1 * (step + 1)
        while len(panel.runs) < step + 2 or not panel.runs[-1].text:
            time.sleep(0.002)
        seconds.append(time.monotonic() - released)
        assert panel.wait(30)
    rows = session.log.rows()
    assert 350 < rows[0]["prompt_token_count"] < 450
    assert all(row["prompt_token_count"] - row["cached_token_count"] <= 1 for row in rows[1:])
    print(f"from release to the first new text: median {statistics.median(seconds):.3f} s, "
          f"most {max(seconds):.3f} s")  # fmt: skip
