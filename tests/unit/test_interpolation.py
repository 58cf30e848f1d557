"""`{{name}}` in a text: what is replaced, what stays, and what is refused."""

import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwit_magic.errors import InvalidInput
from llmwit_magic.requests.interpolation import (
    Columns,
    fill,
    interpolate,
    literal,
    names_in,
    near_names,
)

VARIABLES: dict[str, Any] = {
    "name": "Ada",
    "größe": 3,
    "row": SimpleNamespace(title="T", inner=SimpleNamespace(words=["a", "b"]), _private="secret"),
    "data": {"key": [10, 20], ("a", 1): "tuple", 2.5: "float", None: "none", "a b": "space"},
    "items": ["first", "second", "last"],
    "braces": "{{name}}",
    "nothing": None,
    "_hidden": "hidden",
}


class Lazy:
    """An object whose attributes fail in every way."""

    @property
    def broken(self) -> str:
        raise RuntimeError("first line\nsecond line")

    def __str__(self) -> str:
        raise ValueError("no\ntext")


def refused(text: str, namespace: dict[str, Any] = VARIABLES) -> str:
    with pytest.raises(InvalidInput) as caught:
        interpolate(text, namespace)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hello {{name}}!", "Hello Ada!"),
        ("{{ name }}{{name}}", "AdaAda"),
        ("{{größe}}", "3"),
        ("{{nothing}}", "None"),
        ("{{_hidden}}", "hidden"),
        ("{{row.title}}", "T"),
        ("{{row.inner.words[1]}}", "b"),
        ("{{items[-1]}}", "last"),
        ("{{data['key'][0]}}", "10"),
        ('{{data["a b"]}}', "space"),
        ("{{data['a', 1]}}", "tuple"),
        ("{{data[2.5]}}{{data[None]}}", "floatnone"),
        ("{{name[0]}}", "A"),
        ("{{'text'}}", "text"),
        ('{{"{{"}}name{{"}}"}}', "{{name}}"),
        ("{{ '{{name}}' }}{{''}}", "{{name}}"),
        (r"{{'\x27\n\\'}}", "'\n\\"),
    ],
)
def test_variables_attributes_and_subscripts_are_replaced(text: str, wanted: str) -> None:
    """The text of the value stands in their place."""
    assert interpolate(text, VARIABLES) == wanted


def test_a_value_is_not_looked_at_again() -> None:
    """Double braces in a value are text."""
    assert interpolate("{{braces}}", VARIABLES) == "{{name}}"


@pytest.mark.parametrize(
    "text",
    [
        "", "{name}", "{ {name} }", '{"a": {"b": 1}, "c": {}}', "{}", "{{}}", "{{", "}}", "{{name}",
        "{name}}", "f(x) { return {}; }", "{{name\n}}", '[{"a":{"b":{"c":1}}}]', "\\{name\\}",
    ],
)  # fmt: skip
def test_single_braces_stay(text: str) -> None:
    """JSON, code and empty or unclosed double braces come back as they are."""
    assert interpolate(text, VARIABLES) == text


def test_a_brace_around_a_place_stays() -> None:
    """LaTeX and JSON have a value inside single braces."""
    assert interpolate("{{{name}}}", VARIABLES) == "{Ada}"


@pytest.mark.parametrize(
    "expression",
    [
        "row._private", "row.__class__", "row.inner.__dict__", "row.＿private", "name.upper()",
        "print(1)", "1 + 1", "größe + 1", "-größe", "not name", "[x for x in items]",
        "(x for x in items)", "items[0:1]", "items[größe]", "items[0 + größe]", "items[int('0')]",
        "lambda: 1", "name if name else 1", "name, name", "b'text'", "'text'.title", "'text'[0]", "5", "None", "name == 'Ada'",
        "(name := 'Eve')", "await name", "f'x'", "*items", "name; name", "import os", "1 2", " ",
        "name.", "name!r", "name:>10", "data[[]]", "x" + "[" * 300, "(" * 300, "\0", "items[",
    ],
)  # fmt: skip
def test_whatever_could_run_code_is_refused(expression: str) -> None:
    """The error is one line: it shows the place, and says what may stand there."""
    message = refused("Hello {{" + expression + "}}!")
    assert "only a variable" in message or "TypeError" in message


