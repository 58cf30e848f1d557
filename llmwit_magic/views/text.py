"""The words that describe a run, and the view in a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TextIO

from ..base.printable import on_one_line, short, visible
from ..base.widths import filled, width
from ..contract.constraint import Constraint
from ..contract.events import Progress
from ..contract.messages import conversation_name
from ..contract.wit import (
    DeviceInfo,
    FinishDetail,
    InferencingParams,
    InferencingResult,
    ModelInfo,
)
from ..running.results import Results
from ..running.run import Run
from .pivot import pivot_text, setting_text, shown_name
from .score_text import chart_lines, choices_parts, outcome, score_parts, scored_count
from .value_table import value_lines

_DETAILS = {
    FinishDetail.EOS: "end of text",
    FinishDetail.STOP_SEQUENCE: "stop sequence",
    FinishDetail.MAX_TOKENS: "max tokens",
    FinishDetail.CONTEXT_FULL: "context full",
    FinishDetail.CONSTRAINT: "constraint",
    FinishDetail.CONTENT_FILTER: "the rest is left out",
    FinishDetail.SCORED: "scored",
    FinishDetail.UNKNOWN: "the server does not say why",
}
_CONSTRAINTS = {
    "choices": "the answer is one of", "regex": "the answer matches",
    "json_schema": "the answer is JSON of the schema", "grammar": "the answer is made by the grammar",
}  # fmt: skip
CONSTRAINT_COLUMNS = 500
"""The most columns of a constraint that is said on a line."""
_BADGES = {"stop": "stop", "length": "length", "content_filter": "content filter"}
VALUE_ERROR_COLUMNS = 200
"""The most columns of the reason why an answer has no value. The result keeps all of it."""
TABLE_COLUMNS = 60
"""The most columns of an answer in a table. The result keeps all of it."""


def status_parts(result: InferencingResult, log_problem: str | None = None) -> list[str]:
    """The parts of the status line under an answer, the badge first."""
    return [part for _, part in _parts(result, log_problem)]


def brief_parts(result: InferencingResult, log_problem: str | None = None) -> list[str]:
    """The parts that a person reads first.

    They say why the run ended, its tokens, its speed, and whether it is missing in the log.
    """
    return [part for brief, part in _parts(result, log_problem) if brief]


def more_parts(result: InferencingResult, log_problem: str | None = None) -> list[str]:
    """The other parts: time to the first token, model, engine, device, seed, number of the run."""
    return [part for brief, part in _parts(result, log_problem) if not brief]


def _parts(result: InferencingResult, log_problem: str | None) -> list[tuple[bool, str]]:
    """All parts of the status line, each with whether it is read first."""
    parts = [(True, badge(result))]
    if result.finish_detail and result.finish_detail is not FinishDetail.SCORED:
        detail = _DETAILS[result.finish_detail]
        if result.stop_sequence is not None:
            detail += f" {json.dumps(result.stop_sequence, ensure_ascii=False)}"
        parts.append((True, detail))
    if result.finish_detail is FinishDetail.MAX_TOKENS and result.reasoning and not result.text:
        parts.append((True, "no answer yet: give more --max-tokens"))
    if result.value_error is not None and result.status == "ok":
        parts.append((True, f"no value: {short(result.value_error, VALUE_ERROR_COLUMNS)}"))
    parts += [(True, part) for part in _turn_parts(result)]
    parts += [(True, notice) for notice in result.notices]
    if result.not_honoured:
        parts.append((False, f"not honoured: {', '.join(result.not_honoured)}"))
    if result.model:
        timings = result.timings
        parts.append((True, _counts(result)))
        if result.score:
            parts += [(True, part) for part in score_parts(result.score)]
        elif result.choices:
            parts += [(brief, part) for brief, part in choices_parts(result.choices)]
        if timings.first_token is not None:
            parts.append((False, f"first token {timings.first_token:.2f} s"))
        if timings.tokens_per_second is not None:
            parts.append((True, f"{timings.tokens_per_second:.1f} tokens/s"))
        model, device = result.model, _device(result.device)
        if model.engine:
            device = (
                f"{model.engine} {device}"
                if result.device.is_server
                else f"{model.engine} on {device}"
            )
        parts += [(False, part) for part in (_model(model), device)]
        if result.kind == "text":  # for nothing else is a token drawn
            parts.append((False, f"seed {result.params.seed}"))
    if said := metrics_text(result):
        parts.append((True, said))
    if problem := log_problem or result.log_problem:
        parts.append((True, f"not logged: {problem}"))
    elif result.run_id is not None:
        parts.append((False, f"run {result.run_id}"))
    if result.preset:
        parts.append((False, f"preset {result.preset}"))
    if result.conversation_id:
        parts.append((False, f"conversation {result.conversation_id}"))
    return [(brief, on_one_line(part)) for brief, part in parts]


def _turn_parts(result: InferencingResult) -> list[str]:
    """Which turn of its conversation it is, which ones are dropped, and how much context is left.

    A first turn without a name may stay alone, so nothing is said of it.
    """
    name = conversation_name(result.conversation_id or "")
    if result.turn is None or (result.turn == 1 and not name):
        return []
    said = [f"turn {result.turn}" + (f" of {name}" if name else "")]
    dropped = result.dropped_turns
    if dropped:
        said.append(f"turn{'s 1 to' if dropped > 1 else ''} {dropped} dropped")
    left = tokens_left(result)
    if left is not None:
        said.append(f"{left:,} of {result.context_length:,} tokens left")
        most = result.params.max_tokens
        if left < ((result.context_length or 0) // 8 if most is None else most):
            how = "nearly full" if left else "full"
            said.append(f"{how}: --drop-oldest leaves out the oldest turns")
    return said


def tokens_left(result: InferencingResult) -> int | None:
    """How many tokens of the context prompt and answer leave; None where that is not known."""
    counts = result.usage.prompt_token_count, result.usage.generated_token_count
    if result.model is None or result.context_length is None or None in counts:
        return None
    return max(result.context_length - sum(count or 0 for count in counts), 0)


def _count(number: int | None) -> str:
    """A number of tokens; "?" where the engine does not tell it."""
    return "?" if number is None else str(number)


def _counts(result: InferencingResult) -> str:
    usage = result.usage
    if result.kind == "embedding":
        return f"{result.text_count} texts · {_count(usage.prompt_token_count)} tokens"
    cached = f" ({usage.cached_token_count} cached)" if usage.cached_token_count else ""
    thought = f" ({usage.reasoning_token_count} reasoning)" if result.reasoning else ""
    if result.choices:
        return f"{_count(usage.prompt_token_count)} prompt tokens{cached}"
    if result.score:
        count = result.score.token_count
        return f"{_count(usage.prompt_token_count)} prompt{cached} + {count} scored tokens"
    return (
        f"{_count(usage.prompt_token_count)}{cached} + "
        f"{_count(usage.generated_token_count)}{thought} tokens"
    )


def _model(model: ModelInfo) -> str:
    """The model's name. The server's name for it is added where a person gave none."""
    chosen = (model.path or "").partition("#")[2]
    if model.name.endswith("::"):
        return f"{model.name}{chosen}"
    return f"{model.name}#{chosen}" if model.path == f"{model.name}#{chosen}" else model.name


def _device(device: DeviceInfo) -> str:
    if device.is_server:
        return " ".join(filter(None, [device.library, f"at {device.name}"]))
    layers = f"{device.gpu_layers} GPU layers"
    if device.requested_gpu_layers == "auto":
        layers += " (auto)"
    if device.memory_bytes is not None:
        layers += f", {device.memory_bytes / 2**20:.0f} MiB"
    return f"{device.name}, {layers}" + ("" if device.exact else ", not exact")


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


def badge(result: InferencingResult) -> str:
    """Why a run ended, in a few words."""
    if result.finish_detail is FinishDetail.SCORED:
        return _DETAILS[result.finish_detail]
    if result.finish_reason:
        return _BADGES[result.finish_reason]
    return {"running": "running …", "interrupted": "interrupted", "error": "failed",
            "lost": "lost: its kernel is gone"}.get(
        result.status, "vectors" if result.kind == "embedding" else "ended"
    )  # fmt: skip


def reasoning_label(result: InferencingResult) -> str:
    """The line under which the reasoning is folded."""
    if result.status == "running" and not result.text:
        return "thinking …"
    count = result.usage.reasoning_token_count
    return f"reasoning: {count} tokens" if count else "reasoning"


def unfinished_text(run: Run, total: int) -> str:
    """The line in place of a run's answer while it goes on. A notebook saved meanwhile keeps it."""
    if kept := kept_text(run, total):
        return f"running … · if this line stays, {kept}"
    return "running …"


