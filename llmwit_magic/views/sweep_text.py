"""The words and tables that describe several runs: those of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.printable import on_one_line, setting_value, short, visible
from ..base.widths import filled, width
from ..contract.wit import InferencingParams, InferencingResult
from ..running.results import Results
from ..running.run import Run
from .pivot import pivot_text, setting_text, shown_name
from .score_text import outcome, scored_count
from .text import badge, brief_parts, count_text, metric_text

TABLE_COLUMNS = 60
"""The most columns of an answer in a table. The result keeps all of it."""


def notes(results: Sequence[InferencingResult]) -> list[str]:
    """The lines under a table of several runs: notices of their prompts, and runs not logged."""
    said = list(dict.fromkeys(notice for result in results for notice in result.notices))
    without = [result.value_error for result in results if result.value_error]
    if without:
        said.append(
            f"{len(without)} of {len(results)} runs have no value: {short(without[-1], 80)}"
        )
    problems = [result.log_problem for result in results if result.log_problem]
    if problems:
        said.append(f"{len(problems)} of {len(results)} runs not logged: {problems[-1]}")
    return [on_one_line(note) for note in said]


def varying_settings(results: Sequence[InferencingResult]) -> list[str]:
    """The names of the params in which the results differ, `model` and `prompt_name` among them."""
    names = [
        name for name in InferencingParams.model_fields
        if len({repr(getattr(result.params, name)) for result in results}) > 1
    ]  # fmt: skip
    # The repeat penalty's default depends on the temperature. What the user varied stands first.
    names.sort(key=lambda name: name == "repeat_penalty")
    if len({result.prompt_name for result in results}) > 1:
        names.insert(0, "prompt_name")
    if len({result.model.name if result.model else None for result in results}) > 1:
        names.insert(0, "model")
    return names


def table(results: Sequence[InferencingResult], names: Sequence[str]) -> list[list[str]]:
    """Header and rows of a sweep's table, with the whole answers. Each metric has a column."""
    metrics = tuple(dict.fromkeys(name for result in results for name in result.metric_values))
    rows = [
        [
            "run",
            *map(shown_name, names),
            *map(on_one_line, metrics),
            "text",
            "finish",
            "tokens",
            "seconds",
        ]
    ]
    for result in results:
        total = result.timings.total
        rows.append([
            "" if result.run_id is None else str(result.run_id),
            *(setting_text(result, name) for name in names),
            *(metric_text(result.metric_values.get(name)) for name in metrics),
            visible(result.text),
            ": ".join(_finish(result)),
            f"{count_text(result.usage.prompt_token_count)} + "
            f"{count_text(scored_count(result))}",
            "" if total is None else f"{total:.2f}",
        ])  # fmt: skip
    return rows


def _finish(result: InferencingResult) -> list[str]:
    """Why a run ended, in the words of its status line; of a score, what it came to."""
    if found := outcome(result):
        return [badge(result), found]
    return brief_parts(result)[:2] if result.finish_detail else [badge(result)]


def plain_table(results: Sequence[InferencingResult]) -> str:
    """The results of a sweep: a line for each, with a shortened text, or the table by two
    settings that it has. Notes stand under them."""
    said = "".join(f"\n── {note}" for note in notes(results))
    if isinstance(results, Results) and results.by:
        return pivot_text(results, results.by) + said
    rows = table(results, varying_settings(results))
    column = rows[0].index("text")
    for row in rows:
        row[column] = short(row[column], TABLE_COLUMNS)
    widths = [max(width(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join("  ".join(map(filled, row, widths)).rstrip() for row in rows) + said


def settings_text(run: Run, names: Sequence[str]) -> str:
    """The settings of a run that vary in its sweep."""
    request = run.request
    return ", ".join(
        f"{shown_name(name)} "
        + setting_value(
            getattr(request if name in ("model", "prompt_name") else request.params, name)
        )
        for name in names
    )
