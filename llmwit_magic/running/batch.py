"""A batch: one run for each row of a DataFrame, here or over an executor, and resumable."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..contract.events import Emit
from ..contract.record import lists
from ..contract.request import Request
from ..contract.spans import Spans
from ..contract.wit import InferencingParams, ModelInfo
from ..engines.content_filters import check_filters
from ..errors import Interrupted, InvalidInput, LogError, warn_unlogged
from ..runlog.columns import COLUMNS
from ..runlog.rows import Row, request_row
from ..runlog.selection import Filter
from .frame_requests import check_template, row_requests
from .run import INTERVAL, Run
from .session import Session, interruptible
from .workers import (
    Owner,
    Task,
    broken,
    lost_row,
    row_of_future,
    run_in_worker,
    worker_count,
)

if TYPE_CHECKING:
    import pandas

RESULTS = ("text", "finish_reason", "finish_detail", "prompt_token_count",
           "generated_token_count", "status", "error_type", "error_message", "run_id")  # fmt: skip
"""The columns of the log that a batch adds to its DataFrame."""
RESULTS_OF_SOME = ("reasoning",)
"""Further ones, which it adds only where a row has a value for them."""

_COLUMNS = {column.name: column for column in COLUMNS}

_SAME = ("prompt", "system", "chat", "chat_template", "template_options", "control_tokens", "model_type",
         "context_length_requested", "content_filters", "stop", *(name for name in InferencingParams.model_fields if name not in ("stop", "seed")),
         "seed")  # fmt: skip
"""The columns in which a row of the log must equal a request to be taken for its answer. Beside
them, the engine and the hash of the model must be the same, or its name where the engine knows no
hash; and an exact request takes exact rows only. The seed stands last."""


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
    resume: bool = True,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: bool = True,
    prefix: str = "infer_",
) -> pandas.DataFrame:
    """Run the template over the rows, as `infer_frame` says. `request` has all but the prompt."""
    _check(frame, template, executor, workers, prefix)
    check_template(frame, template, request)
    check_filters(request.content_filters)
    rows: list[Row | None] = [None] * len(frame)
    bar = tqdm(total=len(frame), unit="row", disable=not progress, file=sys.stdout)
    work = _Work(session, rows, bar)

    def carry_out(emit: Emit, cancel: threading.Event) -> None:
        known = _known(session, request, info) if resume else {}
        todo = work.left(row_requests(frame, template, request), known)
        if executor is None:
            work.here(todo, cancel)
        else:
            work.over(executor, workers or worker_count(executor), todo, cancel)

    try:
        with bar:
            info = session.find(request, lambda progress: bar.set_postfix_str(str(progress)))
            # In a thread, because an interrupt of this one could come between a run and its row.
            interruptible(carry_out, None)
        warn_unlogged(work.log_problem)
        return _joined(frame, rows, prefix, request.group_id)
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


def _check(frame: Any, template: Any, executor: Any, workers: int | None, prefix: str) -> None:
    import pandas

    if not isinstance(frame, pandas.DataFrame):
        raise InvalidInput(f"{type(frame).__name__} is not a DataFrame: give one, with a row a run")
    if not isinstance(template, str):
        raise InvalidInput(f"the template is {type(template).__name__}, not text")
    if executor is not None and not isinstance(executor, Executor):
        raise InvalidInput(
            f"executor: {type(executor).__name__} is not a concurrent.futures.Executor (that of a "
            "Dask client is client.get_executor())"
        )
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers: {workers} is not valid: it must be a whole number ≥ 1")
    names = (*RESULTS, *RESULTS_OF_SOME)
    taken = [prefix + name for name in names if prefix + name in frame.columns]
    if taken:
        raise InvalidInput(
            f"the DataFrame has a column {taken[0]} already: give another prefix=, or drop it"
        )


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _SAME)


def _spans(row: Row) -> Spans:
    """The spans of data, in a row of the log, that kept a control token from being recognised."""
    spans: Spans = lists(json.loads(row["data_spans"] or "[]"))
    return spans


def _known(session: Session, request: Request, info: ModelInfo) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of this batch in the log that ended well, by what was asked for."""
    names = (*_SAME, *RESULTS, *RESULTS_OF_SOME, "model", "model_sha256", "engine", "exact",
             "data_spans")  # fmt: skip
    with suppress(LogError):  # without a readable log, all rows are run again
        found = session.log.tuples(Filter(group=request.group_id, status="ok"), names)
        known = defaultdict[tuple[Any, ...], list[Row]](list)
        for values in found:
            row = dict(zip(names, values, strict=True))
            ran = row["engine"] or "ctransformers"  # version 0.1 had no other
            same = row["model_sha256"] == info.sha256 and info.engine in (None, ran)
            same = same and (row["exact"] != 0 or not request.exact)
            if same and (info.sha256 is not None or row["model"] == request.model):
                # Where the request leaves the seed open, a row of any seed will do.
                row["seed"] = row["seed"] if request.params.seed is not None else None
                known[_key(row)].append(row)
        return known
    return {}


