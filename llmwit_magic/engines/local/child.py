"""The child: a process with one loaded model. Commands come in, answers go out.

Commands are lines of JSON on what was standard input. Answers are lines of JSON
on what was standard output. Both get other descriptors first, since native code
prints to descriptors 1 and 2. What it prints belongs in the report of a death.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ...base.children import private_pipes, watch_parent
from ...contract.events import Event, Prepared, Progress
from ...contract.request import ContentFilter, Request
from ...contract.wit import ModelInfo
from ...errors import InferenceError, InvalidInput
from ..backends.registry import backend_named
from ..scoring import GivenText, Scorer
from ..sequence import generate
from ..text_parts import TextParts
from ..threads import AdaptiveThreads, Threads, automatic_threads, fixed_threads
from .counting import token_counts
from .embedding import embed
from .outbox import Outbox
from .preparation import Given, prepare
from .wire import (
    Answer,
    Broken,
    Cancel,
    Command,
    Constraining,
    Count,
    Counts,
    Done,
    Embed,
    Exit,
    Failed,
    Judge,
    Load,
    Prepare,
    Rendering,
    Run,
    Started,
    Verdict,
    decoded,
)

if TYPE_CHECKING:
    from ...contract.constraint import Constraint
    from ...models.tokenizers.native import NativeTokenizer
    from ...models.tokenizers.vocabulary import Tokenizer
    from ..answer_mask import AnswerMask
    from ..backends.base import Evaluator, Loaded
    from ..constraints import ConstraintVocabulary
    from ..reasoning import Splitter


def main(parent: int) -> None:
    """Serve until the parent goes away or sends `Exit`. `parent` is its process id."""
    # An interrupt is not for the child: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A thread that wants the GIL waits for one switch interval, which is 5 ms by default. With
    # that, loading the model and building its tokenizer would run one after the other. With
    # 0.2 ms they overlap.
    sys.setswitchinterval(2e-4)
    commands, answers = private_pipes()
    Child(commands, answers, parent).serve()


class Child:
    """Carries out one command after another. `Cancel` and `Verdict` reach it meanwhile."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO, parent: int) -> None:
        self._outbox = Outbox(answers)
        self._loaded: Loaded | None = None
        self._only_tokenizer: Tokenizer | None = None
        self._info = ModelInfo(name="")
        self._constraints: ConstraintVocabulary | None = None
        self._automatic: Threads = AdaptiveThreads()
        self._pending: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._verdicts: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        threading.Thread(target=self._read, args=(commands,), daemon=True).start()
        watch_parent(parent, lambda: os._exit(0))

    def _read(self, commands: BinaryIO) -> None:
        try:
            for line in commands:
                self._take(decoded(line))
        except Exception:  # as for the command of another version of the package
            traceback.print_exc()  # the last words, which the parent reads
            os._exit(1)
        # The end of the file means that the parent has closed the pipe or is dead. So the child
        # ends, whatever it is doing.
        os._exit(0)

    def _take(self, command: Command) -> None:
        match command:
            case Cancel():
                self._cancelled.set()
                if self._loaded is not None:
                    self._loaded.interrupt(True)
            case Verdict(cut):
                self._verdicts.put(cut)
            case _:
                self._pending.put(command)

    def serve(self) -> None:
        """Carry out one command after another, until `Exit`."""
        while not isinstance(command := self._pending.get(), Exit):
            self._cancelled.clear()
            if self._loaded is not None:
                self._loaded.interrupt(False)
            self._send(Started())
            try:
                self._carry_out(command)
                answer: Answer = Done()
            except InferenceError as error:
                answer = Failed(type(error).__name__, str(error))
            except MemoryError:
                answer = Failed("OutOfMemory", "the engine ran out of memory")
            except Exception as error:
                answer = Broken(f"{type(error).__name__}: {error}")
            self._send(answer)
        os._exit(0)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Load():
                self._load(command)
            case Prepare(request):
                self._send(self._prepared(request, refuses=False)[0])
            case Run(request, function_count):
                self._run(request, function_count)
            case Embed():
                threads = self._threads(command.request.threads)
                for event in embed(
                    self._model, self._info, command, threads, self._cancelled.is_set
                ):
                    self._send(event)
            case Count(texts):
                self._send(
                    Counts(tuple(token_counts(self._tokenizer, texts, self._cancelled.is_set)))
                )

    def _send(self, answer: Answer) -> None:
        self._outbox.send(answer)

    def _load(self, command: Load) -> None:
        os.environ.update(command.environment)
        backend = backend_named(command.backend)
        source, file = Path(command.source), Path(command.file)
        if command.tokenizer_only:
            self._only_tokenizer = backend.open_tokenizer(source)
            return
        self._loaded = backend.open(source, file, command.spec, command.kept_prompts)
        if (header := self._loaded.header) is not None:
            size = sum(each.nbytes for each in header.tensors)
            self._automatic = automatic_threads(size, self._automatic)
        made_by = self._loaded.tokenizer.made_by
        self._info = command.info.model_copy(update={"tokenizer": made_by})
        gc.freeze()
        gc.enable()

    @property
    def _tokenizer(self) -> Tokenizer | NativeTokenizer:
        return self._only_tokenizer or self._model.tokenizer

    @property
    def _model(self) -> Loaded:
        if self._loaded is None:
            raise InvalidInput("no model is loaded")
        return self._loaded

    def _threads(self, asked: int | str) -> Threads:
        return self._automatic if asked == "auto" else fixed_threads(int(asked))

    def _prepared(
        self, request: Request, refuses: bool = True
    ) -> tuple[
        Prepared, Sequence[int], Evaluator, Splitter | None, AnswerMask | None, Given | None
    ]:
        threads = self._threads(request.threads)
        rendering = self._tell_rendering
        return prepare(self._model, self._info, request, threads, rendering, self._mask_of, refuses)

    def _mask_of(self, constraint: Constraint, splitter: Splitter | None) -> AnswerMask:
        from ..answer_mask import AnswerMask
        from ..constraints import ConstraintVocabulary

        self._send(Constraining(True))
        self._send(Progress("constraint"))
        if self._constraints is None:  # this is the model's first run with one
            self._constraints = ConstraintVocabulary(self._model.tokenizer)
        mask = AnswerMask(self._constraints.mask(constraint), self._constraints, splitter)
        self._send(Constraining(False))
        return mask

    def _tell_rendering(self, running: bool) -> None:
        self._send(Rendering(running))

    def _run(self, request: Request, function_count: int) -> None:
        prepared, ids, evaluator, splitter, mask, given = self._prepared(request)
        self._send(prepared)
        if given is not None:
            for event in self._scored(request, ids, evaluator, given):
                self._send(event)
            return
        filters: list[ContentFilter] = [*request.content_filters]
        filters += [self._asker(index) for index in range(function_count)]
        events = generate(
            evaluator,
            self._model.tokenizer,
            ids,
            prepared.params,
            TextParts(prepared.params.stop, filters, splitter),
            threads=self._threads(request.threads),
            top_logprobs=request.top_logprobs,
            mask=mask,
            report=self._send,
            cancelled=self._between_tokens,
        )
        for event in events:
            self._send(event)

    def _between_tokens(self) -> bool:
        """Let a gathered chunk go out. Returns whether the run is cancelled."""
        self._outbox.send_gathered()
        return self._cancelled.is_set()

    def _scored(
        self, request: Request, ids: Sequence[int], evaluator: Evaluator, given: Given
    ) -> Iterator[Event]:
        scorer = Scorer(
            evaluator,
            self._model.tokenizer,
            ids,
            threads=self._threads(request.threads),
            top=request.top_logprobs or 0,
            report=self._send,
            cancelled=self._between_tokens,
        )
        if isinstance(given, GivenText):
            return scorer.text(given, request.prompt_logprobs)
        return scorer.choices(given, self._model.contexts)

    def _asker(self, index: int) -> Callable[[str], int | None]:
        """A content filter that asks a function of the kernel, and waits for its verdict."""

        def ask(text: str) -> int | None:
            self._send(Judge(index, text))
            return self._verdicts.get()

        return ask
