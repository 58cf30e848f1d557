"""The child's side: one process, one loaded model, requests in and events out.

Lines of JSON come in on what was standard input and go out on what was
standard output. Both are moved away first: native code prints to descriptors
1 and 2, and what it prints belongs into the death report.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from ..errors import InferenceError, InvalidInput, PromptTooLong
from ..models.chat import render_chat
from ..protocol import ContentFilter, Event, Prepared
from ..wit import InferencingParams, ModelInfo
from .ctransformers import LogitsModel
from .generate import generate
from .limits import limited_memory
from .loading import Loaded, load
from .messages import message
from .stopping import TextStream
from .threads import AdaptiveThreads, Threads, fixed_threads

PARENT_POLL_SECONDS = 1.0
TEMPLATE_BYTES = 256 * 2**20
"""What a chat template may take to write a prompt."""


def main(parent: int) -> None:
    """Serve until the parent goes away or says `exit`."""
    # The parent decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A thread that looks at a file while another computes waits so long for its turn each time;
    # with Python's own 5 ms the model would be opened after the vocabulary, not meanwhile.
    sys.setswitchinterval(2e-4)
    commands, events = _private_pipes()
    Child(commands, events, parent).serve()


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    commands = os.fdopen(os.dup(0), "rb")
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return commands, events


class Child:
    """Answers one command after another; `cancel` and verdicts reach it in between."""

    def __init__(self, commands: BinaryIO, events: BinaryIO, parent: int) -> None:
        self._events = events
        self._loaded: Loaded | None = None
        self._info: ModelInfo | None = None
        self._adaptive = AdaptiveThreads()
        self._pending: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._verdicts: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._running: int | None = None
        threading.Thread(target=self._read, args=(commands,), daemon=True).start()
        threading.Thread(target=self._watch, args=(parent,), daemon=True).start()

    def _read(self, commands: BinaryIO) -> None:
        for line in commands:
            command = json.loads(line)
            if command["do"] == "cancel":
                self._cancelled.set()
            elif command["do"] == "verdict":
                self._verdicts.put(command["cut"])
            else:
                self._pending.put(command)
        # End of file: the parent has closed the pipe or is dead, whatever is running here.
        os._exit(0)

    def _watch(self, parent: int) -> None:
        """End with the parent even where another process inherited its end of the pipe."""
        while os.name != "posix" or os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(0)

    def serve(self) -> None:
        handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "load": self._load,
            "prepare": self._prepare,
            "run": self._run,
            "embed": self._embed,
        }
        while True:
            command = self._pending.get()
            if command["do"] == "exit":
                os._exit(0)
            try:
                handlers[command["do"]](command)
            except InferenceError as error:
                self._send("error", {"type": type(error).__name__, "message": str(error)})
            except MemoryError:
                self._send(
                    "error", {"type": "OutOfMemory", "message": "the engine ran out of memory"}
                )
            except Exception as error:
                self._send("broken", f"{type(error).__name__}: {error}")

    def _send(self, kind: str, value: Any) -> None:
        try:
            self._events.write(message(kind, value))
            self._events.flush()
        except BrokenPipeError:
            os._exit(0)

    def _send_event(self, event: Event) -> None:
        self._send(type(event).__name__, event)

    def _load(self, command: dict[str, Any]) -> None:
        self._info = ModelInfo(**command.pop("info"))
        command.pop("do")
        self._loaded = load(**command)
        gc.freeze()
        gc.enable()
        self._send("done", None)

    @property
    def _model(self) -> Loaded:
        if self._loaded is None:
            raise InvalidInput("no model is loaded")
        return self._loaded

    def _threads(self, asked: int | str) -> Threads:
        return self._adaptive if asked == "auto" else fixed_threads(int(asked))

    def _prepared(self, command: dict[str, Any]) -> tuple[Prepared, Sequence[int], LogitsModel]:
        """The request as it will run, the ids of its prompt, and the copy that evaluates them."""
        loaded, info = self._model, self._info
        assert info is not None
        text = command["prompt"]
        if command["chat"]:
            text = self._render(text, command["system"])
        ids = loaded.tokenizer.encode(text)
        length = loaded.model.context_length
        if not ids:
            raise InvalidInput(
                "the prompt is empty: the model needs at least one token to continue"
            )
        if len(ids) >= length:
            raise PromptTooLong(
                f"the prompt has {len(ids):,} tokens and the context holds {length:,}, answer "
                f"included: shorten it{self._longer_context(length)}"
            )
        model = loaded.contexts.best_for(ids)
        threads = self._threads(command["threads"])
        prepared = Prepared(
            prompt=text,
            prompt_token_count=len(ids),
            cached_token_count=model.shared_prefix(ids),
            context_length=length,
            params=InferencingParams(**command["params"]),
            model=info,
            device=loaded.device.model_copy(update={"threads": threads()}),
        )
        return prepared, ids, model

    def _longer_context(self, length: int) -> str:
        header = self._model.header
        trained = header.hyperparameter("context_length") if header else length
        return f" or raise --context-length (up to {trained:,})" if trained > length else ""

    def _render(self, prompt: str, system: str | None) -> str:
        loaded = self._model
        if loaded.header is None:
            raise InvalidInput("an old GGML file has no chat template: leave out --chat")

        def text_of(key: str) -> str:
            token = loaded.header.metadata.get(f"tokenizer.ggml.{key}") if loaded.header else None
            return (
                ""
                if token is None
                else loaded.tokenizer.token_bytes(token).decode("utf-8", "replace")
            )

        # The parent ends this process where the template does not end. Only it can: most of
        # Python's own functions cannot be interrupted from inside.
        self._send("rendering", True)
        with limited_memory(TEMPLATE_BYTES):
            text = render_chat(
                loaded.header.metadata,
                prompt,
                system,
                bos=text_of("bos_token_id"),
                eos=text_of("eos_token_id"),
            )
        self._send("rendering", False)
        return text

    def _prepare(self, command: dict[str, Any]) -> None:
        self._send_event(self._prepared(command)[0])

    def _run(self, command: dict[str, Any]) -> None:
        self._cancelled.clear()
        self._send("started", None)
        prepared, ids, model = self._prepared(command)
        self._send_event(prepared)
        filters: list[ContentFilter] = [*command["patterns"]]
        filters += [self._asker(index) for index in range(command["functions"])]
        events = generate(
            model,
            self._model.tokenizer,
            ids,
            prepared.params,
            TextStream(prepared.params.stop, filters),
            threads=self._threads(command["threads"]),
            top_logprobs=command["top_logprobs"],
            report=self._send_event,
            cancelled=self._cancelled.is_set,
        )
        for event in events:
            self._send_event(event)

    def _asker(self, index: int) -> Callable[[str], int | None]:
        """A content filter that is a function of the parent's process: ask it and wait."""

        def ask(text: str) -> int | None:
            self._send("judge", {"filter": index, "text": text})
            return self._verdicts.get()

        return ask

    def _embed(self, command: dict[str, Any]) -> None:
        self._cancelled.clear()
        self._send("started", None)
        loaded = self._model
        threads = self._threads(command["threads"])
        vectors, count, length = [], 0, loaded.model.context_length
        for number, text in enumerate(command["texts"], 1):
            ids = loaded.tokenizer.encode(text)
            if not ids:
                raise InvalidInput(f"text {number} is empty: it has no embedding")
            if len(ids) > length:
                raise PromptTooLong(
                    f"text {number} has {len(ids):,} tokens and the context holds {length:,}: "
                    f"shorten it{self._longer_context(length)}"
                )
            whole = loaded.model.evaluate_prompt(
                ids, threads, lambda done: not self._cancelled.is_set()
            )
            if not whole:
                break
            vectors.append(loaded.model.embedding)
            count += len(ids)
        self._send("embeddings", {"vectors": vectors, "tokens": count})
