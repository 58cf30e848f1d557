"""Runs with a constraint over small vocabularies: llguidance is the real one, the logits are made up.

Each allowed token is compared with what a look at all texts says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from referencing import Registry
from scipy import stats

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.events import Chunk, End, Event
from llmwit_magic.contract.wit import FinishDetail, InferencingParams, TokenInfo
from llmwit_magic.engines.answer_mask import AnswerMask
from llmwit_magic.engines.constraints import ConstraintVocabulary
from llmwit_magic.engines.reasoning import FAMILIES, Splitter
from llmwit_magic.engines.sampling import Sampler, candidates
from llmwit_magic.engines.sequence import generate
from llmwit_magic.engines.text_parts import TextParts
from llmwit_magic.errors import ConstraintFailed, ConstraintNotSupported, EngineFailed
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.models.tokenizers.vocabulary import Tokenizer
from tests.support.vocabularies import CONTROL, NORMAL, UNUSED, byte_level, sentencepiece

# "hello" is there twice, and the last word is unused.
WORDS = ("hello", "hello", "yes", "no", "word")
BYTES = build_tokenizer(byte_level(WORDS, token_type=[*[CONTROL] * 3, *[NORMAL] * 269, UNUSED]))
SPM = build_tokenizer(sentencepiece())
THINKING = build_tokenizer(byte_level(("<think>", "</think>")))
VOCABULARIES: dict[str, ConstraintVocabulary] = {}


def vocabulary(tokenizer: Tokenizer) -> ConstraintVocabulary:
    return VOCABULARIES.setdefault(str(id(tokenizer)), ConstraintVocabulary(tokenizer))


def choices(*texts: str) -> Constraint:
    return Constraint(kind="choices", source=json.dumps(texts))


def regex(source: str) -> Constraint:
    return Constraint(kind="regex", source=source)


class Model:
    """Logits by a function of the ids so far. It counts its evaluations."""

    context_length = 500

    def __init__(self, logits: Callable[[Sequence[int]], np.ndarray]) -> None:
        self._logits, self.tokens, self.evaluated = logits, list[int](), 0

    @property
    def logits(self) -> np.ndarray:
        return self._logits(self.tokens).astype(np.float32)

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        return 0

    def evaluate_prompt(self, tokens: Sequence[int], threads: Any, progress: Any) -> bool:
        self.tokens, self.evaluated = list(tokens), self.evaluated + 1
        return True

    def evaluate_next(self, token: int, threads: int) -> None:
        self.tokens.append(token)
        self.evaluated += 1


class Outcome:
    def __init__(self, model: Model, events: list[Event], error: Exception | None) -> None:
        self.model, self.error = model, error
        self.chunks = [event for event in events if isinstance(event, Chunk)]
        self.text = "".join(chunk.text for chunk in self.chunks)
        self.reasoning = "".join(chunk.reasoning for chunk in self.chunks)
        self.tokens: list[TokenInfo] = [token for chunk in self.chunks for token in chunk.tokens]
        self.end = next((event for event in events if isinstance(event, End)), None)
        self.finish = self.end.finish_detail if self.end else None


def noise(size: int, seed: int) -> Callable[[Sequence[int]], np.ndarray]:
    """Logits that differ at each place, and are the same for the same place and seed."""
    return lambda ids: np.random.default_rng([seed, len(ids)]).normal(0, 3, size)


def run(
    tokenizer: Tokenizer,
    constraint: Constraint,
    logits: Callable[[Sequence[int]], np.ndarray] | None = None,
    splitter: Splitter | None = None,
    top_logprobs: int | None = None,
    filters: Sequence[str] = (),
    **params: Any,
) -> Outcome:
    settings = InferencingParams(**{"seed": 1, "max_tokens": 60} | params)
    known = vocabulary(tokenizer)
    model = Model(logits or noise(len(tokenizer), settings.seed or 0))
    events: list[Event] = []
    error = None
    try:
        for event in generate(
            model,
            tokenizer,
            [5, 6],
            settings,
            TextParts(settings.stop, filters, splitter),
            threads=lambda: 1,
            top_logprobs=top_logprobs,
            mask=AnswerMask(known.mask(constraint), known, splitter),
            report=lambda progress: None,
            cancelled=lambda: False,
        ):
            events.append(event)
    except EngineFailed as raised:
        error = raised
    return Outcome(model, events, error)


def preferring(tokenizer: Tokenizer, *wanted: int) -> Callable[[Sequence[int]], np.ndarray]:
    """Logits of a model that writes these tokens one after the other, where it may."""

    def logits(ids: Sequence[int]) -> np.ndarray:
        values = np.linspace(1, 0, len(tokenizer))
        place = len(ids) - 2
        if place < len(wanted):
            values[wanted[place]] = 20
        return values

    return logits


def token(tokenizer: Tokenizer, text: bytes) -> int:
    return next(i for i in range(len(tokenizer)) if tokenizer.token_bytes(i) == text)


@pytest.mark.parametrize("tokenizer", [BYTES, SPM], ids=["bytes", "spm"])
@pytest.mark.parametrize(
    "texts", [("hello", "help", "no"), ("a", "ab", "abba"), ("é", "ab é", " a")]
)
def test_the_mask_has_no_token_that_leads_nowhere(
    tokenizer: Tokenizer, texts: tuple[str, ...]
) -> None:
    """Each allowed token goes on with a choice, each choice is reached, and the end is where it is."""
    known = vocabulary(tokenizer)
    raw = [text.encode() for text in texts]
    plain = tokenizer.text_tokens()
    found, waiting = set(), [((), b"")]
    while waiting:
        ids, text = waiting.pop()
        mask = known.mask(choices(*texts))
        for each in ids:
            mask.take(each)
        goes_on = [choice for choice in raw if choice.startswith(text) and choice != text]
        assert mask.complete == (text in raw and not goes_on)
        if text in raw:
            found.add(text)
        ends = known.end_ids & set(mask.allowed.tolist())
        assert ends == (known.end_ids if text in raw and not mask.complete else set())
        for each in set(mask.allowed.tolist()) - known.end_ids:
            after = text + plain[each]
            assert plain[each]
            assert any(choice.startswith(after) for choice in goes_on)
            waiting.append(((*ids, each), after))
    assert found == set(raw)


def test_tokens_with_the_same_bytes_are_all_allowed() -> None:
    """A token of SentencePiece and the token of that byte, and a word that stands there twice."""
    allowed = set(vocabulary(SPM).mask(choices("a", "b")).allowed.tolist())
    assert allowed == {i for i in range(len(SPM)) if SPM.text_tokens()[i] in (b"a", b"b")}
    assert len(allowed) == 4
    first, second = (i for i in range(len(BYTES)) if BYTES.token_bytes(i) == b"hello")
    assert {first, second} <= set(vocabulary(BYTES).mask(choices("hello!", "y")).allowed.tolist())


def test_control_tokens_and_unused_ones_are_never_text() -> None:
    """The name of a control token is written by other tokens; an unused one is not chosen."""
    outcome = run(BYTES, choices("<|im_end|>", "<|im_start|>"), top_logprobs=0)
    assert outcome.text in ("<|im_end|>", "<|im_start|>")
    assert not {0, 1, 2}.intersection(info.id for info in outcome.tokens)
    assert BYTES.text_tokens()[-1] == b""
    unused = len(BYTES) - 1
    assert unused not in vocabulary(BYTES).mask(regex("(?s:.*)")).allowed
    assert not {0, 1} & set(vocabulary(BYTES).mask(regex("(?s:.+)")).allowed.tolist())


@pytest.mark.parametrize("tokenizer", [BYTES, SPM], ids=["bytes", "spm"])
@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (choices("hello", "yes", "no"), r"hello|yes|no"),
        (choices("a", "ab"), r"ab?"),
        (regex(r"[a-c]{3}"), r"[a-c]{3}"),
        (regex(r"é+[日😀]"), r"é+[日😀]"),
        (Constraint(kind="grammar", source='start: "a" start "b" | "-"'), r"(a*)-(b*)"),
        (Constraint(kind="grammar", source='root ::= "x"? [0-9]+ ";"'), r"x?[0-9]+;"),
        (Constraint(kind="json_schema", source='{"type": "boolean"}'), r"true|false"),
    ],
    ids=lambda value: value.kind if isinstance(value, Constraint) else "",
)
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_each_ended_answer_satisfies_the_constraint(
    tokenizer: Tokenizer, constraint: Constraint, pattern: str, temperature: float
) -> None:
    for seed in range(8):
        outcome = run(tokenizer, constraint, temperature=temperature, seed=seed)
        assert outcome.error is None
        if outcome.finish is FinishDetail.MAX_TOKENS:
            continue
        assert outcome.finish in (FinishDetail.CONSTRAINT, FinishDetail.EOS)
        assert re.fullmatch(pattern, outcome.text)


def test_an_answer_that_nothing_can_follow_ends_at_once() -> None:
    """No token is evaluated for its end. Where text may follow, an end token may too."""
    outcome = run(BYTES, choices("yes", "no"), preferring(BYTES, token(BYTES, b"yes")))
    assert (outcome.text, outcome.finish) == ("yes", FinishDetail.CONSTRAINT)
    assert outcome.model.evaluated == 1  # the prompt
    assert outcome.end is not None
    assert outcome.end.usage.generated_token_count == 1
    end = next(iter(BYTES.end_ids))
    outcome = run(BYTES, choices("a", "ab"), preferring(BYTES, token(BYTES, b"a"), end))
    assert (outcome.text, outcome.finish) == ("a", FinishDetail.EOS)
    both = [token(BYTES, b"a"), token(BYTES, b"b")]
    outcome = run(BYTES, choices("a", "ab"), preferring(BYTES, *both))
    assert (outcome.text, outcome.finish) == ("ab", FinishDetail.CONSTRAINT)


def test_an_empty_answer_evaluates_nothing() -> None:
    """An expression that only the empty text matches."""
    outcome = run(BYTES, regex("()"))
    assert (outcome.text, outcome.finish) == ("", FinishDetail.CONSTRAINT)
    assert outcome.model.evaluated == 0


def test_all_end_tokens_may_end_an_answer() -> None:
    """A vocabulary with several."""
    tokenizer = build_tokenizer(byte_level(eos_token_ids=[0, 2]))
    assert len(tokenizer.end_ids) > 1
    mask = vocabulary(tokenizer).mask(choices("a", "ab"))
    mask.take(token(tokenizer, b"a"))
    assert tokenizer.end_ids < set(mask.allowed.tolist())
    end = max(tokenizer.end_ids)
    outcome = run(tokenizer, choices("a", "ab"), preferring(tokenizer, token(tokenizer, b"a"), end))
    assert (outcome.text, outcome.finish) == ("a", FinishDetail.EOS)


def test_a_cut_answer_says_length() -> None:
    """Its limit is reached first. At the last token of a complete answer the constraint is named."""
    assert run(BYTES, regex("a{50}"), max_tokens=4).finish is FinishDetail.MAX_TOKENS
    assert run(BYTES, regex("a{4}"), max_tokens=4).finish is FinishDetail.CONSTRAINT
    outcome = run(BYTES, regex("a{50}"), max_tokens=0)
    assert (outcome.finish, outcome.model.evaluated) == (FinishDetail.MAX_TOKENS, 0)


def test_stop_sequences_and_filters_still_end_a_text() -> None:
    """They come before the constraint."""
    outcome = run(BYTES, regex("a{9}STOP.*"), stop=["STOP"])
    assert (outcome.text, outcome.finish) == ("a" * 9, FinishDetail.STOP_SEQUENCE)
    outcome = run(BYTES, regex("ab{9}c"), filters=["c"])
    assert (outcome.text, outcome.finish) == ("a" + "b" * 9, FinishDetail.CONTENT_FILTER)


def test_a_constraint_without_a_token_fails_and_keeps_the_text() -> None:
    """The vocabulary has no token for the letter that must follow."""
    letters = build_tokenizer({
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [b"<unk>", b"<s>", b"</s>", b"a", b"b"],
        "tokenizer.ggml.scores": [0.0] * 5,
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1],
    })  # fmt: skip
    outcome = run(letters, regex("(a|b){3}(c|d)"), noise(5, 3))
    assert isinstance(outcome.error, ConstraintFailed)
    assert "\n" not in str(outcome.error)
    assert re.fullmatch("[ab]{3}", outcome.text)
    assert outcome.end is None


def test_logits_that_are_fewer_than_the_tokens_choose_among_those() -> None:
    """As in a file whose vocabulary is longer than its last tensor."""
    outcome = run(BYTES, choices("yes", "no"), noise(272, 1))
    assert outcome.text in ("yes", "no")
    impossible = run(
        BYTES, choices("y", "n"), lambda ids: np.where(np.arange(273) < 5, 1.0, -np.inf)
    )
    assert isinstance(impossible.error, ConstraintFailed)


def test_log_probabilities_are_the_model_s_and_beside_them_the_mask_s() -> None:
    """Each is the softmax over the logits: of all tokens, and of the allowed ones."""
    outcome = run(BYTES, choices("a", "ab", "yes"), top_logprobs=3, temperature=0.5, top_k=2)
    logits = outcome.model._logits([5, 6])
    allowed = vocabulary(BYTES).mask(choices("a", "ab", "yes")).allowed
    first = outcome.tokens[0]
    assert first.logprob == pytest.approx(logits[first.id] - np.log(np.exp(logits).sum()), abs=1e-5)
    assert first.masked_logprob == pytest.approx(
        logits[first.id] - np.log(np.exp(logits[allowed]).sum()), abs=1e-5
    )
    assert first.rank == int((logits > logits[first.id]).sum())
    assert [other.id for other in first.top] == np.argsort(-logits)[:3].tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1, "top_k": 0, "top_p": 1, "repeat_penalty": 1},
        {"temperature": 1.5, "top_k": 3, "top_p": 1, "repeat_penalty": 1},
        {"temperature": 1, "top_k": 0, "top_p": 0.7, "repeat_penalty": 1},
        {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "repeat_penalty": 1.6},
    ],
    ids=["all off", "top-k", "top-p", "all on"],
)
def test_draws_under_a_mask_follow_the_masked_distribution(settings: dict[str, float]) -> None:
    """4,000 draws pass a chi-square test against the exact probabilities.

    Penalty, temperature, top-k and top-p apply to what the mask left.
    """
    size, allowed = 300, np.arange(7, 300, 23)
    logits = np.random.default_rng(5).normal(0, 1.5, size).astype(np.float32)
    context = [7, 8, 53, 200]
    masked = np.where(np.isin(np.arange(size), allowed), logits, -np.inf).astype(np.float32)
    params = InferencingParams(seed=1, **settings)
    ids, weights = candidates(masked, context, params)
    expected = np.zeros(size)
    expected[ids] = weights / weights.sum()
    assert set(expected.nonzero()[0]) <= set(allowed)
    drawn = np.bincount(
        [
            Sampler(InferencingParams(seed=seed, **settings)).next(logits, context, allowed)
            for seed in range(4000)
        ],
        minlength=size,
    )
    likely = expected > 0
    assert drawn[~likely].sum() == 0
    assert stats.chisquare(drawn[likely], 4000 * expected[likely]).pvalue > 1e-4


# Reasoning -----------------------------------------------------------------------

THINK, CLOSE = token(THINKING, b"<think>"), token(THINKING, b"</think>")
QWEN = next(family for family in FAMILIES if family.signs == ("</think>",))
HARMONY = FAMILIES[0]


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_part(text)


def test_reasoning_is_free_and_the_answer_is_not() -> None:
    """The model opens its reasoning, writes what it likes, closes it, and then chooses."""
    wanted = [THINK, *spelled(THINKING, "maybe"), CLOSE, *spelled(THINKING, "hm")]
    model = preferring(THINKING, *wanted)
    outcome = run(
        THINKING, choices("yes", "no"), model, Splitter(QWEN), temperature=0, top_logprobs=0
    )
    assert outcome.reasoning == "maybe"
    assert outcome.text in ("yes", "no")
    assert outcome.finish is FinishDetail.CONSTRAINT
    masked = [info.masked_logprob is not None for info in outcome.tokens]
    assert masked == [info.reasoning is False for info in outcome.tokens]


def test_reasoning_that_the_prompt_has_opened_is_free() -> None:
    """The chat template ends with the mark."""
    model = preferring(THINKING, *spelled(THINKING, "so"), CLOSE)
    splitter = Splitter(QWEN, "<think>")
    outcome = run(THINKING, choices("yes", "no"), model, splitter, temperature=0)
    assert (outcome.reasoning, outcome.text in ("yes", "no")) == ("so", True)


def test_a_model_that_does_not_reason_answers_at_once() -> None:
    """Its first token is an answer's: a mark may come there, and nothing else."""
    model = preferring(THINKING, *spelled(THINKING, "yes"))
    outcome = run(THINKING, choices("yes", "no"), model, Splitter(QWEN), temperature=0)
    assert (outcome.reasoning, outcome.text, outcome.finish) == ("", "yes", FinishDetail.CONSTRAINT)
    for seed in range(8):
        outcome = run(THINKING, choices("yes", "<thin>"), splitter=Splitter(QWEN), seed=seed)
        assert outcome.reasoning or outcome.text in ("yes", "<thin>")


