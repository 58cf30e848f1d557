"""Texts to token ids and back, for the vocabulary that a GGUF file carries.

Every convention here (defaults, order of special tokens, byte fallback) is llama.cpp's, from its
`src/llama-vocab.cpp`, so that the ids equal `llama_tokenize(add_special=true, parse_special=true)`.
There are five deliberate differences: a bos that the text already begins with is not put there
again, nor an eos that it ends with; an eos is never appended to a prompt, which is there to be
continued, but to a text that stands for itself; no control token is recognised in the parts of a
text that are data; and merges that are no pairs are refused.
"""

import heapq
import re
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from enum import IntEnum
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, Protocol

from tokenizers import Regex
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from ..errors import InvalidInput, ModelNotSupported
from ..spans import Spans
from .pretokenizers import pretokenizer_named

# llama.cpp ends generation at these texts whatever their token type says.
END_TEXTS = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
})  # fmt: skip
# Fill-in-the-middle tokens, which llama.cpp finds by their texts where the file gives no id.
# It ends generation at the first three kinds.
FILL_IN_TEXTS = {
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
    "fim_pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE>"
    " <|code_prefix|> <|prefix|>",
    "fim_suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF>"
    " <|code_suffix|> <|suffix|>",
    "fim_mid": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID>"
    " <|code_middle|> <|middle|>",
}
ALWAYS_SPECIAL_TEXTS = frozenset({"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"})
SPACE = "▁"
BYTE_TOKEN = re.compile(rb"<0x([0-9A-Fa-f]{2})>")
# Oniguruma gives up a match after ten million steps, and `tokenizers` panics then. One run of
# white space or of one letter takes up to two steps a character.
LONGEST_TEXT = 4_000_000


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
    """What both kinds of vocabulary share: the tokens, the special ones, where generation ends.

    `end_ids` holds every id that ends generation. `bos_id` may be an id that is not put in front
    of a prompt; `add_bos` says whether it is, and `add_eos` whether `eos_id` ends a whole text.
    """

    def __init__(
        self, metadata: Mapping[str, Any], *, bos_id: int, eos_id: int, add_bos: bool
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
        # What a text is merged to: no data becomes a control token in that way either.
        control = {token_id for _, token_id, _, is_control in self._special if is_control}
        self._text_tokens = {
            token: token_id
            for token, token_id in self._ids.items()
            if token_id not in control or len(token.decode("utf-8", "replace")) == 1
        }

    def encode(self, text: str, data: Spans = ()) -> list[int]:
        """The token ids of a text, special tokens in it recognised, bos in front where due.

        No control token is recognised where it touches one of the spans `data`; all other ids are
        those of the whole text. Raises InvalidInput for a text with a lone surrogate, which has no
        UTF-8 form.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"the text has a lone surrogate, {text[error.start]!a}, at character {error.start}"
            ) from None
        ids: list[int] = []
        after_special = True
        for part in self._split_at_special_tokens(text, data)[0]:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_plain(text[slice(*part)], after_special=after_special)
            after_special = isinstance(part, int)
        if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def withheld(self, text: str, data: Spans) -> list[tuple[int, int]]:
        """Where the text of a control token stands that `data` keeps from being one."""
        return sorted(self._split_at_special_tokens(text, data)[1]) if data else []

    def template_variables(self) -> dict[str, Any]:
        """The special tokens that the file names, as Hugging Face's chat templates call them."""
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
        """The token ids of a text that is not continued: as `encode`, and eos at the end where due."""
        ids = self.encode(text)
        if self.add_eos and self.eos_id is not None and ids[-1:] != [self.eos_id]:
            ids.append(self.eos_id)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes a token stands for; a special token's are its text."""
        token = self._tokens[token_id]
        token_type = self._types[token_id]
        if token_type in SPECIAL_TYPES:
            return token
        # A damaged file may call any token a byte.
        if token_type == TokenType.BYTE and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(byte[1].decode())
        return self._decode_normal(token)

    def __len__(self) -> int:
        return len(self._tokens)

    @abstractmethod
    def _encode_plain(self, text: str, *, after_special: bool) -> list[int]:
        """The ids of a text without special tokens; `after_special` at the text's start too."""

    @abstractmethod
    def _decode_normal(self, token: bytes) -> bytes:
        """The bytes that a token of the type NORMAL stands for."""

    def _value(self, key: str, default: Any = None) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}", default)

    def _special_id(self, name: str, default: int | None = None) -> int | None:
        """An id from the metadata; one outside the vocabulary counts as absent."""
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
        """Collect the ids that end generation, and give those known by their text a special type.

        llama.cpp overrides the types too: converters often leave such a token NORMAL.
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
        return frozenset(token_id for token_id in end_ids if token_id is not None)

    def _find_special_texts(self) -> list[tuple[str, int, bool, bool]]:
        """The special tokens, longest first: (text, id, strips white space behind it, is control)."""
        # The one model family of this architecture whose special tokens llama.cpp lets swallow
        # white space; GGUF files do not carry that attribute.
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
                # A text holds no invalid UTF-8, so such a token cannot be in one.
                if text.encode() == token:
                    keeps = text in ("<unk>", "<s>", "<|endoftext|>")
                    # As in llama.cpp, a user-defined token is a word like others; but some files
                    # call the tokens so that build up a chat.
                    control = self._types[token_id] != TokenType.USER_DEFINED or (
                        text in ALWAYS_SPECIAL_TEXTS
                        or (text[0] in "<[" and text[-1] in ">]" and text in templates)
                    )
                    special.append((text, token_id, strips and not keeps, control))
        return sorted(special, key=lambda entry: -len(entry[0].encode()))

    def _split_at_special_tokens(
        self, text: str, data: Spans
    ) -> tuple[list[tuple[int, int] | int], list[tuple[int, int]]]:
        """Spans of text and special ids in turn, and the spans of control tokens that are data.

        A longer token wins over any shorter one it overlaps.
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


