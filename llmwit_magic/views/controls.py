"""The controls of the tuning panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ..contract.wit import InferencingParams
from .lifetime import weakly

_OPTION_NAMES = {"repeat_penalty_last_n_token_count": "repeat-penalty-last-n"}
"""Options whose names are not those of their fields."""


def rows(text: str) -> int:
    """About how many lines a text needs in its box. The page's style sheet fits the box exactly."""
    return min(max(sum(1 + len(line) // 90 for line in text.split("\n")), 1), 12)


LABEL = {"description_width": "11em"}

TOOLTIP = "tooltip" if widgets.DOMWidget.class_traits().get("tooltip") else "description_tooltip"
"""The name of a control's tooltip, which ipywidgets 8 changed."""


def wide() -> Any:
    return widgets.Layout(width="calc(100% - 4px)")


def half() -> Any:
    return widgets.Layout(flex="1 1 20em", min_width="0")


def button(name: str, tooltip: str, act: Callable[[Any], None]) -> widgets.Button:
    made = widgets.Button(
        description=name, tooltip=tooltip, layout=widgets.Layout(width="auto", flex="0 0 auto")
    )
    made.on_click(weakly(act))
    return made


def slider(name: str, limits: tuple[float, float, float], params: InferencingParams) -> Any:
    least, most, step = limits
    field = InferencingParams.model_fields[name]
    value = getattr(params, name)
    if value is None:
        value = field.default
    whole = isinstance(step, int)
    kind = widgets.IntSlider if whole else widgets.FloatSlider
    least, most = min(least, value), max(most, value)
    made = kind(
        value=value, min=least, max=most, step=step,
        description=_OPTION_NAMES.get(name, name.replace("_", "-")),
        continuous_update=True, readout_format="d" if whole else ".2f", style=LABEL,
        layout=wide(), **{TOOLTIP: field.description},
    )  # fmt: skip
    made.add_class("llmwit-slider")
    if field.default is not None:
        # The page's module marks the default on the slider. The place is in thousandths.
        at = round(1000 * (field.default - least) / (most - least))
        made.add_class(f"llmwit-at-{at}")
    return made
