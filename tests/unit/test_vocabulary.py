"""What all vocabularies share, tried with small ones: special tokens, bos, eos, data, refusals."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwit_magic.errors import InvalidInput, ModelNotSupported
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.models.tokenizers.vocabulary import Tokenizer
from tests.support.vocabularies import (
    CONTROL,
    MERGES,
    NORMAL,
    USER_DEFINED,
    byte_level,
    pieces,
    sentencepiece,
)


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return build_tokenizer(byte_level())


@pytest.fixture(scope="module")
def spm() -> Tokenizer:
    return build_tokenizer(sentencepiece())


def test_special_tokens_are_recognised_in_text(gpt2: Tokenizer) -> None:
    """Control and user-defined tokens are found anywhere in a text, also right beside other text."""
    expected = [b"a", b"<|im_start|>", b"<|im_end|>", b"<tool>", b"b", b"<", b"|", b"i"]
    assert pieces(gpt2, "a<|im_start|><|im_end|><tool>b<|i") == expected


def test_longer_special_token_wins() -> None:
    """Of special tokens that overlap, the longest is recognised, even if it begins later."""
    metadata = byte_level(["xab", "abcd"])
    metadata["tokenizer.ggml.token_type"][-2:] = array("i", [CONTROL, CONTROL])
    assert pieces(build_tokenizer(metadata), "xabcd") == [b"x", b"abcd"]


@pytest.mark.parametrize("text", ["", "a", "<|im_start|>a"])
def test_bos_is_put_in_front_once(text: str) -> None:
    """bos is added if the file asks for it, unless the text begins with it."""
    ids = build_tokenizer(byte_level(add_bos_token=True)).encode(text)
    assert ids[0] == 1
    assert ids.count(1) == 1


def test_end_ids() -> None:
    """eos, eot and eom end generation. So do the texts that llama.cpp knows, whatever their type."""
    metadata = byte_level(["</s>", "<end_of_turn>"], eos_token_id=5, eot_token_id=6)
    metadata["tokenizer.ggml.eom_token_id"] = 7
    tokenizer = build_tokenizer(metadata)
    size = len(tokenizer)
    assert tokenizer.end_ids == {0, 2, 5, 6, 7, size - 2, size - 1}
    assert tokenizer.encode("</s>") == [size - 2]


def test_a_message_of_gpt_oss_does_not_end_the_answer() -> None:
    """<|end|> ends generation, but not where <|return|> and <|call|> do."""
    ends = ["<|end|>", "<|call|>", "<|return|>"]
    for known, ended in ((ends, {-1, -2}), (ends[:2], {-1, -2}), (ends[:1], {-1})):
        tokenizer = build_tokenizer(byte_level(known))
        size = len(tokenizer)
        assert tokenizer.end_ids == {0, 2, *(size + place for place in ended)}
    assert build_tokenizer(byte_level(ends)).encode("a<|end|>")[-1] == size - 1
    assert "<|end|>" in tokenizer
    assert "<|return|>" not in tokenizer


def test_ids_outside_the_vocabulary_are_absent() -> None:
    """A bos id beyond the vocabulary is replaced by llama.cpp's default for the kind of vocabulary."""
    tokenizer = build_tokenizer(byte_level(bos_token_id=10**6, add_bos_token=True))
    assert tokenizer.bos_id == 11
    assert max(tokenizer.end_ids) < len(tokenizer)


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_listed_end_ids(make: Callable[..., dict[str, Any]]) -> None:
    """Each id of `eos_token_ids` ends generation, except those outside the vocabulary."""
    for listed in (array("I", [0, 3, 2**32 - 1]), array("i", [0, 3, -1]), [0, 3, b"x"]):
        tokenizer = build_tokenizer(make(eos_token_ids=listed))
        assert tokenizer.end_ids >= {0, 2, 3}
        assert max(tokenizer.end_ids) < len(tokenizer)
    assert 3 in build_tokenizer(make(eos_token_ids=3)).end_ids
    assert 3 not in build_tokenizer(make(eos_token_ids="3")).end_ids


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_eos_ends_a_whole_text_only(make: Callable[..., dict[str, Any]]) -> None:
    """If a file asks for eos, a text that is not continued ends with one eos. A prompt never does."""
    plain, asking = build_tokenizer(make()), build_tokenizer(make(add_eos_token=True))
    ids = plain.encode("ab")
    assert plain.encode_whole("ab") == asking.encode("ab") == ids
    assert asking.encode_whole("ab") == [*ids, 2]
    end = asking.token_bytes(2).decode()
    assert asking.encode_whole(f"ab{end}") == [*ids, 2]
    outside = build_tokenizer(make(add_eos_token=True, eos_token_id=2**32 - 1))
    assert outside.encode_whole("ab")[-1] in (2, 11)  # llama.cpp's defaults


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff"])
def test_lone_surrogates_are_invalid_input(gpt2: Tokenizer, spm: Tokenizer, text: str) -> None:
    """A text that has no UTF-8 form is refused in one line that says at which character."""
    for tokenizer in (gpt2, spm):
        with pytest.raises(InvalidInput, match=r"^the text has a lone surrogate.*$"):
            tokenizer.encode(text)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "tokenizer model None"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer model 'bert'"),
        (byte_level(pre="xyz"), "pre-tokenizer 'xyz': "),
        (byte_level(pre=[b"gpt-2"]), "pre-tokenizer "),
        (byte_level(pre=array("i", [1])), "pre-tokenizer "),
        (byte_level(merges=None), "no BPE merges"),
        (byte_level(merges=[b"h e", b"hello"]), "merge 1 of the vocabulary, 'hello', is not two"),
        (byte_level(merges=[b""]), "merge 0 of the vocabulary, '', is not two parts"),
        (byte_level(merges=[b" a"]), "merge 0 of the vocabulary, ' a', is not two parts"),
        (byte_level(merges=[b"a "]), "merge 0 of the vocabulary, 'a ', is not two parts"),
        (byte_level(merges=["é".encode() * 99]), "merge 0 of the vocabulary, 'éé"),
        (byte_level(tokens=None), "no vocabulary"),
    ],
)
def test_what_is_not_supported(metadata: dict[str, Any], message: str) -> None:
    """Other tokenizer models, unknown pre-tokenizers and missing arrays are named in one line."""
    with pytest.raises(ModelNotSupported, match=message) as caught:
        build_tokenizer(metadata)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", [" ", "a", "1", "\n", "é", "hell", "<tool>"])
