"""Reasoning and answer are two texts, each with its own stop sequences, filters and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llmwit_magic.contract.wit import FinishDetail, TokenInfo
from llmwit_magic.engines.reasoning import splitter_for
from llmwit_magic.engines.text_parts import Given, TextParts

HARMONY = "<|channel|><|message|>"
FILTER, STOP = FinishDetail.CONTENT_FILTER, FinishDetail.STOP_SEQUENCE


class Written:
    """What is given out of the tokens of a text."""

    def __init__(
        self,
        tokens: Sequence[str | bytes],
        template: str = "</think>",
        prompt: str = "",
        **options: Any,
    ) -> None:
        splitter = splitter_for(template, (), prompt, ())
        self.parts = TextParts(options.get("stop", ()), options.get("filters", ()), splitter)
        self.given: list[Given] = []
        for number, token in enumerate(tokens):
            data = token.encode() if isinstance(token, str) else token
            info = TokenInfo(id=number, bytes=data, logprob=-0.5, rank=0)
            self.given.append(self.parts.push(data, info))
            if self.parts.ended:
                break
        self.given.append(self.parts.finish())
        self.reasoning = "".join(given.reasoning for given in self.given)
        self.text = "".join(given.text for given in self.given)
        self.tokens = [token for given in self.given for token in given.tokens]

    @property
    def pieces(self) -> list[tuple[bool, bytes]]:
        return [(token.reasoning, token.bytes) for token in self.tokens]


def test_the_parts_come_one_after_the_other() -> None:
    """Each chunk has text of the part that is being written."""
    written = Written(["<think>", "hm", " hm", "</think>", "\n\n", "Paris", "."])
    assert [(given.reasoning, given.text) for given in written.given] == [
        ("", ""), ("hm", ""), (" hm", ""), ("", ""), ("", ""), ("", "Paris"), ("", "."), ("", ""),
    ]  # fmt: skip


def test_tokens_know_their_part_and_make_up_its_text() -> None:
    """Marks are no tokens of the text. Of a token that is partly a mark, the rest counts."""
    written = Written(["<", "think", ">\n", "so", ".</", "think", ">\n\n", " P", "aris", "."])
    assert (written.reasoning, written.text) == ("so.", "Paris.")
    assert written.pieces == [
        (True, b"so"), (True, b"."), (False, b"P"), (False, b"aris"), (False, b"."),
    ]  # fmt: skip
    assert [token.id for token in written.tokens] == [3, 4, 7, 8, 9]


def test_the_count_of_reasoning_is_what_is_not_of_the_answer() -> None:
    """Marks and the white space beside them count as reasoning, and so does reasoning alone."""
    assert Written(["<think>", "hm", "</think>", "\n\n", "Paris"]).parts.reasoning_token_count == 4
    assert Written(["hm", " hm"], prompt="<think>").parts.reasoning_token_count == 2
    assert Written(["Paris", "."]).parts.reasoning_token_count == 0
    assert Written(["hm", "</think>", "a"], template="").parts.reasoning_token_count == 0


def test_without_marks_the_text_is_what_it_was() -> None:
    """A model without marks has no reasoning, whatever it writes."""
    written = Written(["<think>", "hm", "</think>", b"\xc3", b"\xa9", b""], template="plain")
    assert (written.reasoning, written.text) == ("", "<think>hm</think>é")
    assert b"".join(token.bytes for token in written.tokens).decode() == written.text


def test_characters_are_whole_in_each_part() -> None:
    """A character that is cut by a mark is the sign for a broken one, in its own part."""
    written = Written(["<think>", b"\xc3", b"\xa9", b"\xe6\x97", "</think>", b"\xa5", "a"])
    assert (written.reasoning, written.text) == ("é\ufffd", "\ufffda")


@pytest.mark.parametrize(
    ("tokens", "options", "parts", "ended", "sequence"),
    [
        (["<think>", "one E", "ND two", "</think>", "a"], {"stop": ["END"]},
         ("one ", ""), STOP, "END"),
        (["<think>", "one EN", "</think>", "D a E", "ND b"], {"stop": ["END"]},
         ("one EN", "D a "), STOP, "END"),
        (["<think>", "one", "</think>", "a", "b"], {"stop": ["</think>", "<think>"]},
         ("one", "ab"), None, None),
        (["<think>", "a sec", "ret", "</think>", "b"], {"filters": ["secret"]},
         ("a ", ""), FILTER, None),
        (["<think>", "a sec", "</think>", "ret b sec", "ret"], {"filters": ["secret"]},
         ("a sec", "ret b "), FILTER, None),
        (["<think>", "ab$", "</think>", "c"], {"filters": [r"\$$"]}, ("ab", ""), FILTER, None),
        (["<think>", "hm", "</think>", "ab"], {"filters": [lambda t: t.find("b") if "b" in t else None]},
         ("hm", "a"), FILTER, None),
    ],
)  # fmt: skip
def test_stops_and_filters_hold_in_each_part_alone(
    tokens: list[str], options: dict[str, Any], parts: tuple[str, str],
    ended: FinishDetail | None, sequence: str | None,
) -> None:  # fmt: skip
    """Nothing matches across the border, and no mark is matched. Nothing of a match is given out."""
    written = Written(tokens, **options)
    assert (written.reasoning, written.text) == parts
    assert (written.parts.ended, written.parts.stop_sequence) == (ended, sequence)
    for reasoning, text in ((True, parts[0]), (False, parts[1])):
        said = b"".join(data for part, data in written.pieces if part is reasoning).decode()
        assert text.startswith(said)


def test_held_back_reasoning_comes_before_the_answer() -> None:
    """A function may object to any text, so it is asked once the reasoning is complete."""
    asked: list[str] = []

    def judge(text: str) -> None:
        asked.append(text)

    written = Written(["<think>", "hm", "</think>", "a", "b"], filters=[judge])
    assert [given.reasoning for given in written.given] == ["", "", "", "hm", "", ""]
    assert (written.reasoning, written.text) == ("hm", "ab")
    assert {"hm", "ab"} <= set(asked)
    assert not any("hm" in text and "a" in text for text in asked)


def test_messages_of_one_channel_are_paragraphs() -> None:
    """Two messages of gpt-oss in one part have an empty line between them."""
    written = Written(
        ["<|channel|>", "analysis", "<|message|>", "one", "<|end|>", "<|start|>", "assistant",
         "<|channel|>", "analysis", "<|message|>", "two", "<|end|>", "<|start|>", "assistant",
         "<|channel|>", "final", "<|message|>", "Paris."],
        template=HARMONY,
    )  # fmt: skip
    assert (written.reasoning, written.text) == ("one\n\ntwo", "Paris.")
    assert written.pieces == [(True, b"one"), (True, b"two"), (False, b"Paris.")]
    assert written.parts.reasoning_token_count == 17
