"""Figures as tables: medians, their spread, and the ratio of ours to those of other ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

OURS = "%%infer"
OURS_BY_LLAMACPP = "%%infer, llama.cpp"
OUR_BATCH = "infer_frame"
OTHERS = ("ctransformers", "llama.cpp")
SUMMARY = {
    "decode, tokens/s": "generating, tokens/s",
    "decode beside 1 busy, tokens/s": "the same beside one busy program",
    "prompt of 400, tokens/s": "reading a new prompt of 400 tokens, tokens/s",
    "cell with one token, same prompt of 400, s": "first token of the same prompt again, s",
    "cell with one token, prompt before last, s": "first token of the prompt before it, s",
    "new kernel to first token, s": "first token in a new kernel, s",
    "peak memory of the kernel, MB": "peak memory of the kernel, MB",
    "peak memory of its engine, MB": "peak memory of the engine's own process, MB",
}
"""The figures that the README shows, and their names there."""

Figures = Mapping[str, Mapping[str, Sequence[float]]]


def table(figures: Figures) -> str:
    """For a terminal: each figure's ways with median, spread, and the ratio of ours to theirs."""
    lines = []
    for name, by_way in figures.items():
        lines.append(name)
        for way, middle, spread, ratio in _rows(by_way):
            lines.append(f"  {way:<24}{middle:>10}  {spread:<22}{ratio}".rstrip())
    return "\n".join(lines)


def summary(results: Mapping[str, Any]) -> str:
    """For the README: the ways side by side, and facts about the machine."""
    lines = ["| | `%%infer` | ctransformers | llama.cpp |", "| --- | --- | --- | --- |"]
    for name, words in SUMMARY.items():
        by_way = results["figures"].get(name, {})
        cells = [number(median(by_way[way])) if way in by_way else "" for way in (OURS, *OTHERS)]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _machine(results["machine"])])


def details(results: Mapping[str, Any]) -> str:
    """For `docs/performance.md`: all figures with their spread, and facts about the machine."""
    lines = ["| figure | way | median | lowest to highest | |", "| --- | --- | --- | --- | --- |"]
    for name, by_way in results["figures"].items():
        for way, middle, spread, ratio in _rows(by_way):
            lines.append(f"| {name} | {way} | {middle} | {spread} | {ratio} |")
            name = ""
    return "\n".join([*lines, "", _machine(results["machine"])])


def _rows(by_way: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, str, str, str]]:
    ours = next((way for way in (OURS, OURS_BY_LLAMACPP, OUR_BATCH) if way in by_way), "")
    for way, values in by_way.items():
        spread = f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""
        ratio = ""
        if way != ours and ours in by_way:
            ratio = f"ours is {median(by_way[ours]) / median(values):.2f} ×"
        yield way, number(median(values)), spread, ratio


def _machine(facts: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {facts[name]}" for name in (*OTHERS[:1], "xllamacpp"))
    return (
        f"Medians, measured in turn on {facts['processor']}, {facts['cores']} cores, "
        f"{facts['system']}, Python {facts['python']}, {packages}."
    )


def number(value: float) -> str:
    """The number with three significant digits; from 100 on, as an integer."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
