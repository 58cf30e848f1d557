"""The requests of a batch: a template and a DataFrame become one request for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..contract.messages import Message
from ..contract.request import Request
from ..errors import InvalidInput
from ..requests.interpolation import Columns, fill, interpolate, names_in, python_name
from ..requests.line import interpolated

if TYPE_CHECKING:
    import pandas


def check_template(frame: pandas.DataFrame, template: str, request: Request) -> None:
    """Raise `InvalidInput` unless the template names columns of the DataFrame.

    The names in the request's other messages, stop sequences and tags must be columns too. `row`
    may stand there even if no column has that name: it is the row itself.
    """
    columns = list(frame.columns)
    others = [request.system or "", *request.params.stop]
    others += (message.content for message in request.history)
    others += (text for pair in request.tags.items() for text in pair)
    try:
        names = [name for text in (template, *others) for name in names_in(text)]
    except InvalidInput as error:
        raise InvalidInput(f"{error}; a column of any name is {{{{row['its name']}}}}") from None
    if not names:
        raise InvalidInput("the template names no column: write {{column}} where its value goes")
    for name in names:
        if columns.count(name) != 1 and not (name == "row" and not columns.count(name)):
            what = "twice a" if columns.count(name) else "no"
            alike = [
                str(other) for other in columns if python_name(str(other)) == python_name(name)
            ]
            hint = f" ({alike[0]!a} is written with other signs)" if alike else ""
            raise InvalidInput(
                f"{{{{{name}}}}}: that is {what} column of the DataFrame, which has "
                f"{', '.join(map(str, columns)) or 'none'}{hint if what == 'no' else ''}"
            )


def row_requests(
    frame: pandas.DataFrame, template: str, request: Request
) -> Iterator[Request | InvalidInput]:
    """The request of each row with its values put in, or the error that these lead to."""
    for values in frame.itertuples(index=False, name=None):
        row = _RowValues(zip(frame.columns, values, strict=True))
        row.setdefault("row", row)
        try:
            yield _request(template, request, row)
        except InvalidInput as error:
            yield error


def _request(template: str, request: Request, row: Mapping[str, Any]) -> Request:
    prompt, data_spans = fill(template, row)
    others = {"system": request.system, "stop": request.params.stop, "tags": request.tags}
    changes = {"prompt": prompt, "data_spans": data_spans, **interpolated(others, row)}
    if request.history:
        changes["history"] = tuple(
            Message(role=message.role, content=interpolate(message.content, row))
            for message in request.history
        )
    if "stop" in changes:
        changes["params"] = request.with_params(stop=changes.pop("stop")).params
    Request(model="-", **changes)  # raises `InvalidInput`; `model_copy` checks nothing
    return request.model_copy(update=changes)


class _RowValues(Columns):
    """The values of a row by its columns. A missing value is an error, and not the text `nan`."""

    def __missing__(self, name: Any) -> Any:
        raise InvalidInput(f"there is no column {name!r} in the DataFrame")

    def __getitem__(self, name: Any) -> Any:
        import pandas

        value = super().__getitem__(name)
        if pandas.api.types.is_scalar(value) and pandas.isna(value):
            raise InvalidInput(f"column '{name}' has no value in this row")
        return value
