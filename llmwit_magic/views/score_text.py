"""The words that describe scores, and the bar chart of choices in plain text."""

from __future__ import annotations

import json

from ..base.printable import on_one_line, short
from ..base.widths import filled, width
from ..contract.request import Request
from ..contract.scores import ChoiceProbabilities, ChoiceScore, Score
from ..contract.wit import InferencingResult

LARGEST_SHOWN = 500
"""The most columns of a text that is to be scored, on one line."""
LABEL_COLUMNS = 40
"""The most columns of a choice in a chart."""
CHART_ROWS = 20
"""The most choices in a bar chart. The result keeps all of them."""
BAR_COLUMNS = 40
"""The columns of a bar that stands for the probability 1."""


def score_parts(score: Score) -> list[str]:
    """The score in words: the log-probability of the text, and its perplexity."""
    perplexity = score.perplexity
    parts = [f"log-probability {_signed(score.logprob)}"]
    if perplexity is not None:
        parts.append(f"perplexity {perplexity:,.2f}")
    return parts if score.exact else [*parts, "not exact"]


def choices_parts(choices: ChoiceProbabilities) -> list[tuple[bool, str]]:
    """How the probabilities came about, in words, each with whether it is read first."""
    how = {"sum": "", "token": "per token", "empty-prompt": "less those after an empty prompt"}
    parts = [(True, f"log-probabilities {word}") for word in [how[choices.normalize]] if word]
    parts += [(False, "with the end of text")] * choices.end_of_text
    return parts if choices.exact else [*parts, (True, "not exact")]


def outcome(result: InferencingResult) -> str:
    """What a score came to, in a few words; empty for an answer that was generated."""
    if result.choices:
        best = result.choices.best
        return f"{choice_label(best)} {share(result.choices.probabilities[best])}"
    return score_parts(result.score)[0] if result.score else ""


def scored_count(result: InferencingResult) -> int | None:
    """The tokens that were scored, or else those that were generated."""
    return result.score.token_count if result.score else result.usage.generated_token_count


def _signed(number: float) -> str:
    return f"{number:.2f}".replace("-", "−")


def ranked(choices: ChoiceProbabilities) -> list[ChoiceScore]:
    """The choices, the most probable first. Equal ones have the order of their texts."""
    return sorted(choices.scores, key=lambda each: (-each.probability, each.choice))


def choice_label(choice: str) -> str:
    """A choice on one line. A space at its beginning or end is a sign, since it counts."""
    inner = choice.strip(" ")
    before = len(choice) - len(choice.lstrip(" "))
    label = "␣" * before + inner + "␣" * (len(choice) - before - len(inner))
    return short(on_one_line(label), LABEL_COLUMNS)


def share(probability: float) -> str:
    """A probability in percent; a tiny one keeps two digits that say something."""
    if 0 < probability < 0.0005:
        return f"{100 * probability:.2g}%"
    return f"{100 * probability:.1f}%"


def chart_lines(choices: ChoiceProbabilities) -> list[str]:
    """A bar chart of the probabilities, a line for each choice."""
    shown = ranked(choices)[:CHART_ROWS]
    labels = [choice_label(each.choice) for each in shown]
    widest = max(map(width, labels))
    lines = []
    for label, each in zip(labels, shown, strict=True):
        halves = round(2 * BAR_COLUMNS * each.probability)
        bar = "█" * (halves // 2) + "▌" * (halves % 2)
        lines.append(f"{filled(label, widest)}  {share(each.probability):>8}  {bar}".rstrip())
    more = len(choices.scores) - len(shown)
    return [*lines, f"… and {more:,} more in .probabilities"] if more else lines


def scored_text(request: Request) -> str:
    """What a request scores in the place of an answer; empty where it does not."""
    if request.continuation is not None:
        return (
            f"scores {json.dumps(short(request.continuation, LARGEST_SHOWN), ensure_ascii=False)}"
        )
    if request.probabilities:
        return (
            f"probabilities of choices: normalize {request.normalize}, "
            f"end_of_text {request.end_of_text}"
        )
    return ""
