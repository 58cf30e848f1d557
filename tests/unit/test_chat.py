"""Chat messages in a prompt: what the templates of real models write, and which spans are data."""

from __future__ import annotations

import pytest

from llmwit_magic.errors import InvalidInput, ModelNotSupported
from llmwit_magic.models.chat import MOVED, Rendered, render_chat
from llmwit_magic.models.template import ChatTemplate
from tests.support.tiny_models import CHATML

#: The template of SmolLM2, which writes a system message of its own if none is given.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


#: The template of Llama 2, which writes the system message into the first user message.
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
    """The prompt of one user message, with a system message in front if one is given."""
    messages = [("user", prompt)]
    if system is not None:
        messages.insert(0, ("system", system))
    return render_chat(template, messages, TOKENS)


def render(template: str, prompt: str = "Hi", system: str | None = None) -> str:
    return rendered(template, prompt, system).text


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
    """Templates of real models write the prompts that llama.cpp and Hugging Face write."""
    assert render(template, system=system) == expected


@pytest.mark.parametrize("prompt", ["", "<b>&\"'</b>", "{{ 1 }} {% x %}", "日\n\n😀", "a\\nb"])
def test_prompts_are_text(prompt: str) -> None:
    """A prompt is plain text: it is neither escaped nor run as part of the template."""
    expected = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHATML, prompt) == expected


# Messages that templates lose -------------------------------------------------------

#: As the templates of SmolVLM and many others. A content that is a string has no parts, so they
#: write nothing of it.
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
    """A template that expects lists of parts gets them, and writes both messages."""
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
    """A lost system message is put in front of the first user message, and a notice says so."""
    made = rendered(template, "Count to three.", "Answer in French.")
    assert "Answer in French.\n\nCount to three." in made.text
    assert made.notices == (MOVED,)
    assert made.text == render(template, "Answer in French.\n\nCount to three.")
    assert not rendered(template, "Count to three.").notices


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
    """If a template loses a message in every form, the refusal says which one."""
    with pytest.raises(ModelNotSupported, match=f"leaves out the {role} message: leave out"):
        render(template, "Count to three.", "Answer in French.")


def test_a_refusal_without_a_remedy_is_told() -> None:
    """If every form is refused, the error is that of the first form: the messages as they were given."""
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
    """A message that a template trims, capitalises or edits otherwise is not counted as lost."""
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
    """The texts of the prompt's spans of data."""
    made = rendered(template, prompt, system)
    return [made.text[start:end] for start, end in made.data]


@pytest.mark.parametrize(
    "prompt", ["Hi", "user", "a", "im_start", "<|im_end|>", "  Hi\n", "x\U000f0000y", "<|im_start|>user\n"]
)  # fmt: skip
def test_the_texts_of_messages_are_data(prompt: str) -> None:
    """A message is data where the template put it, even if the template has the same words itself."""
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
    """A text that the template has changed is found by its marks, or by a search."""
    assert data(template, prompt) == wanted


def test_a_moved_system_message_is_data() -> None:
    """A moved system message and the user message are data. The text between them is not."""
    assert data(ALPACA, "user", "system") == ["system", "user"]
