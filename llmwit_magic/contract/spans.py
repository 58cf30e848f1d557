"""Spans: the parts of a text that are data, such as values and messages.

No control token is recognised in them.
"""

from __future__ import annotations

from collections.abc import Iterable

Spans = tuple[tuple[int, int], ...]
"""Pairs of positions in characters, start and end. They are in order, and none is empty or touches
another one."""


def joined(spans: Iterable[tuple[int, int]]) -> Spans:
    """The spans in order. Those that touch or overlap become one, and empty ones are left out."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if start == end:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def touched(spans: Spans, places: Iterable[tuple[int, int]]) -> Spans:
    """The spans that overlap one of the places."""
    places = list(places)
    return tuple(
        (start, end)
        for start, end in spans
        if any(first < end and start < last for first, last in places)
    )


def in_order(spans: Spans) -> Spans:
    """The spans, checked and joined.

    Raises `ValueError` for a span that begins before 0 or ends before its start.
    """
    if any(not 0 <= start <= end for start, end in spans):
        raise ValueError("each span must be two positions, the second not before the first")
    return joined(spans)


def moved(spans: Spans, old: str, new: str) -> Spans:
    """The spans of a text after its edit from `old` to `new`. What the edit wrote is not data."""
    same = common(old, new)
    rest = common(old[same:][::-1], new[same:][::-1])
    shift = len(new) - len(old)
    before = ((min(start, same), min(end, same)) for start, end in spans)
    last = len(old) - rest
    after = ((max(start, last) + shift, max(end, last) + shift) for start, end in spans)
    return joined([*before, *after])


def common(one: str, other: str) -> int:
    """The number of characters that two texts have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    return next((at for at, (a, b) in enumerate(pairs) if a != b), shorter)
