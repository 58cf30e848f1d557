"""Write the docs pages that are made from the code, and the tables of measured figures.

    python -m docs.make_pages [--check]

`--check` writes nothing, and ends with an error where a page is not what the
code says, or a table not what `benchmarks/results.json` says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import details, summary
from llmwit_magic.runlog.columns import COLUMNS
from llmwit_magic.runlog.database import VERSION
from llmwit_magic.runlog.frame import DTYPES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_COLUMNS_HEAD = f"""# The columns of the run log

Every run is a row, written when the run starts and completed when it ends. These are its columns, in the DataFrame of `%infer_log` and `runs.to_frame()` (indexed by `run_id`), in the SQLite table `runs` (schema {VERSION}) and in exports; `json` columns hold lists and mappings in `.jsonl`, their own types in `.parquet`, and JSON text in SQLite, in `.csv` and in the DataFrame (`json.loads` reads it), where each tag is a column `tag.KEY` instead. Times are UTC; in the DataFrame they are without a zone, which spreadsheets refuse. A missing value is one that does not apply, or that the run did not reach, or one that something else has written there and that is not of the column's type; a warning says so.

With `--schema otel`, `.jsonl` has the attribute in the last column, and `llmwit.` with the column's name where there is none; beside them `gen_ai.operation.name` (`chat` or `text_completion`), `gen_ai.provider.name` and `gen_ai.response.id`.

| column | type | unit | meaning | OpenTelemetry |
| --- | --- | --- | --- | --- |
"""


def columns_page() -> str:
    """The table of the log's columns."""
    lines = []
    for column in COLUMNS:
        kind = "json" if column.kind == "json" else DTYPES[column.kind]
        otel = f"`{column.otel}`" if column.otel else ""
        lines.append(f"| `{column.name}` | {kind} | {column.unit} | {column.meaning} | {otel} |\n")
    return _COLUMNS_HEAD + "".join(lines)


def with_figures(path: Path, figures: str) -> str:
    """The page with the table between its two marks made anew."""
    before, start, rest = path.read_text(encoding="utf-8").partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- end of figures -->")
    if not (start and end):
        raise ValueError(f"{path.name} has no marks for its figures")
    return f"{before}{start}{figures}\n{end}{after}"


def pages() -> Iterator[tuple[Path, str]]:
    """Each page, and what it is to say."""
    yield HERE / "run-log-columns.md", columns_page()
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    for path, figures in ((ROOT / "README.md", summary), (HERE / "performance.md", details)):
        yield path, with_figures(path, figures(results))


def main() -> int:
    stale = 0
    for path, text in pages():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            print(f"{path.name} is not what the code says: python -m docs.make_pages")
            stale += 1
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name} written")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
