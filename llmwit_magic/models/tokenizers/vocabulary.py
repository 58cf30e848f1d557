"""What all vocabularies of GGUF files share: tokens, special tokens, and where generation ends.

The conventions are llama.cpp's, from its `src/llama-vocab.cpp`: the defaults, the order in which
special tokens are found, the fallback to bytes. The ids of a text are therefore those of
`llama_tokenize(add_special=true, parse_special=true)`. Five differences are deliberate:

- A text that begins with bos gets no second one.
- A text that ends with eos gets no second one.
- A prompt never gets an eos, because it is to be continued. Only a text that stands for itself
  gets one (`Tokenizer.encode_whole`).
- No control token is recognised in the parts of a text that are data.
- A byte-level vocabulary with a merge that is not a pair is refused (`bpe.py`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from ...contract.spans import Spans
from ...errors import InvalidInput, ModelNotSupported
from .special_texts import ALWAYS_SPECIAL_TEXTS, END_TEXTS, FILL_IN_TEXTS

BYTE_TOKEN = re.compile(rb"<0x([0-9A-Fa-f]{2})>")


class TokenType(IntEnum):
    """The values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


SPECIAL_TYPES = frozenset({TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED})


class Tokenizer(ABC):
    """What both kinds of vocabulary share: the tokens, the special tokens, the end of generation.

    `add_bos` says whether `bos_id` is put in front of a text. `add_eos` says whether `eos_id` is
    put behind a text that stands for itself. `end_ids` holds every id that ends generation.
    The arguments `bos_id`, `eos_id` and `add_bos` apply to a file that does not say.
    Raises ModelNotSupported for a file without tokens.
    """

    made_by = "llmwit-magic"
    """Whose code finds the token ids of a text."""
    longest_text: int | None = None
    """Characters of a text that is tokenized at once; None where any number is."""

    def __init__(
        self,
        metadata: Mapping[str, Any],
        *,
        bos_id: int | None,
        eos_id: int | None,
        add_bos: bool,
    ) -> None:
        self._metadata = metadata
        tokens = self._value("tokens")
        if not tokens:
            raise ModelNotSupported("the model file has no vocabulary (tokenizer.ggml.tokens)")
        self._tokens = [bytes(token) or b"[EMPTY_%d]" % i for i, token in enumerate(tokens)]
        types = self._value("token_type")
        self._types = [TokenType.NORMAL] * len(tokens) if types is None else list(types)
        self._ids: dict[bytes, int] = {}
        for token_id, token in enumerate(self._tokens):
            self._ids.setdefault(token, token_id)

        self.bos_id: int | None = self._special_id("bos", bos_id)
        self.add_bos: bool = bool(self._value("add_bos_token", add_bos)) and self.bos_id is not None
        self.eos_id: int | None = self._special_id("eos", eos_id)
        self.add_eos: bool = bool(self._value("add_eos_token", False)) and self.eos_id is not None
        self.end_ids: frozenset[int] = self._find_end_ids()
        self._special = self._find_special_texts()
        # The tokens that text can be merged into. Control tokens are not among them, so that merging
        # never makes a control token of data. One of a single character stays: no merge makes it.
        control = {token_id for _, token_id, _, is_control in self._special if is_control}
        self._text_tokens = {
            token: token_id
            for token, token_id in self._ids.items()
            if token_id not in control or len(token.decode("utf-8", "replace")) == 1
        }

    def encode(self, text: str, data: Spans = ()) -> list[int]:
        """The token ids of a text, with bos in front if `add_bos` is true.

        Special tokens in the text are recognised, but a control token that overlaps one of the
        spans `data` is not. The spans change no other id: the text is not cut at their borders.
        Raises InvalidInput for a text with a lone surrogate, which has no UTF-8 form.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"the text has a lone surrogate, {text[error.start]!a}, at character {error.start}"
            ) from None
        ids = self._encode_parts(text, data, after_special=True)
        if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def encode_continuation(self, text: str, data: Spans = ()) -> list[int]:
        """The token ids of a text that follows another one: `encode` without bos, and without the
        space that a SentencePiece vocabulary puts in front of a text."""
        return self._encode_parts(text, data, after_special=False)

    def _encode_parts(self, text: str, data: Spans, *, after_special: bool) -> list[int]:
        ids: list[int] = []
        for part in self._split_at_special_tokens(text, data)[0]:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_plain(text[slice(*part)], after_special=after_special)
            after_special = isinstance(part, int)
        return ids

    def withheld(self, text: str, data: Spans) -> list[tuple[int, int]]:
        """The spans of texts that would be control tokens if they did not overlap `data`."""
        return sorted(self._split_at_special_tokens(text, data)[1]) if data else []

    def template_variables(self) -> dict[str, Any]:
        """The special tokens as variables of a chat template, with the names of Hugging Face.

        A token that the file names has a variable of its own. The other control tokens are the
        list `additional_special_tokens`.
        """
        named = {
            name: self._special_id(key)
            for name, key in (
                ("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("sep", "seperator"),
                ("sep", "separator"), ("pad", "padding"), ("cls", "cls"), ("mask", "mask"),
            )
            if self._value(f"{key}_token_id") is not None
        }  # fmt: skip
        texts = {
            f"{name}_token": self.token_bytes(token_id).decode("utf-8", "replace")
            for name, token_id in named.items()
            if token_id is not None
        }
        others = [
            token.decode("utf-8", "replace")
            for token_id, token in enumerate(self._tokens)
            if self._types[token_id] == TokenType.CONTROL and token_id not in named.values()
        ]
        return {"bos_token": "", "eos_token": "", **texts, "additional_special_tokens": others}

    def encode_whole(self, text: str) -> list[int]:
        """The token ids of a text that is not continued: `encode`, and eos if `add_eos` is true."""
        ids = self.encode(text)
        if self.add_eos and self.eos_id is not None and ids[-1:] != [self.eos_id]:
            ids.append(self.eos_id)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token stands for. A special token stands for its text."""
        token = self._tokens[token_id]
        token_type = self._types[token_id]
        if token_type in SPECIAL_TYPES:
            return token
        # A damaged file may give any token the type BYTE.
        if token_type == TokenType.BYTE and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(byte[1].decode())
        return self._decode_normal(token_id)

    def text_tokens(self) -> list[bytes]:
        """The bytes of each token that text may have; empty for a control token and an unused one."""
        control = {token_id for _, token_id, _, is_control in self._special if is_control}
        control |= self.end_ids
        unfit = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED)
        return [
            b"" if token_id in control or token_type in unfit else self.token_bytes(token_id)
            for token_id, token_type in enumerate(self._types)
        ]

    def encode_part(self, text: str) -> list[int]:
        """The token ids of a text in the middle of another one; nothing in it is a special token."""
        return self._encode_plain(text, after_special=False)

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, text: object) -> bool:
        """Whether one token has this text, as a control token has its name."""
        return isinstance(text, str) and text.encode() in self._ids

    @abstractmethod
    def _encode_plain(self, text: str, *, after_special: bool) -> list[int]:
        """The ids of a piece of text in which no special token is recognised.

        `after_special` is true if the piece follows a special token, or begins the whole text.
        """

    @abstractmethod
    def _decode_normal(self, token_id: int) -> bytes:
        """The bytes that a token of the type NORMAL stands for."""

    def _value(self, key: str, default: Any = None) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}", default)

    def _special_id(self, name: str, default: int | None = None) -> int | None:
        """An id from the metadata, or else the default. One outside the vocabulary is ignored."""
        for token_id in (self._value(f"{name}_token_id"), default):
            if token_id is not None and 0 <= token_id < len(self._tokens):
                return int(token_id)
        return None

    def _listed_ids(self, name: str) -> set[int]:
        """The ids of a list in the metadata, without those outside the vocabulary."""
        values = self._value(name)
        listed = values if isinstance(values, list | array) else [values]
        return {int(i) for i in listed if isinstance(i, int) and 0 <= i < len(self._tokens)}

    def _find_end_ids(self) -> frozenset[int]:
        """The ids that end generation. Tokens known by their text get a special type here.

        llama.cpp changes the types in the same way, because converters often leave them NORMAL.
        """
        end_ids = {self.eos_id, self._special_id("eot"), self._special_id("eom")}
        end_ids |= self._listed_ids("eos_token_ids")
        control_texts = set(END_TEXTS)
        for name, texts in FILL_IN_TEXTS.items():
            ids = {self._special_id(name)}
            if ids == {None}:
                ids = {self._ids.get(text.encode()) for text in texts.split()}
                control_texts.update(texts.split())
            if name in ("fim_pad", "fim_rep", "fim_sep"):
                end_ids |= ids
        for text in control_texts:
            token_id = self._ids.get(text.encode())
            if token_id is not None:
                self._types[token_id] = TokenType.CONTROL
                if text in END_TEXTS:
                    end_ids.add(token_id)
        for text in ALWAYS_SPECIAL_TEXTS:
            if text.encode() in self._ids:
                self._types[self._ids[text.encode()]] = TokenType.USER_DEFINED
        ends = {self._tokens[token_id] for token_id in end_ids if token_id is not None}
        # gpt-oss and Solar end each of their messages with <|end|>, and go on with the next one.
        # llama.cpp knows such a vocabulary by two other tokens that end an answer there.
        if ends & {b"<|call|>", b"<|calls|>"} and ends & {b"<|return|>", b"<|flush|>"}:
            end_ids.discard(self._ids.get(b"<|end|>"))
        # Gemma 4 and PLaMo have </s> as an ordinary token.
        if b"</s>" in ends and ends & {b"<|tool_response>", b"<|plamo:eos|>"}:
            end_ids.discard(self._ids[b"</s>"])
            self._types[self._ids[b"</s>"]] = TokenType.NORMAL
        return frozenset(token_id for token_id in end_ids if token_id is not None)

    def _find_special_texts(self) -> list[tuple[str, int, bool, bool]]:
        """The special tokens, longest first.

        Each is (text, id, whether it strips the white space behind it, whether it is control).
        """
        # Of the models that are run here, llama.cpp strips white space behind special tokens only for
        # this family. It goes by the name, because GGUF files do not carry that attribute.
        name = str(self._metadata.get("general.name", "")).lower()
        strips = "phi-3" in name or "phi3" in name
        templates = "".join(
            value
            for key, value in self._metadata.items()
            if key.startswith("tokenizer.chat_template") and isinstance(value, str)
        )
        special = []
        for token, token_id in self._ids.items():
            if self._types[token_id] in SPECIAL_TYPES:
                text = token.decode("utf-8", "replace")
                # A text has no invalid UTF-8 in it, so a token with some is never found in one.
                if text.encode() == token:
                    keeps = text in ("<unk>", "<s>", "<|endoftext|>")
                    # As in llama.cpp, a user-defined token is an ordinary word. But some files
                    # give this type to the tokens that their chat template writes between messages.
                    # Those are control tokens here.
                    control = self._types[token_id] != TokenType.USER_DEFINED or (
                        text in ALWAYS_SPECIAL_TEXTS
                        or (text[0] in "<[" and text[-1] in ">]" and text in templates)
                    )
                    special.append((text, token_id, strips and not keeps, control))
        return sorted(special, key=lambda entry: -len(entry[0].encode()))

    def _split_at_special_tokens(
        self, text: str, data: Spans
    ) -> tuple[list[tuple[int, int] | int], list[tuple[int, int]]]:
        """The text cut at its special tokens, and the spans of control tokens that are data.

        A part of the text is a span, or the id of a special token. Where special tokens overlap,
        the longest one is recognised.
        """
        ends = [end for _, end in data]

        def in_data(start: int, end: int) -> bool:
            following = bisect_right(ends, start)
            return following < len(data) and data[following][0] < end

        parts: list[tuple[int, int] | int] = [(0, len(text))] if text else []
        withheld: list[tuple[int, int]] = []
        for special, token_id, strips, control in self._special:
            if special not in text:
                continue
            divided: list[tuple[int, int] | int] = []
            for part in parts:
                if isinstance(part, int):
                    divided.append(part)
                    continue
                start, end = part
                place = text.find(special, start, end)
                while place >= 0:
                    after = place + len(special)
                    if control and in_data(place, after):
                        withheld.append((place, after))
                        place = text.find(special, place + 1, end)
                        continue
                    if place > start:
                        divided.append((start, place))
                    divided.append(token_id)
                    start = after
                    while strips and start < end and text[start] in " \t\n\v\f\r":
                        start += 1
                    place = text.find(special, start, end)
                if start < end:
                    divided.append((start, end))
            parts = divided
        return parts, withheld
