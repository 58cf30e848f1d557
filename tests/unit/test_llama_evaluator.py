"""What llama.cpp's contexts are told to evaluate, over a stand-in for the library."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

from llmwit_magic.engines.backends import blocks
from llmwit_magic.engines.backends.blocks import BLOCK, WORTH_KEEPING
from llmwit_magic.engines.backends.llamacpp import llama_h
from llmwit_magic.engines.backends.llamacpp.llama_evaluator import (
    KeptPrompts,
    LlamaContext,
    LlamaEvaluator,
    batch,
)
from llmwit_magic.errors import EngineFailed, InvalidInput, PromptTooLong

VOCABULARY = 500
LENGTH = 256
CORES = 4
ABORTED = 2


class FakeLlama:
    """The functions of the library: each sequence has its tokens, as their positions are filled.

    `codes` are what the next evaluations return; 0 where there is none. `refuses` makes it keep
    what it should remove, `denies` makes it say so falsely, `lost` positions at the start and `more` at the end are beside the truth.
    """

    llama_batch = llama_h.Batch
    ggml_abort_callback = llama_h.AbortCallback

    def __init__(self) -> None:
        self.decoded: list[tuple[int, list[int], list[int], list[int]]] = []
        """Sequence, tokens, positions and outputs of each evaluation."""
        self.removed: list[tuple[int, int, int]] = []
        self.threads: list[tuple[int, int]] = []
        self.kept: dict[int, list[int]] = {}
        self.codes: list[int] = []
        self.refuses = self.denies = False
        self.recurrent = False
        """Its memory is one state, of the last position, which cannot be cut."""
        self.lost = self.more = 0
        self.values = (ctypes.c_float * VOCABULARY)()
        self.no_logits = False
        self.abort: tuple[Any, Any] = (None, None)

    def llama_model_get_vocab(self, model: int) -> int:
        return model

    def llama_vocab_n_tokens(self, vocabulary: int) -> int:
        return VOCABULARY

    def llama_n_ctx_seq(self, context: int) -> int:
        return LENGTH

    def llama_get_memory(self, context: int) -> str:
        return "memory"

    def llama_set_abort_callback(self, context: int, function: Any, data: Any) -> None:
        self.abort = (function, data)

    def llama_set_n_threads(self, context: int, one: int, several: int) -> None:
        self.threads.append((one, several))

    def llama_decode(self, context: int, given: Any) -> int:
        count = given.n_tokens
        assert [given.n_seq_id[i] for i in range(count)] == [1] * count
        (sequence,) = {given.seq_id[i][0] for i in range(count)}
        self.decoded.append(
            (sequence, given.token[:count], given.pos[:count], given.logits[:count])
        )
        code = self.codes.pop(0) if self.codes else 0
        if code == 0:
            held = self.kept.setdefault(sequence, [])
            assert given.pos[:count] == list(range(len(held), len(held) + count)), "a gap"
            held.extend(given.token[:count])
        return code

    def llama_memory_seq_rm(self, memory: str, sequence: int, start: int, end: int) -> bool:
        assert memory == "memory"
        self.removed.append((sequence, start, end))
        assert end == -1
        held = self.kept.get(sequence, [])
        if start > 0 and (self.refuses or (self.recurrent and start < len(held))):
            return False
        del self.kept.setdefault(sequence, [])[max(start, 0) :]
        return not self.denies

    def llama_memory_seq_pos_min(self, memory: str, sequence: int) -> int:
        if self.recurrent:
            return self.llama_memory_seq_pos_max(memory, sequence)
        return self.lost if self.kept.get(sequence) else -1

    def llama_memory_seq_pos_max(self, memory: str, sequence: int) -> int:
        held = self.kept.get(sequence)
        return len(held) - 1 + self.more if held else -1

    def llama_get_logits_ith(self, context: int, index: int) -> Any:
        assert index == -1
        return None if self.no_logits else ctypes.cast(self.values, ctypes.POINTER(ctypes.c_float))

    def spans(self, since: int = 0) -> list[tuple[int, int]]:
        """The first position and the number of tokens of each evaluation."""
        return [(positions[0], len(tokens)) for _, tokens, positions, _ in self.decoded[since:]]


class Made:
    """A context over a stand-in, with what was told of the progress."""

    def __init__(self, sequences: int = 1, rewinds: bool = True, block: int = BLOCK) -> None:
        self.llama = FakeLlama()
        self.llama.recurrent = not rewinds
        self.context = LlamaContext(self.llama, 1, 2, sequences, rewinds, block)
        self.kept = KeptPrompts(self.context)
        self.evaluator = self.context.evaluators[0]
        self.told: list[int] = []

    def prompt(self, tokens: list[int], evaluator: LlamaEvaluator | None = None) -> bool:
        return (evaluator or self.evaluator).evaluate_prompt(tokens, lambda: 1, self.progress)

    def progress(self, done: int) -> bool:
        self.told.append(done)
        return True


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "usable_cores", lambda: CORES)


@pytest.fixture
def made() -> Made:
    return Made()


def tokens(count: int, start: int = 0) -> list[int]:
    """Token ids that go up by one."""
    return [(start + number) % VOCABULARY for number in range(count)]


# Blocks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "spans"),
    [
        (1, [(0, 1)]),
        (31, [(0, 31)]),
        (32, [(0, 32)]),
        (33, [(0, 32), (32, 1)]),
        (70, [(0, 32), (32, 32), (64, 6)]),
        (LENGTH, [(start, 32) for start in range(0, LENGTH, 32)]),
    ],
)
def test_blocks_end_at_multiples_of_32(
    count: int, spans: list[tuple[int, int]], made: Made
) -> None:
    """What is left of a prompt is one batch; the progress is told after each of them."""
    assert BLOCK == 32
    assert made.prompt(tokens(count))
    assert made.llama.spans() == spans
    assert made.told == [start + size for start, size in spans]
    assert made.llama.kept[0] == tokens(count)


def test_generated_tokens_one_by_one(made: Made) -> None:
    """Each is a batch of its own, also where a block would be complete with it."""
    made.prompt(tokens(31))
    for token in (7, 8, 9):
        made.evaluator.evaluate_next(token, 1)
    assert made.llama.spans() == [(0, 31), (31, 1), (32, 1), (33, 1)]
    assert made.llama.kept[0] == [*tokens(31), 7, 8, 9]
    assert made.evaluator.reusable_length == 0


def test_the_newest_token_has_an_output(made: Made) -> None:
    """No other of a batch has one, which would cost time."""
    made.prompt(tokens(40))
    outputs = [outputs for *_, outputs in made.llama.decoded]
    assert outputs == [[0] * 31 + [1], [0] * 7 + [1]]


def test_a_batch_as_c_sees_it() -> None:
    """Positions go on from `past`, and each token belongs to the one sequence."""
    made = batch(3, [5, 6, 7], 40)
    assert made.n_tokens == 3
    assert made.token[:3] == [5, 6, 7]
    assert made.pos[:3] == [40, 41, 42]
    assert made.n_seq_id[:3] == [1, 1, 1]
    assert [made.seq_id[i][0] for i in range(3)] == [3, 3, 3]
    assert made.logits[:3] == [0, 0, 1]
    assert not made.embd


def test_sequences_do_not_mix() -> None:
    """Each evaluator has its own tokens in the library."""
    made = Made(sequences=2)
    first, second = made.context.evaluators
    made.prompt(tokens(33), first)
    made.prompt(tokens(40, start=100), second)
    assert made.llama.kept == {0: tokens(33), 1: tokens(40, start=100)}
    assert {sequence for sequence, *_ in made.llama.decoded} == {0, 1}


# What is evaluated again --------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "common", "reused"),
    [
        (100, 100, 100, 96),  # the same prompt
        (64, 64, 64, 32),  # at least one token is evaluated, so the last block is
        (65, 65, 65, 64),
        (100, 200, 100, 96),  # a longer prompt
        (96, 200, 96, 96),
        (100, 60, 60, 32),  # a shorter one
        (100, 100, 63, 32),  # another one that begins alike
        (100, 100, 64, 64),
        (100, 100, 31, 0),
        (31, 31, 31, 0),
        (100, 1, 1, 0),
    ],
)
def test_whole_blocks_are_reused(old: int, new: int, common: int, reused: int, made: Made) -> None:
    """The rest is evaluated again, in the blocks that a fresh prompt has."""
    made.prompt(tokens(old))
    asked = tokens(common) + tokens(new - common, start=300)
    assert made.evaluator.shared_prefix(asked) == reused
    since = len(made.llama.decoded)
    assert made.prompt(asked)
    fresh = Made()
    fresh.prompt(asked)
    assert made.llama.spans(since) == [span for span in fresh.llama.spans() if span[0] >= reused]
    assert made.llama.spans(since)
    assert made.llama.kept[0] == asked


def test_generated_tokens_are_not_reused(made: Made) -> None:
    """They were evaluated alone, so a prompt that contains them evaluates them in blocks."""
    made.prompt(tokens(40))
    for token in range(40, 100):
        made.evaluator.evaluate_next(token, 1)
    assert made.evaluator.reusable_length == 32
    assert made.evaluator.shared_prefix(tokens(120)) == 32
    since = len(made.llama.decoded)
    made.prompt(tokens(120))
    assert made.llama.spans(since) == [(32, 32), (64, 32), (96, 24)]


def test_a_shorter_prompt_forgets_later_blocks(made: Made) -> None:
    """What was cut off is not shared afterwards."""
    made.prompt(tokens(100))
    made.prompt(tokens(40))
    assert made.evaluator.reusable_length == 32
    assert made.evaluator.shared_prefix(tokens(100)) == 32


def test_an_empty_prompt_shares_nothing(made: Made) -> None:
    """It has no token that could be evaluated."""
    made.prompt(tokens(64))
    assert made.evaluator.shared_prefix([]) == 0


@pytest.mark.parametrize("what", ["refuses", "denies", "lost", "more", "less"])
def test_a_library_that_does_not_go_back(what: str, made: Made) -> None:
    """Refused, or said and not done: nothing is believed, and the prompt is evaluated from 0."""
    made.prompt(tokens(100))
    if what in ("refuses", "denies"):
        setattr(made.llama, what, True)
    elif what == "lost":
        made.llama.lost = 5
    else:
        made.llama.more = 1 if what == "more" else -1
    since = len(made.llama.decoded)
    asked = tokens(70) + tokens(10, start=300)
    assert made.prompt(asked)
    assert made.llama.spans(since) == [(0, 32), (32, 32), (64, 16)]
    assert made.llama.removed[-2:] == [(0, 64, -1), (0, -1, -1)]
    assert made.llama.kept[0] == asked


def test_without_exactness_all_is_reused() -> None:
    """Large blocks, and what was evaluated in any way: a generated token, a part of a block."""
    made = Made(block=100)
    assert made.prompt(tokens(150))
    assert made.llama.spans() == [(0, 100), (100, 50)]
    made.evaluator.evaluate_next(150, 1)
    assert made.evaluator.reusable_length == 151
    assert made.evaluator.shared_prefix(tokens(151)) == 150
    since = len(made.llama.decoded)
    assert made.prompt(tokens(220))
    assert made.llama.spans(since) == [(151, 49), (200, 20)]
    made.llama.codes = [ABORTED]
    assert not made.prompt(tokens(230))
    assert made.evaluator.reusable_length == 220
    assert made.evaluator.shared_prefix(tokens(70) + tokens(9, start=300)) == 70


def test_a_model_that_cannot_go_back() -> None:
    """It shares what is exactly all that it has evaluated, and nothing where it would have to cut."""
    made = Made(rewinds=False)
    made.prompt(tokens(64))
    assert made.evaluator.shared_prefix(tokens(100)) == 64
    assert made.evaluator.shared_prefix(tokens(64)) == 0
    assert made.evaluator.shared_prefix(tokens(40) + tokens(60, start=300)) == 0
    since = len(made.llama.decoded)
    made.prompt(tokens(96))
    assert made.llama.spans(since) == [(64, 32)]
    made.evaluator.evaluate_next(64, 1)
    assert made.evaluator.shared_prefix(tokens(100)) == 0
    since = len(made.llama.decoded)
    made.prompt(tokens(100))
    assert made.llama.spans(since) == [(0, 32), (32, 32), (64, 32), (96, 4)]


def test_an_aborted_model_that_cannot_go_back() -> None:
    """Its state may be that of the middle of a step, so nothing is left of it."""
    made = Made(rewinds=False)
    made.llama.codes = [0, ABORTED]
    assert made.prompt(tokens(70)) is False
    assert made.evaluator.reusable_length == 0
    assert made.llama.kept[0] == []
    assert made.evaluator.shared_prefix(tokens(70)) == 0


# Interrupted and failed evaluations ---------------------------------------------------


def test_an_aborted_block_leaves_the_complete_ones(made: Made) -> None:
    """It goes back to the last complete block, and a later prompt begins there."""
    made.llama.codes = [0, 0, ABORTED]
    assert made.prompt(tokens(120)) is False
    assert made.told == [32, 64]
    assert made.llama.removed[-1] == (0, 64, -1)
    assert made.evaluator.reusable_length == 64
    since = len(made.llama.decoded)
    assert made.prompt(tokens(120))
    assert made.llama.spans(since) == [(64, 32), (96, 24)]


def test_an_aborted_token_leaves_the_complete_blocks(made: Made) -> None:
    """What was generated, and the prompt's last tokens, are forgotten with it."""
    made.prompt(tokens(70))
    made.evaluator.evaluate_next(1, 1)
    made.llama.codes = [ABORTED]
    made.evaluator.evaluate_next(2, 1)
    assert made.llama.kept[0] == tokens(64)
    assert made.evaluator.shared_prefix([*tokens(70), 1, 2]) == 64


