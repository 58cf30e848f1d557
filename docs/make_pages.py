"""Write the docs pages that are made from the code, and the tables of measured figures.

    python -m docs.make_pages [--check]

`--check` writes nothing. It exits with an error where a page differs from what the code gives, or
a table from what `benchmarks/results.json` gives.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import details, summary
from docs.reference_pages import configuration_page, options_page, python_page
from llmwit_magic.contract.constraint import CONSTRAINT_KINDS, Constraint, ConstraintKind
from llmwit_magic.contract.request import Request
from llmwit_magic.engines.server.answers import Facts
from llmwit_magic.engines.server.detection import DIALECTS
from llmwit_magic.engines.server.dialects.dialect import Dialect
from llmwit_magic.errors import ConstraintNotSupported
from llmwit_magic.runlog.columns import COLUMNS
from llmwit_magic.runlog.frame import DTYPES
from llmwit_magic.runlog.schema import VERSION

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_COLUMNS_HEAD = f"""# The columns of the run log

Every run is a row, which is written when the run starts and completed when it ends. The same columns are in the DataFrame of `%infer_log` and `runs.to_frame()` (indexed by `run_id`), in the SQLite table `runs` (schema {VERSION}) and in exports.

Columns of the type `json` hold lists and mappings (`value` any JSON) in `.jsonl`, and values of their own types in `.parquet` (there `template_options`, `value` and `choice_scores` are JSON text). In SQLite, in `.csv` and in the DataFrame they hold JSON text, which `json.loads` reads. In the DataFrame, each tag is a column `tag.KEY` instead of the column `tags`. Times are in UTC. In the DataFrame they have no zone, since spreadsheets refuse one.

A value is missing where it does not apply, or where the run did not get so far. A value that another program has written and that does not fit the column's type is read as missing too, with a warning.

With `--schema otel`, a field of `.jsonl` has the name in the last column. Where that is empty, it is called `llmwit.` and the column's name. There are three more fields: `gen_ai.operation.name` (`chat` or `text_completion`), `gen_ai.provider.name` and `gen_ai.response.id`.

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


_PARAMS = {
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.5},
    "repeat_penalty": {"repeat_penalty": 1.5, "repeat_penalty_last_n_token_count": 0},
    "repeat_penalty_last_n_token_count": {"repeat_penalty": 1.5},
    "stop": {"stop": ["."]},
    "seed": {"seed": 7},
}
"""For each param, the params of a request that asks for it."""
_SEEDS = (2**32 - 2, 2**63 - 1)


def servers_table() -> str:
    """What each kind of server honours, as its dialect says."""
    facts = Facts(version="", model="m")
    rows = [["setting", *(f"`{dialect.kind}`" for dialect in DIALECTS)]]
    rows.append(["---"] * len(rows[0]))

    def honoured(name: str, **values: Any) -> list[str]:
        request = Request(model="m", prompt="p", **values)
        return ["no" if name in kind.not_honoured(request, facts) else "yes" for kind in DIALECTS]

    for name, params in _PARAMS.items():
        rows.append([f"`{name}`", *honoured(name, params=params)])
    fits = [honoured("seed", params={"seed": seed}) for seed in _SEEDS]
    words = {"yes": "2⁶³−1", "no": "2³²−2"}
    rows.append(["the greatest seed", *(words[word] for word in fits[1])])
    for chat, what in ((True, "chats"), (False, "completions")):
        most = [
            max((n for n in range(101) if honoured("top_logprobs", chat=chat, top_logprobs=n)[i] ==
                 "yes"), default=None)
            for i in range(len(DIALECTS))
        ]  # fmt: skip
        rows.append([f"the most `top_logprobs` of {what}",
                     *("none" if n is None else str(n) for n in most)])  # fmt: skip
    for name in CONSTRAINT_KINDS:
        rows.append([f"a constraint: `{name}`", *(_held(kind, name) for kind in DIALECTS)])
    rows.append(["scores", *("yes" if dialect.scores else "no" for dialect in DIALECTS)])
    loads = ["yes" if "context_length" in dialect.loads else "no" for dialect in DIALECTS]
    rows.append(["`context_length`", *loads])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


_SOURCES = {"choices": '["a"]', "json_schema": "{}", "regex": "a", "grammar": 'root ::= "a"'}
"""For each kind of constraint, one that every server knows that knows its kind."""


def _held(dialect: Dialect, name: ConstraintKind) -> str:
    """Whether the server holds answers to such a constraint."""
    if name not in dialect.constraints:
        return "no"
    constraint, said = Constraint(kind=name, source=_SOURCES[name]), "yes"
    for chat, without in ((True, "no"), (False, "chats")):
        request = Request(model="m", prompt="p", chat=chat, constraint=constraint)
        try:
            dialect.constraints[name](constraint, request, Facts(version="", model="m"))
        except ConstraintNotSupported:
            said = without
    return "not promised" if dialect.kind == "other" else said


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
    yield HERE / "options.md", options_page()
    yield HERE / "configuration.md", configuration_page()
    yield HERE / "python.md", python_page()
    yield HERE / "servers.md", with_figures(HERE / "servers.md", servers_table())
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
