"""Who runs next: a bounded line in which each client's host has its turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from .refusal import ending, full


@dataclass(slots=True)
class Lane:
    """The requests of one model."""

    running: int = 0
    waiting: OrderedDict[str, deque[asyncio.Future[None]]] = field(default_factory=OrderedDict)
    """Those who wait, by host. The host at the front is the next one."""


class Turn:
    """The right to run. It is given back once, by whoever comes first."""

    def __init__(self, line: WaitingLine, lane: Lane) -> None:
        self._line, self._lane, self._held = line, lane, True

    def release(self) -> None:
        """Give the turn back. A second call does nothing."""
        if self._held:
            self._held = False
            self._line.pass_on(self._lane)


class WaitingLine:
    """The lanes of all models. It is used by the tasks of one event loop only.

    A connection has one request at a time, so connections of one host come in the order of their
    requests. Hosts take turns, however many connections each has.
    """

    def __init__(self, places: int) -> None:
        """At most `places` requests wait, all models together."""
        self.places = places
        self.waiting = 0
        self.stopping = False
        self._lanes: dict[str, Lane] = {}

    @property
    def is_full(self) -> bool:
        return self.waiting >= self.places

    async def take(self, model: str, host: str, at_once: int) -> Turn:
        """Wait for the turn. `at_once` runs of a model go on side by side.

        Raises `Refusal` where the line is full (429) or the server ends (503).
        """
        if self.stopping:
            raise ending()
        lane = self._lanes.setdefault(model, Lane())
        if lane.running < at_once and not lane.waiting:
            lane.running += 1
            return Turn(self, lane)
        if self.is_full:
            raise full()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.waiting.setdefault(host, deque()).append(place)
        self.waiting += 1
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.pass_on(lane)  # the turn came in the same moment
            else:
                self._leave(lane, host, place)
            raise
        return Turn(self, lane)

    def _leave(self, lane: Lane, host: str, place: asyncio.Future[None]) -> None:
        line = lane.waiting.get(host)
        if line is not None and place in line:
            line.remove(place)
            self.waiting -= 1
            if not line:
                del lane.waiting[host]

    def pass_on(self, lane: Lane) -> None:
        """Give a turn to the next host's first request, or to nobody."""
        while lane.waiting:
            host, line = lane.waiting.popitem(last=False)
            place = line.popleft()
            self.waiting -= 1
            if line:
                lane.waiting[host] = line  # at the end
            if not place.done():
                place.set_result(None)
                return
        lane.running -= 1

    def stop(self) -> None:
        """Refuse all who wait, and all who come."""
        self.stopping = True
        for lane in self._lanes.values():
            for line in lane.waiting.values():
                for place in line:
                    if not place.done():
                        place.set_exception(ending())
            lane.waiting.clear()
        self.waiting = 0
