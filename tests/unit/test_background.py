"""Work in a thread that may be left behind."""

import threading
import time

import pytest

from llmwit_magic.base.background import in_background
from llmwit_magic.errors import EngineFailed
from llmwit_magic.running.session import interruptible


def test_work_gives_what_it_comes_to() -> None:
    """And `check` is asked while it goes on, not after."""
    checked: list[float] = []

    def work() -> int:
        time.sleep(0.1)
        return 5

    assert in_background(work, lambda: checked.append(time.monotonic()), 0.01, "test") == 5
    assert 1 <= len(checked) <= 10
    assert in_background(lambda: 6, pytest.fail, 5, "test") == 6


@pytest.mark.timeout(10)
@pytest.mark.parametrize("error", [TimeoutError("slow"), ValueError("bad"), KeyboardInterrupt()])
def test_what_work_raises_comes_through(error: BaseException) -> None:
    """Also a TimeoutError, as of a network, which is not one of the waiting."""

    def work() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        in_background(work, lambda: None, 0.01, "test")
    assert caught.value is error


@pytest.mark.timeout(10)
def test_interruptible_work_may_time_out() -> None:
    """A TimeoutError of the work ends the wait for it; as any defect, it is one of our errors."""

    def work(emit: object, cancel: object) -> None:
        raise TimeoutError("slow")

    with pytest.raises(EngineFailed, match="unexpected TimeoutError: slow"):
        interruptible(work, None)


def test_a_check_that_raises_leaves_the_work_behind() -> None:
    """Nobody waits for its end."""
    going = threading.Event()

    def check() -> None:
        raise KeyError("enough")

    began = time.monotonic()
    with pytest.raises(KeyError, match="enough"):
        in_background(lambda: going.wait(20), check, 0.01, "test")
    assert time.monotonic() - began < 5
    going.set()
