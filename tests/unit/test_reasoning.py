"""Marks of reasoning: which family a model is of, and how its marks split what it writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwit_magic.engines.reasoning import FAMILIES, Part, Splitter, family_of, splitter_for

THINK = "{% if '</think>' in content %}…{% endif %}"
HARMONY = "<|start|>assistant<|channel|>final<|message|>"
GRANITE = (
    "Write your thoughts between <think></think> and your response between <response></response>"
)


def split(text: str, template: str = THINK, prompt: str = "", size: int = 1) -> tuple[str, str]:
    """The reasoning and the answer of what a model writes in pieces of so many bytes."""
    splitter = splitter_for(template, (), prompt, ())
    assert splitter is not None
    data = text.encode()
    pieces = [
        piece for at in range(0, len(data), size) for piece in splitter.push(data[at : at + size])
    ]
    pieces += splitter.finish()
    assert b"".join(piece.data for piece in pieces) == data
    assert all(piece.data for piece in pieces)
    joined = {part: b"".join(p.data for p in pieces if p.part is part).decode() for part in Part}
    return joined[Part.REASONING], joined[Part.ANSWER]


# The families ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "models"),
    [
        (HARMONY, "gpt-oss"),
        ("{{ '<|channel>thought\\n' }}…{{ '<channel|>' }}", "Gemma 4"),
        ("<|START_THINKING|>…<|END_THINKING|><|START_RESPONSE|>", "Command"),
        ("{%- set think_begin_token = '<seed:think>' -%}…'</seed:think>'", "Seed-OSS"),
        ("[THINK]Your thoughts[/THINK]", "Magistral"),
        ("'Here are my reasoning steps:\\n' … [BEGIN FINAL RESPONSE]", "Apriel"),
        ("after 'Here is my thought process:' and … after 'Here is my response:'", "Granite 3.2"),
        (GRANITE, "Granite 3.3"),
        ("<think>\\n\\n</think>\\n<answer>", "Hunyuan"),
        ("{{ '<longcat_think>' }}…</longcat_think>", "LongCat"),
        ("<mm:think>…</mm:think>", "MiniMax M3"),
        (THINK, "Qwen 3"),
        ("'<think>\\n' … </think> … '\\n<response>' ~ tool ~ '</response>'", "Qwen 3"),  # MiniMax M2
        ("{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}", "Qwen 3"),
    ],
)  # fmt: skip
def test_a_template_says_the_family(template: str, models: str) -> None:
    """Marks in the chat template are what the model writes."""
    family = family_of(template, ())
    assert family is not None
    assert family.models.startswith(models)


def test_a_vocabulary_says_the_family_where_the_template_does_not() -> None:
    """Early templates of thinking models do not name the marks, which are tokens all the same."""
    plain = "{{ messages[0].content }}"
    think = family_of(plain, {"<think>", "</think>"})
    assert think is FAMILIES[-1]
    harmony = family_of(plain, {"<|channel|>", "<|message|>", "<|end|>"})
    assert harmony is FAMILIES[0]
    # What the template says goes first: this model has been trained on.
    assert family_of(THINK, {"<|channel|>", "<|message|>"}) is FAMILIES[-1]


@pytest.mark.parametrize("name", ["Qwen3-4B", "deepseek-r1", "gpt-oss-20b", "a thinking model"])
def test_a_name_says_nothing(name: str) -> None:
    """A family is never chosen by a model's name alone."""
    assert family_of(f"{{# {name} #}}{{{{ messages }}}}", {name, "<|im_end|>"}) is None
    assert splitter_for(name, (), "", ()) is None


