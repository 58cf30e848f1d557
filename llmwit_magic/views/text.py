"""The words that describe a run."""

from __future__ import annotations

import json

from ..base.printable import on_one_line, short, visible
from ..contract.constraint import Constraint
from ..contract.messages import conversation_name
from ..contract.wit import (
    DeviceInfo,
    FinishDetail,
    InferencingResult,
    ModelInfo,
)
from ..running.run import Run
from .score_text import chart_lines, choices_parts, score_parts
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


def count_text(number: int | None) -> str:
    """A number of tokens; "?" where the engine does not tell it."""
    return "?" if number is None else str(number)


def _counts(result: InferencingResult) -> str:
    usage = result.usage
    if result.kind == "embedding":
        return f"{result.text_count} texts · {count_text(usage.prompt_token_count)} tokens"
    cached = f" ({usage.cached_token_count} cached)" if usage.cached_token_count else ""
    thought = f" ({usage.reasoning_token_count} reasoning)" if result.reasoning else ""
    if result.choices:
        return f"{count_text(usage.prompt_token_count)} prompt tokens{cached}"
    if result.score:
        count = result.score.token_count
        return f"{count_text(usage.prompt_token_count)} prompt{cached} + {count} scored tokens"
    return (
        f"{count_text(usage.prompt_token_count)}{cached} + "
        f"{count_text(usage.generated_token_count)}{thought} tokens"
    )


def metric_text(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def metrics_text(result: InferencingResult) -> str:
    """The metrics of a result with their values; empty where it has none."""
    return on_one_line(
        ", ".join(f"{name} {metric_text(number)}" for name, number in result.metric_values.items())
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
