"""Export of runs to CSV, JSON Lines and Parquet, and reading such files back."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.filesystem import is_held, replacing
from ..errors import InvalidInput, LogError
from .columns import COLUMNS, NAMES, Column
from .rows import JSON_NAMES, Row

if TYPE_CHECKING:
    import pandas

SCHEMAS = ("log", "otel")
PROVIDER = "ctransformers"
"""The value of `gen_ai.provider.name`, the provider that carried the run out."""


def export(rows: Sequence[Row], path: Path, schema: str = "log") -> int:
    """Write the rows in the format of the file's ending; their number. See `RunLog.export`."""
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise InvalidInput(
            f"{path.name} has no known ending: it must be one of {', '.join(_WRITERS)}"
        )
    if schema not in SCHEMAS:
        raise InvalidInput(f"schema: {schema!r} is not valid: it must be log or otel")
    if schema == "otel":
        if write is not _write_lines:
            raise InvalidInput(
                "the schema otel is for JSON Lines: name a file that ends with .jsonl"
            )
        rows = [otel_attributes(row) for row in rows]
    try:
        with replacing(path) as part:
            write(rows, part)
    except OSError as error:
        advice = "; close it in the program that has it open" if is_held(error) else ""
        raise LogError(f"{path} cannot be written: {error.strerror or error}{advice}") from None
    return len(rows)


def read_export(path: str | Path) -> pandas.DataFrame:
    """The DataFrame from which a `.jsonl` or `.parquet` file was written: same types, same values.

    Raises `InvalidInput` for another ending, and `LogError` where the file cannot be read or is
    no export.
    """
    from .frame import frame_of_rows

    path = Path(path).expanduser()
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise InvalidInput(f"{path.name} cannot be read back: only {', '.join(_READERS)} can")
    try:
        # A file that an older version wrote has fewer columns.
        return frame_of_rows([dict.fromkeys(NAMES) | _checked(row) for row in read(path)])
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LogError(f"{path} is no export of a run log: {error}") from None


def _checked(row: Row) -> Row:
    if "run_id" not in row:
        raise ValueError("it has no run_id (with the schema otel, it cannot be read back)")
    return row


# JSON Lines ---------------------------------------------------------------------


# JSON may hold these characters unescaped, but some readers take them for the end of a line.
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def _write_lines(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).translate(_LINE_ENDS) + "\n")


def _read_lines(path: Path) -> Sequence[Row]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def otel_attributes(row: Row) -> Row:
    """A row as attributes of OpenTelemetry's conventions for generative AI.

    See https://opentelemetry.io/docs/specs/semconv/gen-ai/ . A column for which they have no
    name is called `llmwit.` and its own name. Missing values are left out.
    """
    attributes: Row = {
        "gen_ai.operation.name": _operation(row),
        "gen_ai.provider.name": row["engine"] or PROVIDER,
        # Run numbers repeat in other logs; together with the session, the ID is unique.
        "gen_ai.response.id": f"{row['session_id']}-{row['run_id']}",
    }
    for column in COLUMNS:
        value = row[column.name]
        if value is not None:
            make = _MESSAGES.get(column.name)
            name = column.otel or f"llmwit.{column.name}"
            attributes[name] = make(row) if make else value
    return attributes


def _operation(row: Row) -> str:
    if row["kind"] == "embedding":
        return "embeddings"
    return "chat" if row["chat"] else "text_completion"


def _part(text: str, kind: str = "text") -> list[Row]:
    return [{"type": kind, "content": text}]


def _said(row: Row) -> list[Row]:
    """The answer as a message of OpenTelemetry's schema, with the reasoning as its first part."""
    thoughts = _part(row["reasoning"], "reasoning") if row["reasoning"] else []
    text = [] if row["text"] is None else _part(row["text"])
    return [
        {
            "role": "assistant",
            "parts": [*thoughts, *text],
            "finish_reason": row["finish_reason"] or "error",
        }
    ]


_MESSAGES: Mapping[str, Callable[[Row], Any]] = {
    "prompt": lambda row: [{"role": "user", "parts": _part(row["prompt"])}],
    "text": _said,
    "reasoning": _said,
    "system": lambda row: _part(row["system"]),
    "finish_reason": lambda row: [row["finish_reason"]],
}


# CSV ----------------------------------------------------------------------------

# Beginnings that a spreadsheet may take for a formula's, with the space that it may skip.
_FORMULA = re.compile(r"'*(?:\s*[=+\-@＝＋－＠]|[\t\r\n])")


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        for row in rows:
            writer.writerow([_cell(name, row[name]) for name in NAMES])


