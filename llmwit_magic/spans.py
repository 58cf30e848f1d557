"""Parts of a text that are data: values and messages, in which nothing is a control token."""

from __future__ import annotations

from collections.abc import Iterable

Spans = tuple[tuple[int, int], ...]
"""Each from a position in characters up to another one; in order, none empty, none touching."""


def joined(spans: Iterable[tuple[int, int]]) -> Spans:
    """The spans in their order, those that touch or overlap as one, empty ones left out."""
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
    """Those of the spans that have a part of one of the places."""
    places = list(places)
    return tuple(
        (start, end)
        for start, end in spans
        if any(first < end and start < last for first, last in places)
    )


def in_order(spans: Spans) -> Spans:
    """The spans, checked. Raises `ValueError` for one that does not go forward from 0 on."""
    if any(not 0 <= start <= end for start, end in spans):
        raise ValueError("each span must be two positions, the second not before the first")
    return joined(spans)


def moved(spans: Spans, old: str, new: str) -> Spans:
    """The spans of a text after it was edited into another one: what was written anew is none."""
    same = common(old, new)
    rest = common(old[same:][::-1], new[same:][::-1])
    shift = len(new) - len(old)
    before = ((min(start, same), min(end, same)) for start, end in spans)
    last = len(old) - rest
    after = ((max(start, last) + shift, max(end, last) + shift) for start, end in spans)
    return joined([*before, *after])


def common(one: str, other: str) -> int:
    """With how many of the same characters two texts begin."""
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    return next((at for at, (a, b) in enumerate(pairs) if a != b), shorter)