def kept_text(run: Run, total: int) -> str:
    """Where the answer of a run, or of its sweep, is in the log; empty for a run not logged."""
    if run.run_id is None:
        return ""
    place = f"runs[{run.run_id}]"
    if total > 1:
        place = f"%infer_log --all --group {run.request.group_id}"
    return f"the answer is in {place}"


# Plain text ---------------------------------------------------------------------


def plain(result: InferencingResult, log_problem: str | None = None) -> str:
    """An answer with its status line. One line stands for the reasoning."""
    lines = [f"── {reasoning_label(result)}, in .reasoning"] if result.reasoning else []
    lines += [visible(result.text)] if result.text else []
    lines += chart_lines(result.choices) if result.choices else value_lines(result.value)
    return "\n".join([*lines, f"── {' · '.join(status_parts(result, log_problem))}"])


def constraint_text(constraint: Constraint) -> str:
    """What an answer must be, on one line."""
    if constraint.kind == "choices":
        said = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in constraint.choices)
    else:
        said = constraint.source
    return f"{_CONSTRAINTS[constraint.kind]} {short(said, CONSTRAINT_COLUMNS)}"


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
            *(_metric(result.metric_values.get(name)) for name in metrics),
            visible(result.text),
            ": ".join(_finish(result)),
            f"{_count(result.usage.prompt_token_count)} + "
            f"{_count(scored_count(result))}",
            "" if total is None else f"{total:.2f}",
        ])  # fmt: skip
    return rows


