"""The memory that a block of code may take."""

from __future__ import annotations

import resource
import sys

import pytest

from llmwit_magic.engines.limits import limited_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit")


def test_more_than_the_limit_is_a_memory_error() -> None:
    """In the block; what is less is given, and afterwards there is no limit."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with limited_memory(64 * 2**20):
        assert len(bytes(32 * 2**20)) == 32 * 2**20
        with pytest.raises(MemoryError):
            bytes(128 * 2**20)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytes(128 * 2**20)) == 128 * 2**20


def test_the_limit_ends_with_a_failure_too() -> None:
    """Whatever the block raises."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), limited_memory(2**20):
        bytes(128 * 2**20)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
