"""Turns go to callers in the order in which they asked."""

from __future__ import annotations

import threading
import time

import pytest

from llmwit_magic.engines.local.turns import Turns


def test_who_came_first_is_first() -> None:
    """Thirty callers get their turns in the order in which they came, one at a time."""
    turns, order, inside = Turns(), [], []

    def work(number: int) -> None:
        with turns.taken():
            inside.append(number)
            assert inside == [number]
            order.append(number)
            time.sleep(0.001)
            inside.clear()

    threads = []
    with turns.taken():
        for number in range(30):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            time.sleep(0.005)
    for thread in threads:
        thread.join(10)
    assert order == list(range(30))


def test_who_gives_up_holds_nobody_up() -> None:
    """A caller whose `waiting` raises leaves the queue. The next one gets the turn."""
    turns, had = Turns(), threading.Event()

    def give_up() -> None:
        raise TimeoutError

    def last() -> None:
        with turns.taken():
            had.set()

    with turns.taken():
        with pytest.raises(TimeoutError), turns.taken(give_up):
            raise AssertionError("two had the turn")
        thread = threading.Thread(target=last)
        thread.start()
        assert not had.wait(0.1)
    assert had.wait(5)
    thread.join(5)


def test_a_holder_that_raises_gives_the_turn_back() -> None:
    """The turn goes on, whatever the holder raises."""
    turns = Turns()
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), turns.taken():
            raise error
    with turns.taken():
        pass