def _joined(
    frame: pandas.DataFrame, rows: Sequence[Row | None], prefix: str, batch: str | None
) -> pandas.DataFrame:
    from ..runlog.frame import series

    joined = frame.copy()
    below = [""] * (frame.columns.nlevels - 1)  # the lower levels, where columns have several
    some = [name for name in RESULTS_OF_SOME if any((row or {}).get(name) for row in rows)]
    for name in (*RESULTS, *some):
        values = series(_COLUMNS[name], [(row or {}).get(name) for row in rows])
        joined[(prefix + name, *below) if below else prefix + name] = values.set_axis(frame.index)
    joined.attrs["batch"] = batch
    return joined


class _Work:
    """The rows of a batch and how far they are done, with the progress bar."""

    def __init__(self, session: Session, rows: list[Row | None], bar: Any) -> None:
        self._session, self._rows, self._bar = session, rows, bar
        self.done = 0
        self._counts = {"from the log": 0, "failed": 0, "with notices in the log": 0}
        self.log_problem: str | None = None

    def take(self, place: int, row: Row, from_log: bool = False) -> None:
        """Keep the result of the row at that place, and count it in the bar."""
        self._rows[place] = row
        self.done += 1
        self._counts["from the log"] += from_log
        self._counts["failed"] += row["status"] != "ok"
        self._counts["with notices in the log"] += bool(row.get("notices"))
        said = [f"{count:,} {what}" for what, count in self._counts.items() if count]
        if self.log_problem:
            said.append(f"not logged: {self.log_problem}")
        self._bar.set_postfix_str(", ".join(said), False)
        self._bar.update()

    def left(
        self,
        requests: Iterable[Request | InvalidInput],
        known: Mapping[tuple[Any, ...], list[Row]],
    ) -> list[tuple[int, Request]]:
        """The rows that must be run, each as its place and request.

        The other rows are done here: their result is in the log, or their request is an error.
        """
        todo: list[tuple[int, Request]] = []
        for place, wanted in enumerate(requests):
            if isinstance(wanted, InvalidInput):
                self.take(place, {
                    "status": "error", "error_type": type(wanted).__name__,
                    "error_message": str(wanted),
                })  # fmt: skip
                continue
            earlier = known.get(_key(request_row(wanted)), [])
            # Other values may make the same text. What was data in the earlier run, where that
            # mattered, must be data in this one.
            same = [row for row in earlier if set(_spans(row)) <= set(wanted.data_spans)]
            if same:
                earlier.remove(same[0])
                self.take(place, same[0], from_log=True)
            else:
                todo.append((place, wanted))
        return todo

    def here(self, todo: Sequence[tuple[int, Request]], cancel: threading.Event) -> None:
        """Run one row after another in this session."""
        for place, request in todo:
            if cancel.is_set():
                return
            run = self._session.run(request)
            while not run.wait(INTERVAL):
                if cancel.is_set():
                    run.stop()
            self._said(run.log_problem)
            if run.status != "interrupted":
                self.take(place, run.row() | {"run_id": run.run_id})

    def _said(self, log_problem: str | None) -> None:
        if log_problem:
            self.log_problem = log_problem

    # Over an executor --------------------------------------------------------------

    def over(
        self,
        executor: Executor,
        workers: int,
        todo: Sequence[tuple[int, Request]],
        cancel: threading.Event,
    ) -> None:
        """Run the rows in the executor's workers. This process writes the log, wherever they are.

        Raises `EngineFailed` where the executor takes no more work.
        """
        waiting = iter(todo)
        running: dict[Future[Row], tuple[int, int | None]] = {}
        owner = Owner()
        try:
            while not cancel.is_set():
                # Only few tasks are handed over at once: an interrupt loses those that have not
                # begun.
                while len(running) < 2 * workers and (item := next(waiting, None)):
                    place, request = item[0], self._session.with_seed(item[1])
                    run_id = self._begin(request)
                    task = Task(
                        place, request, workers, owner.name, self._session.aliases,
                        self._session.llama_library,
                    )  # fmt: skip
                    try:
                        future = executor.submit(run_in_worker, task)
                    except Exception as error:  # broken or shut down: the class depends on the kind
                        self._end(run_id, lost_row(error))
                        raise broken(error) from None
                    running[future] = (place, run_id)
                if not running:
                    return
                finished, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in finished:
                    place, run_id = running.pop(future)
                    row = row_of_future(future)
                    self._end(run_id, row)
                    self.take(place, row | {"run_id": run_id})
                    if not future.cancelled() and isinstance(future.exception(), BrokenExecutor):
                        # A broken executor fails every future. It raises an error if one of them
                        # was cancelled before that, so we give it time before we cancel the rest.
                        wait(running, timeout=1)
                        raise broken(future.exception())
        finally:
            for future, (_, run_id) in running.items():
                future.cancel()
                # A run that has begun goes on, and its row is kept in the log for the next call.
                future.add_done_callback(partial(self._late, run_id, owner, list(running)))
            if not running:
                owner.close()

    def _begin(self, request: Request) -> int | None:
        try:
            return self._session.log.begin(Run(request).row())
        except LogError as error:
            self._said(str(error))
            return None

    def _end(self, run_id: int | None, row: Row) -> None:
        try:
            if run_id is not None or "prompt" in row:
                self._session.log.complete(run_id, row)
        except LogError as error:
            self._said(str(error))

    def _late(
        self, run_id: int | None, owner: Owner, all_late: list[Future[Row]], future: Future[Row]
    ) -> None:
        self._end(run_id, row_of_future(future))
        if all(late.done() for late in all_late):
            owner.close()