def test_an_abort_where_the_library_does_not_go_back(made: Made) -> None:
    """Then nothing is left, rather than a doubtful rest."""
    made.llama.codes = [0, ABORTED]
    made.llama.lost = 1
    assert made.prompt(tokens(70)) is False
    assert made.evaluator.reusable_length == 0
    assert made.llama.kept[0] == []


@pytest.mark.parametrize("code", [-1, 1, -2, -3, 3])
def test_other_codes_are_failures(code: int, made: Made) -> None:
    """The code is told, and all that the sequence had is forgotten."""
    made.prompt(tokens(64))
    made.llama.codes = [0, code]
    with pytest.raises(EngineFailed, match=rf"could not evaluate the tokens \(code {code}\)"):
        made.prompt(tokens(150))
    assert made.evaluator.reusable_length == 0
    assert made.llama.kept[0] == []
    since = len(made.llama.decoded)
    made.prompt(tokens(33))
    assert made.llama.spans(since) == [(0, 32), (32, 1)]


def test_a_progress_that_says_stop(made: Made) -> None:
    """No further block is evaluated, and the complete ones are kept."""
    assert made.evaluator.evaluate_prompt(tokens(100), lambda: 1, lambda done: done < 64) is False
    assert made.llama.spans() == [(0, 32), (32, 32)]
    assert made.evaluator.reusable_length == 64