# One mark before the answer, one behind it ----------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("text", "prompt", "parts"),
    [
        ("<think>\nhm\n</think>\n\nParis.", "", ("hm", "Paris.")),
        ("  <think>hm é 日本</think>Zürich", "", ("hm é 日本", "Zürich")),
        ("<think>\n\n</think>\n\nParis.", "", ("", "Paris.")),
        ("<think>one</think>\n<think>two</think>three", "", ("onetwo", "three")),
        ("Paris.", "", ("", "Paris.")),
        ("\n Paris. \n", "", ("", "\n Paris. \n")),
        ("hm\n\nhm\n</think>\nParis.\n", "user\nhi\nassistant\n<think>\n", ("hm\n\nhm", "Paris.\n")),
        ("\nParis.", "assistant\n<think>\n\n</think>\n\n", ("", "\nParis.")),
        ("Paris.", "assistant</think>", ("", "Paris.")),
        ("<think>hm</think>Paris.", "Think between <think> and </think>.", ("hm", "Paris.")),
    ],
)  # fmt: skip
def test_reasoning_stands_before_the_answer(
    text: str, prompt: str, parts: tuple[str, str], size: int
) -> None:
    """Marks and the white space beside them belong to neither part, however they are cut."""
    assert split(text, prompt=prompt, size=size) == parts


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "prompt", "parts"),
    [
        ("<think>hm", "", ("hm", "")),
        ("<think>hm\n\n</thin", "", ("hm\n\n</thin", "")),
        ("hm", "<think>\n", ("hm", "")),
        ("", "<think>\n", ("", "")),
        ("<think>\n\n", "", ("", "")),
        ("<think>hm</think>\n\n", "", ("hm", "")),
        ("<thin", "", ("", "<thin")),
        ("<think>hm</think><thin", "", ("hm", "<thin")),
    ],
)
def test_what_is_not_closed_is_kept(
    text: str, prompt: str, parts: tuple[str, str], size: int
) -> None:
    """Reasoning without its closing mark is reasoning. Half a mark is text of where it stands."""
    assert split(text, prompt=prompt, size=size) == parts


@pytest.mark.parametrize(
    "text",
    ["Write <think> before </think>.", "a</think>b", "< think>", "<thinking>hm</thinking>", "x <think>hm"],
)  # fmt: skip
def test_an_answer_may_speak_of_marks(text: str) -> None:
    """Only a mark at the beginning opens reasoning, and only open reasoning is closed."""
    assert split(text) == ("", text)
    assert split(f"<think>hm</think>{text}") == ("hm", text)


def test_a_message_opens_no_reasoning() -> None:
    """A person who writes `<think>` gets an answer. Only the template's own words count."""
    prompt = "<user>What is <think>?<assistant>"
    data = ((6, 22),)
    assert prompt[slice(*data[0])] == "What is <think>?"
    said = splitter_for(THINK, (), prompt, data)
    assert said is not None
    assert said.part is None
    opened = splitter_for(THINK, (), prompt + "<think>", data)
    assert opened is not None
    assert opened.part is Part.REASONING


def test_text_comes_as_soon_as_it_is_decided() -> None:
    """Only what may be the beginning of a mark is held back, and white space before it."""
    splitter = Splitter(FAMILIES[-1], "<think>")
    said = [b"".join(p.data for p in splitter.push(data) if p.part) for data in
            (b"a", b" b<", b"c \n", b"d</th", b"ink>", b" e", b"</think>")]  # fmt: skip
    assert said == [b"a", b" b", b"<c", b" \nd", b"", b"e", b"</think>"]


# Marks around the answer too ---------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("template", "text", "parts"),
    [
        (GRANITE, "<think>hm</think>\n<response>Paris.\n</response>\n", ("hm", "Paris.")),
        (GRANITE, "<think>hm</think>Paris.</response>", ("hm", "Paris.</response>")),
        (GRANITE, "<response>Paris.", ("", "Paris.")),
        (
            "<|START_THINKING|><|END_THINKING|>",
            "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Paris.<|END_RESPONSE|>",
            ("hm", "Paris."),
        ),
        (
            "<|START_THINKING|><|END_THINKING|>",
            "<|START_THINKING|>hm<|END_THINKING|><|START_TEXT|>Paris.<|END_TEXT|>",
            ("hm", "Paris."),
        ),
        ("<think><answer>", "<think>\nhm\n</think>\n<answer>\nA.\n</answer>", ("hm", "A.")),
        ("[THINK][/THINK]", "[THINK]hm[/THINK]Paris.", ("hm", "Paris.")),
        ("<seed:think></seed:think>", "<seed:think>hm</seed:think>Paris.", ("hm", "Paris.")),
        ("<|channel><channel|>", "<|channel>thought\nhm<channel|>Paris.", ("hm", "Paris.")),
        (
            "Here is my thought process: Here is my response:",
            "Here's my thought process: hm\n\nHere is my response: Paris.",
            ("hm", "Paris."),
        ),
    ],
)
def test_the_other_families(template: str, text: str, parts: tuple[str, str], size: int) -> None:
    """Each has its own marks. Those around an answer belong to it no more than the others."""
    assert split(text, template, size=size) == parts


