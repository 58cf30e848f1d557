"""Scores: the log-probability of each token of texts that are given.

Texts are evaluated as they would be generated: the prompt in its blocks, then token by token. So the
score of a text is to the last bit what is recorded when the model generates the same tokens. Texts
that begin with the same tokens share the evaluation of these.
"""

from __future__ import annotations

import math
import time
from collections import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..contract.events import Chunk, End, Event, Progress
from ..contract.scores import ChoiceProbabilities, ChoiceScore, Normalization, choice_probabilities
from ..contract.tokens import TokenInfo
from ..contract.wit import FinishDetail, InferencingUsage
from .sampling import log_probability_of_any, refuse_blank
from .sequence import Vocabulary, token_info
from .text_parts import TextParts
from .threads import Threads

if TYPE_CHECKING:
    from .backends.base import Contexts, Evaluator

Ids = abc.Sequence[int]
_REPORTED = 32
"""How many tokens of a prompt are scored between two reports of their progress."""


@dataclass(frozen=True, slots=True)
class GivenText:
    """A text to score, as the model reads it."""

    ids: tuple[int, ...]
    shown: tuple[bytes, ...]
    """The bytes of each token that are part of the text."""


@dataclass(frozen=True, slots=True)
class GivenChoices:
    """Choices to score, as the model reads them."""

    ids: abc.Mapping[str, tuple[int, ...]]
    """The ids of each choice, in the order in which they were given. None is empty."""
    end_of_text: bool
    """Whether the end of text belongs to each choice."""
    normalize: Normalization
    empty_prompt: tuple[int, ...] = ()
    """The ids of an empty prompt, where `normalize` asks for it."""


