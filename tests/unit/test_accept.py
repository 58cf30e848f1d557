"""`--accept`: what would be refused and is accepted by name, or by `--anyway` of version 0.1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmwit_magic.contract.request import DEFAULT_MODEL, Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.local.pool import _key
from llmwit_magic.errors import InvalidInput, ModelNotSupported
from llmwit_magic.magics.cell import read_cell
from llmwit_magic.requests.snippets import cell_text, python_text
from llmwit_magic.running.replay import replay_request
from tests.support.fake import MODEL, FakeEngine, FakeSession

ALL = ("context", "file", "filters")


@pytest.fixture
def session() -> Iterator[FakeSession]:
    """A session whose log has a run with another model file, and with a filter that is gone."""
    session = FakeSession(FakeEngine())
    session.finish(Request(model="fake", prompt="p", content_filters=(len,)))
    session.model = MODEL.model_copy(update={"sha256": "1" * 64})
    yield session
    session.close()


def test_a_long_context_is_accepted_by_either_name() -> None:
    """`accept=("context",)` and `anyway` mean the same to the engine. Other words do not."""
    assert Request(model="m", prompt="p", anyway=True).takes_long_context
    assert Request(model="m", prompt="p", accept="context").takes_long_context
    assert not Request(model="m", prompt="p", accept=("file", "filters")).takes_long_context
    assert not Request(model="m", prompt="p").takes_long_context


def test_engines_of_both_names_are_one() -> None:
    """A model that was loaded with one of the names is used with the other."""

    class Model:
        source, state, backend, environment, always_exact = "m.gguf", 1, "fake", (), False

    model: Any = Model()
    keys = [_key(model, Request(model="m", prompt="p", **how).spec)
            for how in ({"anyway": True}, {"accept": "context"}, {}, {"accept": "unsupported"})]  # fmt: skip
    assert keys[0] == keys[1] != keys[2] == keys[3]


@pytest.mark.parametrize("accept", ["all", "", ("context", "disk"), 5, "context,file"])
def test_only_what_there_is_can_be_accepted(session: FakeSession, accept: Any) -> None:
    """Another word is refused, in a replay too. The error lists the words."""
    with pytest.raises(InvalidInput, match=r"accept: .* one or more of context, file, filters"):
        Request(model="m", prompt="p", accept=accept)
    with pytest.raises(InvalidInput, match=r"accept: .* one or more of context, file, filters"):
        replay_request(session, session.log[1], {}, accept=accept)


@pytest.mark.parametrize(
    "line",
    ["--accept context,file", "--accept context --accept file", "--accept=context --accept=file",
     "--accept 'context, file'", "--accept context,context,file"],
)  # fmt: skip
def test_the_line_takes_several(line: str) -> None:
    """They stand behind commas or in several options, and count once."""
    assert read_cell(line, "p\n", {}, {"model": "m"}).requests[0].accept == ("context", "file")


def test_what_was_accepted_is_logged_and_copied(session: FakeSession) -> None:
    """It stands in its column, in the run read back, and in the cell and the Python to copy."""
    request = Request(model=DEFAULT_MODEL, prompt="p", accept=("context", "file"),
                      params=InferencingParams(seed=1))  # fmt: skip
    run = session.finish(request)
    assert session.log.row(2)["accept"] == "context,file"
    assert session.log.row(1)["accept"] is None
    assert session.log.to_frame()["accept"].tolist()[1] == "context,file"
    assert session.log[2].request.accept == ("context", "file")
    line, _, cell = cell_text(run.request, {}).removeprefix("%%infer").partition("\n")
    assert "--accept context,file" in line
    again = read_cell(line, cell, {}, {"model": DEFAULT_MODEL}).requests[0]
    assert again.accept == request.accept
    assert "accept=('context', 'file')" in python_text(run.request)


def test_a_replay_accepts_what_is_named(session: FakeSession) -> None:
    """Accepting the file does not accept the loss of the filter, nor the other way round."""
    original = session.log[1]
    with pytest.raises(InvalidInput, match="or --accept filters runs without it"):
        replay_request(session, original, {}, accept=("file", "context"))
    with pytest.raises(ModelNotSupported, match="--accept file runs it with the file"):
        replay_request(session, original, {}, accept="filters")
    request, notice = replay_request(session, original, {}, accept=("file", "filters"))
    assert notice.startswith("the model file")
    assert request.accept == ("file", "filters")
    assert not request.takes_long_context


def test_anyway_accepts_all_in_a_replay(session: FakeSession) -> None:
    """It accepts the file, the loss of the filter, and a longer context."""
    request, notice = replay_request(session, session.log[1], {"context_length": 9000}, accept=ALL)
    assert notice
    assert request.takes_long_context


def test_a_file_that_was_accepted_once_is_not_accepted_again(session: FakeSession) -> None:
    """A replay of a replay needs its own word for the file. A long context stays accepted."""
    session.finish(replay_request(session, session.log[1], {}, accept=ALL)[0])
    session.model = MODEL.model_copy(update={"sha256": "2" * 64})
    original = session.log[2]
    with pytest.raises(ModelNotSupported, match="--accept file"):
        replay_request(session, original, {})
    assert replay_request(session, original, {}, accept="file")[0].takes_long_context
