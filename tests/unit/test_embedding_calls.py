"""Vectors as an array: its shape, what is evaluated, what is logged, what an interrupt leaves."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import llmwit_magic
from llmwit_magic.analysis import embeddings
from llmwit_magic.contract.engine import Texts
from llmwit_magic.errors import EngineFailed, Interrupted, InvalidInput
from llmwit_magic.runlog.export import read_export
from llmwit_magic.running.replay import replay_request
from llmwit_magic.views.text import plain
from tests.support.fake import FakeEngine, FakeSession

Embed = Callable[..., Any]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    session = FakeSession(FakeEngine())
    monkeypatch.setattr(embeddings, "current_session", lambda: session)
    return session


def test_an_array_with_a_row_for_each_text(session: FakeSession) -> None:
    """In the order of the texts, as float32."""
    found = llmwit_magic.embed(["abc", "a", "ab"])
    assert (found.shape, found.dtype) == ((3, 2), np.float32)
    assert found[:, 0].tolist() == [3, 1, 2]
    assert llmwit_magic.embed("abc").shape == (1, 2)
    assert llmwit_magic.embed([]).shape == (0, 0)


def test_equal_texts_are_evaluated_once(session: FakeSession) -> None:
    """Each of them has its row all the same."""
    found = llmwit_magic.embed(["a", "bb", "a", "a"])
    assert found[:, 0].tolist() == [1, 2, 1, 1]
    assert session.engine.embedded == ["a", "bb"]


def test_normalized_vectors_have_the_length_one(session: FakeSession) -> None:
    """All but vectors of zeros, which are named."""
    found = llmwit_magic.embed(["a", "bb"], normalize=True)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1])
    assert found.dtype == np.float32
    with pytest.warns(UserWarning, match=r"^normalize: 1 of 2 vectors are zeros.*: text 2$"):
        unit = embeddings.normalized(np.array([[3, 4], [0, 0]], np.float32))
    assert unit.tolist() == [pytest.approx([0.6, 0.8]), [0, 0]]


def test_a_text_of_a_column_has_the_number_of_its_row(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without a text count: the engine names a text by the number that it gets."""
    seen: list[Texts] = []
    start = session.start_embedding
    monkeypatch.setattr(
        session,
        "start_embedding",
        lambda request, texts: seen.append(texts) or start(request, texts),
    )
    frame = pandas.DataFrame({"say": [None, "a", None, "bb", "a"]})
    llmwit_magic.embed_frame(frame, "say")
    assert (seen[0].texts, seen[0].numbers) == (("a", "bb"), (2, 4))
    with pytest.warns(UserWarning, match=r": text 4$"):
        embeddings.normalized(np.array([[3, 4], [0, 0]], np.float32), [2, 4])


def test_a_call_is_one_row_of_the_log(session: FakeSession) -> None:
    """It says what it was, and has no text but the first one."""
    llmwit_magic.embed(["first", "other", "first"], tags={"for": "a test"})
    (row,) = session.log.rows()
    assert (row["kind"], row["status"], row["prompt"], row["text"]) == (
        "embedding", "ok", "first", None,
    )  # fmt: skip
    assert (row["text_count"], row["prompt_token_count"]) == (2, 2)
    assert row["model_sha256"] == "0" * 64
    assert row["tags"] == {"for": "a test"}
    assert "other" not in str(row)
    run = session.log[-1]
    assert (run.kind, run.text_count) == ("embedding", 2)
    assert plain(run).startswith("── vectors · 2 texts · 2 tokens · smollm2")
    assert "seed" not in plain(run)


def test_its_row_is_exported(session: FakeSession, tmp_path: Path) -> None:
    """Its kind comes back, and OpenTelemetry's name for it is another one than that of text."""
    llmwit_magic.embed(["first", "other"])
    session.log.export(path := tmp_path / "log.parquet")
    assert read_export(path).equals(session.log.to_frame())
    assert session.log.to_frame()["kind"].tolist() == ["embedding"]
    session.log.export(path := tmp_path / "log.jsonl", schema="otel")
    assert '"gen_ai.operation.name": "embeddings"' in path.read_text()
    assert "gen_ai.output.messages" not in path.read_text()


def test_it_cannot_be_replayed(session: FakeSession) -> None:
    """Its texts are not in the log."""
    llmwit_magic.embed(["first", "other"])
    with pytest.raises(InvalidInput, match=r"^run 1 made vectors.*call embed\(\)"):
        replay_request(session, session.log[1], {})