def test_a_prompt_opens_what_the_model_goes_on_with() -> None:
    """Apriel's template writes the first words of the reasoning. Gemma 4's may write it empty."""
    apriel = "Here are my reasoning steps:\n [BEGIN FINAL RESPONSE]"
    prompt = "<|begin_assistant|>\nHere are my reasoning steps:\n"
    assert split("hm\n[BEGIN FINAL RESPONSE]\nParis.", apriel, prompt) == ("hm", "Paris.")
    gemma = "<|channel><channel|>"
    assert split("Paris.", gemma, "<|turn>model\n<|channel>thought\n<channel|>") == ("", "Paris.")


# The channels of gpt-oss -------------------------------------------------------------------

BEGINNING = "<|end|><|start|>assistant"
ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|channel|>final<|message|>"


@pytest.mark.parametrize("size", [1, 6, 1000])
@pytest.mark.parametrize(
    ("text", "prompt", "parts"),
    [
        (f"{ANALYSIS}hm<|end|><|start|>assistant{FINAL}Paris.", BEGINNING, ("hm", "Paris.")),
        (f"{FINAL}Paris.", BEGINNING, ("", "Paris.")),
        (f"{ANALYSIS}hm", BEGINNING, ("hm", "")),
        ("hm<|end|><|start|>assistant" + FINAL + "Paris.", BEGINNING + ANALYSIS, ("hm", "Paris.")),
        ("Paris.", BEGINNING + FINAL, ("", "Paris.")),
        (
            f"{ANALYSIS}one<|end|><|start|>assistant<|channel|>commentary<|message|>Plan.<|end|>"
            f"<|start|>assistant{ANALYSIS}two<|end|><|start|>assistant{FINAL}Paris.",
            BEGINNING,
            ("onetwo", "Plan.Paris."),
        ),
        ("<|channel|>final <|constrain|>json<|message|>{}", BEGINNING, ("", "{}")),
        (" to=python<|channel|>analysis code<|message|>1+1", BEGINNING, ("1+1", "")),
        (
            '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}',
            BEGINNING,
            ("", '{"a": 1}'),
        ),
        ("<|channel|>final and no more", BEGINNING, ("", "<|channel|>final and no more")),
        ("Paris.", BEGINNING, ("", "Paris.")),
    ],
)
def test_channels(text: str, prompt: str, parts: tuple[str, str], size: int) -> None:
    """`analysis` is reasoning. `final`, and `commentary`, which is for the user, are the answer."""
    assert split(text, HARMONY, prompt, size) == parts


def test_a_header_is_one_short_line() -> None:
    """What is longer is no header, and is given out as the text that it is."""
    for text in ("<|channel|>final" + "x" * 300, "<|channel|>final\nx"):
        splitter = Splitter(FAMILIES[0])
        assert b"".join(p.data for p in splitter.push(text.encode()) if p.part) == text.encode()


def test_a_prompt_s_end_is_searched_within_a_limit() -> None:
    """A template can write millions of characters, and a search could take longer than a run."""
    prompt = "<think>" + "to=" * 1_000_000
    for template in (THINK, HARMONY):
        splitter = splitter_for(template, (), prompt, ())
        assert splitter is not None
        assert splitter.part is None


# Anything at all ---------------------------------------------------------------------------


def fragments() -> Iterator[str]:
    for family in FAMILIES:
        yield from family.signs
    yield from (
        "<|end|>",
        ANALYSIS,
        FINAL,
        "<|start|>assistant",
        "</response>",
        "<",
        " \n",
        "é",
        "a",
    )


@given(
    st.sampled_from([family.signs for family in FAMILIES]),
    st.lists(st.sampled_from(sorted(set(fragments()))), max_size=12).map("".join),
    st.lists(st.sampled_from(sorted(set(fragments()))), max_size=3).map("".join),
    st.integers(1, 9),
)  # fmt: skip
@settings(max_examples=300)
def test_nothing_is_lost_and_cuts_change_nothing(
    signs: tuple[str, ...], text: str, prompt: str, size: int
) -> None:
    """Every byte is in one piece, and the parts are the same however the text is cut."""
    template = "".join(signs)
    assert split(text, template, prompt, size) == split(text, template, prompt, 1000)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", [" " * 30_000, " " * 30_000 + "x", "</" * 20_000, "<|channel|>a" * 3000]
)
def test_long_runs_take_no_long_time(text: str) -> None:
    """White space and beginnings of marks are held back, and looked at again, but not for ever."""
    assert split("<think>a" + text, size=50) == ("a" + text, "")
    assert split("<think>a" + text + "</think>b", size=50) == ("a" + text.rstrip(), "b")
    assert split(text, HARMONY, size=50) == ("", text)
