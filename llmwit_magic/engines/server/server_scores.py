"""The score of a text that is given, and the probabilities of choices, from a server."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ...contract.events import Chunk, Emit, End, Progress
from ...contract.request import Request
from ...contract.scores import ChoiceScore, choice_probabilities
from ...contract.tokens import TokenInfo
from ...contract.wit import FinishDetail, InferencingUsage
from ...errors import InvalidInput, PromptTooLong
from ..text_parts import TextParts
from .dialects.token_scores import ServedModel, TokenScores, WrittenText


@dataclass(slots=True)
class ServerScore:
    """One request that is scored. `prepare` comes first, then `run`, which says the events."""

    request: Request
    model: ServedModel
    scores: TokenScores
    emit: Emit
    prompt: str = ""
    ids: list[int] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    texts: dict[str, WrittenText] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    """The tokens that end a text, and their names, where the end of text belongs to the choices."""
    before: list[int] = field(default_factory=list)
    """The ids of an empty prompt, where the probabilities are compared with those after it."""
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = 0.0

    async def prepare(self) -> None:
        """Find the token ids. Raises `InvalidInput` and `PromptTooLong`."""
        request, model, scores = self.request, self.model, self.scores
        self.prompt, self.ids, self.notices = await scores.prompt(model, request)
        if request.continuation is not None:
            texts: Sequence[str] = [request.continuation]
        else:
            assert request.constraint is not None
            texts = request.constraint.choices
            if not self.ids:
                raise InvalidInput("the prompt is empty: choices need a token to continue")
        for text in texts:
            written = await scores.text(model, request, text)
            self._check(text, written)
            self.texts[text] = written
        if request.probabilities:
            await self._prepare_choices()
        self._check_room()

    def _check(self, text: str, written: WrittenText) -> None:
        what = f"choice {text[:40]!r}" if self.request.probabilities else "continuation"
        if not written.ids:
            raise InvalidInput(f"{what}: the model's vocabulary has no token for it")
        if not self.ids and len(written.ids) == 1:
            raise InvalidInput(f"{what}: it is one token, and nothing is in front of it")
        same = next((t for t, known in self.texts.items() if known.ids == written.ids), None)
        if same is not None:
            raise InvalidInput(
                f"{what}: the model's vocabulary writes it like {same[:40]!r}: leave one out"
            )
        if b"".join(written.shown) == b" " + written.text:
            said = "the model's vocabulary writes a space in front of the text"
            self.notices += [said] if said not in self.notices else []

    async def _prepare_choices(self) -> None:
        request = self.request
        ends = {"always": True, "never": False}.get(request.end_of_text)
        if ends is None:
            ends = _one_begins_another(self.texts) or _one_begins_another(
                written.ids for written in self.texts.values()
            )
        if ends:
            self.ends = await self.scores.ends(self.model)
            if not self.ends:
                raise InvalidInput(
                    f"end_of_text: {self.model.address.host} does not say which tokens end a text: "
                    "give never, or choices of which none is the beginning of another"
                )
            self.notices.append(
                f"the end of text is that by {' or '.join(self.ends.values())}; the model may have "
                "other tokens for it"
            )
        if request.normalize == "empty-prompt":
            empty = request.model_copy(update={"prompt": "", "data_spans": ()})
            self.before = (await self.scores.prompt(self.model, empty))[1]
            self.before = self.before or await self.scores.beginning(self.model)
            if not self.before:
                raise InvalidInput(
                    f"normalize: {self.model.address.host} says no token for an empty prompt: use "
                    "sum or token"
                )

    def _check_room(self) -> None:
        length = self.model.facts.context_length
        longest = max(len(written.ids) for written in self.texts.values())
        if length is not None and len(self.ids) + longest + 1 > length:
            what = "longest choice" if self.request.probabilities else "text"
            raise PromptTooLong(
                f"the prompt has {len(self.ids):,} tokens and the {what} {longest:,}, and the "
                f"server's context holds {length:,}, with one to spare: shorten it"
            )

    async def run(self) -> None:
        """Say the chunks and the end."""
        self.began = time.perf_counter()
        if self.request.probabilities:
            await self._choices()
        else:
            await self._text()

    @property
    def _top(self) -> int:
        return min(self.request.top_logprobs or 0, self.scores.most_top)

    def cancelled(self) -> None:
        """Say the end of a run that was cancelled."""
        self._say_end(None)

    async def _text(self) -> None:
        (written,) = self.texts.values()
        top, stream = self._top, TextParts()
        if self.request.prompt_logprobs:
            rest = WrittenText(tuple(self.ids[1:]))
            async for info in self.scores.infos(self.model, self.ids[:1], rest, top):
                self.emit(Chunk("", 0, prompt_tokens=(info,)))
        infos = self.scores.infos(self.model, self.ids, written, top)
        if not self.ids:  # the first token follows nothing, and has no log-probability
            first = written.shown[:1]
            if not first:
                listed = [info async for info in infos]
                rest_bytes = sum(len(info.bytes) for info in listed)
                first, infos = (written.text[: len(written.text) - rest_bytes],), _again(listed)
            self.emit(Chunk(stream.push(first[0]).text, 0))
        done = 0
        async for info in infos:
            done += 1
            given = stream.push(info.bytes, info)
            self.emit(Chunk(given.text, 0, tuple(given.tokens)))
            self.emit(Progress("score", done, len(written.ids)))
        given = stream.finish()
        if given.text or given.tokens:
            self.emit(Chunk(given.text, 0, tuple(given.tokens)))
        self._say_end(FinishDetail.SCORED)

    async def _choices(self) -> None:
        request = self.request
        room = asyncio.Semaphore(self.scores.at_once)
        done = 0

        async def scored(text: str, written: WrittenText) -> ChoiceScore:
            nonlocal done
            async with room:
                infos, end = await self._scored(self.ids, written)
                before = None
                if self.before:
                    others, other_end = await self._scored(self.before, written)
                    before = _sum(others, other_end)
            done += 1
            self.emit(Progress("server", note=f"{done:,} of {len(self.texts):,} choices scored"))
            return ChoiceScore(
                choice=text, probability=0, logprob=_sum(infos, end), tokens=tuple(infos),
                end_logprob=end, empty_prompt_logprob=before,
            )  # fmt: skip

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(scored(*item)) for item in self.texts.items()]
        except BaseExceptionGroup as errors:  # of several requests: one says enough
            raise errors.exceptions[0] from None
        probabilities = choice_probabilities(
            tuple(task.result() for task in tasks), request.normalize,
            end_of_text=bool(self.ends), exact=not self.ends,
        )  # fmt: skip
        best = next(each for each in probabilities.scores if each.choice == probabilities.best)
        self.emit(Chunk(best.choice, 0, best.tokens))
        self._say_end(FinishDetail.SCORED, choices=probabilities)

    async def _scored(
        self, before: list[int], written: WrittenText
    ) -> tuple[list[TokenInfo], float | None]:
        """The tokens of a choice, and the log-probability that the text ends after it."""
        infos = [info async for info in self.scores.infos(self.model, before, written, self._top)]
        if not self.ends:
            return infos, None
        context, probability = [*before, *written.ids], 0.0
        for token in self.ends:
            async for end in self.scores.infos(self.model, context, WrittenText((token,)), 0):
                probability += math.exp(end.logprob)
        return infos, math.log(probability) if probability else -math.inf

    def _say_end(self, detail: FinishDetail | None, **values: Any) -> None:
        if self.began:
            self.seconds["decode"] = time.perf_counter() - self.began
        usage = InferencingUsage(prompt_token_count=len(self.ids), cached_token_count=None)
        self.emit(End(detail, usage, seconds=self.seconds, **values))


def _sum(infos: list[TokenInfo], end: float | None) -> float:
    return math.fsum([*(info.logprob for info in infos), end or 0.0])


async def _again(infos: list[TokenInfo]) -> AsyncIterator[TokenInfo]:
    for info in infos:
        yield info


def _one_begins_another(items: Iterable[Any]) -> bool:
    """Whether a text, or a tuple of ids, is the beginning of another one."""
    # In this order, what begins with a text follows it at once.
    return any(after[: len(one)] == one for one, after in pairwise(sorted(items)))
