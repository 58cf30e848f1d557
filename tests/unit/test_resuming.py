"""What a batch need not run again, and how little of it memory holds."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

from llmwit_magic.contract.engine import Capabilities
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import DeviceInfo, InferencingParams, ModelInfo
from llmwit_magic.running import batch_rows
from llmwit_magic.running.resuming import EqualRows, KnownRows
from llmwit_magic.running.run import Run
from tests.support.batches import REQUEST, Echo, run
from tests.support.fake import MODEL, FakeSession

SEEDED = InferencingParams(seed=1)


class Wide(Echo):
    """Does eight runs at once."""

    capabilities = Capabilities(runs_at_once=8)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(Wide(), tmp_path / "runs.sqlite3")
    yield session
    session.close()


def frame(count: int) -> pandas.DataFrame:
    return pandas.DataFrame({"name": [f"n{number}" for number in range(count)]})


def test_memory_holds_a_slice_of_requests_and_a_window_of_runs(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows the DataFrame has."""
    monkeypatch.setattr(batch_rows, "SLICE", 20)
    seen: dict[type, int] = {Run: 0, Request: 0}
    gc.collect()
    before = {kind: sum(type(item) is kind for item in gc.get_objects()) for kind in seen}
    lock = threading.Lock()

    def count(prompt: str, cancel: threading.Event) -> None:
        if prompt.endswith("0"):
            with lock:
                for kind, most in seen.items():
                    there = sum(type(item) is kind for item in gc.get_objects())
                    seen[kind] = max(most, there)

    session.engine.at = count
    found = run(session, frame(200), concurrency=8)
    session.engine.requests.clear()
    assert found["infer_text"].tolist() == [f"HI N{number}" for number in range(200)]
    # Runs that have ended may not be taken yet.
    assert seen[Run] - before[Run] <= 3 * 8
    # The engine of this test keeps each request that it gets, and a run makes copies of its own.
    assert seen[Request] - before[Request] <= 200 + 2 * 20 + 4 * 8


def test_pages_and_slices_find_all(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the log serve rows of the DataFrame across the ends of pages and slices."""
    monkeypatch.setattr(batch_rows, "SLICE", 7)
    pages = session.log.finished_pages
    monkeypatch.setattr(session.log, "finished_pages", lambda group, names: pages(group, names, 5))
    first = run(session, frame(30), concurrency=8)
    session.engine.requests.clear()
    again = run(session, frame(40), concurrency=8)
    assert again["infer_run_id"].tolist()[:30] == first["infer_run_id"].tolist()
    assert sorted(session.engine.prompts) == sorted(f"Hi n{number}" for number in range(30, 40))


def test_equal_hashes_are_not_taken_for_equal_rows(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of the log is compared before it is taken."""
    run(session, frame(3), concurrency=8)
    monkeypatch.setattr("llmwit_magic.running.resuming.hash", lambda key: 0, raising=False)
    known = KnownRows(session.log, REQUEST, {REQUEST.model: MODEL})
    wanted = [REQUEST.model_copy(update={"prompt": f"Hi n{number}"}) for number in (0, 2, 1)]
    found = known.take(wanted)
    assert [row and row["text"] for row in found] == ["HI N0", None, None]


def test_a_log_that_is_gone_meanwhile_costs_runs_and_no_more(session: FakeSession) -> None:
    """A row that cannot be read any more is run again."""
    run(session, frame(3), concurrency=8)
    known = KnownRows(session.log, REQUEST, {REQUEST.model: MODEL})
    session.log._database.execute("DELETE FROM runs WHERE prompt = 'Hi n1'")
    wanted = [REQUEST.model_copy(update={"prompt": f"Hi n{number}"}) for number in range(3)]
    assert [row and row["text"] for row in known.take(wanted)] == ["HI N0", None, "HI N2"]


def test_a_name_that_leads_to_another_server_gives_no_row(session: FakeSession) -> None:
    """A server knows no hash: its address and its model tell whether it is the one that answered."""
    at = ModelInfo(name="fake", path="http://a/v1#m", engine="vllm")
    session.model = at
    run(session, frame(2), concurrency=2)
    for path, asked in [("http://a/v1#m", 2), ("http://b/v1#m", 4), ("http://a/v1#other", 6)]:
        session.model = at.model_copy(update={"path": path})
        run(session, frame(2), concurrency=2)
        assert len(session.engine.prompts) == asked


def test_a_server_of_our_own_is_known_by_its_models_file(session: FakeSession) -> None:
    """Its port is another one after each start, and it promises no exact seeds."""
    at = ModelInfo(name="local::m", path="http://h:5/v1#m", sha256="a", engine="llama-server")
    server = DeviceInfo(gpu_layers=None, exact=False)
    models = {REQUEST.model: at.model_copy(update={"path": "http://h:6/v1#m"})}
    for device, there in [(server, True), (DeviceInfo(exact=False), False)]:
        session.model, session.engine.device = at, device
        run(session, frame(1), resume=False, concurrency=1)
        wanted = [REQUEST.model_copy(update={"prompt": "Hi n0"})]
        assert (KnownRows(session.log, REQUEST, models).take(wanted) != [None]) is there
        other = {REQUEST.model: at.model_copy(update={"sha256": "b"})}
        assert KnownRows(session.log, REQUEST, other).take(wanted) == [None]
        session.log._database.execute("DELETE FROM runs")


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "q"}, {"data_spans": ((0, 1),)}, {"system": "s"}, {"tags": {"a": "b"}},
        {"params": InferencingParams(seed=1, stop=("x",))},
    ],
)  # fmt: skip
def test_rows_are_equal_in_all_that_differs_in_a_batch(other: dict[str, Any]) -> None:
    """Prompt, data, system message, stop sequences and tags."""
    one = Request(model="m", prompt="p", params=SEEDED)
    equal = EqualRows()
    assert [equal.first(0, one), equal.first(1, one)] == [0, 0]
    assert equal.first(2, one.model_copy(update=other)) == 2


def test_rows_that_draw_seeds_are_never_equal() -> None:
    """Unless the temperature is 0, where no seed is needed."""
    equal = EqualRows()
    drawn = Request(model="m", prompt="p")
    assert [equal.first(0, drawn), equal.first(1, drawn)] == [0, 1]
    greedy = Request(model="m", prompt="p", params=InferencingParams(temperature=0))
    assert [equal.first(2, greedy), equal.first(3, greedy)] == [2, 2]
    scored = Request(model="m", prompt="p", continuation="c")  # nothing is drawn for a score
    others = EqualRows()
    assert [others.first(0, scored), others.first(1, scored)] == [0, 0]


def test_equal_rows_of_a_local_model_are_one_run_where_asked(session: FakeSession) -> None:
    """A failed one fails all of them, and the same call asks once again."""
    session.engine.capabilities = Capabilities()
    rows = pandas.DataFrame({"name": ["Ada", "bad", "Ada", "bad"]})
    for asked in (2, 3):
        found = run(session, rows, deduplicate=True)
        assert found["infer_status"].tolist() == ["ok", "error", "ok", "error"]
        assert found["infer_run_id"].nunique() == 2
        assert len(session.engine.prompts) == asked
