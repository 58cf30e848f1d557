"""One request carried out: from its events to its result.

A run happens once, in a thread of its own, and keeps what it has said: whoever
looks later sees the same. The thread is never interrupted, so an interrupt of
the kernel can neither lose text nor leave a log row half written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, SupportsIndex, overload

from ..base.background import STOP_SECONDS, wait_patiently
from ..errors import EngineFailed, InferenceError, Interrupted
from ..protocol import Cancelled, Chunk, End, Event, Prepared, Progress, Request
from ..wit import (
    DeviceInfo,
    Ending,
    InferencingResult,
    InferencingUsage,
    RunStatus,
    Timings,
    TokenInfo,
)

if TYPE_CHECKING:
    import pandas

    from .log import RunLog
    from .rows import Row


class Run:
    """A request, what has been said of it so far, and in the end its result.

    Safe to read from any thread while the run goes on.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.run_id: int | None = None
        self.log: RunLog | None = None
        """Where the run is logged, whatever log the session uses later."""
        self.log_problem: str | None = None
        """Why the run is not in the log, if it is not."""
        self.started_at = datetime.now(UTC)
        self.error: InferenceError | None = None
        self.progress: Progress | None = None
        self.prepared: Prepared | None = None
        self.end: End | None = None
        self.generated_token_count = 0
        self.events: list[Event] = []
        self._texts: list[str] = []
        self._tokens: list[TokenInfo] = []
        self._began = time.perf_counter()
        self._times: dict[str, float] = {}
        self._status: RunStatus = "running"
        self._changed = threading.Condition()
        self._cancel = threading.Event()

    # What the worker does ------------------------------------------------------

    def start(
        self,
        work: Callable[[Run, threading.Event], None],
        finished: Callable[[Run, str], None],
    ) -> None:
        """Carry `work` out in a thread; it hands its events to `emit`.

        `finished(run, status)` is called there at the end, before anyone who
        waits for the run goes on.
        """
        threading.Thread(
            target=self._work, args=(work, finished), name="llmwit-run", daemon=True
        ).start()

    def _work(
        self,
        work: Callable[[Run, threading.Event], None],
        finished: Callable[[Run, str], None],
    ) -> None:
        status: Ending = "error"
        try:
            work(self, self._cancel)
            status = "ok" if self.end and self.end.finish_detail else "interrupted"
        except Cancelled:
            status = "interrupted"
        except InferenceError as error:
            self.error = error
        except BaseException as error:  # a defect of ours must not look like a run that goes on
            self.error = EngineFailed(f"unexpected {type(error).__name__}: {error}")
            self.error.__cause__ = error
        self._time("total")
        try:
            finished(self, status)
        finally:
            self._ends(status)

    def _ends(self, status: Ending) -> None:
        """Let the run be done, once: one that was left behind stays interrupted."""
        with self._changed:
            if not self.done:
                self._status = status
            self._changed.notify_all()

    def emit(self, event: Event) -> None:
        """Take the next event in."""
        with self._changed:
            if isinstance(event, Progress):
                self.progress = event
            elif isinstance(event, Prepared):
                self.prepared = event
                # Of values put in, only those need to be known that keep something from its effect.
                self.request = self.request.model_copy(update={"data_spans": event.data_spans})
                # What comes next, before the engine says so: nothing is written yet.
                known, count = event.cached_token_count, event.prompt_token_count
                self.progress = Progress("prompt", known, count)
                self._time("load")
            elif isinstance(event, Chunk):
                self.progress = None
                self._time("first_token")
                self.generated_token_count = event.generated_token_count
                self._texts.append(event.text)
                self._tokens.extend(event.tokens)
            else:
                self.end = event
            self.events.append(event)
            self._changed.notify_all()

    def _time(self, name: str) -> None:
        self._times.setdefault(name, time.perf_counter() - self._began)

    # What anyone may ask ---------------------------------------------------------

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        return self._status

    @property
    def done(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self._status != "running"

    @property
    def text(self) -> str:
        """The text so far; all of it is final."""
        with self._changed:
            if len(self._texts) > 1:
                self._texts[:] = ["".join(self._texts)]
            return self._texts[0] if self._texts else ""

    def cancel(self) -> None:
        """Ask the run to end; what was generated is kept."""
        self._cancel.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the run has ended; whether it has."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self.done:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                # In short steps: some systems deliver an interrupt only between waits.
                self._changed.wait(0.5 if left is None else min(left, 0.5))
        return self.done

    def __iter__(self) -> Iterator[Event]:
        """The events: as they come while the run goes on, the same ones afterwards."""
        position = 0
        while True:
            with self._changed:
                while position == len(self.events) and not self.done:
                    self._changed.wait(0.5)
                fresh = self.events[position:]
            if not fresh:
                return
            yield from fresh
            position += len(fresh)

    def updates(self, interval: float) -> Iterator[None]:
        """Step whenever there is something new to draw, at most once in `interval` seconds.

        The last step comes after the end, so the last state is always drawn.
        """
        seen, next_time = 0, 0.0
        while True:
            with self._changed:
                while not self.done and (len(self.events) == seen or time.monotonic() < next_time):
                    pause = next_time - time.monotonic() if len(self.events) > seen else 0.5
                    self._changed.wait(max(pause, 0.001))
                seen, last = len(self.events), self.done
            yield
            if last:
                return
            next_time = time.monotonic() + interval

    def follow(self, interval: float, draw: Callable[[Run], None]) -> None:
        """Draw the run until it has ended, then raise what it raised.

        An interrupt cancels the run; its last state is drawn all the same, and
        then `Interrupted` is raised.
        """
        try:
            for _ in self.updates(interval):
                draw(self)
        except KeyboardInterrupt:
            self.stop()
            draw(self)
            raise self.interrupted() from None
        except BaseException:
            self.cancel()  # nobody watches any more
            raise
        self.raise_failure()

    def stop(self) -> None:
        """Cancel, and wait for the end; an impatient second interrupt changes nothing.

        A run whose thread the system does not give back is left behind.
        """
        self.cancel()
        wait_patiently(self.wait, STOP_SECONDS)
        self._ends("interrupted")

    def raise_failure(self) -> None:
        """Raise the error of a failed run, `Interrupted` for an interrupted one."""
        if self.error is not None:
            raise self.error
        if self.status == "interrupted":
            raise self.interrupted()

    def interrupted(self) -> Interrupted:
        """The exception that tells a person where the partial text is."""
        place = f"run {self.run_id} of the log" if self.run_id else "the result"
        return Interrupted(
            f"stopped after {self.generated_token_count} tokens; the text is kept in {place}"
        )

    @property
    def result(self) -> InferencingResult:
        """What has come of it so far; complete once the run is done."""
        with self._changed:
            prepared, end = self.prepared, self.end
            seconds = dict(end.seconds) if end else {}
            decode, generated = seconds.get("decode"), self.generated_token_count
            usage = (
                end.usage
                if end
                else InferencingUsage(
                    prompt_token_count=prepared.prompt_token_count if prepared else 0,
                    generated_token_count=generated,
                    cached_token_count=prepared.cached_token_count if prepared else 0,
                )
            )
            detail = end.finish_detail if end else None
            wanted = self.request.top_logprobs is not None
            text, tokens, status = self.text, tuple(self._tokens), self.status
            total = self._times.get("total")
        return InferencingResult(
            text=text,
            finish_reason=detail.reason if detail else None,
            usage=usage,
            finish_detail=detail,
            stop_sequence=end.stop_sequence if end else None,
            params=prepared.params if prepared else self.request.params,
            model=prepared.model if prepared else None,
            device=prepared.device if prepared else DeviceInfo(),
            context_length=prepared.context_length if prepared else None,
            timings=Timings(
                load=self._times.get("load"),
                prompt=seconds.get("prompt"),
                first_token=self._times.get("first_token"),
                decode=decode,
                total=total,
                # The first token costs no evaluation of its own.
                tokens_per_second=(generated - 1) / decode if decode and generated > 1 else None,
            ),
            tokens=tokens if wanted else None,
            prompt=prepared.prompt if prepared else self.request.prompt,
            notices=prepared.notices if prepared else (),
            status=status,
            run_id=self.run_id,
            log_problem=self.log_problem,
        )


class Results(Sequence[InferencingResult]):
    """The results of a sweep, in the order of its runs; shows as a comparison.

    A value: it does not change, can be copied and pickled, and a slice or a sum
    is one again, with its own table. `sorted(results, key=…)` is a list.
    """

    def __init__(self, runs: Iterable[Run] = (), group_id: str | None = None) -> None:
        from .rows import row_of

        ended = [(run.result, row_of(run)) for run in runs]
        self._results = tuple(result for result, _ in ended)
        self._rows = tuple(row for _, row in ended)
        self.group_id = group_id

    def _part(self, results: Iterable[InferencingResult], rows: Iterable[Row]) -> Results:
        part = Results(group_id=self.group_id)
        part._results, part._rows = tuple(results), tuple(rows)
        return part

    @overload
    def __getitem__(self, place: SupportsIndex) -> InferencingResult: ...
    @overload
    def __getitem__(self, place: slice) -> Results: ...
    def __getitem__(self, place: SupportsIndex | slice) -> InferencingResult | Results:
        if isinstance(place, slice):
            return self._part(self._results[place], self._rows[place])
        return self._results[place]

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[InferencingResult]:
        return iter(self._results)

    def __add__(self, other: object) -> Results:
        if not isinstance(other, Results):
            return NotImplemented
        both = self._part(self._results + other._results, self._rows + other._rows)
        both.group_id = self.group_id if self.group_id == other.group_id else None
        return both

    def __eq__(self, other: object) -> bool:
        """The same results in the same order, in another sweep or in a list."""
        if not isinstance(other, Results | list):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Results({list(self._results)!r})"

    def to_frame(self) -> pandas.DataFrame:
        """The runs as rows of a DataFrame, with the columns of the log."""
        from .frame import frame_of_rows

        return frame_of_rows(self._rows)
