"""Parts of a text that are data: their order, and what an edit of the text does to them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwit_magic.errors import InvalidInput
from llmwit_magic.protocol import Request
from llmwit_magic.spans import common, joined, moved, touched

SPANS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted).map(tuple))


@given(SPANS)
def test_joined_spans_cover_the_same_positions(spans: list[tuple[int, int]]) -> None:
    """In order, apart from one another, none empty."""
    found = joined(spans)
    covered = {place for start, end in spans for place in range(start, end)}
    assert {place for start, end in found for place in range(start, end)} == covered
    assert all(start < end for start, end in found)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


def test_touched_spans_have_a_part_in_a_place() -> None:
    """A border alone is none."""
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
    """What is left of a span before and behind an edit is still data."""
    assert moved(spans, old, new) == wanted


@given(st.text("ab"), st.text("ab"))
def test_common_beginnings(one: str, other: str) -> None:
    """The number of characters that are the same from the start."""
    count = common(one, other)
    assert one[:count] == other[:count]
    assert one[count : count + 1] != other[count : count + 1] or one == other


def test_a_request_has_its_spans_in_order() -> None:
    """Lists, as JSON has them, are taken; what is no span is refused in one line."""
    request = Request(model="m", prompt="0123456789", data_spans=[[5, 7], [1, 3], [3, 4]])  # type: ignore[arg-type]
    assert request.data_spans == ((1, 4), (5, 7))
    assert Request.model_validate_json(request.model_dump_json()) == request
    for spans in ([(3, 1)], [(-1, 2)], [(1,)], "ab", [1, 2]):
        with pytest.raises(InvalidInput, match="data_spans"):
            Request(model="m", prompt="0123", data_spans=spans)  # type: ignore[arg-type]