def test_marks_of_several_tokens_go_before_the_answer() -> None:
    """gpt-oss names the channel of each message in a header, here without tokens of its own."""
    header = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>"
    model = preferring(THINKING, *spelled(THINKING, header), *spelled(THINKING, "maybe"))
    outcome = run(
        THINKING, choices("yes", "no"), model, Splitter(HARMONY), temperature=0, max_tokens=None
    )
    assert (outcome.reasoning, outcome.text in ("yes", "no")) == ("hm", True)


def test_text_that_begins_like_a_mark_may_be_the_answer() -> None:
    """Until the mark is complete, it may be either."""
    texts = ("<thirsty>", "<think hard>")
    model = preferring(THINKING, *spelled(THINKING, "<thirsty>"))
    outcome = run(THINKING, choices(*texts), model, Splitter(QWEN), temperature=0)
    assert (outcome.text, outcome.finish) == ("<thirsty>", FinishDetail.CONSTRAINT)


# What is refused -------------------------------------------------------------------

ROOT = "constraint json_schema: "
REFUSED: dict[str, tuple[Any, str]] = {
    "not": ({"not": {"type": "string"}}, "not"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "contains": ({"type": "array", "contains": {}}, "contains"),
    "minContains": ({"type": "array", "minContains": 1}, "minContains"),
    "maxContains": ({"type": "array", "maxContains": 1}, "maxContains"),
    "if": ({"if": {"type": "string"}, "then": False}, "if"),
    "then": ({"then": {"type": "string"}}, "then"),
    "else": ({"else": {"type": "string"}}, "else"),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "dependentSchemas": ({"dependentSchemas": {"a": {}}}, "dependentSchemas"),
    "dependencies": ({"dependencies": {"a": ["b"]}}, "dependencies"),
    "propertyNames": ({"propertyNames": {"maxLength": 3}}, "propertyNames"),
    "unevaluatedProperties": ({"unevaluatedProperties": False}, "unevaluatedProperties"),
    "unevaluatedItems": ({"unevaluatedItems": False}, "unevaluatedItems"),
    "$dynamicRef": ({"$dynamicRef": "#a"}, r"\$dynamicRef"),
    "$ref to a file": ({"$ref": "file:///etc/passwd"}, r"\$ref at # leads to .file:///etc/passwd"),
    "$ref to a URL": ({"items": {"$ref": "http://h/s"}}, r"\$ref at #/items leads to .http://h/s"),
    "$ref to a name": ({"$ref": "other.json"}, r"\$ref at # leads to"),
    "$ref to nothing": ({"$ref": "#/$defs/a"}, "a"),
    "$ref to itself": ({"$ref": "#"}, "no text satisfies it"),
    "format": ({"type": "string", "format": "ipv9"}, "Unknown format: ipv9"),
    "look-ahead": ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
    "back-reference": ({"type": "string", "pattern": r"(a)\1"}, "backreferences"),
    "$schema": ({"$schema": "http://h/mine"}, r"\$schema at # is .http://h/mine"),
    "inner $schema": (
        {"items": {"$schema": "https://json-schema.org/draft/2020-12/schema"}},
        r"\$schema at #/items",
    ),
    "items as a list": ({"type": "array", "items": [{}]}, "items at # is a list"),
    "additionalItems": ({"type": "array", "additionalItems": {}}, "additionalItems at #"),
    "x-guidance": ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
    "overlapping oneOf": ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, "oneOf"),
    "large const": ({"const": 2**53 + 1}, "const at # has the number 9007199254740993"),
    "large enum": ({"enum": [{"a": [2**60]}]}, "enum at # has the number"),
    "minProperties": ({"type": "object", "minProperties": 2}, "minProperties at #"),
    "false": (False, "no JSON satisfies it"),
    "type": ({"type": "text"}, "text"),
    "empty enum": ({"enum": []}, "enum|anyOf|option"),
    "contradiction": ({"type": "integer", "minimum": 3, "maximum": 1}, "minimum|maximum"),
}  # fmt: skip
TAKEN: dict[str, Any] = {
    "true": True,
    "annotations": {"title": "t", "description": "d", "default": 1, "examples": [1],
                    "deprecated": True, "readOnly": True, "writeOnly": True, "$comment": "c"},
    "unknown keyword": {"type": "integer", "discriminator": {"propertyName": "a"}},
    "draft 7": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
                "items": [{"type": "null"}], "additionalItems": False},
    "type": {"type": ["integer", "null"]},
    "const": {"const": {"a": [1, None, "x"]}},
    "enum": {"enum": ["a", 1, None, True, [1]]},
    "anyOf": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    "oneOf": {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
    "allOf": {"allOf": [{"type": "integer"}, {"minimum": 1}, {"maximum": 9}]},
    "$ref": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}},
    "$anchor": {"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "null"}}},
    "recursive": {"type": "array", "items": {"$ref": "#"}},
    "prefixItems": {"type": "array", "prefixItems": [{"type": "null"}], "items": False},
    "items": {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
    "properties": {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "null"}},
                   "required": ["a", "b"], "additionalProperties": False},
    "patternProperties": {"type": "object", "patternProperties": {"^a": {"type": "null"}},
                          "additionalProperties": False},
    "minProperties": {"type": "object", "minProperties": 1, "maxProperties": 3},
    "minLength": {"type": "string", "minLength": 1, "maxLength": 3},
    "pattern": {"type": "string", "pattern": "^[a-z]+$"},
    "minimum": {"type": "number", "minimum": -1, "exclusiveMaximum": 2.5},
    "multipleOf": {"type": "integer", "multipleOf": 3},
    **{f"format {name}": {"type": "string", "format": name} for name in (
        "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_ignored_is_refused_by_name(name: str) -> None:
    """Before the run, on one line."""
    schema, message = REFUSED[name]
    constraint = Constraint(kind="json_schema", source=json.dumps(schema))
    with pytest.raises(ConstraintNotSupported, match=message) as caught:
        vocabulary(BYTES).mask(constraint)
    assert str(caught.value).startswith(ROOT)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_is_honoured(name: str) -> None:
    """Answers with random letters validate, as far as they end."""
    schema = TAKEN[name]
    validator = validator_for(schema, Draft202012Validator)(schema, registry=Registry())
    constraint = Constraint(kind="json_schema", source=json.dumps(schema))
    for seed in range(6):
        outcome = run(BYTES, constraint, seed=seed, temperature=1.5, max_tokens=150)
        assert outcome.error is None
        if outcome.finish is not FinishDetail.MAX_TOKENS:
            validator.validate(json.loads(outcome.text))


def test_json_is_written_as_python_writes_it() -> None:
    """One space behind commas and colons, no line ends; the properties in the schema's order."""
    schema = {
        "type": "object",
        "properties": {"b": {"const": [1, 2]}, "a": {"const": {"é": None}}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    outcome = run(BYTES, Constraint(kind="json_schema", source=json.dumps(schema)))
    assert outcome.text == json.dumps({"b": [1, 2], "a": {"é": None}}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('root ::= "a', "read as GBNF"),
        ("root ::= foo", "read as GBNF: Rule 'foo' not found"),
        ('rule ::= "a"', "read as GBNF: No 'root' rule"),
        ('root: "a"', "read as Lark: llguidance refuses it: no start rule"),
        ("start: start", "read as Lark: llguidance refuses it: no text satisfies it"),
        ('start: "a" <|im_end|>', r"read as Lark: <\|im_end\|> is a control token"),
        ("start: <[2]>", r"read as Lark: <\[2\]> is a control token"),
        ("start: @other", "read as Lark"),
        ('start: %json {"not": {}}', "Unimplemented keys"),
        ("start: /a(?=b)/", "look-around"),
        ("hello", "read as Lark"),
        ("root ::= [z-a]", "read as GBNF"),
    ],
)
def test_a_grammar_that_is_none_is_refused_and_says_as_what_it_was_read(
    source: str, message: str
) -> None:
    with pytest.raises(ConstraintNotSupported, match=message) as caught:
        vocabulary(BYTES).mask(Constraint(kind="grammar", source=source))
    assert "\n" not in str(caught.value)


def test_names_in_texts_of_lark_are_no_control_tokens() -> None:
    source = '// not <this>\nstart: "<a>" /<b>/ # nor <that>\n'
    assert run(BYTES, Constraint(kind="grammar", source=source)).text == "<a><b>"


@pytest.mark.parametrize(
    "source", ["a(?=b)", "(?<!a)b", r"(a)\1", "(", "a{2,1}", r"\p{Foo}", "[b-a]"]
)
def test_an_expression_that_is_not_taken_is_refused(source: str) -> None:
    with pytest.raises(
        ConstraintNotSupported, match="constraint regex: llguidance refuses it"
    ) as caught:
        vocabulary(BYTES).mask(regex(source))
    assert len(str(caught.value)) < 200


def test_a_second_run_with_a_constraint_begins_anew() -> None:
    """The grammar is made once, and no run sees what another one has taken."""
    known = vocabulary(BYTES)
    first, second = (known.mask(choices("hello", "yes")) for _ in range(2))
    first.take(token(BYTES, b"yes"))
    assert (first.complete, second.complete) == (True, False)
    first.restart()
    assert first.allowed.tolist() == second.allowed.tolist()
