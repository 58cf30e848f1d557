"""Which tokens a constraint leaves, and how its runs end.

Each allowed token is compared with what a look at all texts says.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.wit import FinishDetail, InferencingParams
from llmwit_magic.engines.reasoning import FAMILIES, Splitter
from llmwit_magic.engines.sampling import Sampler, candidates
from llmwit_magic.errors import ConstraintFailed
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.models.tokenizers.vocabulary import Tokenizer
from tests.support.masked_runs import (
    BYTES,
    SPM,
    THINKING,
    choices,
    noise,
    preferring,
    regex,
    run,
    token,
    vocabulary,
)
from tests.support.vocabularies import byte_level


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


def test_a_vocabulary_without_an_end_token() -> None:
    """Its answers end where nothing can follow, and no token is chosen that does not exist."""
    two = build_tokenizer({
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [b"a", b"b"],
        "tokenizer.ggml.scores": [0.0] * 2,
        "tokenizer.ggml.token_type": [1, 1],
    })  # fmt: skip
    assert not two.end_ids
    outcome = run(two, regex("a{2,3}"), noise(4, 1), top_logprobs=0)
    assert (outcome.text, outcome.finish) == ("aaa", FinishDetail.CONSTRAINT)
    assert [info.id for info in outcome.tokens] == [0, 0, 0]


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


def test_a_second_run_with_a_constraint_begins_anew() -> None:
    """The grammar is made once, and no run sees what another one has taken."""
    known = vocabulary(BYTES)
    first, second = (known.mask(choices("hello", "yes")) for _ in range(2))
    first.take(token(BYTES, b"yes"))
    assert (first.complete, second.complete) == (True, False)
    first.restart()
    assert first.allowed.tolist() == second.allowed.tolist()
