"""The forms of a request that a person can copy: each of them is the same request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwit_magic.contract.request import DEFAULT_MODEL, Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.magics.cell import read_cell
from llmwit_magic.requests.options import DEFAULTS, OPTIONS
from llmwit_magic.requests.snippets import cell_text, forms, python_text, wave_text

STANDARD: dict[str, Any] = {
    option.dest: option.field.default for option in OPTIONS if option.dest in DEFAULTS
} | {"model": DEFAULT_MODEL}


def read_back(text: str, defaults: dict[str, Any]) -> Request:
    line, _, cell = text.removeprefix("%%infer").partition("\n")
    (request,) = read_cell(line, cell, {}, defaults).requests
    return request


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
params = st.builds(
    InferencingParams,
    max_tokens=st.none() | st.integers(0, 5000),
    temperature=st.floats(0, 10),
    top_k=st.integers(0, 1000),
    top_p=st.floats(0.001, 1),
    repeat_penalty=st.floats(0.01, 10),
    repeat_penalty_last_n_token_count=st.integers(0, 1000),
    stop=st.lists(texts, max_size=3).map(tuple),
    seed=st.integers(0, 2**63 - 1),
)
system = st.none() | texts
configured = st.sampled_from([{}, {"temperature": 0.0}, {"max_tokens": 7}, {"top_k": 5}])


@given(prompt=texts, params=params, system=system, configured=configured, chat=st.booleans())
def test_the_cell_runs_the_same_request(
    prompt: str, params: InferencingParams, system: str | None, configured: dict[str, Any], chat: bool
) -> None:  # fmt: skip
    """A notebook reads the cell back as the same request, whatever its defaults are."""
    request = Request(model=DEFAULT_MODEL, prompt=prompt, params=params, system=system, chat=chat)
    defaults = STANDARD | configured
    again = read_back(cell_text(request, defaults), defaults)
    # What cannot be typed is put in as a value, and so is data.
    values = {prompt[start:end].strip("\r\n") for start, end in again.data_spans}
    assert values <= ({"", "{{", "{{{{"} if "\r" in prompt else set())
    assert again.model_dump(exclude={"data_spans"}) == request.model_dump(exclude={"data_spans"})


@pytest.mark.parametrize("text", ["--top-p", "--top-p=5", "--x y", "--", "--it's", '--"\\n\n'])
def test_values_that_look_like_options(text: str) -> None:
    """A stop sequence, a system message or a tag that begins like an option is read back."""
    request = Request(
        model=DEFAULT_MODEL, prompt="A", params=InferencingParams(stop=(text, "b"), seed=1),
        system=text, tags={"--seed": "1"},
    )  # fmt: skip
    assert read_back(cell_text(request, STANDARD), STANDARD).model_dump() == request.model_dump()


@given(prompt=texts, params=params, system=system)
def test_the_python_makes_the_same_call(
    prompt: str, params: InferencingParams, system: str | None
) -> None:
    """The text calls `infer` with the same model, prompt and params."""
    request = Request(model="m", prompt=prompt, params=params, system=system)
    called: list[Any] = []
    code = python_text(request).replace("from llmwit_magic import infer", "")
    exec(code, {"infer": lambda *args, **options: called.append((args, options))})
    ((model, text, values), options) = called[0]
    assert (model, text) == ("m", prompt)
    assert InferencingParams(**values) == params
    assert options == ({} if system is None else {"system": system})


@given(params=params)
def test_the_wave_text_has_every_field(params: InferencingParams) -> None:
    """It is a record of the WIT's fields in their order. An optional value is some or none."""
    text = wave_text(params)
    places = [text.index(name) for name in (
        "{max-tokens: ", ", repeat-penalty: ", ", repeat-penalty-last-n-token-count: ", ", stop: [",
        "], temperature: ", ", top-k: ", ", top-p: ")]  # fmt: skip
    assert places == sorted(places)
    limit = "none" if params.max_tokens is None else f"some({params.max_tokens})"
    assert text.startswith(f"{{max-tokens: {limit}, ")
    assert text.isprintable()


