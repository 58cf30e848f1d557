"""Variables that a person sets for a chat template: checked, kept, and given to the template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwit_magic.contract.request import OWN_VARIABLES, Request
from llmwit_magic.engines.local.wire import Run, decoded, encoded
from llmwit_magic.errors import InvalidInput
from llmwit_magic.magics.cell import read_cell
from llmwit_magic.models.chat import render_chat
from llmwit_magic.models.template import ChatTemplate, TemplateRefused, unread
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.requests.snippets import forms
from tests.support.fake import FakeEngine, FakeSession
from tests.support.vocabularies import byte_level

OPTIONS = {"enable_thinking": False, "effort": 'it\'s "high"', "tags": [1, None, {"{{a}}": 0.5}]}


def asked(options: Mapping[str, Any], **more: Any) -> Request:
    return Request(model="m", prompt="p", template_options=options, **more)


def test_a_variable_means_chat() -> None:
    """As a system message does: without the template, it would mean nothing."""
    assert asked({"enable_thinking": False}).is_chat
    assert not asked({}).is_chat


@pytest.mark.parametrize("name", sorted(OWN_VARIABLES))
def test_variables_that_are_set_are_refused_by_name(name: str) -> None:
    """Messages, special tokens and the functions of templates come from elsewhere."""
    with pytest.raises(InvalidInput, match=f"^template_options: {name} is set from the request"):
        asked({name: None})


def test_every_variable_of_ours_is_refused() -> None:
    """The list of names is whole: it has whatever a template is given."""
    ids = {f"{name}_token_id": 1 for name in
           ("bos", "eos", "unknown", "seperator", "separator", "padding", "cls", "mask")}  # fmt: skip
    given = build_tokenizer(byte_level(**ids)).template_variables()
    template = ChatTemplate("", given)
    own = {name for name in template._environment.globals if "_" in name}
    assert {*template._variables, *own, "messages"} == OWN_VARIABLES - {"self"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a b": 1}, "'a b' is not the name of a variable"),
        ({"": 1}, "'' is not the name of a variable"),
        ({"x": float("inf")}, "the value of x is not JSON: it must be finite numbers"),
        ({"x": ["\ud800"]}, "the value of x is not JSON"),
        ({"x": object()}, "is not valid"),
        ({"x": {1: 2}}, "is not valid"),
        ("enable_thinking=false", "is not valid: input should be a valid dictionary"),
    ],
)
def test_what_json_lacks_is_refused(options: Any, message: str) -> None:
    """In one line, which says what is wrong."""
    with pytest.raises(InvalidInput) as caught:
        asked(options)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(json_values)
@settings(max_examples=100)
def test_any_json_comes_back_from_a_cell(value: Any) -> None:
    """The copied cell says the same value, whatever quotes and signs are in it."""
    try:
        request = asked({"x": value, "y": True})
    except InvalidInput:  # a lone surrogate in a key
        return
    line, _, cell = forms(request, {})["cell"].removeprefix("%%infer").partition("\n")
    assert read_cell(line, cell, {}, {}).requests[0].template_options == {"x": value, "y": True}


def test_all_forms_and_the_wire_have_them() -> None:
    """Python and JSON say them too, and the child gets them unchanged."""
    request = asked(OPTIONS)
    assert f"template_options={OPTIONS!r}" in forms(request, {})["Python"]
    assert json.loads(forms(request, {})["JSON"])["template_options"] == OPTIONS
    assert decoded(encoded(Run(request, 0))).request == request


def test_the_log_keeps_them() -> None:
    """A row without any has no value there."""
    session = FakeSession(FakeEngine())
    session.finish(asked(OPTIONS))
    session.finish(asked({}))
    assert session.log.row(1)["template_options"] == OPTIONS
    assert session.log[1].request.template_options == OPTIONS
    assert session.log.row(2)["template_options"] is None
    assert session.log[2].request.template_options == {}
    assert json.loads(session.log.to_frame()["template_options"].iloc[0]) == OPTIONS
    session.close()


def test_a_template_reads_them() -> None:
    """They are plain values there, which the template cannot change."""
    template = "{{ messages[0].content }}|{{ enable_thinking }}|{{ tags[2]['{{a}}'] }}"
    assert render_chat(template, [("user", "Hi")], OPTIONS).text == "Hi|False|0.5"
    with pytest.raises(TemplateRefused):
        ChatTemplate("{{ tags.append(1) }}", OPTIONS).write([])


def test_a_variable_that_no_template_reads_is_found() -> None:
    """Its name is no word of the template. A part of a word is none."""
    template = "{% if enable_thinking is defined and not enable_thinking %}a{% endif %}{{ x1 }}"
    assert unread(template, ["enable_thinking", "thinking", "x", "x1"]) == ["thinking", "x"]
