"""A chat template: its choice in the file, its environment, and its sandbox."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from llmwit_magic.errors import InferenceError, InvalidInput, ModelNotSupported
from llmwit_magic.models.template import ChatTemplate, TemplateRefused, template_of

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def written(template: Any) -> str:
    """The prompt that a template writes of one message, even if the message is not in it."""
    metadata = {} if template is None else {"tokenizer.chat_template": template}
    messages = [{"role": "user", "content": "Hi"}]
    return ChatTemplate(template_of(metadata), TOKENS).write(messages)


def refusal(template: Any, expected: type[InferenceError] = ModelNotSupported) -> str:
    """The message of the refusal, which is one line about the template."""
    error: InferenceError
    try:
        written(template)
        raise AssertionError("nothing was refused")
    except TemplateRefused as refused:
        error = refused.error
    except InferenceError as raised:
        error = raised
    assert type(error) is expected
    message = str(error)
    assert message.isprintable()
    assert "chat template" in message
    return message


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
        ("{{ bos_token }}|{{ eos_token }}", "<s>|</s>"),
        ("{% if tools is not none or documents is not none %}x{% endif %}y", "y"),
        ("{% for m in messages %}{{ m.content }}{% break %}no{% endfor %}", "Hi"),
        ("{{ ['é', '<b>'] | tojson }}", '["é", "<b>"]'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ strftime_now('%Y') }}", datetime.now().strftime("%Y")),
        ("{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}"
         "{{ ns.n }}", "3"),
        ("{{ messages[0].role }}{{ messages[0]['content'].upper() }}", "userHI"),
        ("{{ missing }}.", "."),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "Hi!"),
        ("{{ 'é' | tojson(ensure_ascii=True) }}", '"\\u00e9"'),
        ("{{ {'b': [1, 2], 'a': 1} | tojson(separators=(',', ':'), sort_keys=True) }}",
         '{"a":1,"b":[1,2]}'),
    ],
)  # fmt: skip
def test_what_templates_rely_on(template: str, expected: str) -> None:
    """White space, variables, filters and loops work as in Hugging Face's environment."""
    assert written(template) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__code__.co_code }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'].system('id') }}",
        "{{ (messages | attr('__class__')).mro() }}",
        "{{ '%s{0.__class__}' | format(1) }}{{ '{0.__class__.__mro__}'.format(1).secret() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages.clear() }}",
        "{% set x = messages[0].pop('role') %}",
    ],
)
def test_what_templates_cannot_do(template: str) -> None:
    """A template can neither reach Python's internals nor change what it is given."""
    refusal(template)


@pytest.mark.parametrize("name", ["__class__", "__globals__", "__code__", "__init__", "mro"])
def test_inner_parts_are_not_shown(name: str) -> None:
    """An internal attribute of Python is written as an empty text."""
    for value in ("''", "messages", "raise_exception", "strftime_now"):
        assert written(f"[{{{{ {value}.{name} }}}}]") == "[]"


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ 1 + }}",
        "{% if x %}",
        "{{ 1 | no_such_filter }}",
        "{% include 'x' %}",
        "{{ missing.x }}",
        "{{ 1 + 'a' }}",
        "{{ 1 / 0 }}",
        "{{ messages[0] > 1 }}",
        "{{ range(10 ** 10) | list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ strftime_now(1) }}",
        "{{ messages | tojson(default=1, no=1) }}",
        "{{ raise_exception() }}",
    ],
)
def test_templates_that_fail(template: str) -> None:
    """Whatever exception a template fails with, the message is one line."""
    assert "failed: " in refusal(template)


def test_a_prompt_has_a_limit() -> None:
    """A prompt too long for any context is refused with its length. So is one too great for memory."""
    assert len(written("{{ 'a' * 4000000 }}")) == 4_000_000
    assert "a prompt of 4,000,001 characters" in refusal("{{ 'a' * 4000001 }}")
    assert "wants more memory" in refusal("{{ 'a' * (2 ** 62) }}")