def test_a_stop_after_the_last_token_is_too_late(made: Made) -> None:
    """All of the prompt was evaluated."""
    assert made.evaluator.evaluate_prompt(tokens(32), lambda: 1, lambda done: False) is True


def test_the_interrupt_is_a_text_that_c_measures(made: Made) -> None:
    """The library's question is answered by `strlen`: no until it is asked to give up, then yes."""
    function, data = made.llama.abort
    answers = [function(ctypes.addressof(data))]
    for asked in (True, True, False):
        made.context.interrupt(asked)
        answers.append(function(ctypes.addressof(data)))
    assert answers == [False, True, True, False]


# Threads ------------------------------------------------------------------------------


def test_threads_are_set_when_they_change(made: Made) -> None:
    """The number is asked for before each block; the library is told of a new one only."""
    numbers = iter([2, 2, 1, 1, 4])
    made.evaluator.evaluate_prompt(tokens(130), numbers.__next__, made.progress)
    assert made.llama.threads == [(2, 2), (1, 1), (4, 4)]
    made.evaluator.evaluate_next(1, 4)
    made.evaluator.evaluate_next(2, 3)
    assert made.llama.threads[3:] == [(3, 3)]


def test_threads_are_those_of_the_context() -> None:
    """Another sequence of it does not set the same number again."""
    made = Made(sequences=2)
    for evaluator in made.context.evaluators:
        made.prompt(tokens(10), evaluator)
    assert made.llama.threads == [(1, 1)]


