"""A prompt for each row of a DataFrame: resumable, and over any executor."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from .engines.content_filters import check_filters
from .errors import Interrupted, InvalidInput, LogError, warn_unlogged
from .magics.cell_args import interpolated
from .magics.interpolation import Columns, fill, names_in, python_name
from .protocol import Emit, Request
from .runlog.columns import COLUMNS
from .runlog.rows import Row, ended_row, request_row
from .runlog.run import Run
from .runlog.selection import Filter
from .session import Session, interruptible
from .spans import Spans
from .views import INTERVAL
from .views.text import progress_text
from .wit import InferencingParams, lists
from .workers import Owner, Task, broken, lost_row, row_of_future, run_in_worker, worker_count

if TYPE_CHECKING:
    import pandas

RESULTS = ("text", "finish_reason", "finish_detail", "prompt_token_count",
           "generated_token_count", "status", "error_type", "error_message", "run_id")  # fmt: skip
"""The columns of the log that a batch adds to its DataFrame."""

_COLUMNS = {column.name: column for column in COLUMNS}

_SAME = ("prompt", "system", "chat", "chat_template", "control_tokens", "model_type",
         "context_length_requested", "content_filters", "stop", *(name for name in InferencingParams.model_fields if name not in ("stop", "seed")),
         "seed")  # fmt: skip
"""What makes a row of the log the answer to a request, beside the hash of its model; seed last."""


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
    """Run the template over the rows; see `infer_frame`. `request` has all but the prompt."""
    _check(frame, template, request, prefix, executor, workers)
    check_filters(request.content_filters)
    rows: list[Row | None] = [None] * len(frame)
    bar = tqdm(total=len(frame), unit="row", disable=not progress, file=sys.stdout)
    work = _Work(session, rows, bar)

    def carry_out(emit: Emit, cancel: threading.Event) -> None:
        known = _known(session, request, info.sha256) if resume else {}
        todo = work.left(_requests(frame, template, request), known)
        if executor is None:
            work.here(todo, cancel)
        else:
            work.over(executor, workers or worker_count(executor), todo, cancel)

    try:
        with bar:
            info = session.find(
                request, lambda progress: bar.set_postfix_str(progress_text(progress))
            )
            # In a thread, where an interrupt cannot come between a run and its row.
            interruptible(carry_out, None)
        warn_unlogged(work.log_problem)
        return _joined(frame, rows, prefix, request.group_id)
    except KeyboardInterrupt:
        again = "the same call" if resume else "the same call without resume=False"
        raise Interrupted(
            f"stopped after {work.done:,} of {len(frame):,} rows; {again} goes on there"
        ) from None


def batch_name(template: str, request: Request) -> str:
    """The same name for the same template, model, params and options."""
    said = request_row(request) | {"template": template, "group_id": None, "version": None}
    return "batch-" + hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]


def _check(
    frame: Any, template: Any, request: Request, prefix: str, executor: Any, workers: int | None
) -> None:
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
    columns = list(frame.columns)
    others = [request.system or "", *request.params.stop]
    others += (text for pair in request.tags.items() for text in pair)
    try:
        names = [name for text in (template, *others) for name in names_in(text)]
    except InvalidInput as error:
        raise InvalidInput(f"{error}; a column of any name is {{{{row['its name']}}}}") from None
    if not names:
        raise InvalidInput("the template names no column: write {{column}} where its value goes")
    for name in names:
        if columns.count(name) != 1 and not (name == "row" and not columns.count(name)):
            what = "twice a" if columns.count(name) else "no"
            alike = [
                str(other) for other in columns if python_name(str(other)) == python_name(name)
            ]
            hint = f" ({alike[0]!a} is written with other signs)" if alike else ""
            raise InvalidInput(
                f"{{{{{name}}}}}: that is {what} column of the DataFrame, which has "
                f"{', '.join(map(str, columns)) or 'none'}{hint if what == 'no' else ''}"
            )
    taken = [prefix + name for name in RESULTS if prefix + name in columns]
    if taken:
        raise InvalidInput(
            f"the DataFrame has a column {taken[0]} already: give another prefix=, or drop it"
        )


def _requests(
    frame: pandas.DataFrame, template: str, request: Request
) -> Iterator[Request | InvalidInput]:
    """The request of each row, its values put in."""
    for values in frame.itertuples(index=False, name=None):
        row = _RowValues(zip(frame.columns, values, strict=True))
        row.setdefault("row", row)
        try:
            yield _request(template, request, row)
        except InvalidInput as error:
            yield error


def _request(template: str, request: Request, row: Mapping[str, Any]) -> Request:
    prompt, data_spans = fill(template, row)
    others = {"system": request.system, "stop": request.params.stop, "tags": request.tags}
    changes = {"prompt": prompt, "data_spans": data_spans, **interpolated(others, row)}
    if "stop" in changes:
        params = request.params.model_dump() | {"stop": changes.pop("stop")}
        changes["params"] = InferencingParams(**params)
    Request(model="-", **changes)  # raises for what is no text
    return request.model_copy(update=changes)


class _RowValues(Columns):
    """A row by its columns; a missing value is an error, and not the text `nan`."""

    def __missing__(self, name: Any) -> Any:
        raise InvalidInput(f"there is no column {name!r} in the DataFrame")

    def __getitem__(self, name: Any) -> Any:
        import pandas

        value = super().__getitem__(name)
        if pandas.api.types.is_scalar(value) and pandas.isna(value):
            raise InvalidInput(f"column '{name}' has no value in this row")
        return value


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _SAME)


def _spans(row: Row) -> Spans:
    """The spans of a row of the log that kept a control token from being recognised."""
    spans: Spans = lists(json.loads(row["data_spans"] or "[]"))
    return spans


def _known(session: Session, request: Request, sha256: str) -> dict[tuple[Any, ...], list[Row]]:
    """The finished rows of this batch in the log, by what was asked."""
    names = (*_SAME, *RESULTS, "model_sha256", "data_spans")
    with suppress(LogError):  # a log that cannot be read costs the work again, not the batch
        found = session.log.tuples(Filter(group=request.group_id, status="ok"), names)
        known = defaultdict[tuple[Any, ...], list[Row]](list)
        for values in found:
            row = dict(zip(names, values, strict=True))
            if row["model_sha256"] == sha256:
                # Where no seed is asked for, any will do.
                row["seed"] = row["seed"] if request.params.seed is not None else None
                known[_key(row)].append(row)
        return known
    return {}


def _joined(
    frame: pandas.DataFrame, rows: Sequence[Row | None], prefix: str, batch: str | None
) -> pandas.DataFrame:
    from .runlog.frame import series

    joined = frame.copy()
    below = [""] * (frame.columns.nlevels - 1)  # of columns that have several levels
    for name in RESULTS:
        values = series(_COLUMNS[name], [(row or {}).get(name) for row in rows])
        joined[(prefix + name, *below) if below else prefix + name] = values.set_axis(frame.index)
    joined.attrs["batch"] = batch
    return joined


class _Work:
    """The rows of a batch as they become done."""

    def __init__(self, session: Session, rows: list[Row | None], bar: Any) -> None:
        self._session, self._rows, self._bar = session, rows, bar
        self.done = 0
        self._counts = {"from the log": 0, "failed": 0, "with notices in the log": 0}
        self.log_problem: str | None = None

    def take(self, place: int, row: Row, from_log: bool = False) -> None:
        """Keep what has come of a row."""
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
        """Place and request of the rows that must be run; of the others, what is known is kept."""
        todo: list[tuple[int, Request]] = []
        for place, wanted in enumerate(requests):
            if isinstance(wanted, InvalidInput):
                self.take(place, {
                    "status": "error", "error_type": type(wanted).__name__,
                    "error_message": str(wanted),
                })  # fmt: skip
                continue
            earlier = known.get(_key(request_row(wanted)), [])
            # The same text may be made of other values.
            same = [row for row in earlier if set(_spans(row)) <= set(wanted.data_spans)]
            if same:
                earlier.remove(same[0])
                self.take(place, same[0], from_log=True)
            else:
                todo.append((place, wanted))
        return todo

    def here(self, todo: Sequence[tuple[int, Request]], cancel: threading.Event) -> None:
        """One row after another, by the session itself."""
        for place, request in todo:
            if cancel.is_set():
                return
            run = self._session.run(request)
            while not run.wait(INTERVAL):
                if cancel.is_set():
                    run.stop()
            self._said(run.log_problem)
            if run.status != "interrupted":
                self.take(place, ended_row(run, run.status) | {"run_id": run.run_id})

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
        """By the executor's workers; this process writes the log, wherever they are."""
        waiting = iter(todo)
        running: dict[Future[Row], tuple[int, int | None]] = {}
        owner = Owner()
        try:
            while not cancel.is_set():
                # Few at once: what has not begun is not lost to an interrupt.
                while len(running) < 2 * workers and (item := next(waiting, None)):
                    place, request = item[0], self._session.with_seed(item[1])
                    run_id = self._begin(request)
                    task = Task(place, request, workers, owner.name, self._session.aliases)
                    try:
                        future = executor.submit(run_in_worker, task)
                    except Exception as error:  # broken or shut down: each kind has its own
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
                        # A broken executor fails every future, and raises where it meets one that
                        # was cancelled. So it is given the time to fail them before we cancel.
                        wait(running, timeout=1)
                        raise broken(future.exception())
        finally:
            for future, (_, run_id) in running.items():
                future.cancel()
                # What is under way is finished, and kept in the log for the next time.
                future.add_done_callback(partial(self._late, run_id, owner, list(running)))
            if not running:
                owner.close()

    def _begin(self, request: Request) -> int | None:
        try:
            return self._session.log.begin(Run(request))
        except LogError as error:
            self._said(str(error))
            return None

    def _end(self, run_id: int | None, row: Row) -> None:
        try:
            if run_id is not None or "prompt" in row:
                self._session.log.complete_row(run_id, row)
        except LogError as error:
            self._said(str(error))

    def _late(
        self, run_id: int | None, owner: Owner, all_late: list[Future[Row]], future: Future[Row]
    ) -> None:
        self._end(run_id, row_of_future(future))
        if all(late.done() for late in all_late):
            owner.close()
