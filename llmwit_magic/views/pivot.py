"""A sweep by two of its settings: a row for each value of one, a column for each of the other."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from ..base.printable import on_one_line, setting_value, short
from ..base.widths import filled, width
from ..contract.wit import InferencingResult

_TEXT_COLUMNS = 60
_TEXTS = 3
"""How many different answers a cell shows at most."""

Table = list[list[list[str]]]
"""Rows of cells; each cell has lines."""


def shown_name(setting: str) -> str:
    """The name of a setting of a sweep, as a table shows it."""
    return "prompt" if setting == "prompt_name" else setting


def setting_text(result: InferencingResult, name: str) -> str:
    """The value of a setting of a sweep on one line."""
    if name == "model":
        return on_one_line(result.model.name) if result.model else ""
    if name == "prompt_name":
        return on_one_line(result.prompt_name or "")
    return setting_value(getattr(result.params, name))


def pivot_text(results: Sequence[InferencingResult], by: tuple[str, str]) -> str:
    """The table as plain text."""
    table = [
        [[short(line, _TEXT_COLUMNS) for line in lines] for lines in row]
        for row in pivot_table(results, by)
    ]
    widths = [
        max(width(line) for row in table for line in row[place]) for place in range(len(table[0]))
    ]
    lines = [
        "  ".join(
            filled(lines[number] if number < len(lines) else "", room)
            for lines, room in zip(row, widths, strict=True)
        ).rstrip()
        for row in table
        for number in range(max(map(len, row)))
    ]
    return "\n".join([*lines, f"── {pivot_meaning(results)}"])


def pivot_table(results: Sequence[InferencingResult], by: tuple[str, str]) -> Table:
    """The header and the rows, each in the order of the runs."""
    down, across = by
    groups: dict[tuple[str, str], list[InferencingResult]] = {}
    for result in results:
        place = (setting_text(result, down), setting_text(result, across))
        groups.setdefault(place, []).append(result)
    rows, columns = (list(dict.fromkeys(place[axis] for place in groups)) for axis in (0, 1))
    header = [[shown_name(down)], *([f"{shown_name(across)} {name}"] for name in columns)]
    return [header] + [
        [[row], *(_cell(groups.get((row, column), []), _metrics(results)) for column in columns)]
        for row in rows
    ]


def _metrics(results: Sequence[InferencingResult]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.metric_values))


def _cell(group: Sequence[InferencingResult], metrics: Sequence[str]) -> list[str]:
    """The metrics of the runs, or their answers where there are no metrics."""
    if not metrics:
        counts = Counter(short(result.text, _TEXT_COLUMNS) for result in group)
        lines = [f"{count}× {text}" if count > 1 else text for text, count in counts.most_common()]
        more = len(lines) - _TEXTS
        return lines[:_TEXTS] + ([f"{more} more"] if more > 0 else []) or [""]
    lines = []
    for name in metrics:
        values = [
            result.metric_values[name] for result in group if name in result.metric_values
        ]  # fmt: skip
        prefix = f"{on_one_line(name)} " if len(metrics) > 1 else ""
        lines.append(prefix + _mean(values) if values else "")
    return lines


def _mean(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.3g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def pivot_meaning(results: Sequence[InferencingResult]) -> str:
    """What the cells of the table are."""
    metrics = _metrics(results)
    if not metrics:
        return f"{len(results)} runs: the answers, the most frequent first"
    names = ", ".join(map(on_one_line, metrics))
    return f"{len(results)} runs: mean ± standard deviation of {names}"