@pytest.mark.parametrize("number", [0, -1, CORES + 1, 64])
def test_bad_numbers_of_threads(number: int, made: Made) -> None:
    """More than there are cores never end, so the library does not see them; nothing is lost."""
    made.prompt(tokens(64))
    told = list(made.llama.threads)
    with pytest.raises(InvalidInput, match=rf"threads: {number} is not valid.* 1 to {CORES},"):
        made.evaluator.evaluate_next(1, number)
    assert made.llama.threads == told
    assert len(made.llama.decoded) == 2
    assert made.evaluator.reusable_length == 64


# What is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, VOCABULARY, 2**31, -(2**31)])
def test_tokens_outside_the_vocabulary(bad: int, made: Made) -> None:
    """The library does not see them."""
    for call in (
        lambda: made.prompt([1, 2, bad]),
        lambda: made.evaluator.evaluate_next(bad, 1),
    ):
        with pytest.raises(EngineFailed, match="outside the vocabulary"):
            call()
    assert made.llama.decoded == []


def test_the_last_token_of_the_vocabulary(made: Made) -> None:
    """It and the first one are inside."""
    assert made.prompt([0, VOCABULARY - 1])
    assert made.llama.decoded[0][1] == [0, VOCABULARY - 1]


def test_a_prompt_that_is_too_long(made: Made) -> None:
    """It is refused with both numbers, and what was evaluated stays."""
    made.prompt(tokens(64))
    with pytest.raises(PromptTooLong, match="257 tokens do not fit into a context of 256"):
        made.prompt(tokens(257))
    assert len(made.llama.decoded) == 2
    assert made.evaluator.reusable_length == 64


