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
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import InferenceError, InvalidInput, PromptTooLong
from ..models.tokenizer import NativeTokenizer
from ..protocol import ContentFilter, Event, Prepared
from ..spans import Spans, touched
from ..wit import InferencingParams, ModelInfo, lists
from .ctransformers import LogitsModel
from .embedding import embed
from .generate import generate
from .limits import limited_memory
from .loading import Loaded, load
from .messages import message
from .stopping import SafeText
from .threads import AdaptiveThreads, Threads, fixed_threads

if TYPE_CHECKING:
    from ..models.chat import Rendered

PARENT_POLL_SECONDS = 1.0
TEMPLATE_BYTES = 256 * 2**20
"""What a chat template may take to write a prompt."""


def main(parent: int) -> None:
    """Serve until the parent goes away or says `exit`."""
    # The parent decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A thread that wants the GIL waits for one switch interval, which is 5 ms by default. With
    # that, loading the model and building its tokenizer would run one after the other. With
    # 0.2 ms they overlap.
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
        if sys.platform != "win32":  # where a process keeps the number of a parent that has ended
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
        while os.getppid() == parent:
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
            self._cancelled.clear()
            # From here on a death is that of this command, and not of a child that was idle.
            self._send("started", None)
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
        except OSError:  # the pipe is closed; BrokenPipeError is only what POSIX says
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
        text, data, notices = self._text(command)
        withheld = loaded.tokenizer.withheld(text, data)
        if withheld:
            names = dict.fromkeys(text[start:end] for start, end in withheld)
            notices.append(f"text, and no control token, in the data: {', '.join(names)}")
        ids = loaded.tokenizer.encode(text, data)
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
            data_spans=() if command["chat"] else touched(data, withheld),
            notices=tuple(notices),
        )
        return prepared, ids, model

    def _text(self, command: dict[str, Any]) -> tuple[str, Spans, list[str]]:
        """The whole prompt, the spans of it that are data, and what is to be said of it."""
        control_tokens, prompt = command["control_tokens"], command["prompt"]
        if command["chat"]:
            rendered = self._render(command)
            data = () if control_tokens == "all" else rendered.data
            return rendered.text, data, [rendered.notice] if rendered.notice else []
        whole = ((0, len(prompt)),)
        data = {"none": whole, "typed": lists(command["data_spans"]), "all": ()}[control_tokens]
        return prompt, data, []

    def _longer_context(self, length: int) -> str:
        header = self._model.header
        trained = header.hyperparameter("context_length") if header else length
        return f" or raise --context-length (up to {trained:,})" if trained > length else ""

    def _render(self, command: dict[str, Any]) -> Rendered:
        # jinja2 is needed here only, and takes long to import.
        from ..models.chat import render_chat
        from ..models.template import template_of

        loaded = self._model
        if loaded.header is None or isinstance(loaded.tokenizer, NativeTokenizer):
            raise InvalidInput("an old GGML file has no chat template: leave out --chat")
        template = template_of(loaded.header.metadata, command["chat_template"])
        messages = [("user", command["prompt"])]
        if command["system"] is not None:
            messages.insert(0, ("system", command["system"]))
        variables = loaded.tokenizer.template_variables()
        # The parent ends this process where the template does not end. Only it can: most of
        # Python's own functions cannot be interrupted from inside.
        self._send("rendering", True)
        with limited_memory(TEMPLATE_BYTES):
            rendered = render_chat(template, messages, variables)
        self._send("rendering", False)
        return rendered

    def _prepare(self, command: dict[str, Any]) -> None:
        self._send_event(self._prepared(command)[0])

    def _run(self, command: dict[str, Any]) -> None:
        prepared, ids, model = self._prepared(command)
        self._send_event(prepared)
        filters: list[ContentFilter] = [*command["patterns"]]
        filters += [self._asker(index) for index in range(command["functions"])]
        events = generate(
            model,
            self._model.tokenizer,
            ids,
            prepared.params,
            SafeText(prepared.params.stop, filters),
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
        vectors, count = embed(
            self._model,
            command["texts"],
            command["truncate"],
            self._threads(command["threads"]),
            cancelled=self._cancelled.is_set,
        )
        self._send("embeddings", {"vectors": vectors, "tokens": count})
