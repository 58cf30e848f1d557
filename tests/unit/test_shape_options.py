"""The options of a cell that say what the answer must be, and the forms that say it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import DEFAULT_MODEL, Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import InvalidInput
from llmwit_magic.magics.cell import read_cell, read_changes
from llmwit_magic.requests.shapes import with_constraint
from llmwit_magic.requests.snippets import cell_text, forms, python_text
from tests.support.cells import one, read, refused
from tests.support.constrained import Invoice, Mood, Point

VARIABLES = {
    "Mood": Mood, "Invoice": Invoice, "Point": Point, "labels": ["b", "a"], "number": 5,
    "schema": {"type": "null"}, "text": '{"type": "boolean"}', "rules": 'start: "a"\n',
}  # fmt: skip
GBNF = 'root ::= "it\'s" | "\\n" [^\\\\]\n'


def shape(line: str) -> Constraint:
    made = one(line, namespace=VARIABLES).constraint
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("line", "kind", "source"),
    [
        ("--choice good --choice='not good'", "choices", '["good", "not good"]'),
        (r"--choice 'a\nb'", "choices", r'["a\nb"]'),
        ("--choices labels", "choices", '["b", "a"]'),
        ("--choices Mood", "choices", '["good", "bad"]'),
        (r"--regex '\d{4}-[a-z]+'", "regex", r"\d{4}-[a-z]+"),
        ("--json-schema schema", "json_schema", '{"type": "null"}'),
        ("--json-schema text", "json_schema", '{"type": "boolean"}'),
        ("""--json-schema '{"type":"null"}'""", "json_schema", '{"type": "null"}'),
        ("--json-schema Mood", "choices", '["good", "bad"]'),
        ("--grammar rules", "grammar", 'start: "a"\n'),
        (r"""--grammar 'root ::= "a\\n" | b\nb ::= "b"'""", "grammar",
         'root ::= "a\\n" | b\nb ::= "b"'),
        (r"""--grammar 'start: "a" b\nb: "b"'""", "grammar", 'start: "a" b\nb: "b"'),
    ],
)  # fmt: skip
def test_options(line: str, kind: str, source: str) -> None:
    """Names are those of the notebook. A schema or a grammar may stand on the line itself."""
    made = shape(line)
    assert (made.kind, made.source) == (kind, source)


def test_classes_of_the_notebook() -> None:
    """A model or a dataclass gives its schema, and the value will be of that class."""
    for name in ("Invoice", "Point"):
        made: Any = shape(f"--json-schema {name}")
        assert made.type is VARIABLES[name]
        assert json.loads(made.source)["title"] == name


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has a JSON schema or a grammar. A variable of the same name goes before it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text('{\r\n "type":\n"null"}', encoding="utf-8-sig")
    (tmp_path / "g.lark").write_text('start: "é"\n', encoding="utf-8")
    (tmp_path / "schema").write_text('{"type": "string"}', encoding="utf-8")
    assert shape("--json-schema a.json").source == '{"type": "null"}'
    assert shape(f"--grammar {tmp_path}/g.lark").source == 'start: "é"\n'
    assert shape("--json-schema schema").source == '{"type": "null"}'
    assert shape("--json-schema int").source == '{"type": "integer"}'
    (tmp_path / "large.json").write_bytes(b"{" + b" " * 1_000_000)
    (tmp_path / "bytes.gbnf").write_bytes(b"\xff")
    assert "has over 1,000,000 bytes" in refused("--json-schema large.json")
    assert "is not text in UTF-8" in refused("--grammar bytes.gbnf")
    assert "neither a variable of the notebook nor a file" in refused(f"--grammar {tmp_path}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--choice a --regex b", "--choice and --regex: an answer has one shape"),
        ("--choice a --choices labels", "--choice and --choices: an answer has one shape"),
        ("--choices lables", "--choices: there is no variable 'lables': did you mean labels?"),
        ("--choices number", "--choices: 5 is no list of texts"),
        ("--choice ''", "--choice: "),
        ("--json-schema Invoce", "--json-schema: 'Invoce' is neither a variable of the notebook nor "
         "a file: did you mean Invoice?"),
        ("--json-schema number", "--json-schema: 5 has no JSON schema"),
        ("--json-schema '{\"type\": 1}'", "--json-schema: the JSON schema is not valid"),
        ("--json-schema '{\"type\"'", "--json-schema: "),
        ("--grammar number", "--grammar: 5 is no text of a grammar"),
        ("--grammar nowhere.lark", "--grammar: 'nowhere.lark' is neither a variable"),
        ("--grammar 'a\0b'", "neither a variable"),
        ("--regex", "--regex needs a value: --regex R"),
    ],
)  # fmt: skip
def test_what_is_refused(line: str, said: str) -> None:
    """One line, in the words of the cell's line."""
    assert said in refused(line, namespace=VARIABLES)