def _metric(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def metrics_text(result: InferencingResult) -> str:
    """The metrics of a result with their values; empty where it has none."""
    return on_one_line(
        ", ".join(f"{name} {_metric(number)}" for name, number in result.metric_values.items())
    )


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
    return on_one_line(
        ", ".join(
            f"{shown_name(name)} "
            f"{getattr(request if name in ('model', 'prompt_name') else request.params, name)}"
            for name in names
        )
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line to a file, standard output by default, as its encoding allows."""
    file = sys.stdout if file is None else file
    file.write(encodable(text, getattr(file, "encoding", None)) + "\n")


def encodable(text: str, encoding: str | None) -> str:
    """The text without characters that the encoding lacks.

    If it lacks any, our own signs become plainer ones and other missing characters "?".
    """
    try:
        text.encode(encoding or "utf-8")
        return text
    except UnicodeEncodeError as error:
        return text.translate(_PLAINER).encode(error.encoding, "replace").decode(error.encoding)


_PLAINER = str.maketrans(
    {
        "█": "#",
        "▌": "-",
        "−": "-",
        "␣": "_",
        "─": "-",
        "·": "-",
        "…": "...",
        "⏎": "\\n",
        "⇥": "\\t",
        "⟨": "<",
        "⟩": ">",
    }
)
"""Plainer forms of our signs, which some encodings lack."""


class TerminalView:
    """Prints text as it comes, and the status line under it.

    A line stands before the reasoning, and one between it and the answer.
    """

    def __init__(self, total: int = 1, varying: tuple[str, ...] = ()) -> None:
        self._total = total
        self._varying = varying
        self._run: Run | None = None
        self._ended: Run | None = None
        self._written = {"thinking": 0, "answer": 0}
        """How many characters of each part are printed."""
        self._part = "answer"
        self._progress_width = 0

    def draw(self, run: Run) -> None:
        if run is not self._run:
            self._run, self._written, self._part = run, dict.fromkeys(self._written, 0), "answer"
            if self._total > 1:
                say(f"[{settings_text(run, self._varying)}]")
        if run.progress and not run.done:
            self.draw_progress(run.progress)
            return
        if run is self._ended:
            return
        done = run.done  # read before the text, so that a run seen as done has all its text
        self.draw_progress(None)
        answer = run.text  # read before the reasoning, which comes first
        self._print("thinking", run.reasoning)
        self._print("answer", answer)
        if done:
            self._ended = run
            result = run.result
            lines = chart_lines(result.choices) if result.choices else value_lines(result.value)
            lines.append(f"── {' · '.join(status_parts(result, run.log_problem))}")
            say("\n" * any(self._written.values()) + "\n".join(lines))
        sys.stdout.flush()

    def _print(self, part: str, text: str) -> None:
        """Print what is new of a part, under a line with its name where it is not the first."""
        fresh = text[self._written[part] :]
        if not fresh:
            return
        if part != self._part:
            say("\n" * any(self._written.values()) + f"── {part}")
        self._part, self._written[part] = part, len(text)
        sys.stdout.write(encodable(visible(fresh), getattr(sys.stdout, "encoding", None)))

    def finish(self, results: Results) -> None:
        if self._total > 1 and results:
            say("\n" + plain_table(results))
        elif results and (said := metrics_text(results[0])):
            say(f"── {said}")  # it was not known when the status line was printed

    def draw_progress(self, progress: Progress | None) -> None:
        """Write a line that the next one overwrites; None clears it. Only a terminal gets it."""
        text = str(progress) if progress else ""
        text = encodable(text, getattr(sys.stderr, "encoding", None))
        if sys.stderr.isatty() and (text or self._progress_width):
            sys.stderr.write("\r" + filled(text, self._progress_width) + ("" if text else "\r"))
            sys.stderr.flush()
            self._progress_width = width(text)
