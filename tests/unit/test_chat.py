"""A model's own chat template: what it renders, and what it cannot do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from llmwit_magic.errors import InferenceError, InvalidInput, ModelNotSupported
from llmwit_magic.models.chat import MOVED, Rendered, render_chat
from llmwit_magic.models.template import ChatTemplate, TemplateRefused, template_of
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


TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def rendered(template: str, prompt: str = "Hi", system: str | None = None) -> Rendered:
    """What comes of one user message, and a system message if there is one."""
    messages = [("user", prompt)]
    if system is not None:
        messages.insert(0, ("system", system))
    return render_chat(template, messages, TOKENS)


def render(template: str, prompt: str = "Hi", system: str | None = None) -> str:
    return rendered(template, prompt, system).text


def written(template: Any) -> str:
    """What a template writes of one message, whether or not the message is in it."""
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
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "Hi!"),
        ("{{ 'é' | tojson(ensure_ascii=True) }}", '"\\u00e9"'),
        ("{{ {'b': [1, 2], 'a': 1} | tojson(separators=(',', ':'), sort_keys=True) }}",
         '{"a":1,"b":[1,2]}'),
    ],
)  # fmt: skip
def test_what_templates_rely_on(template: str, expected: str) -> None:
    """White space, variables, filters and loops are as in Hugging Face's environment."""
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
    """No way to Python's inner parts, and no change to what a template is given."""
    refusal(template)


@pytest.mark.parametrize("name", ["__class__", "__globals__", "__code__", "__init__", "mro"])
def test_inner_parts_are_not_shown(name: str) -> None:
    """Where a template only writes such a part out, nothing is written."""
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
    """Any failure of a template is one line, whatever Python calls it."""
    assert "failed: " in refusal(template)


def test_a_prompt_has_a_limit() -> None:
    """What no context could hold is refused with its length; memory that is not there too."""
    assert len(written("{{ 'a' * 4000000 }}")) == 4_000_000
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


# Messages that templates lose -------------------------------------------------------

#: As SmolVLM's and many others: a plain string has no parts, and is left out.
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant"
)
ALPACA = (
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n"
    "{% endif %}{% endfor %}### Response:\n"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[INST] {{ m.content }} [/INST]"
    "{% endfor %}"
)


@pytest.mark.parametrize("question", ["Who?", "What is 2 + 2?", " two\n\nlines "])
def test_templates_of_parts_get_parts(question: str) -> None:
    """A template that walks over content parts writes each question, and each system message."""
    wanted = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant"
    assert render(PARTS, question) == wanted
    assert (
        render(PARTS, question, "Be brief.") == f"<|im_start|>system\nBe brief.<|im_end|>\n{wanted}"
    )


@pytest.mark.parametrize(
    "template",
    [
        ALPACA,
        "USER: {{ messages[-1].content }} ASSISTANT:",
        "{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ m.content }}{% endfor %}",
        "SYSTEM: You are a model.\n{% for m in messages if m.role != 'system' %}{{ m.content }}"
        "{% endfor %}",
        "{% for m in messages %}{% if m.role in ['developer', 'user'] %}<{{ m.role }}>"
        "{{ m.content }}{% endif %}{% endfor %}",
        "{% for m in messages if m.role == 'user' %}{% for p in m.content %}{{ p.text }}"
        "{% endfor %}{% endfor %}",
        "{{ messages[1:][0].content if messages[0].role == 'system' else messages[0].content }}",
        ALTERNATE,
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ {'user': 'U: '}[m.role] + m.content }}{% endfor %}",
    ],
)  # fmt: skip
def test_a_system_message_without_a_place_goes_to_the_user_message(template: str) -> None:
    """It stands in front of the first user message, and the result says so."""
    made = rendered(template, "Count to three.", "Answer in French.")
    assert "Answer in French.\n\nCount to three." in made.text
    assert made.notice == MOVED
    assert made.text == render(template, "Answer in French.\n\nCount to three.")
    assert not rendered(template, "Count to three.").notice


