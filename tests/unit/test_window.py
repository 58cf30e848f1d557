"""How many runs go on at once where nobody says it."""

from __future__ import annotations

from collections.abc import Iterator

import pandas
import pytest

from llmwit_magic.contract.engine import Capabilities
from llmwit_magic.errors import InvalidInput
from llmwit_magic.running import window
from tests.support.batches import REQUEST, Echo, run
from tests.support.fake import FakeSession


class Wide(Echo):
    """Does eight runs at once."""

    capabilities = Capabilities(runs_at_once=8)


@pytest.fixture
def session() -> Iterator[FakeSession]:
    session = FakeSession(Wide())
    yield session
    session.close()


@pytest.mark.parametrize(
    ("slots", "sizes"), [([None], [8]), ([3], [6]), ([4096], [8]), ([0], [1]), ([-1], [1]),
                         ([None, 4096, 1], [2, 2, 2]), ([0] * 9, [1] * 9)]
)  # fmt: skip
def test_a_default_window_is_never_empty_and_never_too_large(
    slots: list[int | None], sizes: list[int], session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a server says of its slots. Several servers share what the engine does at once."""
    said = iter(slots)
    monkeypatch.setattr(session, "slots", lambda request, show: next(said))
    requests = [REQUEST.model_copy(update={"model": f"m{number}"}) for number in range(len(slots))]
    servers = window.servers_for(session, requests, None, lambda progress: None)
    assert [server.size for server in servers] == sizes


def test_an_engine_of_a_users_own_tells_no_slots(session: FakeSession) -> None:
    """Only servers are asked for theirs. A batch over another engine has as many as it does."""
    assert session.slots(REQUEST) is None
    rows = pandas.DataFrame({"name": [f"n{number}" for number in range(20)]})
    assert run(session, rows)["infer_text"].tolist() == [f"HI N{n}" for n in range(20)]


def test_a_size_that_cannot_be_is_refused_at_once(
    session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    """No bar of no rows is shown before, and no server is asked."""
    with pytest.raises(InvalidInput, match="concurrency: 9 is not valid: it is at most 8"):
        run(session, pandas.DataFrame({"name": ["n"]}), concurrency=9, progress=True)
    assert capsys.readouterr() == ("", "")
