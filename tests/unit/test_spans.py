"""Spans of data: their order, and what an edit of the text does to them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.spans import common, joined, moved, touched
from llmwit_magic.errors import InvalidInput

SPANS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted).map(tuple))


@given(SPANS)
def test_joined_spans_cover_the_same_positions(spans: list[tuple[int, int]]) -> None:
    """They are in order and apart from one another, and none is empty."""
    found = joined(spans)
    covered = {place for start, end in spans for place in range(start, end)}
    assert {place for start, end in found for place in range(start, end)} == covered
    assert all(start < end for start, end in found)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


def test_touched_spans_have_a_part_in_a_place() -> None:
    """A common border alone does not count."""
    spans = ((0, 2), (4, 6), (8, 9))
    assert touched(spans, [(2, 4), (5, 8)]) == ((4, 6),)
    assert touched(spans, [(1, 9)]) == spans
    assert touched(spans, []) == ()


@pytest.mark.parametrize(
    ("old", "new", "spans", "wanted"),
    [
        ("ab DATA cd", "xab DATA cd", ((3, 7),), ((4, 8),)),
        ("ab DATA cd", "ab DATA", ((3, 7),), ((3, 7),)),
        ("ab DATA cd", "ab DAxTA cd", ((3, 7),), ((3, 5), (6, 8))),
        ("ab DATA cd", "ab DATA cd", ((3, 7),), ((3, 7),)),
        ("ab DATA cd", "ab cd", ((3, 7),), ()),
        ("ab DATA cd", "new", ((3, 7),), ()),
        ("DATA", "DATADATA", ((0, 4),), ((0, 4),)),
    ],
)
def test_what_is_written_anew_is_no_data(
    old: str, new: str, spans: tuple[tuple[int, int], ...], wanted: tuple[tuple[int, int], ...]
) -> None:
    """The parts of a span before and after an edit are still data."""
    assert moved(spans, old, new) == wanted


@given(st.text("ab"), st.text("ab"))
def test_common_beginnings(one: str, other: str) -> None:
    """The result is the number of characters that are the same from the start."""
    count = common(one, other)
    assert one[:count] == other[:count]
    assert one[count : count + 1] != other[count : count + 1] or one == other


def test_a_request_has_its_spans_in_order() -> None:
    """It takes lists, as JSON has them. A bad span is refused in one line."""
    request = Request(model="m", prompt="0123456789", data_spans=[[5, 7], [1, 3], [3, 4]])  # type: ignore[arg-type]
    assert request.data_spans == ((1, 4), (5, 7))
    assert Request.model_validate_json(request.model_dump_json()) == request
    for spans in ([(3, 1)], [(-1, 2)], [(1,)], "ab", [1, 2]):
        with pytest.raises(InvalidInput, match="data_spans"):
            Request(model="m", prompt="0123", data_spans=spans)  # type: ignore[arg-type]
