"""The tokenizer that asks llama.cpp's library, with a library that answers as the test says.

`tests/integration/test_library_vocabularies.py` asks the real one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmwit_magic.engines import deep_stack
from llmwit_magic.engines.backends.llamacpp.llama_vocabulary import LlamaTokenizer
from llmwit_magic.errors import EngineFailed, InvalidInput, ModelNotSupported
from tests.support.vocabularies import byte_level, plamo2, rwkv, unigram, wordpiece

METADATA = rwkv()
TOKENS = METADATA["tokenizer.ggml.tokens"]
START = 0
"""The id of `<s>`, the only control token."""


def by_letter(text: bytes) -> list[int]:
    """The ids of a text: `<s>` where it begins so, as RWKV's kind finds it, else of each byte."""
    ids = []
    while text:
        size = 3 if text.startswith(b"<s>") else 1
        ids.append(START if size == 3 else text[0] + 1)
        text = text[size:]
    return ids


class Library:
    """Answers as `llama.h` says, with the ids of `ids`."""

    def __init__(
        self, ids: Callable[[bytes], list[int]] = by_letter, count: int = len(TOKENS),
        bos: int = -1, eos: int = 0,
    ) -> None:  # fmt: skip
        self.ids, self.count, self.bos, self.eos = ids, count, bos, eos
        self.asked: list[tuple[bytes, bool, bool, int]] = []

    def llama_tokenize(
        self, _: int, text: bytes, size: int, room: Any, most: int, add: bool, parse: bool
    ) -> int:
        self.asked.append((text[:size], add, parse, threading.get_ident()))
        ids = self.ids(text[:size])
        if len(ids) > most:
            return -len(ids)
        room[: len(ids)] = ids
        return len(ids)

    def llama_token_to_piece(
        self, _: int, token_id: int, piece: Any, size: int, strip: int, special: bool
    ) -> int:
        text = TOKENS[token_id] * 30
        if len(text) > size:
            return -len(text)
        piece[: len(text)] = text
        return len(text)

    def llama_vocab_n_tokens(self, _: int) -> int:
        return self.count

    def llama_vocab_bos(self, _: int) -> int:
        return self.bos

    def llama_vocab_eos(self, _: int) -> int:
        return self.eos

    def llama_vocab_sep(self, _: int) -> int:
        return 3

    def llama_vocab_get_add_bos(self, _: int) -> bool:
        return True

    llama_vocab_get_add_eos = llama_vocab_get_add_bos


def made(metadata: dict[str, Any] = METADATA, **options: Any) -> tuple[LlamaTokenizer, Library]:
    library = Library(count=len(metadata["tokenizer.ggml.tokens"]), **options)
    return LlamaTokenizer(metadata, library, 1), library


def test_special_tokens_are_ours() -> None:
    """The library is given what stands between them, to add and to recognise nothing."""
    tokenizer, library = made()
    assert tokenizer.encode("a<s>b") == [ord("a") + 1, START, ord("b") + 1]
    assert [asked[:3] for asked in library.asked] == [(b"a", False, False), (b"b", False, False)]
    assert tokenizer.made_by == "llama.cpp"


@pytest.mark.parametrize("text", ["<s>", "x<s>y", "<s><s>", "é<s>"])
def test_a_control_token_that_is_found_as_a_word(text: str) -> None:
    """In data its first letter is given to the library apart."""
    tokenizer, _ = made()
    ids = tokenizer.encode(text, ((0, len(text)),))
    assert ids == [byte + 1 for byte in text.encode()]
    assert tokenizer.withheld(text, ((0, len(text)),))


def test_a_control_token_that_cannot_be_written() -> None:
    """A vocabulary that makes one of any text cannot have the text."""
    tokenizer, _ = made(ids=lambda text: [START])
    with pytest.raises(InvalidInput, match=r"has a control token in it: leave out '<s>'$"):
        tokenizer.encode("anything")


def test_text_without_a_token() -> None:
    """An id that is none never leaves the tokenizer."""
    tokenizer, _ = made(ids=lambda text: [5, -1])
    with pytest.raises(InvalidInput, match="no token for a part of the text"):
        tokenizer.encode("a")


def test_more_ids_than_letters() -> None:
    """The library says how much room it needs."""
    tokenizer, library = made(ids=lambda text: [9] * 100)
    assert tokenizer.encode("a") == [9] * 100
    assert len(library.asked) == 2


def test_long_pieces() -> None:
    """A token's bytes are asked for again where they are longer than the room for them."""
    tokenizer, _ = made()
    assert tokenizer.token_bytes(ord("a") + 1) == b"a" * 30
    long = len(TOKENS) - 5
    assert tokenizer.token_bytes(long) == TOKENS[long] * 30
    assert tokenizer.token_bytes(START) == b"<s>"
    for none in (len(TOKENS), -3):
        with pytest.raises(IndexError):
            tokenizer.token_bytes(none)


def test_another_number_of_tokens() -> None:
    with pytest.raises(ModelNotSupported, match=r"^llama\.cpp sees 5 tokens of 264$"):
        LlamaTokenizer(METADATA, Library(count=5), 1)


def test_a_text_that_is_too_long() -> None:
    tokenizer, _ = made()
    assert tokenizer.longest_text == 250_000
    with pytest.raises(InvalidInput, match=r"^a text of 250,001 characters: "):
        tokenizer.encode("a" * 250_001)


@pytest.mark.parametrize(
    ("metadata", "ends"),
    [
        (METADATA, (False, False)), (plamo2(), (False, False)), (unigram(), (True, True)),
        (wordpiece(), (True, True)), (byte_level(pre="youtu"), (True, True)),
    ],
)  # fmt: skip
def test_what_stands_around_a_text(metadata: dict[str, Any], ends: tuple[bool, bool]) -> None:
    """As the library says; RWKV's and PLaMo's kinds get nothing, and WordPiece's end with `[SEP]`."""
    tokenizer, _ = made(metadata, bos=2)
    assert (tokenizer.add_bos, tokenizer.add_eos) == ends
    none, _ = made({**metadata, "tokenizer.ggml.bos_token_id": 10**6})
    assert not none.add_bos
    if metadata["tokenizer.ggml.model"] == "bert":
        assert tokenizer.encode_whole("")[-1] == 3


def test_regular_expressions_have_a_large_stack() -> None:
    """They run in a thread of their own, and other threads get an ordinary stack again."""
    before = threading.stack_size()
    tokenizer, library = made(byte_level(pre="youtu"), ids=lambda text: [9])
    tokenizer.encode("a")
    assert {asked[3] for asked in library.asked} != {threading.get_ident()}
    assert threading.stack_size() == before
    plain, library = made()
    plain.encode("a")
    assert {asked[3] for asked in library.asked} == {threading.get_ident()}


def test_a_stack_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what the process lacks."""

    class NoThread:
        def submit(self, *_: Any) -> Any:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(deep_stack, "ThreadPoolExecutor", lambda count: NoThread())
    before = threading.stack_size()
    tokenizer, _ = made(byte_level(pre="youtu"), ids=lambda text: [9])
    with pytest.raises(EngineFailed, match=r"512 MiB of address space .*can't start new thread"):
        tokenizer.encode("a")
    assert threading.stack_size() == before