@cache
def byte_to_character() -> dict[int, str]:
    """GPT-2's map of bytes to printable characters, in which its vocabularies are written."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + number) for number, byte in enumerate(rest)
    }


_SPACE_CHARACTER = byte_to_character()[0x20].encode()


class ByteLevelTokenizer(Tokenizer):
    """Byte-level BPE (`tokenizer.ggml.model` is `gpt2`), merged by Hugging Face tokenizers.

    Early converters of Falcon wrote the tokens as raw bytes; those vocabularies are put back into
    GPT-2's form here.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        pretokenizer = pretokenizer_named(metadata.get("tokenizer.ggml.pre"))
        # 11 is llama.cpp's default, from Falcon, whose <|endoftext|> it is.
        super().__init__(metadata, bos_id=11, eos_id=11, add_bos=pretokenizer.add_bos)
        if self._value("merges") is None:
            raise ModelNotSupported("the model file has no BPE merges (tokenizer.ggml.merges)")
        self._raw = b"\n" in self._ids and "Ċ".encode() not in self._ids
        self._char_to_byte = {char: byte for byte, char in byte_to_character().items()}

        vocabulary: dict[str, int] = {}
        for token, token_id in self._text_tokens.items():
            if self._raw:
                vocabulary["".join(map(byte_to_character().__getitem__, token))] = token_id
                continue
            try:
                vocabulary[token.decode()] = token_id
            except UnicodeDecodeError:
                continue  # no text has such a token in it
        merges = list(dict.fromkeys(self._read_merges()))
        self._stand_ins = self._add_stand_ins(vocabulary, merges)

        self._bpe = HuggingFaceTokenizer(
            BPE(vocabulary, merges, ignore_merges=pretokenizer.ignore_merges)
        )
        self._bpe.pre_tokenizer = Sequence(
            [Split(Regex(pattern), "isolated") for pattern in pretokenizer.patterns]
            + [ByteLevel(add_prefix_space=False, use_regex=False)]
        )

    def _read_merges(self) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(self._value("merges")):
            text = line.decode("utf-8", "replace")
            # A merge's first half may itself begin with a space.
            space = text.find(" ", 1)
            if not 0 < space < len(text) - 1:
                raise ModelNotSupported(
                    f"merge {number:,} of the vocabulary, {text[:40]!r}, is not two parts with a "
                    "space between: convert the model again, or take another file of it"
                )
            yield text[:space], text[space + 1 :]

    def _add_stand_ins(
        self, vocabulary: dict[str, int], merges: list[tuple[str, str]]
    ) -> dict[int, list[int]]:
        """Put ids beyond the vocabulary where BPE needs a token that the vocabulary lacks.

        llama.cpp merges without asking for tokens, and afterwards gives a piece that is none as
        those of its bytes that are; `tokenizers` would join what is left and right of it instead.
        """
        needed = [text for text in byte_to_character().values() if text not in vocabulary]
        for first, second in merges:
            if (
                first not in vocabulary
                or second not in vocabulary
                or first + second not in vocabulary
            ):
                needed += (first, second, first + second)
        stand_ins: dict[int, list[int]] = {}
        for text in needed:
            if text not in vocabulary:
                token_id = vocabulary[text] = len(self._tokens) + len(stand_ins)
                ids = [self._ids.get(bytes([byte])) for byte in text.encode()]
                stand_ins[token_id] = [i for i in ids if i is not None and not self._raw]
        return stand_ins

    def _encode_plain(self, text: str, *, after_special: bool) -> list[int]:
        if len(text) > LONGEST_TEXT:
            raise InvalidInput(
                f"a text of {len(text):,} characters: the most that can be tokenised at once is "
                f"{LONGEST_TEXT:,}"
            )
        ids: list[int] = self._bpe.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if not self._stand_ins or not ids or max(ids) < len(self._tokens):
            return ids
        return [real for token_id in ids for real in self._stand_ins.get(token_id, [token_id])]

    def _decode_normal(self, token: bytes) -> bytes:
        if self._raw:
            return token
        # Most tokens are ASCII, which stands for itself, but for the space before them.
        spaced = token.replace(_SPACE_CHARACTER, b" ")
        if spaced.isascii():
            return spaced
        return b"".join(
            bytes([self._char_to_byte[char]]) if char in self._char_to_byte else char.encode()
            for char in token.decode("utf-8", "replace")
        )