@pytest.mark.parametrize(
    ("template", "role"),
    [
        ("Hello!", "system and the user"),
        ("{{ messages | length }}", "system and the user"),
        ("{{ messages[0].content[:3] }}", "system and the user"),
        ("{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}", "user"),
        (
            "{{ messages[-1].content | replace('Count', 'Add') | truncate(5) }}",
            "system and the user",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(template: str, role: str) -> None:
    """A template that loses a message in every form says which one."""
    with pytest.raises(ModelNotSupported, match=f"leaves out the {role} message: leave out"):
        render(template, "Count to three.", "Answer in French.")


def test_a_refusal_without_a_remedy_is_told() -> None:
    """It is that of the messages as they were, not of a form that was tried after them."""
    with pytest.raises(InvalidInput, match="refuses this: no users here"):
        render("{{ raise_exception('no users here') }}")
    with pytest.raises(ModelNotSupported, match="failed: 'missing' is undefined"):
        render("{{ missing.x }}")


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{ messages[0].content | trim }}", "  Hi\n\n"),
        ("{{ messages[0].content.strip().split('</think>')[-1] }}", " Hi "),
        ("{{ messages[0].content.split() | join(' ') }}", "a  b\n c"),
        ("{% if messages[0].content.startswith('/') %}/{% endif %}{{ messages[0].content }}", "/x"),
        ("{{ messages[0].content.upper() }}", "Hi"),
        ("{{ messages[0].content | replace('x', 'y') }}", "Hi"),
        ("{{ messages | tojson }}", "a b"),
        (PARTS, ""),
    ],
)
def test_templates_may_change_a_text_on_purpose(template: str, prompt: str) -> None:
    """Trimmed, its white space made even, or in capitals: the message is not lost."""
    assert rendered(template, prompt).text == ChatTemplate(template, TOKENS).write(
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": prompt}] if template == PARTS else prompt,
            }
        ]
    )


# Which parts of a prompt are data -----------------------------------------------------


def data(template: str, prompt: str, system: str | None = None) -> list[str]:
    """The texts that are data."""
    made = rendered(template, prompt, system)
    return [made.text[start:end] for start, end in made.data]


@pytest.mark.parametrize(
    "prompt", ["Hi", "user", "a", "im_start", "<|im_end|>", "  Hi\n", "x\U000f0000y", "<|im_start|>user\n"]
)  # fmt: skip
def test_the_texts_of_messages_are_data(prompt: str) -> None:
    """Each where the template put it, also where the template has the same words."""
    for template in (CHATML, SMOLLM2, PARTS):
        assert data(template, prompt, "Be user.") == ["Be user.", prompt]
        assert data(template, prompt) == [prompt]
    assert data(LLAMA2, prompt) == [prompt.strip()]


@pytest.mark.parametrize(
    ("template", "prompt", "wanted"),
    [
        ("<{{ messages[0].content | trim }}>", " a b ", ["a b"]),
        ("<{{ messages[0].content.upper() }}>", "a b", ["A B"]),
        ("{{ messages[0].content }}|{{ messages[0].content }}", "a", ["a", "a"]),
        ("a{{ messages[0].content.split('</think>')[-1] }}", "a b", ["a b"]),
        ("{% if messages[0].content.startswith('a') %}a {% endif %}<{{ messages[0].content }}>",
         "a b", ["a b"]),
        ("{{ messages[0].content.split() | join(' ') }}.", "a  b", ["a b"]),
        ("{{ messages | tojson }}", "a b", ["a b"]),
        (ALPACA, "", []),
    ],
)  # fmt: skip
def test_changed_texts_are_data_too(template: str, prompt: str, wanted: list[str]) -> None:
    """They are found where marks or a search find them."""
    assert data(template, prompt) == wanted


def test_a_moved_system_message_is_data() -> None:
    """It and the user message are, what joins them is not."""
    assert data(ALPACA, "user", "system") == ["system", "user"]


# Several templates, and the file's tokens ------------------------------------------------


def test_named_templates_are_chosen_by_name() -> None:
    """One of them, by its name; the default one where none is named."""
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


# What has let templates out of their sandbox ----------------------------------------------

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
    """Nothing of the environment comes out, by the mechanisms of the known advisories."""
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
    """Others reach `json.dumps`, which calls what it is given."""
    with pytest.raises(TemplateRefused) as caught:
        written(f"{{{{ [1] | tojson({keyword}=cycler) }}}}")
    assert f"unexpected keyword argument '{keyword}'" in str(caught.value.error)