def test_a_full_context(made: Made) -> None:
    """The library is not asked for one token more."""
    made.evaluator.context_length = 40
    made.prompt(tokens(39))
    made.evaluator.evaluate_next(1, 1)
    with pytest.raises(EngineFailed, match="the context of 40 tokens is full"):
        made.evaluator.evaluate_next(1, 1)
    assert made.llama.spans()[-1] == (39, 1)


# Logits -------------------------------------------------------------------------------


def test_logits_are_a_view(made: Made) -> None:
    """They are those of the library's memory, not copied, and follow it when it moves."""
    made.prompt(tokens(3))
    logits = made.evaluator.logits
    assert (logits.shape, logits.dtype) == ((VOCABULARY,), np.float32)
    made.llama.values[7] = 5.5
    assert logits[7] == 5.5
    assert made.evaluator.logits is logits
    made.llama.values = (ctypes.c_float * VOCABULARY)(*[1.25] * VOCABULARY)
    assert np.all(made.evaluator.logits == 1.25)


def test_no_logits(made: Made) -> None:
    """Where the library has none, reading them is no access to address 0."""
    made.llama.no_logits = True
    with pytest.raises(EngineFailed, match="gave no logits"):
        _ = made.evaluator.logits


# Which sequence evaluates a prompt ----------------------------------------------------


def ask(made: Made, prompt: list[int]) -> LlamaEvaluator:
    """Evaluate a prompt by the sequence that is best for it."""
    best = made.kept.best_for(prompt)
    made.prompt(prompt, best)
    return best


