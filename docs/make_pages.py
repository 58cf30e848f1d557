"""Write the docs pages that are made from the code.

    python docs/make_pages.py [--check]

`--check` writes nothing, and ends with an error where a page is not what the
code says.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llmwit_magic.runlog.columns import COLUMNS
from llmwit_magic.runlog.database import VERSION
from llmwit_magic.runlog.frame import DTYPES

HERE = Path(__file__).parent
_TYPES = {"time": "datetime64[us, UTC]", "json": "object"}
_COLUMNS_HEAD = f"""# The columns of the run log

Every run is a row, written when the run starts and completed when it ends. These are its columns, in the DataFrame of `%infer_log` and `runs.to_frame()` (indexed by `run_id`), in the SQLite table `runs` (schema {VERSION}) and in exports; `json` columns hold lists and mappings in the DataFrame and in `.jsonl`, their own types in `.parquet`, and JSON text in SQLite and `.csv`. A missing value is one that does not apply, or that the run did not reach.

With `--schema otel`, `.jsonl` has the attribute in the last column, and `llmwit.` with the column's name where there is none; beside them `gen_ai.operation.name` (`chat` or `text_completion`), `gen_ai.provider.name` and `gen_ai.response.id`.

| column | type | unit | meaning | OpenTelemetry |
| --- | --- | --- | --- | --- |
"""


def columns_page() -> str:
    """The table of the log's columns."""
    lines = []
    for column in COLUMNS:
        kind = "json" if column.kind == "json" else DTYPES.get(column.kind, "")
        kind = kind or _TYPES[column.kind]
        otel = f"`{column.otel}`" if column.otel else ""
        lines.append(f"| `{column.name}` | {kind} | {column.unit} | {column.meaning} | {otel} |\n")
    return _COLUMNS_HEAD + "".join(lines)


PAGES = {"run-log-columns.md": columns_page}


def main() -> int:
    stale = 0
    for name, make in PAGES.items():
        path, text = HERE / name, make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            print(f"{path.name} is not what the code says: python docs/make_pages.py")
            stale += 1
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name} written")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
