"""A run: one request carried out, from its first event to its result.

A run happens once, in a thread of its own. It keeps its events, so whoever looks later sees the
same. No interrupt of the kernel reaches the thread: an interrupt can neither lose text nor leave a
row of the log half written.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..base.background import STOP_SECONDS, wait_patiently
from ..base.printable import short
from ..contract.events import Cancelled, Chunk, Emit, End, Event, Prepared, Progress
from ..contract.request import Request
from ..contract.scores import score_of
from ..contract.wit import (
    DeviceInfo,
    Ending,
    InferencingResult,
    InferencingUsage,
    RunKind,
    RunStatus,
    Timings,
    TokenInfo,
)
from ..errors import EngineFailed, InferenceError, Interrupted, LogError, warn_unlogged
from ..runlog.annotations import metric_numbers
from ..runlog.rows import Row, result_row, started_row

if TYPE_CHECKING:
    from ..runlog.log import RunLog
    from .checked_value import CheckedValue

INTERVAL = 0.055
"""Seconds between two drawings. With the last one, which may come early, that makes at most 20 a
second."""


class Run:
    """A request, its events so far, and at the end its result.

    Any thread may read it while the run goes on.
    """

    def __init__(self, request: Request, log: RunLog | None = None) -> None:
        """`log` is where the run is logged, even if the session uses another log later.

        A run with None is not logged.
        """
        self.request = request
        self.kind: RunKind = "score" if request.is_scored else "text"
        self.log = log
        self.run_id: int | None = None
        self._metrics: dict[str, float] = {}
        self.log_problem: str | None = None
        """Why the run is not logged; None where it is, or shall not be."""
        self.started_at = datetime.now(UTC)
        self.error: InferenceError | None = None
        self.progress: Progress | None = None
        self.prepared: Prepared | None = None
        self.end: End | None = None
        self.generated_token_count: int | None = 0
        """How many tokens were generated so far; None where the engine does not count them."""
        self.reasoning_token_count: int | None = 0
        """How many of them are not of the answer; see `InferencingUsage`."""
        self.events: list[Event] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._tokens: list[TokenInfo] = []
        self._prompt_tokens: list[TokenInfo] = []
        self._began = time.perf_counter()
        self._times: dict[str, float] = {}
        self._started: tuple[Request, Row] | None = None
        """The request and its row. A row is asked for three times in a batch."""
        self._checked: CheckedValue | None = None
        """The value of the answer, where the run has ended and has a constraint."""
        self._status: RunStatus = "running"
        self._changed = threading.Condition()
        self._over = threading.Event()
        """Those who wait for it are not woken by each token."""
        self._watchers: list[Callable[[], None]] = []
        self._cancel = threading.Event()

    # What the worker does ------------------------------------------------------

    def start(
        self,
        work: Callable[[Emit, threading.Event], None],
        ended: Callable[[Run], None] = lambda run: None,
    ) -> None:
        """Carry `work` out in a thread. The thread begins the row in the log, and completes it.

        `work(emit, cancel)` hands its events to `emit`. `ended(run)` is called in that thread at
        the end, before anyone who waits for the run goes on.
        """
        threading.Thread(
            target=self._work, args=(work, ended), name="llmwit-run", daemon=True
        ).start()

    def _work(
        self, work: Callable[[Emit, threading.Event], None], ended: Callable[[Run], None]
    ) -> None:
        status: Ending = "error"
        try:
            self._begin_row()
            work(self.emit, self._cancel)
            status = "ok" if self._ended_well() else "interrupted"
        except Cancelled:
            status = "interrupted"
        except InferenceError as error:
            self.error = error
        except BaseException as error:  # else the run would look as if it went on
            self.error = EngineFailed(f"unexpected {type(error).__name__}: {error}")
            self.error.__cause__ = error
        self._time("total")
        self._check_value(status)
        try:
            self._complete_row(status)
        finally:
            try:
                ended(self)
            finally:
                self._ends(status)

    def _ended_well(self) -> bool:
        """Whether the engine has done all of its work."""
        return self.end is not None and self.end.finish_detail is not None

    def _begin_row(self) -> None:
        try:
            if self.log is not None:
                self.run_id = self.log.begin(self.row())
        except LogError as error:
            self.log_problem = str(error)

    def _check_value(self, status: Ending) -> None:
        if self.request.constraint is not None:
            # Only now: a run without a constraint needs none of this.
            from .checked_value import checked_value

            self._checked = checked_value(self.request.constraint, self.text, status, self.end)

    def _complete_row(self, status: Ending) -> None:
        try:
            if self.log is not None:
                self.run_id = self.log.complete(self.run_id, self.row(status))
                self.log_problem = None
        except LogError as error:
            self.log_problem = str(error)

    def _ends(self, status: Ending) -> None:
        """Let the run be done. Only the first call sets the status: a run that was left behind
        stays interrupted, whatever its thread does later."""
        with self._changed:
            if not self.done:
                self._status = status
            self._over.set()
            self._changed.notify_all()
        self._tell_watchers()

    def emit(self, event: Event) -> None:
        """Take the next event of the engine."""
        with self._changed:
            if isinstance(event, Progress):
                self.progress = event
            elif isinstance(event, Prepared):
                self.prepared = event
                # The log keeps only the spans of data that kept a control token from its effect.
                if self.request.data_spans != event.data_spans:
                    self.request = self.request.model_copy(update={"data_spans": event.data_spans})
                # The engine reads the prompt next. A view says so before the engine does.
                known, count = event.cached_token_count, event.prompt_token_count
                self.progress = Progress("prompt", known or 0, count)
                self._time("load")
            elif isinstance(event, Chunk):
                self.progress = None
                self._time("first_token")
                self.generated_token_count = event.generated_token_count
                self.reasoning_token_count = event.reasoning_token_count
                self._texts.append(event.text)
                self._thoughts.append(event.reasoning)
                self._tokens.extend(event.tokens)
                self._prompt_tokens.extend(event.prompt_tokens)
            elif isinstance(event, End):
                self.end = event
            self.events.append(event)
            self._changed.notify_all()
        self._tell_watchers()

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after each further event and after the end, and once now.

        Other threads call it, perhaps several at once. It must not block, and must not raise.
        """
        with self._changed:
            if not self.done:
                self._watchers.append(changed)
        changed()

    def _tell_watchers(self) -> None:
        # The run may end in another thread meanwhile, which then still has to call them.
        done = self.done
        for changed in list(self._watchers):
            changed()
        if done:  # they may refer to the run, and would keep it in memory
            self._watchers = []

    def _time(self, name: str) -> None:
        self._times.setdefault(name, time.perf_counter() - self._began)

    # What anyone may ask ---------------------------------------------------------

    @property
    def status(self) -> RunStatus:
        """The status: `running` until the run is done."""
        return self._status

    def __repr__(self) -> str:
        number = f" {self.run_id}" if self.run_id else ""
        return f"<{type(self).__name__}{number}: {self.status}, {short(self.text, 60)!r}>"

    @property
    def done(self) -> bool:
        """Whether the run has ended: well, by an error or by an interrupt."""
        return self._status != "running"

    @property
    def text(self) -> str:
        """The text of the answer so far. None of it changes later."""
        return self._joined(self._texts)

    @property
    def reasoning(self) -> str:
        """The text of the reasoning so far. None of it changes later."""
        return self._joined(self._thoughts)

    @property
    def thinks(self) -> bool:
        """Whether there is reasoning and nothing of the answer yet."""
        return bool(self.reasoning) and not self.text

    def _joined(self, texts: list[str]) -> str:
        with self._changed:
            if len(texts) > 1:
                texts[:] = ["".join(texts)]
            return texts[0] if texts else ""

    def cancel(self) -> None:
        """Ask the run to end, and return at once. The text so far is kept."""
        self._cancel.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the run has ended, for `timeout` seconds at most. Returns whether it has."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.done:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            # The steps are short, because some systems deliver an interrupt only between waits.
            self._over.wait(0.5 if left is None else min(left, 0.5))
        return self.done

    def __iter__(self) -> Iterator[Event]:
        """All events from the first one on. While the run goes on, this waits for the next one."""
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

        The last step comes after the end of the run, and may come early. So the last state is
        always drawn.
        """
        seen, next_time = 0, 0.0
        while True:
            with self._changed:
                while not self.done and len(self.events) == seen:
                    self._changed.wait(0.5)
            while not self.done and (pause := next_time - time.monotonic()) > 0:
                self._over.wait(min(pause, 0.5))
            with self._changed:
                seen, last = len(self.events), self.done
            yield
            if last:
                return
            next_time = time.monotonic() + interval

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        """End the run if it still goes on, as after an interrupt that came before `follow`."""
        self.stop()

    def follow(
        self, draw: Callable[[Run], None] = lambda run: None, interval: float = INTERVAL
    ) -> None:
        """Draw the run until it has ended, then raise its error if it failed.

        An interrupt cancels the run. Its last state is drawn all the same, and then `Interrupted`
        is raised.
        """
        try:
            for _ in self.updates(interval):
                draw(self)
        except KeyboardInterrupt:
            self.stop()
            with suppress(KeyboardInterrupt):  # Stop was pressed twice: the run has ended already
                draw(self)
            raise self.interrupted() from None
        except BaseException:
            self.cancel()  # nobody follows the run any more
            raise
        self.raise_failure()

    def stop(self) -> None:
        """Cancel the run, and wait for its end. A second interrupt does not end the waiting.

        A run that has not ended after `STOP_SECONDS` is left behind: it counts as interrupted.
        """
        self.cancel()
        wait_patiently(self.wait, STOP_SECONDS)
        self.leave()

    def leave(self) -> None:
        """Leave a cancelled run behind, if it has not ended: it counts as interrupted."""
        self._ends("interrupted")

    def raise_failure(self) -> None:
        """Raise the error of a failed run, or `Interrupted` for an interrupted one."""
        if self.error is not None:
            raise self.error
        if self.status == "interrupted":
            raise self.interrupted()

    def interrupted(self) -> Interrupted:
        """The exception that tells a person where the text so far is kept."""
        place = f"run {self.run_id} of the log" if self.run_id else "the result"
        count = len(self._tokens) if self.request.is_scored else self.generated_token_count
        after = "" if count is None else f" after {count} tokens"
        return Interrupted(f"stopped{after}; the text is kept in {place}")

    def row(self, status: RunStatus | None = None) -> Row:
        """The run's row for the log. `status` stands in it instead of the run's own, if given."""
        status = status or self.status
        if self._started is None or self._started[0] is not self.request:
            self._started = self.request, started_row(self.request, self.started_at)
        row = self._started[1] | {"kind": self.kind}
        if status != "running":
            prepared = self.prepared is not None
            row |= result_row(self.request, self.result, prepared, self.error)
            row["value"] = self._checked and self._checked.as_json
        if self._metrics:
            row["metrics"] = json.dumps(self._metrics, ensure_ascii=False)
        return row | {"status": status}

    def add_metrics(self, numbers: Mapping[str, float | None]) -> None:
        """Keep numbers that judge the answer of the ended run, in its result and in the log.

        Raises `InvalidInput` for what is no finite number. Where the log fails, a warning says so.
        """
        found = self._metrics | metric_numbers(numbers)
        self._metrics = {name: number for name, number in found.items() if number is not None}
        if self.log is not None and self.run_id is not None:
            try:
                self.log.add_metrics({self.run_id: numbers})
            except LogError as error:
                warn_unlogged(str(error))

    @property
    def result(self) -> InferencingResult:
        """The result so far. It is complete once the run is done."""
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
                    reasoning_token_count=self.reasoning_token_count,
                )
            )
            detail = end.finish_detail if end else None
            scored = self.request.continuation is not None
            wanted = scored or self.request.top_logprobs is not None
            with_prompt = self.request.prompt_logprobs
            prompt_tokens = tuple(self._prompt_tokens) if with_prompt else None
            text, tokens, status = self.text, tuple(self._tokens), self.status
            reasoning = self.reasoning
            total = self._times.get("total")
            checked = self._checked
        left_behind = "interrupted" if self.done and self.request.constraint else None
        return InferencingResult(
            text=text,
            finish_reason=(end.finish_reason or detail.reason) if end and detail else None,
            usage=usage,
            reasoning=reasoning,
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
                # The logits of the prompt give the first token, so it needs no evaluation of its
                # own.
                tokens_per_second=(
                    (generated - 1) / decode if decode and generated and generated > 1 else None
                ),
            ),
            tokens=tokens if wanted else None,
            score=score_of(tokens, end.exact_score) if scored and end and detail else None,
            choices=end.choices if end else None,
            prompt_tokens=prompt_tokens,
            prompt=prepared.prompt if prepared else self.request.prompt,
            value=checked.value if checked else None,
            value_error=checked.error if checked else left_behind,
            chat=self.request.is_chat,
            kind=self.kind,
            notices=_both(prepared, end, "notices"),
            not_honoured=_both(prepared, end, "not_honoured"),
            status=status,
            run_id=self.run_id,
            log_problem=self.log_problem,
            preset=self.request.preset,
            conversation_id=self.request.conversation_id,
            turn=self.request.turn,
            dropped_turns=self.request.dropped_turns,
            prompt_name=self.request.prompt_name,
            metric_values=self._metrics,
        )


def _both(prepared: Prepared | None, end: End | None, name: str) -> tuple[str, ...]:
    """What was said in that field at the beginning and at the end, each once."""
    said: list[str] = [text for event in (prepared, end) if event for text in getattr(event, name)]
    return tuple(dict.fromkeys(said))