@pytest.mark.parametrize("message", ["no system message, please", "two\nlines", ""])
def test_templates_that_refuse(message: str) -> None:
    """The message that a template refuses with is part of the error, which is one line."""
    template = f"{{{{ raise_exception({message!r}) }}}}"
    assert refusal(template, InvalidInput).endswith(message.replace("\n", "\\n"))


@pytest.mark.parametrize("template", [None, 5, [b"{{ 1 }}"]])
def test_no_template(template: Any) -> None:
    """The error for a model without a template says what to leave out."""
    assert "leave out --chat" in refusal(template, InvalidInput)


# The choice of a template ----------------------------------------------------------------


def test_named_templates_are_chosen_by_name() -> None:
    """A template is chosen by its name. Without a name the default one is chosen."""
    metadata = {"tokenizer.chat_template": "default", "tokenizer.chat_template.rag": "r"}
    assert template_of(metadata) == "default"
    assert template_of(metadata, "rag") == "r"
    with pytest.raises(InvalidInput, match="no chat template 'tool': it has rag"):
        template_of(metadata, "tool")
    with pytest.raises(InvalidInput, match=r"no default chat template: choose one, such as .* rag"):
        template_of({"tokenizer.chat_template.rag": "r"})
    with pytest.raises(InvalidInput, match="no chat template 'rag': it has one without a name"):
        template_of({"tokenizer.chat_template": "x"}, "rag")
    with pytest.raises(InvalidInput, match="leave out --chat"):
        template_of({}, "rag")


# Known ways out of the sandbox ------------------------------------------------------------

ESCAPES = {
    "our tojson, default=": "{{ [lipsum]|tojson(default='{0.__globals__[os].environ[HOME]}'.format) }}",
    "our tojson, cls=": "{{ [lipsum]|tojson(cls=cycler) }}",
    "our tojson, any keyword": "{{ [1]|tojson(skipkeys=true) }}",
    "CVE-2024-56201, a name of the template": "{% import messages[0].content as x %}",
    "CVE-2024-56326, a reference to format":
        "{% set f = '{0.__globals__[os].environ[HOME]}'.format %}{{ f(lipsum) }}",
    "CVE-2024-56326, through a filter":
        "{{ ['{0.__globals__[os].environ[HOME]}'.format] | map('call', lipsum) | list }}",
    "CVE-2024-56326, format_map":
        "{{ '{a.__globals__[os].environ[HOME]}'.format_map({'a': lipsum}) }}",
    "CVE-2025-27516, attr":
        "{{ ('{0.__globals__[os].environ[HOME]}'|attr('format'))(lipsum) }}",
    "CVE-2025-27516, map attribute":
        "{{ (['{0.__globals__[os].environ[HOME]}'] | map(attribute='format') | first)(lipsum) }}",
    "CVE-2024-34359, no sandbox":
        "{% for c in [].__class__.__base__.__subclasses__() %}{{ c.__name__ }}{% endfor %}"
        "{{ lipsum.__globals__['os'].popen('echo out').read() }}",
}  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_known_ways_out_of_the_sandbox_are_closed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mechanisms of the known advisories reveal nothing of the environment."""
    monkeypatch.setenv("HOME", "SECRET")
    try:
        text = written(ESCAPES[name])
    except TemplateRefused as refused:
        text = str(refused.error)
        assert "failed: " in text
    assert "SECRET" not in text
    assert "out" not in text.split()


@pytest.mark.parametrize("keyword", ["default", "cls", "skipkeys", "object_hook", "check_circular"])
def test_tojson_takes_the_keywords_of_hugging_face_alone(keyword: str) -> None:
    """No other keyword is taken: it would reach `json.dumps`, which may call its value."""
    with pytest.raises(TemplateRefused) as caught:
        written(f"{{{{ [1] | tojson({keyword}=cycler) }}}}")
    assert f"unexpected keyword argument '{keyword}'" in str(caught.value.error)