def test_long_runs(gpt2: Tokenizer, spm: Tokenizer, unit: str) -> None:
    """A text of a hundred thousand repetitions neither crashes nor takes quadratic time."""
    text = unit * 100_000
    for tokenizer in (gpt2, spm):
        assert len(tokenizer.encode(text)) >= 99_999 // 6


# Control tokens are not recognised in data ------------------------------------------------

CHATTED = byte_level(["<think>"], token_type=None) | {
    "tokenizer.chat_template": "<tool>{{ messages }}",
}
CHATTED["tokenizer.ggml.token_type"] = array(
    "i", [CONTROL] * 3 + [USER_DEFINED] + [NORMAL] * (256 + len(MERGES)) + [USER_DEFINED]
)


def text_pieces(tokenizer: Tokenizer, text: str, *data: tuple[int, int]) -> list[bytes]:
    return [tokenizer.token_bytes(token_id) for token_id in tokenizer.encode(text, data)]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ((), [(1, 1), (15, 2)]),
        (((0, 25),), []),
        (((0, 1),), [(1, 1), (15, 2)]),
        (((1, 2),), [(15, 2)]),
        (((12, 13),), [(15, 2)]),
        (((13, 15),), [(1, 1), (15, 2)]),
        (((20, 21),), [(1, 1)]),
        (((0, 2), (24, 25)), []),
    ],
)
def test_control_tokens_are_recognised_outside_of_data(
    gpt2: Tokenizer, data: tuple[tuple[int, int], ...], found: list[tuple[int, int]]
) -> None:
    """A control token is plain text if at least one of its characters lies in a span of data."""
    text = "a<|im_start|>hi<|im_end|>"
    ids = gpt2.encode(text, data)
    assert [token for token in ids if token < 3] == [token for _, token in found]
    assert b"".join(map(gpt2.token_bytes, ids)) == text.encode()
    places = [(1, 13), (15, 25)]
    kept = [place for place in places if place[0] not in dict(found)]
    assert gpt2.withheld(text, data) == (kept if data else [])


