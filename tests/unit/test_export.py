"""Exports: CSV, JSON Lines, Parquet; what comes back, and what a cut-off leaves."""

from __future__ import annotations

import base64
import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from llmwit_magic.base.filesystem import replacing
from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams, TokenAlternative, TokenInfo
from llmwit_magic.errors import InvalidInput, LogError
from llmwit_magic.runlog import export as export_module
from llmwit_magic.runlog.columns import COLUMNS, NAMES
from llmwit_magic.runlog.export import (
    _read_parquet,
    defused,
    export,
    otel_attributes,
    read_export,
)
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.rows import JSON_NAMES
from llmwit_magic.running.results import row_of
from tests.support.fake import FakeEngine, FakeSession, end, prepared, run_of

TOKEN = TokenInfo(
    id=7, bytes=b"\xff\xfe", logprob=-0.25, rank=1,
    top=(TokenAlternative(id=8, bytes=b"x", logprob=-float("inf")),),
)  # fmt: skip
ASKED = Request(
    model="fake", prompt="=1+1", chat=True, system="@S", top_logprobs=1, group_id="g",
    params=InferencingParams(max_tokens=None, stop=("\n", "=", "日本"), seed=2**63 - 1),
    content_filters=("a+",), tags={"-k": "=v"}, replay_of=3,
)  # fmt: skip


