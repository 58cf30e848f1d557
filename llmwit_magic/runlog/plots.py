"""Figures of the run log: metrics, lengths, finish reasons, ratings and speed, by a setting."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas

from ..base.printable import on_one_line
from ..contract.wit import InferencingParams
from ..errors import InvalidInput, LogError, did_you_mean
from .columns import COLUMNS, METRIC

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError:
    raise LogError('plots need matplotlib: pip install "llmwit-magic[plots]"') from None

MAX_GROUPS = 24
"""How many settings one axis shows at most. Where there are more, the rarest are shown as one."""
_DPI = 100
_SETTINGS = (
    "prompt_name",
    "model",
    *(name for name in InferencingParams.model_fields if name != "seed"),
)
# Markers and hatches distinguish the settings without colour too.
_MARKERS = "osD^vPX*<>"
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++", "---", "***")
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
"""Okabe and Ito's colours, which colour-blind people can tell apart
(https://jfly.uni-koeln.de/color/)."""
_LABELS = {
    "tokens_per_second": "speed", "first_token_seconds": "time",
    "generated_token_count": "generated",
}  # fmt: skip
_UNITS = {column.name: column.unit for column in COLUMNS}


class RunPlot(Figure):
    """A matplotlib figure that a notebook shows as an image. `savefig` writes it to a file."""

    file = "runs.png"
    """A name for that file."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        with warnings.catch_warnings():
            # Matplotlib draws a box for such a character, and tries no other font.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            self.savefig(data, format="png", dpi=_DPI)
        return data.getvalue()

    def __repr__(self) -> str:
        titles = ", ".join(axes.get_title() for axes in self.axes if axes.get_title())
        return f"<{type(self).__name__} of {titles}: .savefig('{self.file}') writes it to a file>"


def plot(frame: pandas.DataFrame, kind: str | None = None, by: str | None = None) -> RunPlot:
    """A figure of one kind, or of all but the speed that the runs have data for.

    `frame` is the log's DataFrame. `by` is the column whose values are compared, or two with a comma
    between them: metrics are drawn by both, and all else by the first one. Raises
    `InvalidInput` for an unknown kind or column, and where there is nothing to draw.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidInput(f"plot: {kind!r} is not valid: it must be one of {', '.join(KINDS)}")
    compared = (
        [by] if by is None or by in frame.columns else re.split(r"\s*,\s*", by.strip(), maxsplit=1)
    )
    for name in compared:
        if name is not None and name not in frame.columns:
            hint = did_you_mean(name, frame.columns, "docs/run-log-columns.md lists them")
            raise InvalidInput(f"by: the log has no column '{name}': {hint}")
    if frame.empty:
        raise InvalidInput("there is no run to plot: run a cell first, or choose others")
    by, also = (compared[0], compared[-1] if len(compared) > 1 else None)
    settings = by or _varying(frame)
    kinds = (
        [kind]
        if kind
        else [name for name in KINDS if name != "speed" and not _missing(name, frame)]
    )
    if kind and (missing := _missing(kind, frame)):
        raise InvalidInput(missing)
    if not kinds:
        raise InvalidInput("none of these runs has ended: there is nothing to plot yet")
    metrics = _metrics(frame)
    heights = [{"speed": 2, "metric": len(metrics)}.get(name, 1) for name in kinds]
    figure = RunPlot(figsize=(8, 2.7 * sum(heights)), layout="constrained")
    parts = figure.subfigures(len(kinds), 1, height_ratios=heights, squeeze=False)[:, 0]
    for name, part in zip(kinds, parts, strict=True):
        # Speed depends on the model most; all else on the settings.
        if name == "metric":
            _metric(part, frame, settings, also or (None if by else _varying(frame, settings)))
        else:
            KINDS[name](part, frame, (by or "model") if name == "speed" else settings)
    return figure


def _varying(frame: pandas.DataFrame, but: str | None = None) -> str:
    """The setting with the most values, apart from `but`; the model where none varies."""
    counts = {name: frame[name].map(_word).nunique() for name in _SETTINGS if name != but}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] > 1 else "model"


def _metrics(frame: pandas.DataFrame) -> list[str]:
    """The columns of metrics of which a run has a value."""
    return [
        name for name in frame.columns
        if str(name).startswith(METRIC) and frame[name].notna().any()
    ]  # fmt: skip


