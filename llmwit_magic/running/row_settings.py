"""Settings of a batch that each row has its own value of: a column in the place of a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..contract.request import Request
from ..contract.wit import InferencingParams, params_from
from ..errors import InvalidInput, did_you_mean

if TYPE_CHECKING:
    import pandas

OF_PARAMS = frozenset(InferencingParams.model_fields)
OF_REQUESTS = frozenset({
    "system", "chat", "chat_template", "template_options", "control_tokens", "normalize",
    "end_of_text",
})  # fmt: skip
"""The fields of a request that may differ from row to row. By all of these, and the params, a row
of the log is told from others. How the model is loaded is the same for all rows."""


@dataclass(frozen=True, slots=True)
class ColumnOf:
    """Stands for the values of a column, in the place of one value for all rows."""

    name: Any


def column(name: Any) -> ColumnOf:
    """The column of that name, as the value of a setting of `infer_frame`."""
    return ColumnOf(name)


def is_column(value: Any) -> bool:
    """Whether a setting has a value for each row."""
    if isinstance(value, ColumnOf):
        return True
    import pandas

    return isinstance(value, pandas.Series)


def values_of(frame: pandas.DataFrame, name: str, given: Any) -> list[Any]:
    """The values of a setting, one for each row. Raises `InvalidInput`."""
    if isinstance(given, ColumnOf):
        given = column_of(frame, given.name, name)
    elif not given.index.equals(frame.index):
        raise InvalidInput(f"{name}: the Series has another index than the DataFrame")
    return [value.item() if hasattr(value, "item") else value for value in given]


def column_of(frame: pandas.DataFrame, name: Any, what: str) -> pandas.Series[Any]:
    """The column of that name. Raises `InvalidInput`, for the setting `what`, unless one has it."""
    if count := list(frame.columns).count(name):
        if count > 1:
            raise InvalidInput(f"{what}: {count} columns are named {name!r}: rename all but one")
        found: pandas.Series[Any] = frame[name]
        return found
    raise InvalidInput(
        f"{what}: {name!r} is no column of the DataFrame{known_columns(frame.columns, name)}"
    )


def known_columns(columns: Iterable[Any], name: Any) -> str:
    """The end of the message that a DataFrame has no such column: which one is meant, or all."""
    names = list(map(str, columns))
    hint = did_you_mean(name, names, "")
    return f": {hint}" if hint else f", which has {', '.join(names) or 'none'}"


def split_settings(
    frame: pandas.DataFrame, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The settings that are the same for all rows, and those with a value for each.

    Raises `InvalidInput` for a setting that must be the same.
    """
    same = {name: value for name, value in given.items() if not is_column(value)}
    for name in given.keys() - same.keys():
        if name not in OF_PARAMS | OF_REQUESTS:
            raise InvalidInput(f"{name}: it is the same for all rows of a batch: give one value")
    return same, {name: values_of(frame, name, given[name]) for name in given if name not in same}


def in_groups(
    frame: pandas.DataFrame,
    values: Sequence[Any],
    params: Any,
    options: Mapping[str, Any],
    run: Callable[[pandas.DataFrame, Any, Any, Mapping[str, Any]], pandas.DataFrame],
) -> pandas.DataFrame:
    """`run` for the rows of each value, with the parts of `params` and `options` that are theirs.

    The rows come back in their order. Raises `InvalidInput` for a missing value.
    """
    import pandas

    if frame.empty:
        raise InvalidInput("model: there is no row that names one: give the model itself")
    for place, value in enumerate(values):
        if value is None or value != value:
            row = frame.index[place]
            raise InvalidInput(f"model: its column has no value in the row {row!r}: give it one")
    places: list[int] = []
    parts = []
    for value in dict.fromkeys(values):
        own = [place for place, other in enumerate(values) if other == value]
        of_params = _rows_of(params, own) if isinstance(params, Mapping) else params
        of_part = _rows_of(options, own)
        parts.append(run(frame.iloc[own], value, of_params, of_part))
        places += own
    joined = pandas.concat(parts)
    return joined.iloc[sorted(range(len(places)), key=places.__getitem__)]


def _rows_of(settings: Mapping[str, Any], places: list[int]) -> dict[str, Any]:
    import pandas

    return {
        name: given.iloc[places] if isinstance(given, pandas.Series) else given
        for name, given in settings.items()
    }


class RowSettings:
    """The settings that each row has its own value of."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.columns = columns

    def __bool__(self) -> bool:
        return bool(self.columns)

    @property
    def name(self) -> str:
        """What a batch is named by, too: a call with other ones is another batch."""
        return ",".join(sorted(self.columns))

    def of_rows(self, count: int) -> Iterator[dict[str, Any]]:
        """The settings of each row."""
        if not self.columns:
            yield from ({} for _ in range(count))
            return
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, values, strict=True))

    @staticmethod
    def put(request: Request, row: Mapping[str, Any]) -> Request:
        """The request with the settings of a row.

        Only what was given counts beside them, since a default may depend on one of them. Raises
        `InvalidInput`, also for a missing value.
        """
        import pandas

        for name, value in row.items():
            if value is not None and pandas.api.types.is_scalar(value) and pandas.isna(value):
                raise InvalidInput(f"{name}: its column has no value in this row")
        params = {name: value for name, value in row.items() if name in OF_PARAMS}
        others = {name: value for name, value in row.items() if name not in OF_PARAMS}
        changes: dict[str, Any] = {}
        if params:
            changes["params"] = params_from(request.params.model_dump(exclude_unset=True) | params)
        if others:
            checked = Request(model="-", prompt="", **others)
            changes |= {name: getattr(checked, name) for name in others}
        return request.model_copy(update=changes)


NO_ROW_SETTINGS = RowSettings({})