def prompts(length: int = 100) -> Iterator[list[int]]:
    """Prompts that have nothing in common."""
    for start in range(0, VOCABULARY, length):
        yield tokens(length, start)


def test_the_longest_prefix_in_common_is_best() -> None:
    """Each prompt goes on where it was before."""
    made = Made(sequences=3)
    asked = list(islice(prompts(), 3))
    used = [ask(made, prompt) for prompt in asked]
    assert len({id(evaluator) for evaluator in used}) == 3
    for prompt, evaluator in reversed(list(zip(asked, used, strict=True))):
        assert made.kept.best_for([*prompt, 1, 2, 3]) is evaluator


def test_an_empty_sequence_before_a_used_one() -> None:
    """A prompt that would discard another one takes a sequence that has nothing."""
    made = Made(sequences=3)
    one, two, *_ = prompts()
    first = ask(made, one)
    second = ask(made, two)
    assert second is not first
    assert first.reusable_length == second.reusable_length == 96


def test_further_sequences_are_opened_when_a_second_prompt_is_to_be_kept() -> None:
    """They are opened once, as one context, and serve the prompts after it too."""
    made, others = Made(), Made(sequences=2)
    opened = []

    def open_more() -> LlamaContext | None:
        opened.append(True)
        return others.context

    made.kept = KeptPrompts(made.context, open_more)
    asked = list(islice(prompts(), 3))
    assert ask(made, asked[0]) is made.evaluator
    assert not opened
    assert {id(ask(made, prompt)) for prompt in asked[1:]} == {
        id(evaluator) for evaluator in others.context.evaluators
    }
    assert ask(made, asked[0]) is made.evaluator
    assert opened == [True]


def test_one_sequence_where_no_more_can_be_opened() -> None:
    """Memory was short: it is not asked for again."""
    made, asked = Made(), list(islice(prompts(), 3))
    tried = []
    made.kept = KeptPrompts(made.context, lambda: tried.append(True))
    assert {id(ask(made, prompt)) for prompt in asked} == {id(made.evaluator)}
    assert tried == [True]


def test_the_least_recently_used_one() -> None:
    """Where all have something, the one is taken that was longest out of use."""
    made = Made(sequences=2)
    one, two, three, *_ = prompts()
    first, second = ask(made, one), ask(made, two)
    assert ask(made, one) is first
    assert ask(made, three) is second
    assert ask(made, two) is first


def test_a_short_prompt_is_not_worth_keeping() -> None:
    """Its sequence is taken like an empty one, though a longer prompt was used less recently."""
    made = Made(sequences=2)
    long, other, third, *_ = prompts()
    short = other[: WORTH_KEEPING + 1]
    first, second = ask(made, long), ask(made, short)
    assert second.reusable_length == WORTH_KEEPING
    assert ask(made, third) is second
    assert first.reusable_length == 96


@pytest.mark.parametrize(
    ("old", "common", "same"),
    [(160, 96, True), (160, 64, False), (160, 0, False), (128, 64, True), (96, 32, True)],
)
def test_a_prefix_that_saves_less_than_it_discards(old: int, common: int, same: bool) -> None:
    """Then the prompt takes another sequence; discarding two blocks is always allowed."""
    made = Made(sequences=2)
    first = ask(made, tokens(old + 1))
    assert first.reusable_length == old
    other = tokens(common) + tokens(old + 1 - common, start=300)
    assert first.shared_prefix(other) == common
    assert (made.kept.best_for(other) is first) == same


def test_the_one_used_last_stands_last() -> None:
    """The order of the evaluators is that of their use."""
    made = Made(sequences=3)
    asked = list(islice(prompts(), 3))
    used = [ask(made, prompt) for prompt in asked]
    assert made.kept.evaluators == used
    ask(made, asked[0])
    assert made.kept.evaluators == [used[1], used[2], used[0]]


def test_one_sequence_is_always_best(made: Made) -> None:
    """There is no other, whatever it has."""
    for prompt in prompts():
        assert made.kept.best_for(prompt) is made.evaluator
        made.prompt(prompt)