class SentencePieceTokenizer(Tokenizer):
    """SentencePiece BPE (`tokenizer.ggml.model` is `llama`), after llama.cpp's llm_tokenizer_spm.

    Neighbours merge wherever their text is a token, the best score first, the leftmost among
    equals. Two neighbouring characters that are in no token together can never be merged, so a
    text is cut there and its words are merged, and remembered, one by one.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, bos_id=1, eos_id=2, add_bos=True)
        self._space_prefix = bool(self._value("add_space_prefix", True))
        scores = self._value("scores") or [0.0] * len(self._tokens)
        self._text_ids: dict[str, int] = {}
        self._neighbours: set[str] = set()
        for token, token_id in self._text_tokens.items():
            text = token.decode("utf-8", "replace")
            if text.encode() == token:
                self._text_ids[text] = token_id
                self._neighbours.update(a + b for a, b in pairwise(text))
        self._costs = {text: -scores[token_id] for text, token_id in self._text_ids.items()}
        self._merge_word = lru_cache(maxsize=65536)(self._merge)

    def _encode_plain(self, text: str, *, after_special: bool) -> list[int]:
        if self._space_prefix and after_special:
            text = " " + text
        text = text.replace(" ", SPACE)
        ids: list[int] = []
        start = 0
        for end in range(1, len(text) + 1):
            if text[end - 1 : end + 1] not in self._neighbours:
                word = text[start:end]
                ids += self._merge_word(word) if end - start < 64 else self._merge(word)
                start = end
        return ids

    def _merge(self, word: str) -> list[int]:
        pieces = list(word)
        following = [*range(1, len(pieces)), -1]
        preceding = list(range(-1, len(pieces) - 1))
        costs = self._costs
        queue = [
            (costs[pair], left, left + 1, 2)
            for left in range(len(pieces) - 1)
            if (pair := word[left : left + 2]) in costs
        ]
        heapq.heapify(queue)
        while queue:
            _, left, right, length = heapq.heappop(queue)
            # A piece that was merged meanwhile is empty, or longer than this pair knew it.
            if not pieces[left] or not pieces[right]:
                continue
            merged = pieces[left] + pieces[right]
            if len(merged) != length:
                continue
            pieces[left], pieces[right] = merged, ""
            beyond = following[left] = following[right]
            if beyond >= 0:
                preceding[beyond] = left
                pair = merged + pieces[beyond]
                if pair in costs:
                    heapq.heappush(queue, (costs[pair], left, beyond, len(pair)))
            before = preceding[left]
            if before >= 0:
                pair = pieces[before] + merged
                if pair in costs:
                    heapq.heappush(queue, (costs[pair], before, left, len(pair)))
        ids = []
        for piece in filter(None, pieces):
            if piece in self._text_ids:
                ids.append(self._text_ids[piece])
            else:
                ids += map(self._byte_id, piece.encode())
        return ids

    def _byte_id(self, byte: int) -> int:
        for token in (b"<0x%02X>" % byte, bytes([byte])):
            if token in self._ids:
                return self._ids[token]
        raise InvalidInput(f"the model's vocabulary has no token for the byte 0x{byte:02X}")

    def _decode_normal(self, token: bytes) -> bytes:
        return token.replace(SPACE.encode(), b" ")


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer for a GGUF file's metadata, keys as in the file.

    Arrays of strings are lists of bytes. Raises ModelNotSupported for a tokenizer model or a
    pre-tokenizer that is not known, and for a file without a vocabulary or merges.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        return ByteLevelTokenizer(metadata)
    if model == "llama":
        return SentencePieceTokenizer(metadata)
    raise ModelNotSupported(f"tokenizer model {model!r}: only 'gpt2' and 'llama' are supported")


class NativeModel(Protocol):
    """What a format before GGUF needs its loaded model for: only that can read its vocabulary."""

    vocabulary_size: int

    @property
    def native_end_id(self) -> int: ...
    def encode_natively(self, text: str) -> list[int]: ...
    def token_bytes_natively(self, token: int) -> bytes: ...


class NativeTokenizer:
    """The vocabulary of an old GGML file, asked of the library that has loaded it."""

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self.bos_id: int | None = None
        self.add_bos = False
        self.end_ids = frozenset({model.native_end_id})

    def encode(self, text: str, data: Spans = ()) -> list[int]:
        """The token ids of a text. Raises InvalidInput for what the library cannot take.

        The library recognises no control tokens anywhere.
        """
        return self._model.encode_natively(text)

    def withheld(self, text: str, data: Spans) -> list[tuple[int, int]]:
        """Nothing: see `Tokenizer.withheld`."""
        return []

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for."""
        return self._model.token_bytes_natively(token_id)

    def __len__(self) -> int:
        return self._model.vocabulary_size