def _missing(kind: str, frame: pandas.DataFrame) -> str:
    """Why there is nothing to draw of that kind; empty where there is something."""
    if kind == "speed" and not frame["first_token_seconds"].notna().any():
        return "none of these runs has generated a token: there is no speed to plot"
    if kind == "metric" and not _metrics(frame):
        return "none of these runs has a metric: %%infer --metric NAME, or runs[12].metrics(…)"
    if kind == "length" and not frame["generated_token_count"].notna().any():
        return "none of these runs has reached its model: there is no length to plot"
    if kind == "rating" and not frame["rating"].notna().any():
        return "none of these runs is rated: runs[12].rate(1), or the thumbs under an answer"
    if kind == "finish" and (frame["status"] == "running").all():
        return "none of these runs has ended: there is no finish reason to plot yet"
    return ""


def _word(value: Any) -> str:
    """A setting's value as an axis shows it, at most 24 characters long."""
    if value is None or value is pandas.NA:
        return "none"
    text = on_one_line(f"{value:g}" if isinstance(value, float) else str(value))
    return text if len(text) <= 24 else f"{text[:11]}…{text[-11:]}"


def without_formula(text: str) -> str:
    """The text, changed so that matplotlib reads no formula in it and a legend does not omit it."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _axis_label(name: str) -> str:
    label, unit = _LABELS.get(name, name.replace("_", " ")), _UNITS.get(name)
    return f"{label} [{unit}]" if unit else label


def _groups(
    frame: pandas.DataFrame, by: str, most: int = MAX_GROUPS
) -> list[tuple[str, pandas.DataFrame]]:
    """The runs of each value of a setting, in the order of the values.

    Of more than `most` values, the rarest are one group, `others`.
    """
    words = frame[by].map(_word)
    if words.nunique() > most:
        kept = set(words.value_counts().index[: most - 1])
        words = words.where(words.isin(kept), "others")
    groups = {str(word): part for word, part in frame.groupby(words)}

    def order(word: str) -> tuple[bool, float, str]:
        try:
            return (False, float(word), word)
        except ValueError:
            return (True, 0.0, word)

    return [(word, groups[word]) for word in sorted(groups, key=order)]


# The kinds ----------------------------------------------------------------------


def _metric(part: Any, frame: pandas.DataFrame, by: str, also: str | None = None) -> None:
    """The mean of each metric and its standard deviation, over the runs themselves.

    A group of the setting `by` stands at one place; each value of `also` has a marker of its own.
    """
    names = _metrics(frame)
    every = part.subplots(len(names), 1, squeeze=False)[:, 0]
    for axes, name in zip(every, names, strict=True):
        judged = frame[frame[name].notna()]
        groups = _groups(judged, by)
        places = {word: place for place, (word, _) in enumerate(groups)}
        series = _groups(judged, also, len(_MARKERS)) if also else [("", judged)]
        step = 0.6 / len(series)
        for index, (label, runs) in enumerate(series):
            shift = (index - (len(series) - 1) / 2) * step
            colour = _COLOURS[index % len(_COLOURS)]
            at, means, spreads = [], [], []
            for word, group in groups:
                values = group.loc[group.index.isin(runs.index), name].to_numpy(float)
                if not len(values):
                    continue
                place = places[word] + shift
                axes.plot([place] * len(values), values, "o", markersize=3, alpha=0.3, color=colour)
                at.append(place)
                means.append(values.mean())
                spreads.append(values.std(ddof=1) if len(values) > 1 else 0)
            axes.errorbar(
                at, means, spreads, linestyle="", marker=_MARKERS[index], markersize=7, capsize=3,
                color=colour, markeredgecolor="black", label=without_formula(label),
            )  # fmt: skip
        _name_groups(axes, groups, by)
        axes.set_title(without_formula(_word(name.removeprefix(METRIC))))
        axes.set_ylabel("mean ± deviation")
        axes.grid(axis="y", alpha=0.3)
        if also and len(series) > 1:
            axes.legend(
                title=_axis_label(also), fontsize="small", loc="center left",
                bbox_to_anchor=(1, 0.5),
            )  # fmt: skip


def _speed(part: Any, frame: pandas.DataFrame, by: str) -> None:
    above, below = part.subplots(2, 1, sharex=True)
    groups = _groups(frame, by, len(_MARKERS))
    named: dict[str, Any] = {}
    for axes, name, title in (
        (above, "tokens_per_second", "Speed"),
        (below, "first_token_seconds", "Time to first token"),
    ):
        for index, (word, runs) in enumerate(groups):
            values = runs[name].to_numpy(float, na_value=float("nan"))
            if not any(map(math.isfinite, values)):
                continue  # the legend would have a name without points
            [named[word]] = axes.plot(
                runs.index.to_numpy(), values,
                linestyle="", markersize=5, label=without_formula(word),
                marker=_MARKERS[index], color=_COLOURS[index % len(_COLOURS)],
            )  # fmt: skip
        axes.set_title(title)
        axes.set_ylabel(_axis_label(name))
        _from_nothing(axes)
        axes.grid(alpha=0.3)
    below.set_xlabel("run")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(named) > 1:
        handles = [named[word] for word, _ in groups if word in named]
        above.legend(handles=handles, title=_axis_label(by), fontsize="small")


def _finish(part: Any, frame: pandas.DataFrame, by: str) -> None:
    frame = frame[frame["status"] != "running"]
    how = frame["finish_detail"].fillna(frame["status"])
    how = how.map(lambda word: without_formula(_word(word.replace("_", " "))))
    _stacked(part.subplots(), frame, by, how, sorted(how.unique()))
    part.axes[0].set_title("Why runs ended")


def _rating(part: Any, frame: pandas.DataFrame, by: str) -> None:
    frame = frame[frame["rating"].notna()]
    how = frame["rating"].map(lambda rating: "good" if rating > 0 else "bad")
    _stacked(part.subplots(), frame, by, how, ["good", "bad"])
    part.axes[0].set_title("Ratings")


def _stacked(
    axes: Axes, frame: pandas.DataFrame, by: str, kinds: pandas.Series[Any], order: Sequence[str]
) -> None:
    """Bars whose height is a number of runs: one bar for each setting, one part for each kind."""
    groups = _groups(frame, by)
    places = range(len(groups))
    bottom = [0] * len(groups)
    for index, kind in enumerate(order):
        counts = [int((kinds[runs.index] == kind).sum()) for _, runs in groups]
        if not any(counts):
            continue
        axes.bar(
            places, counts, 0.7, bottom=bottom, label=kind, edgecolor="black", linewidth=0.6,
            hatch=_HATCHES[index % len(_HATCHES)], color=_COLOURS[index % len(_COLOURS)],
        )  # fmt: skip
        bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
    _name_groups(axes, groups, by)
    axes.set_ylabel("runs")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _from_nothing(axes)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def _length(part: Any, frame: pandas.DataFrame, by: str) -> None:
    axes = part.subplots()
    frame = frame[frame["generated_token_count"].notna()]
    groups = _groups(frame, by)
    lengths = [runs["generated_token_count"].to_numpy(float) for _, runs in groups]
    axes.boxplot(
        lengths, positions=list(range(len(groups))), widths=0.5, showfliers=False,
        medianprops={"color": "black", "linewidth": 2},
    )  # fmt: skip
    for place, values in enumerate(lengths):
        # The points are spread in a fixed order, so that the same runs make the same picture.
        offsets = [0.3 * ((7 * index + 5) % 11 / 10 - 0.5) for index in range(len(values))]
        axes.plot(
            [place + offset for offset in offsets], values, "o", markersize=4, alpha=0.6,
            color=_COLOURS[0],
        )  # fmt: skip
    _name_groups(axes, groups, by)
    axes.set_ylabel(_axis_label("generated_token_count"))
    _from_nothing(axes)
    axes.set_title("Length of the answers")


def _from_nothing(axes: Axes) -> None:
    """Let the axis begin at 0 and end a little above the highest value."""
    highest = axes.dataLim.ymax
    axes.set_ylim(0, 1.06 * highest if 0 < highest < math.inf else 1)  # without data it is infinite


def _name_groups(axes: Axes, groups: Sequence[tuple[str, pandas.DataFrame]], by: str) -> None:
    names = [without_formula(word) for word, _ in groups]
    slanted = sum(map(len, names)) > 60
    axes.set_xticks(
        range(len(names)), names, rotation=30 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_xlim(-0.75, len(names) - 0.25)
    axes.set_xlabel(_axis_label(by))


KINDS: Mapping[str, Callable[[Any, pandas.DataFrame, str], None]] = {
    "metric": _metric,
    "length": _length,
    "finish": _finish,
    "rating": _rating,
    "speed": _speed,
}
