"""Constraints by the library llguidance: which tokens may come next, so that the answer fits.

The library knows nothing of models and logits. It gets the bytes of all tokens once, and the
constraint as a grammar. After each token of an answer it says which tokens may follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..contract.constraint import Constraint
from ..errors import ConstraintFailed, ConstraintNotSupported, one_line
from .constraint_grammars import grammar_of
from .deep_stack import pool_with_stack

if TYPE_CHECKING:
    from ..models.tokenizers.native import NativeTokenizer
    from ..models.tokenizers.vocabulary import Tokenizer
    from .reasoning import Splitter

Ids = NDArray[np.int64]

LIMITS = {"verbose_errors": False}
"""The library's own limits bound the memory and the time of a grammar and of a step; see
`LLParserLimits`. Its longer messages would hold all of the grammar."""


class ConstraintVocabulary:
    """The vocabulary of a loaded model as llguidance needs it. It is made once for a model.

    Raises `ConstraintNotSupported` where llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer | NativeTokenizer) -> None:
        library = _library()
        self.end_ids = tokenizer.end_ids
        self._ends = sorted(tokenizer.end_ids)
        self._text = _VocabularyText(tokenizer)
        # Without an end token, the library adds one of its own behind all others.
        self._tokens = library.LLTokenizer(self._text, eos_token=self._ends or None)
        self._text.greedy = self._tokens.greedy_tokenize
        self._latest: tuple[str, Any] | None = None
        self._tokenizer = tokenizer
        self._bytes: list[bytes] = []
        """Of all tokens, control tokens included; read when they are first needed."""
        self._openings: dict[tuple[str, bytes], Ids] = {}

    def mask(self, constraint: Constraint) -> Mask:
        """What may follow in an answer with that constraint.

        Raises `ConstraintNotSupported` for what llguidance refuses, or would ignore.
        """
        if self._latest is None or self._latest[0] != constraint.hash:
            # The library calls itself for each rule that a rule refers to. In an ordinary stack, a
            # chain of thousands would end the process.
            with pool_with_stack("llguidance") as pool:
                matcher = pool.submit(self._matcher, constraint).result()
            self._latest = constraint.hash, matcher
        # A batch has many runs with one constraint.
        return Mask(self._latest[1].deep_copy(), constraint, self.end_ids, len(self._tokenizer))

    def openings(self, splitter: Splitter) -> Ids:
        """The tokens that may follow in a mark that opens reasoning or an answer, ascending."""
        key = splitter.family.models, splitter.held
        if key not in self._openings:
            if not self._bytes:
                count = len(self._tokenizer)
                self._bytes = [self._tokenizer.token_bytes(token_id) for token_id in range(count)]
            found = [
                token_id
                for token_id, data in enumerate(self._bytes)
                if token_id not in self.end_ids and splitter.opens(data)
            ]
            self._openings[key] = np.array(found, np.int64)
        return self._openings[key]

    def _matcher(self, constraint: Constraint) -> Any:
        library = _library()
        grammar, read_as = grammar_of(constraint)
        limits = library.LLParserLimits(**LIMITS)
        matcher = library.LLMatcher(self._tokens, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # finds what fails at the first token; the mask is kept
        said = matcher.get_error() or " ".join(matcher.get_grammar_warnings())
        if said.startswith("NoExtensionBias"):
            said = "no text that the model can write satisfies it"
        if said:
            raise ConstraintNotSupported(
                f"constraint {constraint.kind}{read_as}: llguidance refuses it: {_shortened(said)}"
            )
        return matcher


class _VocabularyText:
    """The tokens as bytes, and the tokens of a text, in the form that `LLTokenizer` asks for.

    The library asks for the tokens of a text where the constraint allows that text alone. So such
    a text gets the tokens that the model was trained with.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: Sequence[int] = ()
    greedy: Any = None

    def __init__(self, tokenizer: Tokenizer | NativeTokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = tokenizer.text_tokens()
        self.eos_token_id = min(tokenizer.end_ids, default=None)

    def __call__(self, text: bytes | str) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        try:
            ids = self._tokenizer.encode_part(data.decode())
        except Exception:  # the library cannot take one
            ids = []
        # Some vocabularies write a text in another way, as with a space in front.
        same = b"".join(self.tokens[token_id] for token_id in ids) == data
        return ids if same else list(self.greedy(data.decode("utf-8", "replace")))


class Mask:
    """Which tokens may follow in one answer.

    `allowed` has their ids in ascending order, ids that end the text included where the answer is
    complete. `complete` says whether nothing but the end can follow. Making one, and `take`, raise
    `ConstraintFailed` where no token can follow and the answer is not complete.
    """

    def __init__(
        self, matcher: Any, constraint: Constraint, end_ids: frozenset[int], count: int
    ) -> None:
        """`count` is the number of tokens of the vocabulary."""
        self._matcher, self._constraint = matcher, constraint
        self._end_ids, self._count = end_ids, count

    def restart(self) -> None:
        """Begin the answer anew."""
        self._matcher.reset()
        self.__dict__.pop("_found", None)

    def take(self, token: int) -> None:
        """Add a token to the answer; it is one of `allowed` and does not end the text."""
        self._matcher.consume_token(token)
        self.__dict__.pop("_found", None)

    @property
    def allowed(self) -> Ids:
        return self._found[0]

    @property
    def complete(self) -> bool:
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Ids, bool]:
        matcher = self._matcher
        if matcher.is_stopped() and matcher.stop_reason() in ("NoExtension", "EndOfSentence"):
            return np.empty(0, np.int64), True
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if matcher.is_error() or (matcher.is_stopped() and not matcher.is_accepting()):
            why = _shortened(matcher.get_error()) or str(matcher.stop_reason())
            raise ConstraintFailed(
                f"constraint {self._constraint.kind}: no token can follow the text so far: {why}"
            )
        ids = np.unpackbits(bits, bitorder="little").nonzero()[0]
        if not self._end_ids:  # the library's own end token stands behind those of the model
            ids = ids[ids < self._count]
        complete = ids.size <= len(self._end_ids) + 1 and self._end_ids.issuperset(ids.tolist())
        return ids, complete


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise ConstraintNotSupported(
            'constraints need llguidance: pip install "llmwit-magic[constraints]"'
        ) from None
    return llguidance


def _shortened(said: str) -> str:
    """What the library says, on one line, without the constraint itself and places in its code."""
    said = said.partition("<backtrace>")[0].replace("<non-verbose/>", "")
    if found := re.search(r"^error: (.+)$", said, re.MULTILINE):  # of an expression
        said = found[1]
    return one_line(" ".join(said.split()))[:300]