def test_an_unknown_name_lists_near_ones() -> None:
    """The error lists similar names, but none that begins with an underscore."""
    message = refused("{{nmae}} {{name}}")
    assert "there is no variable 'nmae': did you mean name?" in message
    assert "did you mean" not in refused("{{_hiddn}}")


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("row.titel", "AttributeError"),
        ("data['kye']", "KeyError"),
        ("items[3]", "IndexError"),
        ("items['a']", "TypeError"),
        ("nothing[0]", "TypeError"),
        ("lazy.broken", "RuntimeError"),
        ("lazy", "ValueError"),
    ],
)
def test_a_value_that_cannot_be_had_is_one_line(expression: str, why: str) -> None:
    """The error is one line with the exception's name and text."""
    message = refused("{{" + expression + "}}", VARIABLES | {"lazy": Lazy()})
    assert message.startswith("{{" + expression + "}}: " + why)


text = st.text(st.characters(exclude_categories=["Cs"])) | st.text(
    "{}name row.title[0]'\"_()\n\\+-:\0é", max_size=40
)
places = st.lists(text, max_size=4).map(lambda parts: "{{".join(parts) + "}}")


@given(text.filter(lambda value: "{{" not in value))
@settings(max_examples=200)
def test_text_without_double_braces_is_unchanged(value: str) -> None:
    """It may contain anything else."""
    assert interpolate(value, VARIABLES) == value


@given(text | places)
@settings(max_examples=400)
def test_any_text_is_replaced_or_refused_in_one_line(value: str) -> None:
    """Only `InvalidInput` is raised, and its message is one line."""
    try:
        message = interpolate(value, VARIABLES) and ""
    except InvalidInput as error:
        message = str(error)
    assert "\n" not in message


# Where values stand, and names as they are written ------------------------------------------


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("no places", ()),
        ("Hello {{name}}!", ((6, 9),)),
        ("{{name}}{{name}} {{name}}", ((0, 6), (7, 10))),
        ("{{''}}{{'ab'}}", ((0, 2),)),
    ],
)
def test_values_are_spans_of_data(text: str, data: Any) -> None:
    """A span has positions in characters of the new text. Values that touch are one span."""
    assert fill(text, VARIABLES).data == data


@given(st.text(), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_has_a_place_that_stands_for_it(before: str, value: str) -> None:
    """The place that `literal` writes is one line, and is read back as the text."""
    before = before.replace("{{", "{").replace("\r", "")
    place = literal(value)
    assert "\n" not in place
    filled = fill(before.removesuffix("{") + place, {})
    assert filled.text == before.removesuffix("{") + value
    assert fill("{" + place + "}", {}).text == "{" + value + "}"


def test_columns_are_compared_as_they_are_written() -> None:
    """Python's parser turns nº into no, but a row may have a column of each name."""
    names = ["nº", "no", "µ", "μ", "\ufb01n", "fin", "e\u0301", "\xe9", "ＡＢ", "AB"]
    row = Columns({name: ascii(name) for name in names})
    for name in names:
        assert interpolate("{{" + name + "}}", row) == ascii(name)
        assert names_in("{{" + name + "[0]}}") == [name]
        assert interpolate("{{row." + name + "}}", {"row": pandas.Series(row)}) == ascii(name)
        with pytest.raises(InvalidInput, match=r"no variable|AttributeError"):
            interpolate("{{" + name + "}}", Columns({other: 1 for other in names if other != name}))
    with pytest.raises(InvalidInput, match="AttributeError"):
        interpolate("{{row.nº}}", {"row": pandas.Series({"no": "nobody"})})


def test_variables_and_attributes_of_python_are_found_as_python_finds_them() -> None:
    """`µ = 1` binds the Greek letter, and so does `thing.µ = 1`; both signs name it."""
    namespace: dict[str, Any] = {}
    exec("µ = 1", namespace)
    assert interpolate("{{µ}}{{μ}}", namespace) == "11"
    thing = SimpleNamespace()
    exec("thing.ﬁn = 2", {"thing": thing})
    assert interpolate("{{thing.ﬁn}}{{thing.fin}}", {"thing": thing}) == "22"


def test_reading_takes_a_time_that_grows_with_the_length() -> None:
    """It does so also where quotes are opened and never closed."""
    for unit in ("{{'", "{{'\"", "{{", "{{'a'", "{{it's", "'{{\"", "{{''"):
        begin = time.monotonic()
        text = unit * 200_000
        with suppress(InvalidInput):
            interpolate(text, {})
        assert time.monotonic() - begin < 5, unit


def test_what_ipython_puts_among_the_variables_is_not_suggested() -> None:
    assert near_names("opens", {"open": open, "In": [], "opener": 1}) == ": did you mean opener?"
    assert near_names("Nope", {"open": open}) == ""