def _cell(name: str, value: Any) -> Any:
    if value is not None and name in JSON_NAMES:
        value = json.dumps(value, ensure_ascii=False)
    return defused(value) if isinstance(value, str) else value


def defused(text: str) -> str:
    """The text, with an apostrophe before it if a spreadsheet would run it as a formula.

    See https://owasp.org/www-community/attacks/CSV_Injection . A text that already has
    apostrophes before such a formula gets one more, so removing one always restores the text.
    """
    return f"'{text}" if _FORMULA.match(text) else text


# Parquet ------------------------------------------------------------------------

_OF_ANY_TYPE = ("template_options", "value", "choice_scores")
"""The JSON columns whose values are of any type. Parquet has their JSON text."""

_MAPPINGS = ("tags", "metrics")
"""The JSON columns that are maps in Parquet."""


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise LogError('Parquet needs pyarrow: pip install "llmwit-magic[parquet]"') from None
    return pyarrow


_TOKEN_LISTS = ("tokens", "prompt_tokens")


def _write_parquet(rows: Sequence[Row], path: Path) -> None:
    arrow = _arrow()
    number, real, text = arrow.int64(), arrow.float64(), arrow.string()
    top = arrow.struct([("id", number), ("bytes", text), ("logprob", real)])
    token = [("id", number), ("bytes", text), ("logprob", real), ("rank", number),
             ("top", arrow.list_(top)), ("reasoning", arrow.bool_()), ("masked_logprob", real)]  # fmt: skip
    types = {
        "integer": number, "real": real, "text": text, "boolean": arrow.bool_(),
        "time": arrow.timestamp("us", "UTC"), "stop": arrow.list_(text),
        "content_filters": arrow.list_(text), "tags": arrow.map_(text, text),
        "tokens": arrow.list_(arrow.struct(token)), "notices": arrow.list_(text),
        "not_honoured": arrow.list_(text), "metrics": arrow.map_(text, real),
        "prompt_tokens": arrow.list_(arrow.struct(token)),
        "data_spans": arrow.list_(arrow.list_(number)), **dict.fromkeys(_OF_ANY_TYPE, text),
        "history": arrow.list_(arrow.struct([("role", text), ("content", text)])),
    }  # fmt: skip
    table = arrow.table(
        {
            column.name: arrow.array(
                [_parquet_value(column, row[column.name]) for row in rows],
                types.get(column.kind) or types[column.name],
            )
            for column in COLUMNS
        }
    )
    arrow.parquet.write_table(table, path)


def _parquet_value(column: Column, value: Any) -> Any:
    if value is None:
        return None
    if column.kind == "time":
        return datetime.fromisoformat(value)
    if column.name in _MAPPINGS:
        return list(value.items())
    if column.name in _OF_ANY_TYPE:
        return json.dumps(value, ensure_ascii=False)
    return _token_numbers(value, float) if column.name in _TOKEN_LISTS else value


def _read_parquet(path: Path) -> Sequence[Row]:
    rows: list[Row] = _arrow().parquet.read_table(path).to_pylist()
    for row in map(_checked, rows):
        for name in _MAPPINGS:
            row[name] = None if row.get(name) is None else dict(row[name])
        for name in _OF_ANY_TYPE:
            row[name] = None if row.get(name) is None else json.loads(row[name])
        for name in _TOKEN_LISTS:
            row[name] = _token_numbers(row.get(name), _json_number)
    return rows


def _json_number(value: float) -> float | str:
    """The number as the log's JSON has it: JSON has no minus infinity, so a text stands for it."""
    return value if math.isfinite(value) else "-Infinity"


def _token_numbers(tokens: Any, convert: Callable[[Any], Any]) -> Any:
    if tokens is None:
        return None
    # A token of an older log says nothing of reasoning, and those of a run without a constraint say
    # nothing of one. A server's may have no id and no rank: these are there, and None.
    silent = {
        name for name in ("reasoning", "masked_logprob")
        if all(token.get(name) is None for token in tokens)
    }  # fmt: skip
    return [
        {
            **{
                key: convert(value) if key == "masked_logprob" and value is not None else value
                for key, value in token.items()
                if key not in silent and (key != "reasoning" or value is not None)
            },
            "logprob": convert(token["logprob"]),
            "top": [{**other, "logprob": convert(other["logprob"])} for other in token["top"]],
        }
        for token in tokens
    ]


_WRITERS: Mapping[str, Callable[[Sequence[Row], Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_lines,
    ".ndjson": _write_lines,
    ".parquet": _write_parquet,
}
_READERS: Mapping[str, Callable[[Path], Sequence[Row]]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".parquet": _read_parquet,
}
