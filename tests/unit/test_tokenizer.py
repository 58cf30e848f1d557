"""The tokenizer over small vocabularies made here; llama.cpp itself is asked in tests/model."""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwit_magic.errors import InvalidInput, ModelNotSupported
from llmwit_magic.models.tokenizer import Tokenizer, build_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def gpt2_char(byte: int) -> str:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    return chr(256 + sum(other not in printable for other in range(byte)))


BYTE_CHARS = [gpt2_char(byte) for byte in range(256)]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
MERGES = ["h e", "l l", "he ll", "Ġ hell", "1 2", "12 3", "o Ċ", "Ã ©"]


def byte_level(extra: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    """Metadata of a byte-level vocabulary: four special tokens, 256 bytes, the merges' results."""
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*SPECIALS, *BYTE_CHARS, *merged, *extra]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.token_type": array(
            "i", [CONTROL] * 3 + [USER_DEFINED] + [NORMAL] * (len(tokens) - 4)
        ),
        "tokenizer.ggml.merges": [merge.encode() for merge in MERGES],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


WORDS = ["▁", "a", "b", "ab", "ba", "▁a", "▁ab", "é"]


def sentencepiece(words: Sequence[str] = WORDS, **changes: Any) -> dict[str, Any]:
    """Metadata of a SentencePiece vocabulary with byte tokens; earlier words have better scores."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", "<tool>", *byte_tokens, *words]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.scores": array("f", [0.0] * 260 + [-float(i) for i in range(len(words))]),
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL, USER_DEFINED]
        + [BYTE] * 256
        + [NORMAL] * len(words),
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def pieces(tokenizer: Tokenizer, text: str) -> list[bytes]:
    return [tokenizer.token_bytes(token_id) for token_id in tokenizer.encode(text)]


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return build_tokenizer(byte_level())


@pytest.fixture(scope="module")
def spm() -> Tokenizer:
    return build_tokenizer(sentencepiece())


@given(st.text())
def test_byte_level_ids_stand_for_the_text(gpt2: Tokenizer, text: str) -> None:
    """The bytes of a text's tokens are its UTF-8, control characters and NUL included."""
    assert b"".join(pieces(gpt2, text)) == text.encode()


@given(st.text(alphabet=st.characters(exclude_characters="▁", codec="utf-8")))
def test_sentencepiece_ids_stand_for_the_text(text: str) -> None:
    """After bos, and without the space prefix, the bytes of a text's tokens are its UTF-8."""
    tokenizer = build_tokenizer(sentencepiece(add_space_prefix=False))
    assert b"".join(pieces(tokenizer, text)[1:]) == text.encode()


def test_merges_apply_in_their_order(gpt2: Tokenizer) -> None:
    """Neighbours merge by rank, within one word of the pre-tokenizer."""
    assert pieces(gpt2, "hello hello") == [b"hell", b"o", b" hell", b"o"]


def test_token_bytes_undo_gpt2_characters(gpt2: Tokenizer) -> None:
    """A token is stored in GPT-2's characters and stands for the bytes behind them."""
    assert pieces(gpt2, "é 日") == ["é".encode(), b" ", b"\xe6", b"\x97", b"\xa5"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", [b"123", b"1"]),
        ("smollm", [b"1", b"2", b"3", b"1"]),
        ("llama-bpe", [b"<|im_start|>", b"123", b"1"]),
        ("qwen2", [b"1", b"2", b"3", b"1"]),
    ],
)
def test_pre_tokenizer_name_decides_how_digits_are_cut(name: str, expected: list[bytes]) -> None:
    """`tokenizer.ggml.pre` chooses the expressions, and llama-bpe's adds bos by default."""
    assert pieces(build_tokenizer(byte_level(pre=name)), "1231") == expected


def test_missing_pre_tokenizer_name_is_default() -> None:
    """A file without the key is read like one that says `default`: punctuation stands alone."""
    text = "a.b,' 1234 \n<="
    missing, default = byte_level(pre=None), byte_level(pre="default")
    assert build_tokenizer(missing).encode(text) == build_tokenizer(default).encode(text)


def test_ignore_merges_takes_a_whole_word() -> None:
    """With llama-bpe a word that is a token is taken whole though no merge makes it."""
    text = "xyz"
    assert pieces(build_tokenizer(byte_level(["xyz"], pre="llama-bpe")), text)[1:] == [b"xyz"]
    assert pieces(build_tokenizer(byte_level(["xyz"])), text) == [b"x", b"y", b"z"]