@pytest.fixture
def log() -> Iterator[RunLog]:
    """A run with everything, a failed one, and one that goes on."""
    session = FakeSession(FakeEngine())
    run = run_of([prepared(ASKED), Chunk('+A1,"b"\r\nc\t\0\u2028', 1, (TOKEN,)), end(1)], ASKED)
    for number, one in enumerate((run, run_of([ValueError("no")], ASKED), run), 1):
        one.run_id = session.log.begin(one.row("running"))
        if number < 3:
            session.log.complete(one.run_id, one.row(one.status))
    session.log.annotate(1, rating=-1, note="-2+3")
    yield session.log
    session.close()


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "parquet", "PARQUET"])
def test_what_is_written_is_read_back(log: RunLog, tmp_path: Path, ending: str) -> None:
    """The same DataFrame: the same types, the same values."""
    path = tmp_path / f"runs.{ending}"
    assert log.export(path) == 3
    pandas.testing.assert_frame_equal(read_export(path), log.to_frame())


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_no_runs_are_read_back_too(log: RunLog, tmp_path: Path, ending: str) -> None:
    """An export without rows keeps the types."""
    path = tmp_path / f"runs.{ending}"
    assert log.export(path, group="none") == 0
    pandas.testing.assert_frame_equal(read_export(path), log.to_frame(group="none"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(-(2**63), 2**63 - 1), "real": st.floats(allow_nan=False),
    "text": st.text(max_size=9), "boolean": st.booleans(),
    "time": st.datetimes(pandas.Timestamp("1900-01-01"), pandas.Timestamp("2200-01-01")).map(
        lambda time: time.isoformat(timespec="microseconds") + "+00:00"
    ),
    "stop": st.lists(st.text(max_size=3), max_size=2),
    "data_spans": st.lists(st.tuples(st.integers(0, 9), st.integers(9, 19)).map(list), max_size=2),
    "notices": st.lists(st.text(max_size=3), max_size=2),
    "not_honoured": st.lists(st.text(max_size=3), max_size=2),
    "content_filters": st.lists(st.text(max_size=3), max_size=2),
    "tags": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    "metrics": st.dictionaries(
        st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False), max_size=2
    ),
    "template_options": st.dictionaries(st.text(max_size=3), JSON, max_size=2),
    "value": JSON,
    "history": st.lists(
        st.fixed_dictionaries({
            "role": st.sampled_from(["system", "user", "assistant"]),
            "content": st.text(max_size=3),
        }), max_size=2,
    ),
    "tokens": st.lists(
        st.fixed_dictionaries({
            "id": st.none() | st.integers(0, 9),
            "bytes": st.binary(max_size=3).map(lambda data: base64.b64encode(data).decode()),
            "logprob": st.floats(max_value=0, allow_nan=False, allow_infinity=False)
            | st.just("-Infinity"),
            "rank": st.none() | st.integers(0, 9),
            "top": st.just([]),
            "reasoning": st.booleans(),
        }), max_size=2,
    ),
}  # fmt: skip
VALUES["prompt_tokens"] = VALUES["tokens"]
VALUES["choice_scores"] = st.lists(
    st.fixed_dictionaries({
        "choice": st.text(min_size=1, max_size=3), "probability": st.floats(0, 1),
        "logprob": st.floats(max_value=0, allow_nan=False, allow_infinity=False)
        | st.just("-Infinity"),
        "tokens": VALUES["tokens"], "end_logprob": st.none() | st.floats(-9, 0),
        "empty_prompt_logprob": st.none(),
    }), min_size=1, max_size=2,
)  # fmt: skip
ROWS = st.lists(
    st.fixed_dictionaries({
        column.name: st.none() | VALUES[column.name if column.kind == "json" else column.kind]
        for column in COLUMNS
    }).map(lambda row: row | {"run_id": row["run_id"] or 0}),
    max_size=3,
)  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@settings(max_examples=15)
@given(rows=ROWS)
def test_any_row_is_read_back(
    ending: str, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the columns hold, it comes back as it was."""
    from llmwit_magic.runlog.frame import frame_of_rows

    path = tmp_path_factory.mktemp("export") / f"rows.{ending}"
    export(rows, path)
    pandas.testing.assert_frame_equal(read_export(path), frame_of_rows(rows))


def test_tokens_of_servers_and_of_older_logs_come_back_from_parquet(tmp_path: Path) -> None:
    """A server's token has an id and a rank that are None. An older log's has no `reasoning`."""
    said = {"bytes": "YQ==", "logprob": -1.5, "top": [{"id": None, "bytes": "", "logprob": -2.0}]}
    tokens = [said | {"id": None, "rank": None, "reasoning": True}, said | {"id": 1, "rank": 0}]
    row = dict.fromkeys(NAMES) | {"run_id": 1, "tokens": tokens}
    export([row], tmp_path / "rows.parquet")
    (read,) = _read_parquet(tmp_path / "rows.parquet")
    assert read["tokens"] == tokens


def test_tokens_with_and_without_a_constraint_come_back_from_parquet(tmp_path: Path) -> None:
    """The log-probability among what the constraint left is there for all tokens of a run or none."""
    plain = {"id": 1, "bytes": "YQ==", "logprob": -1.5, "rank": 0, "top": [], "reasoning": False}
    for number, tokens in enumerate(
        ([plain], [plain | {"masked_logprob": None}, plain | {"masked_logprob": -0.25}])
    ):
        export(
            [dict.fromkeys(NAMES) | {"run_id": 1, "tokens": tokens}], tmp_path / f"{number}.parquet"
        )
        (read,) = _read_parquet(tmp_path / f"{number}.parquet")
        assert read["tokens"] == tokens


def test_parquet_has_types_of_its_own(log: RunLog, tmp_path: Path) -> None:
    """Other programs see lists, a map, records and timestamps, and no JSON in text."""
    log.export(tmp_path / "runs.parquet")
    schema = pyarrow.parquet.read_schema(tmp_path / "runs.parquet")
    assert schema.names == list(NAMES)
    types = {name: str(schema.field(name).type) for name in (*JSON_NAMES, "started_at", "seed")}
    assert types["started_at"] == "timestamp[us, tz=UTC]"
    assert types["seed"] == "int64"
    assert types["tags"].startswith("map<string, string")
    assert types["stop"].startswith("list<")
    assert types["tokens"].startswith("list<element: struct<id: int64, bytes: string, logprob: dou")


# CSV --------------------------------------------------------------------------------


def test_csv_holds_every_cell(log: RunLog, tmp_path: Path) -> None:
    """The cells of the rows, JSON as text, defused where a spreadsheet would run them."""
    log.export(tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(encoding="utf-8", newline="") as file:
        head, *cells = csv.reader(file)
    assert head == list(NAMES)
    for row, line in zip(log.rows(), cells, strict=True):
        for name, cell in zip(NAMES, line, strict=True):
            value = row[name]
            if name in JSON_NAMES and value is not None:
                value = json.dumps(value, ensure_ascii=False)
            text = "" if value is None else str(value)
            assert cell == (defused(text) if isinstance(value, str) else text)
    assert cells[0][NAMES.index("prompt")] == "'=1+1"
    assert cells[0][NAMES.index("note")] == "'-2+3"
    assert cells[0][NAMES.index("rating")] == "-1"


def test_csv_reads_in_pandas(log: RunLog, tmp_path: Path) -> None:
    """One line a run, whatever the texts hold."""
    log.export(tmp_path / "runs.csv")
    frame = pandas.read_csv(tmp_path / "runs.csv", index_col="run_id")
    assert frame["generated_token_count"].tolist()[0] == 1
    assert frame.index.tolist() == [1, 2, 3]


SIGNS = "=+-@\t\r\n＝＋－＠"
RISKY = st.text(st.sampled_from(f"{SIGNS} '\"a1"), max_size=6) | st.text(max_size=6)


@given(RISKY)
def test_defused_text_is_no_formula(text: str) -> None:
    """It begins neither with a sign of a formula nor with blanks before one."""
    safe = defused(text)
    assert safe[:1] not in tuple(SIGNS)
    assert safe.lstrip()[:1] not in tuple("=+-@＝＋－＠")


@given(RISKY, RISKY)
def test_defused_text_is_told_apart(one: str, other: str) -> None:
    """At most an apostrophe is added, and no two texts become the same one."""
    assert defused(one) in (one, f"'{one}")
    assert (defused(one) == defused(other)) == (one == other)
    assert (defused(f"'{one}") == defused(one)) is False


# OpenTelemetry ------------------------------------------------------------------------

KNOWN = {
    value for name, value in vars(gen_ai_attributes).items()
    if name.startswith("GEN_AI_") and isinstance(value, str)
}  # fmt: skip


def test_otel_names_are_those_of_the_conventions(log: RunLog) -> None:
    """Every `gen_ai.…` that is written is an attribute of OpenTelemetry's own table."""
    written = {name for row in log.rows() for name in otel_attributes(row)}
    written |= {column.otel for column in COLUMNS if column.otel}
    ours = {name for name in written if name.startswith("gen_ai.")}
    assert len(ours) > 12
    assert ours <= KNOWN
    assert all(name.startswith(("gen_ai.", "llmwit.", "error.type")) for name in written)


def test_otel_has_reasoning_as_a_part_of_the_message() -> None:
    """The conventions have a kind of part for it, and a name for the count of its tokens."""
    session = FakeSession(FakeEngine(["Paris"], thoughts=["Let me ", "see"]))
    session.finish(Request(model="fake", prompt="p", chat=True))
    found = otel_attributes(session.log.rows()[0])
    assert found["gen_ai.output.messages"] == [{
        "role": "assistant", "finish_reason": "stop",
        "parts": [{"type": "reasoning", "content": "Let me see"},
                  {"type": "text", "content": "Paris"}],
    }]  # fmt: skip
    assert found["gen_ai.usage.reasoning.output_tokens"] == 2
    assert found["gen_ai.usage.output_tokens"] == 3
    assert "llmwit.reasoning" not in found
    session.close()


def test_otel_attributes_say_what_the_row_says(log: RunLog, tmp_path: Path) -> None:
    """Messages have roles and parts, counts are numbers, and what is missing is left out."""
    log.export(tmp_path / "otel.jsonl", schema="otel")
    whole, failed, running = map(json.loads, (tmp_path / "otel.jsonl").read_text().splitlines())
    # The conventions know no message without a reason for its end.
    (message,) = failed["gen_ai.output.messages"]
    assert message == {
        "role": "assistant", "parts": [{"type": "text", "content": ""}], "finish_reason": "error",
    }  # fmt: skip
    assert whole["gen_ai.operation.name"] == "chat"
    assert whole["gen_ai.input.messages"] == [
        {"role": "user", "parts": [{"type": "text", "content": "=1+1"}]}
    ]
    assert whole["gen_ai.system_instructions"] == [{"type": "text", "content": "@S"}]
    (answer,) = whole["gen_ai.output.messages"]
    assert (answer["role"], answer["finish_reason"]) == ("assistant", "stop")
    assert answer["parts"][0]["content"] == '+A1,"b"\r\nc\t\0\u2028'
    assert whole["gen_ai.response.finish_reasons"] == ["stop"]
    assert whole["gen_ai.usage.output_tokens"] == 1
    assert whole["gen_ai.request.seed"] == 2**63 - 1
    assert "gen_ai.request.max_tokens" not in whole
    assert whole["llmwit.rating"] == -1
    assert failed["error.type"] == "EngineFailed"
    assert running["llmwit.status"] == "running"
    assert "gen_ai.output.messages" not in running
    assert len({item["gen_ai.response.id"] for item in (whole, failed, running)}) == 3


# Files --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_cut_off_export_leaves_the_old_file(
    log: RunLog, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stops it in the middle: the old file is whole, and nothing else is left."""
    path = tmp_path / f"runs.{ending}"
    log.export(path)
    old, write = path.read_bytes(), export_module._WRITERS[f".{ending}"]

    def cut(rows: Any, part: Path) -> None:
        write(rows, part)
        os.truncate(part, part.stat().st_size // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "_WRITERS", {f".{ending}": cut})
    with pytest.raises(KeyboardInterrupt):
        log.export(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "schema", "message"),
    [
        ("runs", "log", "runs has no known ending: it must be one of .csv, .jsonl"),
        ("runs.xlsx", "log", "runs.xlsx has no known ending"),
        ("runs.jsonl", "OTEL", "schema: 'OTEL' is not valid"),
        ("runs.csv", "otel", "the schema otel is for JSON Lines"),
    ],
)
def test_an_export_that_cannot_be_meant(
    log: RunLog, tmp_path: Path, name: str, schema: str, message: str
) -> None:
    """The line says what may be written; no file is made."""
    with pytest.raises(InvalidInput, match=message):
        log.export(tmp_path / name, schema=schema)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_cannot_be_written(log: RunLog, tmp_path: Path) -> None:
    """A missing folder and a folder in the place are one line, and leave nothing."""
    with pytest.raises(LogError, match=r"runs\.csv cannot be written: No such file"):
        log.export(tmp_path / "no" / "runs.csv")
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(LogError, match=r"a\.parquet cannot be written: Is a directory"):
        log.export(tmp_path / "a.parquet")
    assert [item.name for item in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "no json", "no export of a run log: Expecting value"),
        ("a.jsonl", "[1]\n", "no export of a run log: it has no run_id"),
        ("a.jsonl", '{"gen_ai.request.model": "x"}\n', "with the schema otel, it cannot be read"),
        ("a.jsonl", "\xff\xfe", "no export of a run log"),
        ("a.parquet", "PAR1", "no export of a run log"),
    ],
)
def test_what_is_no_export_is_said(tmp_path: Path, name: str, content: str, message: str) -> None:
    """A file of something else is one line."""
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(LogError, match=message) as caught:
        read_export(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_reading_says_what_can_be_read(tmp_path: Path) -> None:
    """CSV has lost its types, and a missing file is not there."""
    with pytest.raises(InvalidInput, match=r"runs\.csv cannot be read back: only \.jsonl"):
        read_export(tmp_path / "runs.csv")
    with pytest.raises(LogError, match="cannot be read: No such file"):
        read_export(tmp_path / "runs.jsonl")


def test_an_export_of_an_earlier_version_is_read(log: RunLog, tmp_path: Path) -> None:
    """Columns that were not there yet are missing values."""
    row = {key: value for key, value in row_of(run_of([end(1)], ASKED)).items() if key != "version"}
    (tmp_path / "old.jsonl").write_text(json.dumps(row | {"run_id": 4}) + "\n\n")
    frame = read_export(tmp_path / "old.jsonl")
    assert frame.index.tolist() == [4]
    assert frame.loc[4, "version"] is pandas.NA


def test_parquet_without_pyarrow_says_what_to_install(
    log: RunLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is the command."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LogError, match=r'pip install "llmwit-magic\[parquet\]"'):
        log.export(tmp_path / "runs.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 255, "日" * 85, "😀" * 63])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    """The part beside it has a name that fits, whatever the bytes of its characters."""
    with replacing(tmp_path / name) as part:
        part.write_text("new")
        assert part.parent == tmp_path
    assert (tmp_path / name).read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_export_nested_too_deep_is_none(tmp_path: Path) -> None:
    """JSON that no reader takes is one line, as any other that is no export."""
    (tmp_path / "deep.jsonl").write_text('{"run_id": ' + "[" * 200_000 + "\n")
    with pytest.raises(LogError, match="is no export of a run log"):
        read_export(tmp_path / "deep.jsonl")
