"""A model's own chat template: what it renders, and what it cannot do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from llmwit_magic.errors import InferenceError, InvalidInput, ModelNotSupported
from llmwit_magic.models.chat import render_chat
from tests.support.tiny_models import CHATML

#: As SmolLM2 has it, with the system message that it puts where none is given.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

#: As Llama 2 has it: the system message goes into the first message of the user.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% endif %}{% endfor %}"
)


def render(template: Any, prompt: str = "Hi", system: str | None = None) -> str:
    metadata = {} if template is None else {"tokenizer.chat_template": template}
    return render_chat(metadata, prompt, system, bos="<s>", eos="</s>")


def refusal(template: Any, expected: type[InferenceError] = ModelNotSupported) -> str:
    """The message of the refusal, which is one line about the template."""
    with pytest.raises(InferenceError) as caught:
        render(template)
    assert type(caught.value) is expected
    message = str(caught.value)
    assert message.isprintable()
    assert "chat template" in message
    return message


@pytest.mark.parametrize(
    ("template", "system", "expected"),
    [
        (CHATML, None, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (
            CHATML,
            "Be brief.",
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            SMOLLM2,
            None,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
            "Hugging Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (LLAMA2, None, "<s>[INST] Hi [/INST]"),
        (LLAMA2, "Be brief.", "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"),
    ],
)
def test_known_templates(template: str, system: str | None, expected: str) -> None:
    """Templates of real models render as llama.cpp and Hugging Face render them."""
    assert render(template, system=system) == expected


@pytest.mark.parametrize("prompt", ["", "<b>&\"'</b>", "{{ 1 }} {% x %}", "日\n\n😀", "a\\nb"])
def test_prompts_are_text(prompt: str) -> None:
    """A prompt is neither escaped nor taken for a part of the template."""
    expected = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHATML, prompt) == expected


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
    ],
)  # fmt: skip
def test_what_templates_rely_on(template: str, expected: str) -> None:
    """White space, variables, filters and loops are as in Hugging Face's environment."""
    assert render(template) == expected


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
    """No way to Python's inner parts, and no change to what a template is given."""
    refusal(template)


@pytest.mark.parametrize("name", ["__class__", "__globals__", "__code__", "__init__", "mro"])
def test_inner_parts_are_not_shown(name: str) -> None:
    """Where a template only writes such a part out, nothing is written."""
    for value in ("''", "messages", "raise_exception", "strftime_now"):
        assert render(f"[{{{{ {value}.{name} }}}}]") == "[]"


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
    """Any failure of a template is one line, whatever Python calls it."""
    assert "failed: " in refusal(template)


def test_a_prompt_has_a_limit() -> None:
    """What no context could hold is refused with its length; memory that is not there too."""
    assert len(render("{{ 'a' * 4000000 }}")) == 4_000_000
    assert "a prompt of 4,000,001 characters" in refusal("{{ 'a' * 4000001 }}")
    assert "wants more memory" in refusal("{{ 'a' * (2 ** 62) }}")


@pytest.mark.parametrize("message", ["no system message, please", "two\nlines", ""])
def test_templates_that_refuse(message: str) -> None:
    """What a template raises is told to the person, in one line."""
    template = f"{{{{ raise_exception({message!r}) }}}}"
    assert refusal(template, InvalidInput).endswith(message.replace("\n", "\\n"))


@pytest.mark.parametrize("template", [None, 5, [b"{{ 1 }}"]])
def test_no_template(template: Any) -> None:
    """A model without a template says what to leave out."""
    assert "leave out --chat" in refusal(template, InvalidInput)