def test_special_tokens_are_recognised_in_text(gpt2: Tokenizer) -> None:
    """Control and user-defined tokens are found wherever they stand, glued to text too."""
    expected = [b"a", b"<|im_start|>", b"<|im_end|>", b"<tool>", b"b", b"<", b"|", b"i"]
    assert pieces(gpt2, "a<|im_start|><|im_end|><tool>b<|i") == expected


def test_longer_special_token_wins() -> None:
    """Where special tokens overlap, the longer is found first, even if it begins later."""
    metadata = byte_level(["xab", "abcd"])
    metadata["tokenizer.ggml.token_type"][-2:] = array("i", [CONTROL, CONTROL])
    assert pieces(build_tokenizer(metadata), "xabcd") == [b"x", b"abcd"]


@pytest.mark.parametrize("text", ["", "a", "<|im_start|>a"])
def test_bos_is_put_in_front_once(text: str) -> None:
    """bos is added where the file asks for it, unless the text begins with it."""
    ids = build_tokenizer(byte_level(add_bos_token=True)).encode(text)
    assert ids[0] == 1
    assert ids.count(1) == 1


def test_end_ids() -> None:
    """eos, eot and eom end generation, and so do texts that llama.cpp knows, of any type."""
    metadata = byte_level(["</s>", "<end_of_turn>"], eos_token_id=5, eot_token_id=6)
    metadata["tokenizer.ggml.eom_token_id"] = 7
    tokenizer = build_tokenizer(metadata)
    size = len(tokenizer)
    assert tokenizer.end_ids == {0, 2, 5, 6, 7, size - 2, size - 1}
    assert tokenizer.encode("</s>") == [size - 2]


def test_ids_outside_the_vocabulary_are_absent() -> None:
    """A bos id beyond the vocabulary gives way to llama.cpp's default for the model."""
    tokenizer = build_tokenizer(byte_level(bos_token_id=10**6, add_bos_token=True))
    assert tokenizer.bos_id == 11
    assert max(tokenizer.end_ids) < len(tokenizer)


def test_bytes_without_a_token_are_left_out() -> None:
    """What has no token is dropped, and its neighbours are not merged over the gap."""
    metadata = byte_level()
    gap = metadata["tokenizer.ggml.tokens"].index(b"x")
    metadata["tokenizer.ggml.tokens"][gap] = b"replaced"
    assert pieces(build_tokenizer(metadata), "hxe") == [b"h", b"e"]


def test_raw_byte_vocabulary() -> None:
    """Tokens stored as raw bytes (early Falcon files) give the ids that GPT-2's form gives."""
    metadata = byte_level(token_type=None)
    raw = dict(metadata)
    back = {char: byte for byte, char in enumerate(BYTE_CHARS)}
    raw["tokenizer.ggml.tokens"] = [
        bytes(back[char] for char in token.decode()) for token in metadata["tokenizer.ggml.tokens"]
    ]
    text = "hello hello\n123 é日<|endoftext|>\0"
    ids = build_tokenizer(raw).encode(text)
    assert ids == build_tokenizer(metadata).encode(text)
    assert b"".join(map(build_tokenizer(raw).token_bytes, ids)) == text.encode()


def test_sentencepiece_merges_the_best_score_first() -> None:
    """`ab` is better than `ba`, and of equals the leftmost is merged first."""
    tokenizer = build_tokenizer(sentencepiece(add_space_prefix=False))
    assert pieces(tokenizer, "bab")[1:] == [b"b", b"ab"]
    ties = sentencepiece(["a", "aa", "aaa"], add_space_prefix=False)
    assert pieces(build_tokenizer(ties), "aaaaa")[1:] == [b"aa", b"aaa"]


def test_sentencepiece_prefixes_a_space_after_special_tokens_only(spm: Tokenizer) -> None:
    """The text's start and each text after a special token get a space, as in llama.cpp."""
    assert pieces(spm, "ab<tool>b") == [b"<s>", b" ab", b"<tool>", b" ", b"b"]


def test_sentencepiece_falls_back_to_bytes(spm: Tokenizer) -> None:
    """A character without a token becomes its UTF-8 bytes."""
    assert pieces(spm, "日\0") == [b"<s>", b" ", b"\xe6", b"\x97", b"\xa5", b"\0"]