def test_user_defined_tokens_are_words() -> None:
    """User-defined tokens are recognised in data too, except those that the chat template writes."""
    chatted = build_tokenizer(CHATTED)
    text = "<tool><think>"
    assert text_pieces(chatted, text) == [b"<tool>", b"<think>"]
    assert text_pieces(chatted, text, (0, 13))[-1] == b"<think>"
    assert text_pieces(chatted, text, (0, 13))[0] != b"<tool>"
    plain = build_tokenizer(byte_level())
    assert text_pieces(plain, "<tool>", (0, 6)) == [b"<tool>"]


@given(
    st.lists(st.sampled_from(["a", "b", " ", "é", "hell", "<s>", "</s>", "<tool>", "<|im_end|>"])),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_borders_of_data_cut_nothing(parts: list[str], borders: list[int]) -> None:
    """The spans of data change the ids of a text only if they withhold a control token."""
    text = "".join(parts)
    data = tuple((a, b) for a, b in zip(borders[::2], borders[1::2], strict=False) if a < b)
    data = tuple(sorted(data))[:1]
    for tokenizer in (BOTH[0], BOTH[1]):
        ids = tokenizer.encode(text, data)
        if not tokenizer.withheld(text, data):
            assert ids == tokenizer.encode(text)
        else:
            assert ids != tokenizer.encode(text)


BOTH = (build_tokenizer(byte_level()), build_tokenizer(sentencepiece()))


def test_merging_makes_no_control_token_of_data() -> None:
    """SentencePiece merges any text into a token, but never data into a control token such as `<s>`."""
    words = ["<", "s", ">", "<s", "/s>", "</", "s>", "o"]
    tokenizer = build_tokenizer(sentencepiece(words, add_space_prefix=False, add_bos_token=False))
    text = "<s>o</s>"
    assert tokenizer.encode(text) == [1, tokenizer.encode("o")[0], 2]
    ids = tokenizer.encode(text, ((0, 8),))
    assert not {1, 2} & set(ids)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_words_that_are_control_tokens_are_none_in_data() -> None:
    """A word of data is no control token, even with llama-bpe, where a token of a whole word is found
    without merges.
    """
    metadata = byte_level(["hello"], pre="llama-bpe")
    metadata["tokenizer.ggml.token_type"][-1] = CONTROL
    tokenizer = build_tokenizer(metadata)
    (end,) = (token for token in tokenizer.encode("hello", ()) if token != tokenizer.bos_id)
    assert end == len(tokenizer) - 1
    assert end not in tokenizer.encode("hello", ((0, 5),))


def test_templates_get_the_special_tokens_of_the_file() -> None:
    """A special token that the file names is a variable. The other control tokens are a list."""
    variables = build_tokenizer(
        byte_level(padding_token_id=0, unknown_token_id=0)
    ).template_variables()
    assert variables == {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>", "additional_special_tokens": [],
    }  # fmt: skip
    unnamed = build_tokenizer(byte_level(bos_token_id=None, eos_token_id=None))
    assert unnamed.template_variables() == {
        "bos_token": "", "eos_token": "",
        "additional_special_tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    }  # fmt: skip
