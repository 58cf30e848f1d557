"""The requests of a batch: a template and a DataFrame become one request for each row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter

from ..contract.messages import Message
from ..contract.request import Request
from ..contract.spans import joined
from ..errors import InvalidInput, did_you_mean
from ..requests.interpolation import Columns, Filled, fill, interpolate, names_in, python_name
from ..requests.line import interpolated
from .row_settings import NO_ROW_SETTINGS, RowSettings, known_columns

if TYPE_CHECKING:
    import pandas


def check_template(
    frame: pandas.DataFrame, template: Any, request: Request | None = None, names_none: bool = False
) -> None:
    """Raise `InvalidInput` unless the template is a text that names columns of the DataFrame.

    `names_none` allows one that names none, where the rows differ in something else.

    The names in the request's other messages, stop sequences and tags must be columns too. `row`
    may stand there even if no column has that name: it is the row itself.
    """
    if not isinstance(template, str):
        raise InvalidInput(f"the template is {type(template).__name__}, not text")
    columns = list(frame.columns)
    others: list[str] = []
    if request is not None:
        others = [request.system or "", *request.params.stop]
        others += (message.content for message in request.history)
        others += (text for pair in request.tags.items() for text in pair)
    try:
        names = [name for text in (template, *others) for name in names_in(text)]
    except InvalidInput as error:
        raise InvalidInput(f"{error}; a column of any name is {{{{row['its name']}}}}") from None
    if not names and not names_none:
        raise InvalidInput("the template names no column: write {{column}} where its value goes")
    for name in names:
        if columns.count(name) != 1 and not (name == "row" and not columns.count(name)):
            shown = f"{{{{{name}}}}}"
            if count := columns.count(name):
                raise InvalidInput(f"{shown}: {count} columns have that name: rename all but one")
            alike = [
                str(other) for other in columns if python_name(str(other)) == python_name(name)
            ]
            raise InvalidInput(
                f"{shown}: that is no column of the DataFrame"
                + (f" ({alike[0]!a} is written with other signs)" if alike else "")
                + known_columns(columns, name)
            )


@dataclass(frozen=True, slots=True)
class Examples:
    """Worked examples: what is asked in each, with the spans of its values, and the answer."""

    pairs: tuple[tuple[Filled, str], ...] = ()

    def front(self) -> Filled:
        """The examples as text in front of a prompt, each with its answer and a blank line."""
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        length = 0
        for (text, data), said in self.pairs:
            spans += ((length + start, length + end) for start, end in data)
            spans.append((length + len(text), length + len(text) + len(said)))
            parts += (text, said, "\n\n")
            length += len(text) + len(said) + 2
        return Filled("".join(parts), joined(spans))

    def messages(self) -> tuple[Message, ...]:
        """The examples as messages of the user and the assistant, which are data as all messages."""
        return tuple(
            Message(role=role, content=text)
            for asked, said in self.pairs
            for role, text in (("user", asked.text), ("assistant", said))
        )


NO_EXAMPLES = Examples()
_PLAIN = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="constants"))
"""Makes values that JSON has; without the setting, infinity would become null."""


def worked_examples(frame: Any, template: str, answer: Any) -> Examples:
    """The template with the values of each row, and the row's answer.

    `answer` is the column of the answers. The values and the answers are data. Raises
    `InvalidInput` for what is no DataFrame, for a template that does not fit it, and for a row that
    lacks a value.
    """
    import pandas

    if not isinstance(frame, pandas.DataFrame):
        raise InvalidInput(f"few_shot: {type(frame).__name__} is not a DataFrame")
    try:
        check_template(frame, template)
    except InvalidInput as error:
        raise InvalidInput(f"few_shot: {error}") from None
    if list(frame.columns).count(answer) != 1:
        raise InvalidInput(
            f"few_shot: the DataFrame has no column {answer!r} with the answers: "
            + did_you_mean(answer, frame.columns, "name it by answer=")
        )
    pairs: list[tuple[Filled, str]] = []
    for number, row in enumerate(_rows(frame), 1):
        try:
            pairs.append((fill(template, row), answer_text(row[answer])))
        except InvalidInput as error:
            raise InvalidInput(f"few_shot: row {number}: {error}") from None
    return Examples(tuple(pairs))


def answer_text(value: Any) -> str:
    """An answer as the model would write it: a text as it is, and all else as JSON.

    A member of an Enum is its value. Instances of pydantic's models and of dataclasses are JSON.
    Raises `InvalidInput` for a value that no JSON has.
    """
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, str):
        return value
    try:
        plain = _PLAIN.dump_python(getattr(value, "tolist", lambda: value)(), mode="json")
        return json.dumps(plain, ensure_ascii=False, allow_nan=False)
    except Exception as error:  # pydantic raises errors of several classes, and so may the value
        raise InvalidInput(
            f"the answer is {type(value).__name__}, which cannot be written as JSON: {error}"
        ) from None


def row_requests(
    frame: pandas.DataFrame,
    template: str,
    request: Request,
    examples: Examples = NO_EXAMPLES,
    settings: RowSettings = NO_ROW_SETTINGS,
) -> Iterator[Request | InvalidInput]:
    """The request of each row with its values put in, or the error that these lead to.

    `examples` stand before each prompt: in a chat as messages, and else as text.
    """
    as_text, as_messages = (examples.front(), ()), (Filled("", ()), examples.messages())
    for row, own in zip(_rows(frame), settings.of_rows(len(frame)), strict=True):
        try:
            wanted = settings.put(request, own) if own else request
            front, messages = as_messages if wanted.is_chat else as_text
            yield _request(template, wanted, row, front, messages)
        except InvalidInput as error:
            yield error


def _rows(frame: pandas.DataFrame) -> Iterator[_RowValues]:
    for values in frame.itertuples(index=False, name=None):
        row = _RowValues(zip(frame.columns, values, strict=True))
        row.setdefault("row", row)
        yield row


def _request(
    template: str,
    request: Request,
    row: Mapping[str, Any],
    front: Filled,
    messages: tuple[Message, ...],
) -> Request:
    text, data = fill(template, row)
    shift = len(front.text)
    data_spans = joined([*front.data, *((start + shift, end + shift) for start, end in data)])
    others = {"system": request.system, "stop": request.params.stop, "tags": request.tags}
    changes = {
        "prompt": front.text + text, "data_spans": data_spans, **interpolated(others, row),
    }  # fmt: skip
    if request.history or messages:
        history = tuple(
            Message(role=message.role, content=interpolate(message.content, row))
            for message in request.history
        )
        changes["history"] = history + messages
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