@pytest.mark.parametrize(
    "token", [b"", b"<0x", b"<0xZZ>", b"<0x-1>", b"<0x1 >", b"\xff", "é".encode()]
)
def test_a_byte_that_is_none_stands_for_itself(token: bytes) -> None:
    """A damaged file may give any token the type of a byte."""
    metadata = sentencepiece()
    metadata["tokenizer.ggml.tokens"][4] = token
    tokenizer = build_tokenizer(metadata)
    assert tokenizer.token_bytes(4) == (token or b"[EMPTY_4]")
    assert tokenizer.token_bytes(5) == b"\x01"


def test_sentencepiece_without_byte_tokens_refuses() -> None:
    """A character that no token can stand for is an error that names the byte."""
    metadata = sentencepiece()
    for key in ("tokens", "scores", "token_type"):
        del metadata[f"tokenizer.ggml.{key}"][4:260]
    with pytest.raises(InvalidInput, match="0xE6"):
        build_tokenizer(metadata).encode("日")


def test_sentencepiece_defaults(spm: Tokenizer) -> None:
    """Without keys, bos is 1, eos is 2 and bos is added."""
    assert (spm.bos_id, spm.add_bos, spm.end_ids, len(spm)) == (1, True, {2}, 268)


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_listed_end_ids(make: Callable[..., dict[str, Any]]) -> None:
    """Each id of `eos_token_ids` ends generation, but those outside the vocabulary."""
    for listed in (array("I", [0, 3, 2**32 - 1]), array("i", [0, 3, -1]), [0, 3, b"x"]):
        tokenizer = build_tokenizer(make(eos_token_ids=listed))
        assert tokenizer.end_ids >= {0, 2, 3}
        assert max(tokenizer.end_ids) < len(tokenizer)
    assert 3 in build_tokenizer(make(eos_token_ids=3)).end_ids
    assert 3 not in build_tokenizer(make(eos_token_ids="3")).end_ids


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_eos_ends_a_whole_text_only(make: Callable[..., dict[str, Any]]) -> None:
    """A file that asks for eos gets it where a text is not continued, once, and never in a prompt."""
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
    """A text without a UTF-8 form is refused in one line that says where."""
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
    """A hundred thousand repetitions neither crash nor take quadratic time."""
    text = unit * 100_000
    for tokenizer in (gpt2, spm):
        assert len(tokenizer.encode(text)) >= 99_999 // 6


def test_too_long_a_text_is_invalid_input(gpt2: Tokenizer) -> None:
    """A text that could exhaust the pre-tokenizer's steps is refused, not tried."""
    with pytest.raises(InvalidInput, match="4,000,001 characters"):
        gpt2.encode(" " * 4_000_001)


# Data, in which nothing is a control token ------------------------------------------------

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
    """Where a span of data has as much as one of its characters, its text is text."""
    text = "a<|im_start|>hi<|im_end|>"
    ids = gpt2.encode(text, data)
    assert [token for token in ids if token < 3] == [token for _, token in found]
    assert b"".join(map(gpt2.token_bytes, ids)) == text.encode()
    places = [(1, 13), (15, 25)]
    kept = [place for place in places if place[0] not in dict(found)]
    assert gpt2.withheld(text, data) == (kept if data else [])


def test_user_defined_tokens_are_words() -> None:
    """They are recognised in data too, unless the model's chat template is made of them."""
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
    """Without a control token in the text, its ids are the same whatever is data."""
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
    """SentencePiece merges whatever is a token: `<s>` in HTML is none of these."""
    words = ["<", "s", ">", "<s", "/s>", "</", "s>", "o"]
    tokenizer = build_tokenizer(sentencepiece(words, add_space_prefix=False, add_bos_token=False))
    text = "<s>o</s>"
    assert tokenizer.encode(text) == [1, tokenizer.encode("o")[0], 2]
    ids = tokenizer.encode(text, ((0, 8),))
    assert not {1, 2} & set(ids)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_words_that_are_control_tokens_are_none_in_data() -> None:
    """Also in vocabularies that take a whole word for a token without merging it."""
    metadata = byte_level(["hello"], pre="llama-bpe")
    metadata["tokenizer.ggml.token_type"][-1] = CONTROL
    tokenizer = build_tokenizer(metadata)
    (end,) = (token for token in tokenizer.encode("hello", ()) if token != tokenizer.bos_id)
    assert end == len(tokenizer) - 1
    assert end not in tokenizer.encode("hello", ((0, 5),))


def test_templates_get_the_special_tokens_of_the_file() -> None:
    """Those that the file names by their names, the other control tokens as a list."""
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