def test_a_sweep_keeps_the_shape_in_all_of_its_runs() -> None:
    """And so does a replay with another option."""
    requests = read("--choice a --choice b --temperature 0,1", namespace=VARIABLES).requests
    assert [request.constraint.choices for request in requests if request.constraint] == [
        ("a", "b"), ("a", "b"),
    ]  # fmt: skip
    changes = read_changes(["--choices", "Mood", "--top-k", "3"], VARIABLES)
    assert changes["constraint"].choices == ("good", "bad")
    assert changes["top_k"] == 3


# Forms --------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
rough = st.text(st.sampled_from("ab'\"\\ \n\t\r\x85\u2028{}=-|"), min_size=1, max_size=12) | texts


def read_back(request: Request) -> Constraint | None:
    text = cell_text(request, {"model": DEFAULT_MODEL})
    line, _, cell = text.removeprefix("%%infer").partition("\n")
    (again,) = read_cell(line, cell, {}, {"model": DEFAULT_MODEL}).requests
    return again.constraint


def called(request: Request) -> Any:
    """The constraint of the call that the form in Python makes."""
    calls: list[Any] = []
    code = python_text(request).replace("from llmwit_magic import infer", "")
    exec(code, {"infer": lambda *_, **options: calls.append(options)})
    return with_constraint(calls[0])["constraint"]


def asked(constraint: Constraint) -> Request:
    return Request(
        model=DEFAULT_MODEL, prompt="p", constraint=constraint, params=InferencingParams(seed=1)
    )


@settings(max_examples=60)
@given(choices=st.lists(rough, min_size=1, max_size=3, unique=True))
def test_choices_in_the_forms(choices: list[str]) -> None:
    """The cell and the call have the same choices, whatever signs are in them."""
    constraint = Constraint(kind="choices", source=json.dumps(choices))
    back = read_back(asked(constraint))
    assert back is not None
    assert back.choices == constraint.choices
    assert called(asked(constraint)).choices == constraint.choices


@settings(max_examples=60)
@given(rule=rough)
def test_grammars_in_the_forms(rule: str) -> None:
    """A grammar stands on one line of the cell, with its line ends, quotes and backslashes."""
    for text in (f'start: "a"\n{rule}', f'root ::= "a"\n{rule}'):
        constraint = Constraint(kind="grammar", source=text)
        assert read_back(asked(constraint)) == constraint
        assert called(asked(constraint)) == constraint


@pytest.mark.parametrize(
    ("source", "again"),
    [
        (r"it's \"so\" \\d+ (a|b)", None), ("--x", None), ("a\tb\n", r"a\u0009b\u000a"),
        ("a\\\nb", r"a\u000ab"), ("\\\\\n", r"\\\u000a"), ("[\u2028]", r"[\u2028]"),
    ],
)  # fmt: skip
def test_expressions_in_the_forms(source: str, again: str | None) -> None:
    """A sign that cannot stand on a line is written as an escape, which matches the same."""
    constraint = Constraint(kind="regex", source=source)
    back = read_back(asked(constraint))
    assert back is not None
    assert back.source == (source if again is None else again)
    assert called(asked(constraint)) == constraint


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["it's", 'a "b"', "\n\x85\u2028\U000e0041", "\\", None, True, 1.5]},
        {"type": "object", "properties": {"b": {}, "a": {"const": {}}}},
        {},
        True,
    ],
)
def test_schemas_in_the_forms(schema: Any) -> None:
    """The cell and the call have the same schema, with its keys in their order."""
    constraint = with_constraint({"returns": schema})["constraint"]
    back = read_back(asked(constraint))
    assert back is not None
    assert json.dumps(json.loads(back.source)) == json.dumps(schema)
    assert json.dumps(json.loads(called(asked(constraint)).source)) == json.dumps(schema)


def test_a_schema_on_several_lines_becomes_one() -> None:
    """The white space between its parts says nothing."""
    constraint = Constraint(kind="json_schema", source='{\n\t"type":\r\n"null"}')
    back = read_back(asked(constraint))
    assert back is not None
    assert json.loads(back.source) == {"type": "null"}


def test_the_forms_of_a_plain_shape() -> None:
    """They read as a person would write them."""
    made = forms(asked(Constraint(kind="choices", source='["good", "not good"]')), {})
    assert made["cell"] == "%%infer --seed 1 --choice good --choice 'not good'\np\n"
    assert "choices=['good', 'not good']" in made["Python"]
    assert json.loads(made["JSON"])["constraint"]["kind"] == "choices"
    assert "constraint" not in forms(Request(model="m", prompt="p"), {})["JSON"]


def test_an_unknown_argument_is_still_one() -> None:
    """`choice=` is no argument in Python: the message lists those of a request."""
    with pytest.raises(InvalidInput, match="Request has no field 'choice'"):
        Request(model="m", prompt="p", **with_constraint({"choice": "a"}))
