"""A batch: one run for each row of a DataFrame, here or over an executor, and resumable."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..contract.events import Emit, Progress
from ..contract.request import Request
from ..engines.content_filters import check_filters
from ..errors import Interrupted, InvalidInput, warn_unlogged
from ..runlog.columns import COLUMNS
from ..runlog.rows import request_row
from .batch_rows import BatchRows, Result
from .frame_requests import NO_EXAMPLES, Examples, check_template, row_requests
from .resuming import KEPT, RESULTS, RESULTS_OF_SOME, EqualRows, KnownRows
from .row_settings import NO_ROW_SETTINGS, RowSettings
from .session import Session, interruptible
from .typed_columns import (
    PROBABILITY,
    ValueColumns,
    choice_probabilities,
    plain_values,
    typed_columns,
    value_columns,
)
from .window import Window, check_concurrency, servers_for
from .workers import worker_count

if TYPE_CHECKING:
    import pandas

_COLUMNS = {column.name: column for column in COLUMNS}

_NAMED_BY = ("model", "model_type", "prompt", "chat", "system", "chat_template", "control_tokens",
             "data_spans", "max_tokens", "repeat_penalty", "repeat_penalty_last_n_token_count",
             "temperature", "top_k", "top_p", "seed", "stop", "context_length_requested", "anyway",
             "accept", "context_length", "gpu_layers_requested", "threads_requested",
             "top_logprobs", "content_filters", "tags", "group_id", "replay_of", "version",
             "template")  # fmt: skip
"""The columns that a batch is named by, in the order of version 0.1: the same call finds its rows
after an upgrade. A column that came later counts only where it differs from the standard."""
_STANDARD = request_row(Request(model="", prompt=""))
_NAMED_BY_TOO = tuple(name for name in _STANDARD if name not in _NAMED_BY)


def run_batch(
    session: Session,
    frame: pandas.DataFrame,
    template: str,
    request: Request,
    *,
    models: Sequence[str] = (),
    examples: Examples = NO_EXAMPLES,
    settings: RowSettings = NO_ROW_SETTINGS,
    resume: bool = True,
    executor: Executor | None = None,
    workers: int | None = None,
    concurrency: int | None = None,
    deduplicate: bool | None = None,
    progress: bool = True,
    prefix: str = "infer_",
) -> pandas.DataFrame:
    """Run the template over the rows, as `infer_frame` says. `request` has all but the prompt.

    `models` are the models that share the rows; by default there is the request's only.
    `examples` are worked ones, which stand before each prompt. `settings` are those that each row
    has its own value of.
    """
    columns = value_columns(request.constraint)
    _check(frame, executor, workers, prefix, _names(columns, request))
    if executor is not None and (concurrency is not None or len(models) > 1):
        given = "several models" if len(models) > 1 else "concurrency"
        raise InvalidInput(f"{given}: an executor has workers instead: leave one of them out")
    check_template(frame, template, request, names_none=bool(settings))
    check_filters(request.content_filters)
    each = [request.model_copy(update={"model": name}) for name in models or (request.model,)]
    check_concurrency(session, each, concurrency)
    results: list[Result | None] = [None] * len(frame)
    bar = tqdm(total=len(frame), unit="row", disable=not progress, file=sys.stdout)
    work = BatchRows(session, results, bar)

    def carry_out(emit: Emit, cancel: threading.Event) -> None:
        seeded = request.params.seed is not None or "seed" in settings.columns
        known = KnownRows(session.log, request, infos, seeded) if resume else None
        equal = EqualRows() if (on_servers if deduplicate is None else deduplicate) else None
        todo = work.left(
            row_requests(frame, template, request, examples, settings),
            known, equal, on_servers, cancel,
        )  # fmt: skip
        if executor is None:
            Window(session, servers).carry_out(todo, work.ended, work.wait, cancel)
        else:
            work.over(executor, workers or worker_count(executor), todo, cancel)

    def show(progress: Progress) -> None:
        bar.set_postfix_str(str(progress))

    try:
        with bar:
            on_servers = session.runs_at_once(each[0]) > 1
            servers = servers_for(session, each, concurrency, show)
            infos = {one.model: session.find(one, show) for one in each}
            bar.reset()  # the time to find a model is none of the rows'
            # In a thread, because an interrupt of this one could come between a run and its row.
            interruptible(carry_out, None)
        warn_unlogged(work.log_problem)
        return _joined(frame, results, prefix, request, columns)
    except KeyboardInterrupt:
        again = "the same call" if resume else "the same call without resume=False"
        raise Interrupted(
            f"stopped after {work.done:,} of {len(frame):,} rows; {again} goes on there"
        ) from None


def batch_name(template: str, request: Request) -> str:
    """The name of a batch: the same for the same template, model, params and options."""
    row = request_row(request) | {"template": template, "group_id": None, "version": None}
    row["anyway"] = False  # `accept` says it
    said = {name: row[name] for name in _NAMED_BY}
    said |= {name: row[name] for name in _NAMED_BY_TOO if row[name] != _STANDARD[name]}
    return "batch-" + hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]


def _names(columns: ValueColumns, request: Request) -> list[str]:
    """The names, without the prefix, of all columns that a batch may add."""
    more = [*columns.types, "value_error"] if columns.types else []
    if request.constraint is not None and request.probabilities:
        more += (PROBABILITY + choice for choice in request.constraint.choices)
    return [*RESULTS, *RESULTS_OF_SOME, *more]


def _check(
    frame: Any, executor: Any, workers: int | None, prefix: str, columns: Iterable[str]
) -> None:
    """`columns` are the names, without the prefix, of the columns that will be added."""
    import pandas

    if not isinstance(frame, pandas.DataFrame):
        raise InvalidInput(f"{type(frame).__name__} is not a DataFrame: give one, with a row a run")
    if executor is not None and not isinstance(executor, Executor):
        raise InvalidInput(
            f"executor: {type(executor).__name__} is not a concurrent.futures.Executor (that of a "
            "Dask client is client.get_executor())"
        )
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers: {workers} is not valid: it must be a whole number ≥ 1")
    taken = [prefix + name for name in columns if prefix + name in frame.columns]
    if taken:
        raise InvalidInput(
            f"the DataFrame has a column {taken[0]} already: give another prefix=, or drop it"
        )


def _joined(
    frame: pandas.DataFrame,
    results: Sequence[Result | None],
    prefix: str,
    request: Request,
    columns: ValueColumns,
) -> pandas.DataFrame:
    from ..runlog.frame import series

    nothing = (None,) * len(KEPT)
    found = {
        name: [(result or nothing)[place] for result in results] for place, name in enumerate(KEPT)
    }
    added = {
        name: series(_COLUMNS[name], found[name])
        for name in (*RESULTS, *RESULTS_OF_SOME)
        if name in RESULTS or any(found[name])
    }
    if request.constraint is not None:
        values, errors = typed_columns(columns, *plain_values(request.constraint, found))
        # A row that was refused before its run has no result that could say so.
        errors = [
            error or (None if status == "ok" else "the row was not run")
            for error, status in zip(errors, found["status"], strict=True)
        ]
        added |= values | {"value_error": series(_COLUMNS["value_error"], errors)}
        if request.probabilities:
            added |= choice_probabilities(request.constraint, found["choice_scores"])
    joined = frame.copy()
    below = [""] * (frame.columns.nlevels - 1)  # the lower levels, where columns have several
    for name, column in added.items():
        joined[(prefix + name, *below) if below else prefix + name] = column.set_axis(frame.index)
    joined.attrs["batch"] = request.group_id
    return joined
