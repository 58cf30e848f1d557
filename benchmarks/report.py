"""Figures as a table: medians, their spread, and the ratios to the other ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

OURS = "%%infer"


def table(figures: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A line for each figure and way: median, lowest to highest, and how many times ours."""
    lines = []
    for name, by_way in figures.items():
        lines.append(name)
        for way, values in by_way.items():
            spread = f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""
            ratio = ""
            if way != OURS and OURS in by_way:
                ratio = f"ours is {median(by_way[OURS]) / median(values):.2f} ×"
            lines.append(f"  {way:<24}{number(median(values)):>10}  {spread:<22}{ratio}".rstrip())
    return "\n".join(lines)


def number(value: float) -> str:
    """With three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