def test_the_forms_of_a_plain_request() -> None:
    """These are the forms of the README's first cell."""
    request = Request(
        model=DEFAULT_MODEL, prompt="The capital of France is",
        params=InferencingParams(temperature=0, stop=".", max_tokens=None, seed=7),
    )  # fmt: skip
    made = forms(request, STANDARD)
    assert made["cell"] == ("%%infer --stop . --temperature 0 --seed 7\nThe capital of France is\n")
    assert json.loads(made["JSON"])["params"]["seed"] == 7
    assert made["WAVE"] == (
        "{max-tokens: none, repeat-penalty: 1, repeat-penalty-last-n-token-count: 64, "
        'stop: ["."], temperature: 0, top-k: 40, top-p: 0.9}'
    )


@pytest.mark.parametrize("prompt", ["{{name}}", "a\n\n", " lead", "trail \n"])
def test_prompts_survive_as_they_are(prompt: str) -> None:
    """Braces are not read as variables when the cell runs again, and line ends stay."""
    request = Request(model=DEFAULT_MODEL, prompt=prompt, params=InferencingParams(seed=1))
    assert read_back(cell_text(request, STANDARD), STANDARD).prompt == prompt


@given(data=texts, before=texts, behind=texts, system=system)
def test_values_are_read_back_as_values(
    data: str, before: str, behind: str, system: str | None
) -> None:
    """A cell has data of its prompt as quoted texts in braces, which are data again."""
    before = before.replace("\r", "")
    request = Request(
        model=DEFAULT_MODEL, prompt=before + data + behind, system=system,
        data_spans=((len(before), len(before) + len(data)),), tags={"{{k": "v"},
        params=InferencingParams(stop=("{{x}}",), seed=1),
    )  # fmt: skip
    text = cell_text(request, STANDARD)
    again = read_back(text, STANDARD)
    assert again.prompt == request.prompt
    assert (again.system, again.tags, again.params) == (system, request.tags, request.params)
    covered = {place for start, end in again.data_spans for place in range(start, end)}
    assert covered >= set(range(*request.data_spans[0]))


def test_forms_of_a_prompt_with_data() -> None:
    """Each form has the spans. The forms of a prompt without data have none."""
    request = Request(
        model=DEFAULT_MODEL, prompt="a <s> b", data_spans=((2, 5),), control_tokens="none",
        params=InferencingParams(seed=1), chat_template="rag",
    )  # fmt: skip
    made = forms(request, STANDARD)
    assert made["cell"] == (
        "%%infer --seed 1 --chat-template rag --control-tokens none\na {{'<s>'}} b\n"
    )
    assert "chat_template='rag', control_tokens='none', data_spans=((2, 5),)" in made["Python"]
    assert json.loads(made["JSON"])["data_spans"] == [[2, 5]]
    plain = forms(
        Request(model=DEFAULT_MODEL, prompt="a", params=InferencingParams(seed=1)), STANDARD
    )
    assert plain["cell"] == "%%infer --seed 1\na\n"
    assert "data_spans" not in plain["Python"] + plain["JSON"]


@pytest.mark.parametrize(("penalty", "said"), [(1.0, ""), (1.1, " --repeat-penalty 1.1")])
def test_a_greedy_run_says_its_penalty_where_it_has_one(penalty: float, said: str) -> None:
    """The cell says a penalty only where there is one. Python says it in any case."""
    params = InferencingParams(temperature=0, repeat_penalty=penalty, seed=1)
    request = Request(model=DEFAULT_MODEL, prompt="a", params=params)
    made = forms(request, STANDARD)
    assert made["cell"] == f"%%infer --temperature 0{said} --seed 1\na\n"
    namespace: dict[str, Any] = {"infer": lambda *arguments: arguments}
    exec(made["Python"].replace("from llmwit_magic import infer", ""), namespace)
    assert InferencingParams(**namespace["result"][2]) == params