class Scorer:
    """Scores what follows a prompt in one context of a model.

    `report` gets the progress. `cancelled()` is called between parts of the prompt and between
    tokens. `top` is how many alternatives are recorded with each token.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        vocabulary: Vocabulary,
        prompt: Ids,
        *,
        threads: Threads,
        top: int,
        report: abc.Callable[[Progress], None],
        cancelled: abc.Callable[[], bool],
    ) -> None:
        self._evaluator, self._vocabulary, self._prompt = evaluator, vocabulary, list(prompt)
        self._threads, self._top = threads, top
        self._report, self._cancelled = report, cancelled
        self._seconds: dict[str, float] = {}
        self._cached = 0

    def text(self, given: GivenText, with_prompt: bool = False) -> abc.Iterator[Event]:
        """The chunks of the text with its tokens, then the end. See `Engine.run`.

        A text that follows no token at all has its first token as the prompt of the others.
        """
        stream = TextParts()
        prompt, first = self._prompt, 0
        if not prompt:
            prompt, first = [given.ids[0]], 1
            yield Chunk(stream.push(given.shown[0]).text, 0)
        if with_prompt:
            yield from self._prompt_tokens()
        goes_on = self._read(self._evaluator, prompt)
        began = time.perf_counter()
        for place in range(first, len(given.ids)):
            if not goes_on:
                break
            info = self._info(given.ids[place], given.shown[place])
            part = stream.push(given.shown[place], info)
            self._seconds["decode"] = time.perf_counter() - began
            yield Chunk(part.text, 0, tuple(part.tokens))
            self._report(Progress("score", place + 1, len(given.ids)))
            if place < len(given.ids) - 1:
                self._evaluator.evaluate_next(given.ids[place], self._threads())
                goes_on = not self._cancelled()
        rest = stream.finish()
        if rest.text or rest.tokens:
            yield Chunk(rest.text, 0, tuple(rest.tokens))
        yield self._end(goes_on)

    def choices(self, given: GivenChoices, contexts: Contexts | None = None) -> abc.Iterator[Event]:
        """One chunk with the most probable choice, then the end with all probabilities.

        `contexts` has the one that evaluates an empty prompt, where `given` has one.
        """
        tree, before = _Tree(given), None
        found = self._walk(self._evaluator, self._prompt, tree)
        if found and given.empty_prompt and contexts is not None:
            before = _Tree(given)
            other = contexts.best_for(given.empty_prompt)
            found = self._walk(other, given.empty_prompt, before)
        if not found:
            yield self._end(False)
            return
        probabilities = tree.probabilities(given, before)
        best = next(each for each in probabilities.scores if each.choice == probabilities.best)
        yield Chunk(best.choice, 0, best.tokens)
        yield self._end(True, probabilities)

    def _prompt_tokens(self) -> abc.Iterator[Event]:
        """Chunks with the tokens of the prompt, but the first one. A cancellation ends them."""
        prompt, waiting = self._prompt, list[TokenInfo]()
        goes_on = self._evaluator.evaluate_prompt(
            prompt[:1], self._threads, lambda done: not self._cancelled()
        )
        for place, token in enumerate(prompt[1:], 1):
            if not goes_on:
                break
            waiting.append(self._info(token, self._vocabulary.token_bytes(token)))
            if len(waiting) == _REPORTED or place == len(prompt) - 1:
                yield Chunk("", 0, prompt_tokens=tuple(waiting))
                waiting.clear()
                self._report(Progress("score", place, len(prompt)))
            if place < len(prompt) - 1:
                self._evaluator.evaluate_next(token, self._threads())
                goes_on = not self._cancelled()

    def _read(self, evaluator: Evaluator, prompt: Ids) -> bool:
        """Evaluate a prompt; whether to go on."""

        def progress(done: int) -> bool:
            self._report(Progress("prompt", done, len(prompt)))
            return not self._cancelled()

        began = time.perf_counter()
        cached = evaluator.shared_prefix(prompt)
        if not self._seconds:
            self._cached = min(cached, len(self._prompt))
        self._report(Progress("prompt", cached, len(prompt)))
        goes_on = evaluator.evaluate_prompt(prompt, self._threads, progress)
        if goes_on and not self._cancelled():
            refuse_blank(evaluator.logits)
        self._seconds["prompt"] = self._seconds.get("prompt", 0) + time.perf_counter() - began
        return goes_on and not self._cancelled()

    def _walk(self, evaluator: Evaluator, prompt: Ids, tree: _Tree) -> bool:
        """Give each node of the tree its log-probability after the prompt; False if cancelled.

        The prompt is evaluated once, and each beginning that something follows once.
        """
        goes_on = self._read(evaluator, prompt)
        began = time.perf_counter()
        stack, done = [tree.root], 0
        while stack and goes_on:
            node = stack.pop()
            if node.depth:
                self._go_to(evaluator, prompt, node)
                done += 1
                self._report(Progress("score", done, tree.evaluated))
                if self._cancelled():
                    return False
            logits = evaluator.logits
            for token, following in node.following.items():
                if self._cancelled():  # of many choices, this takes seconds
                    return False
                shown = self._vocabulary.token_bytes(token)
                following.info = token_info(self._vocabulary, logits, token, self._top, shown=shown)
            if node.ends:
                node.end_logprob = log_probability_of_any(logits, self._vocabulary.end_ids)
            # The newest node is walked first, so that its beginning is still in the context.
            stack += [node.following[token] for token in sorted(node.following, reverse=True)
                      if node.following[token].is_evaluated]  # fmt: skip
        self._seconds["decode"] = self._seconds.get("decode", 0) + time.perf_counter() - began
        return goes_on

    def _go_to(self, evaluator: Evaluator, prompt: Ids, node: _Node) -> None:
        """Make the prompt and the tokens up to this node the context."""
        path = node.path()
        if not evaluator.go_back(len(prompt) + node.depth - 1):
            # Some models cannot go back. Their prompt is evaluated again.
            goes_on = evaluator.evaluate_prompt(
                prompt, self._threads, lambda done: not self._cancelled()
            )
            for token in path[:-1]:
                if not goes_on:
                    return
                evaluator.evaluate_next(token, self._threads())
                goes_on = not self._cancelled()
            if not goes_on:
                return
        evaluator.evaluate_next(path[-1], self._threads())

    def _info(self, token: int, shown: bytes) -> TokenInfo:
        return token_info(self._vocabulary, self._evaluator.logits, token, self._top, shown=shown)

    def _end(self, ended: bool, choices: ChoiceProbabilities | None = None) -> End:
        return End(
            FinishDetail.SCORED if ended else None,
            InferencingUsage(prompt_token_count=len(self._prompt), cached_token_count=self._cached),
            seconds=self._seconds,
            choices=choices,
        )


@dataclass(slots=True, eq=False)
class _Node:
    """A beginning of choices: the tokens on the way from the root to here."""

    token: int = -1
    before: _Node | None = None
    depth: int = 0
    following: dict[int, _Node] = field(default_factory=dict)
    ends: bool = False
    """Whether a choice ends here, and the end of text belongs to it."""
    info: TokenInfo | None = None
    end_logprob: float | None = None

    @property
    def is_evaluated(self) -> bool:
        """Whether the logits after this token are needed."""
        return self.ends or bool(self.following)

    def way(self) -> list[_Node]:
        """The nodes from the first token to here."""
        nodes: list[_Node] = []
        node = self
        while node.before is not None:
            nodes.append(node)
            node = node.before
        return nodes[::-1]

    def path(self) -> list[int]:
        """The tokens from the first one to here."""
        return [node.token for node in self.way()]


class _Tree:
    """The choices as a tree over their tokens. What several begin with stands there once."""

    def __init__(self, given: GivenChoices) -> None:
        self.root = _Node()
        self._last: dict[str, _Node] = {}
        nodes: list[_Node] = []
        for choice, ids in given.ids.items():
            node = self.root
            for token in ids:
                if token not in node.following:
                    node.following[token] = _Node(token, node, node.depth + 1)
                    nodes.append(node.following[token])
                node = node.following[token]
            node.ends = given.end_of_text
            self._last[choice] = node
        self.evaluated = sum(node.is_evaluated for node in nodes)
        """How many tokens are evaluated beside those of the prompt."""

    def probabilities(self, given: GivenChoices, before: _Tree | None) -> ChoiceProbabilities:
        """The probabilities of the choices. `before` has been walked after an empty prompt."""
        scores = []
        for choice, node in self._last.items():
            tokens = tuple(each.info for each in node.way() if each.info is not None)
            scores.append(
                ChoiceScore(
                    choice=choice,
                    probability=0,
                    logprob=self.logprob(choice),
                    tokens=tokens,
                    end_logprob=node.end_logprob,
                    empty_prompt_logprob=before.logprob(choice) if before else None,
                )
            )
        return choice_probabilities(tuple(scores), given.normalize, end_of_text=given.end_of_text)

    def logprob(self, choice: str) -> float:
        """The log-probability of a choice in nats."""
        last = self._last[choice]
        values = [each.info.logprob for each in last.way() if each.info is not None]
        return math.fsum([*values, last.end_logprob or 0.0])