def test_an_interrupted_call_goes_on(session: FakeSession) -> None:
    """The same call evaluates the rest. What was done is there at once."""
    texts = [f"text {number}" for number in range(40)]
    session.engine.pause = 0.02
    with pytest.raises(Interrupted, match=r"^stopped after (\d+) of 40 texts; the same call"):
        interrupted(
            lambda: llmwit_magic.embed(texts, progress=False),
            lambda: len(session.engine.embedded) >= 5,
        )
    assert [row["status"] for row in session.log.rows()] == ["interrupted"]
    done = list(session.engine.embedded)
    assert 0 < len(done) < 40
    session.engine.pause = 0
    assert len(llmwit_magic.embed(["other"], truncate=True)) == 1  # another call between
    session.engine.embedded.remove("other")
    assert llmwit_magic.embed(done, progress=False).shape == (len(done), 2)
    assert session.engine.embedded == done
    assert llmwit_magic.embed(texts, progress=False).shape == (40, 2)
    assert session.engine.embedded == texts
    assert session.log.rows()[-1]["text_count"] == 40 - len(done)
    llmwit_magic.embed(texts[:1], progress=False)  # nothing is kept any more
    assert session.engine.embedded == [*texts, texts[0]]


def test_what_is_kept_is_of_the_same_model_and_settings(session: FakeSession) -> None:
    """Another model file, another setting: all is evaluated again."""
    session.engine.last = EngineFailed("a test")
    for changed in ({"context_length": 9}, {"truncate": True}, {}):
        with pytest.raises(EngineFailed):
            llmwit_magic.embed(["a", "bad"])
        del session.engine.embedded[:]
        session.model = session.model.model_copy(update={"sha256": f"{len(str(changed)):064}"})
        llmwit_magic.embed(["a"], **changed)
        assert session.engine.embedded == ["a"], changed


def test_a_failed_call_keeps_what_it_had(session: FakeSession) -> None:
    """Its row says that it failed."""
    session.engine.last = EngineFailed("a test")
    with pytest.raises(EngineFailed, match="a test"):
        llmwit_magic.embed(["a", "bb", "bad", "ccc"])
    assert session.log.rows()[-1]["error_message"] == "a test"
    session.engine.last = None
    assert llmwit_magic.embed(["a", "bb", "good", "ccc"])[:, 0].tolist() == [1, 2, 4, 3]
    assert session.engine.embedded == ["a", "bb", "good", "ccc"]


def test_the_bar_counts_texts(session: FakeSession, capsys: pytest.CaptureFixture[str]) -> None:
    """It comes after half a second, and not at all for a short call or where none is wanted."""
    llmwit_magic.embed(["a", "b"])
    assert capsys.readouterr().out == ""
    session.engine.pause = 0.2
    texts = ["a", "b", "c", "d", "a"]
    llmwit_magic.embed(texts, progress=False)
    assert capsys.readouterr().out == ""
    llmwit_magic.embed(texts)
    assert "5/5" in capsys.readouterr().out


def test_a_column_of_vectors(session: FakeSession, tmp_path: Path) -> None:
    """The DataFrame itself stays as it was. A missing text has no vector. Parquet takes it."""
    frame = pandas.DataFrame({"say": ["a", None, "bb"], "n": [1, 2, 3]}, index=[7, 8, 7])
    found = llmwit_magic.embed_frame(frame, "say", normalize=True)
    assert list(frame.columns) == ["say", "n"]
    assert found.index.tolist() == [7, 8, 7]
    one, none, two = found["embedding"]
    assert none is None
    assert (one.dtype, one.shape) == (np.float32, (2,))
    assert np.linalg.norm(two) == pytest.approx(1)
    found.to_parquet(path := tmp_path / "f.parquet")
    back = pandas.read_parquet(path)["embedding"].iloc[2]
    assert (back == two).all()
    assert np.stack(found["embedding"].dropna()).shape == (2, 2)
    assert llmwit_magic.embed_frame(frame[:0], "say")["embedding"].tolist() == []


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (["a"], {}, "list is not a DataFrame"),
        ({"other": ["a"]}, {}, "'say' is no column of the DataFrame, which has other"),
        (
            {"say": ["a"], "embedding": [1]},
            {},
            "has a column embedding already: give another name=",
        ),
        ({"say": [5]}, {}, "text 1 is int, not text"),
        ({"say": [None, "a", 5]}, {}, "text 3 is int, not text"),
        ({"say": ["a"]}, {"chat": True}, "chat has no effect on embeddings: leave it out"),
        ({"say": ["a"]}, {"temperature": 0}, "temperature has no effect on embeddings"),
        (
            {"say": ["a"]},
            {"nonsense": 0},
            "Request has no field 'nonsense'",
        ),
    ],
)
def test_what_is_refused(
    session: FakeSession, frame: Any, options: dict[str, Any], message: str
) -> None:
    """In one line, before anything is run."""
    frame = pandas.DataFrame(frame) if isinstance(frame, dict) else frame
    with pytest.raises(InvalidInput) as caught:
        llmwit_magic.embed_frame(frame, "say", **options)
    assert message in str(caught.value)
    assert len(session.log) == 0


def interrupted(work: Callable[[], Any], ready: Callable[[], bool]) -> Any:
    """What `work` does where a person interrupts it as soon as it is `ready`."""

    def interrupt() -> None:
        while not ready():
            time.sleep(0.005)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    return work()
