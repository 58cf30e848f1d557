"""One call of a component: its limits, its runs, its streams, and how it ends."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import wasmtime

from ..contract.engine import Texts
from ..contract.request import Request
from ..contract.wit import InferencingParams, InferencingResult
from ..errors import (
    ComponentFailed,
    EngineFailed,
    InferenceError,
    InvalidInput,
    ModelNotSupported,
)
from ..running.embedding_calls import embedding_request
from ..running.embedding_run import EmbeddingRun
from ..running.run import Run
from ..running.session import Session
from ..running.window import default_size
from .grants import Granted

LARGEST_REQUEST = 4 * 2**20
"""Characters that a request of a guest may have: its texts go into the log, refused or not."""
LARGEST_CALL = 256 * 2**20
"""Characters that all requests of one call may have together."""
MOST_STREAMS = 16
"""Streams that a guest may have open at once; each has a thread."""


class GuestCall:
    """A call while it goes on. Its guest runs in a thread of its own, as do its runs."""

    def __init__(self, session: Session, granted: Granted, seconds: float) -> None:
        self.session, self.granted = session, granted
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.begun: queue.SimpleQueue[Run] = queue.SimpleQueue()
        """The runs that have begun, for whoever draws them."""
        self.printed: queue.SimpleQueue[str] = queue.SimpleQueue()
        """What the guest has printed, for whoever shows it."""
        self.error: InferenceError | None = None
        """Why the host has ended the guest, where it has."""
        self.streams: dict[int, Any] = {}
        """The guest's streams by their numbers."""
        self._numbers = 0
        self._asked_characters = 0
        self._runs: set[Run] = set()
        self._lock = threading.Lock()
        self._cancelled = False

    # How it ends -------------------------------------------------------------------------

    def why_not(self) -> str | None:
        """Why the guest may not go on; None where it may."""
        if self.is_late:
            return "the time is over"
        return "the call was interrupted" if self._cancelled else None

    @property
    def is_late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() > self.deadline

    def cancel(self) -> None:
        """End the guest and its runs soon, and return at once."""
        with self._lock:
            self._cancelled = True
            runs = list(self._runs)
        for run in runs:
            run.cancel()

    def close(self) -> None:
        """End the runs that still go on, after the guest has ended."""
        self.cancel()
        with self._lock:
            runs = list(self._runs)
        for run in runs:
            run.stop()

    # What a guest asks for ---------------------------------------------------------------

    def request(self, model: str, *, params: Mapping[str, Any] | None, **fields: Any) -> Request:
        """The request of a guest. Raises `InferenceError` for what cannot be carried out.

        `params` are fields of `InferencingParams`; None are the defaults.
        """
        granted = self.granted
        values = dict(params or {})
        self._count([
            fields.get("prompt", ""), *(each["content"] for each in fields.get("messages", ())),
            *values.get("stop", ()), getattr(fields.get("constraint"), "source", ""),
        ])  # fmt: skip
        if values.get("seed") is None:
            values["seed"] = granted.seed
        return Request(
            model=granted.target(model), params=InferencingParams(**values),
            **{**granted.options, **fields, "tags": self._tags},
        )  # fmt: skip

    def _count(self, texts: Sequence[str]) -> None:
        """Keep count of what the guest asks. Raises `InvalidInput` for a request that is too large,
        and `WasmtimeError` where all of them together are."""
        size = sum(map(len, texts))
        self._asked_characters += size
        if self._asked_characters > LARGEST_CALL:
            raise self.refuse(
                ComponentFailed(
                    f"{self.granted.name} has asked for more than {LARGEST_CALL:,} characters in one "
                    "call: call it for less at once"
                )
            )
        if size > LARGEST_REQUEST:
            raise InvalidInput(
                f"the request has {size:,} characters, and {LARGEST_REQUEST:,} at most"
            )

    @property
    def _tags(self) -> dict[str, str]:
        ours = {"component": self.granted.name, "component_sha256": self.granted.digest}
        return {**self.granted.options.get("tags", {}), **ours}

    def start(self, request: Request) -> Run:
        """Start a run of this call."""
        return self._began(self.session.run(request))

    def _began(self, run: Run) -> Run:
        with self._lock:
            self._runs.add(run)
            cancelled = self._cancelled
        if cancelled:
            run.cancel()
        self.begun.put(run)
        return run

    def ended(self, run: Run) -> InferencingResult:
        """Wait for the end of a run. Raises its error, and `WasmtimeError` where the call ends."""
        run.wait()  # whoever waits for the call cancels its runs when the time is over
        self._forget(run)
        self.check()
        if run.error is not None:
            raise run.error
        if run.status != "ok":
            raise EngineFailed("the run was interrupted")
        return run.result

    def check(self) -> None:
        """Raise `WasmtimeError` where the call may not go on."""
        if why := self.why_not():
            raise wasmtime.WasmtimeError(why)

    def stop(self, run: Run) -> None:
        """End a run whose stream was dropped, and wait for its end."""
        run.stop()
        self._forget(run)

    def _forget(self, run: Run) -> None:
        with self._lock:
            self._runs.discard(run)

    def results(
        self, requests: Sequence[Callable[[], Request]]
    ) -> list[InferencingResult | InferenceError]:
        """The results of several requests in their order, or the error of each.

        As many go on at once as their engine carries out.
        """
        outcomes: list[InferencingResult | InferenceError] = []
        runs: list[Run | InferenceError] = []
        size = 0
        for place in range(len(requests)):
            while len(runs) < min(place + max(size, 1), len(requests)):
                self.check()
                try:
                    request = requests[len(runs)]()
                    size = size or default_size(self.session, request)
                    runs.append(self.start(request))
                except InferenceError as error:
                    runs.append(error)
            run = runs[place]
            try:
                outcomes.append(run if isinstance(run, InferenceError) else self.ended(run))
            except InferenceError as error:
                outcomes.append(error)
        return outcomes

    def embed(self, model: str, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """One vector for each text, and the tokens of all texts. Raises what a run raises."""
        without = ("content_filters", "exact")  # they are about texts that are generated
        options = {
            name: value for name, value in self.granted.options.items() if name not in without
        }
        self._count(texts)
        target = self.granted.target(model)
        request, checked = embedding_request(list(texts), target, {**options, "tags": self._tags})
        wanted = Texts(tuple(checked), tuple(range(1, len(checked) + 1)))
        run = self.session.start_embedding(request, wanted)
        self._began(run)
        self.ended(run)
        assert isinstance(run, EmbeddingRun)
        return run.vectors.tolist(), run.token_count

    # Streams -----------------------------------------------------------------------------

    def keep(self, stream: Any) -> int:
        """Keep a stream of the guest; its number."""
        self._numbers += 1
        self.streams[self._numbers] = stream
        return self._numbers

    def check_streams(self) -> None:
        """Raise `InvalidInput` where no further stream can be opened."""
        if len(self.streams) >= MOST_STREAMS:
            raise InvalidInput(f"{MOST_STREAMS} streams are open: drop one before the next")

    def drop(self, number: int) -> None:
        """End the stream of that number, whose guest has dropped it."""
        if (stream := self.streams.pop(number, None)) is not None:
            stream.close()

    def told(self, error: InferenceError, model: str) -> str:
        """What a guest is told of an error.

        Only what is wrong with its own request is told as it is, with the guest's name of the
        model. Other messages may have paths of this machine in them.
        """
        if isinstance(error, InvalidInput):
            try:
                ours = re.escape(self.granted.target(model))
                return re.sub(rf"(?<!\w){ours}(?!\w)", lambda _: model, str(error))
            except ModelNotSupported:
                return str(error)
        return f"the model cannot answer ({type(error).__name__}): the log of the host says why"

    # What a guest does wrong -------------------------------------------------------------

    def refuse(self, error: InferenceError) -> wasmtime.WasmtimeError:
        """The error that ends the guest. The caller of the component gets `error` itself."""
        self.error = self.error or error
        return wasmtime.WasmtimeError(str(error))

    def out_of_time(self) -> ComponentFailed:
        """The error of a call whose time is over."""
        return ComponentFailed(
            f"{self.granted.name}: the call was ended after {self.seconds:g} s: give it more with "
            "seconds="
        )
