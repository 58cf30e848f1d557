"""A loopback server that speaks like each kind of server of models, with its vices.

It knows one answer, a list of pieces of text, one for each token. What each kind sends follows its
source: see the dialects in `llmwit_magic/engines/server/dialects/`.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "planted-key-0123456789"
CONTEXT = 64
"""The context of the one model, in tokens. A word of a prompt is a token."""
KINDS = ("vllm", "sglang", "ollama", "lmstudio", "openai", "other")
OWNERS = {
    "vllm": "vllm", "sglang": "sglang", "ollama": "library", "lmstudio": "organization_owner",
    "openai": "system", "other": "someone",
}  # fmt: skip


class SpeakingHandler(BaseHTTPRequestHandler):
    server: SpeakingServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._answer(json.loads(self.rfile.read(length) or b"{}"))

    def _answer(self, body: dict[str, Any]) -> None:
        server = self.server
        server.asked.append((self.path, body))
        server.headers.append(dict(self.headers))
        asks = self.path in server.vicious and len(body) > 2  # else a model is loaded
        if asks and server.first:
            server.first.pop(0)(self)
            return
        if asks and server.vice:
            server.vice(self)
            return
        if self.path in server.pages:
            self.whole(server.pages[self.path], "application/json")
        elif self.path in server.answers:
            self.json(server.answers[self.path](body))
        elif self.path in server.plain:
            self.json(server.plain[self.path])
        elif self.path in ("/tokenize", "/v1/tokenize") and server.kind in ("vllm", "sglang"):
            ids = server.ids(str(body.get("prompt") or ""))
            self.json({"count": words(body), "max_model_len": CONTEXT, "tokens": ids})
        elif self.path == "/v1/completions" and "prompt_logprobs" in body:
            listed = server.prompt_logprobs(body["prompt"], body["prompt_logprobs"])
            self.json({"choices": [{"text": " x", "prompt_logprobs": listed}]})
        elif self.path == "/generate" and server.kind == "sglang":
            self.json({"text": "", "meta_info": server.input_logprobs(body)})
        elif self.path == "/api/show":
            self.json({"details": {"quantization_level": "Q4_0"}})
        elif self.path == "/api/generate" and "prompt" not in body:
            server.plain["/api/ps"] = {"models": [{"name": "m:latest", "context_length": CONTEXT}]}
            self.json({"done": True, "done_reason": "load"})
        elif self.path in server.vicious:
            self.stream(server.events(self.path, body))
        else:
            self.json({"error": f"no {self.path}"}, 404)

    def json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.whole(json.dumps(value).encode(), "application/json", status, **headers)

    def whole(self, data: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, events: Iterator[Any] | list[Any]) -> None:
        """Send the events in the form of the kind, as `server.cut` wants them."""
        server = self.server
        self.send_response(200)
        native = self.path.startswith("/api/")
        self.send_header(
            "Content-Type", "application/x-ndjson" if native else "text/event-stream; charset=utf-8"
        )
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        end = server.line_end
        server.open += 1
        try:
            sent = bytearray()
            for event in events:
                text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
                line = f"{text}\n" if native else f"data: {text}{end}{end}"
                sent += server.before.encode() + line.encode()
                if server.cut is None:
                    self._write(bytes(sent))
                    sent.clear()
            if server.cut is not None:
                self._write(bytes(sent[: int(len(sent) * server.cut)]))
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the client has closed the stream
            server.broken_off.set()
        finally:
            server.open -= 1

    def _write(self, data: bytes) -> None:
        """Send the bytes in pieces of `server.piece`."""
        size = self.server.piece or len(data) or 1
        for start in range(0, len(data), size):
            part = data[start : start + size]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            if self.server.pause:
                time.sleep(self.server.pause)


class SpeakingServer(ThreadingHTTPServer):
    """A server of one kind. A test sets its answer and its vices."""

    daemon_threads = True
    vicious = ("/v1/completions", "/v1/chat/completions", "/api/generate", "/api/chat")
    """The paths that vices are for."""

    def __init__(self, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), SpeakingHandler)
        self.kind = kind
        self.text = [" Paris", ".", " It", " is", " big", "."]
        self.thoughts: list[str] = []
        self.vocabulary: list[str] = []
        self.usage = True
        self.logprobs = True
        self.truncates = False
        self.ignores_limit = False
        self.line_end, self.before, self.piece, self.pause = "\n", "", 0, 0.0
        self.cut: float | None = None
        """The part of a stream after which the connection breaks."""
        self.first: list[Callable[[SpeakingHandler], None]] = []
        """What is done with the first requests, in turn."""
        self.vice: Callable[[SpeakingHandler], None] | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.pages: dict[str, bytes] = {}
        """Answers to the byte, by their paths."""
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        """Answers that are made of what was sent, by their paths."""
        self.open = 0
        """How many streams are open."""
        self.broken_off = threading.Event()
        """Set where a client has closed a stream."""
        self.plain: dict[str, Any] = {
            "/v1/models": {"data": [{"id": "m", "owned_by": OWNERS[kind]}]},
        }
        if kind in ("vllm", "sglang"):
            self.plain["/v1/models"]["data"][0]["max_model_len"] = CONTEXT
        if kind == "vllm":
            self.plain["/version"] = {"version": "0.32.0"}
        if kind == "sglang":
            self.plain["/get_server_info"] = {
                "version": "0.5.9", "max_running_requests": 8,
                "enable_deterministic_inference": False,
            }  # fmt: skip
        if kind == "ollama":
            self.plain["/api/version"] = {"version": "0.20.0"}
            self.plain["/api/tags"] = {"models": [{"name": "m"}]}
            self.plain["/api/ps"] = {"models": []}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def body(self) -> dict[str, Any]:
        """The last request for an answer."""
        return [body for path, body in self.asked if path in self.vicious and len(body) > 2][-1]

    def handle_error(self, request: object, address: object) -> None:
        """Clients that close streams are what the tests are about."""

    # Tokens that are given ----------------------------------------------------------

    def ids(self, text: str) -> list[int]:
        """The ids of the words of a text, each with the space in front of it. `é` is two tokens."""
        found = []
        for word in re.findall(r"é|\s*[^\sé]+", text):
            for piece in ("é1", "é2") if word == "é" else (word,):
                if piece not in self.vocabulary:
                    self.vocabulary.append(piece)
                found.append(self.vocabulary.index(piece))
        return found

    def logprob(self, token: int) -> float:
        return -0.25 * (token + 1)

    def said(self, token: int) -> str:
        """A token as a text: within a character that is none."""
        return {"é1": "\ufffd", "é2": "é"}.get(self.vocabulary[token], self.vocabulary[token])

    def prompt_logprobs(self, ids: list[int], top: int) -> list[Any]:
        """What vLLM says: for each token but the first, the likeliest tokens and that one."""
        listed: list[Any] = [None]
        for token in ids[1:]:
            shown = dict.fromkeys([*range(min(top, len(self.vocabulary))), token])
            listed.append(
                {
                    str(other): {
                        "logprob": self.logprob(other), "rank": other + 1,
                        "decoded_token": self.said(other),
                    }
                    for other in shown
                }
            )  # fmt: skip
        return listed

    def input_logprobs(self, body: dict[str, Any]) -> dict[str, Any]:
        """What SGLang says of the same."""
        ids, top = body["input_ids"], body["top_logprobs_num"]
        said = [[self.logprob(token), token, self.said(token)] for token in ids]
        said[0][0] = None  # type: ignore[call-overload]
        likeliest = range(min(top, len(self.vocabulary)))
        tops = [[self.logprob(token), token, self.said(token)] for token in likeliest]
        return {
            "input_token_logprobs": said,
            "input_top_logprobs": [None, *[tops] * (len(ids) - 1)],
        }

    # What each kind says ----------------------------------------------------------

    def events(self, path: str, body: dict[str, Any]) -> Iterator[Any]:
        options = body.get("options") or body
        limit = options.get("num_predict", options.get("max_tokens"))
        limit = options.get("max_completion_tokens", limit)
        if limit is None and path == "/v1/completions":
            limit = 16  # silently
        count = words(body)
        if self.truncates:
            count = min(count, options.get("num_ctx", CONTEXT))
        room = CONTEXT - count
        most = room if limit is None or limit < 0 else min(limit, room)
        if self.ignores_limit:
            most = 10**9
        text, stop, ended = self._cut_by_stops(options.get("stop") or [])
        reason = "length" if len(text) > most or (len(text) == most and not ended) else "stop"
        text = text[:most]
        # An end-of-text token is counted by these.
        counted = len(text) + (reason == "stop" and stop is None and self.counts_end)
        if stop is not None:
            counted = ended or counted
        if self.kind == "ollama":
            yield from self._native(path, text, counted, count, reason, body)
        else:
            yield from self._openai(path, text, counted, count, reason, stop, body)

    @property
    def counts_end(self) -> bool:
        return self.kind in ("vllm", "sglang", "ollama")

    def _cut_by_stops(self, stops: list[str]) -> tuple[list[str], str | None, int]:
        """The pieces before the first stop sequence, that sequence, and how many tokens it took.

        The third is above 0 where the answer ends by itself.
        """
        whole = "".join(self.text)
        places = [(whole.find(stop), stop) for stop in stops if stop in whole]
        if not places:
            return list(self.text), None, len(self.text)
        place, stop = min(places)
        kept: list[str] = []
        length = tokens = 0
        for piece in self.text:
            if length + len(piece) > place:
                kept.append(piece[: max(place - length, 0)])
            else:
                kept.append(piece)
            length, tokens = length + len(piece), tokens + 1
            if length >= place + len(stop):
                break
        return [piece for piece in kept if piece], stop, tokens

    def _openai(
        self, path: str, text: list[str], counted: int, count: int, reason: str,
        stop: str | None, body: dict[str, Any],
    ) -> Iterator[Any]:  # fmt: skip
        chat = path.endswith("chat/completions")
        running = bool((body.get("stream_options") or {}).get("continuous_usage_stats"))
        wants = self.logprobs and body.get("logprobs") is not None
        if chat:
            yield {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
        for thought in self.thoughts:
            yield {"choices": [{"delta": {"reasoning_content": thought}, "finish_reason": None}]}
        for number, piece in enumerate(text, 1):
            choice: dict[str, Any] = {"index": 0, "finish_reason": None}
            choice |= {"delta": {"content": piece}} if chat else {"text": piece}
            if wants:
                choice["logprobs"] = probabilities([self.text[number - 1]], chat)
            event: dict[str, Any] = {"choices": [choice]}
            if running and self.usage:
                event["usage"] = used(count, number)
            yield event
        last: dict[str, Any] = {"index": 0, "finish_reason": reason}
        last |= {"delta": {}} if chat else {"text": ""}
        eos = reason == "stop" and stop is None
        if wants and (eos and self.counts_end):
            last["logprobs"] = probabilities(["<|im_end|>"], chat)
        if wants and stop is not None:
            last["logprobs"] = probabilities(self.text[len(text) : counted], chat)
        if self.kind == "vllm":
            last["stop_reason"] = stop
        if self.kind == "sglang":
            last["matched_stop"] = 2 if eos else stop
        yield {"choices": [last]}
        if self.usage:
            yield {"choices": [], "usage": used(count, counted)}
        yield "[DONE]"

    def _native(
        self, path: str, text: list[str], counted: int, count: int, reason: str,
        body: dict[str, Any],
    ) -> Iterator[Any]:  # fmt: skip
        chat = path == "/api/chat"

        def event(content: str = "", thinking: str = "") -> dict[str, Any]:
            said = {"content": content, **({"thinking": thinking} if thinking else {})}
            if chat:
                return {"model": "m", "message": {"role": "assistant", **said}, "done": False}
            return {"model": "m", "response": content, "done": False}

        for thought in self.thoughts if chat else ():
            yield event(thinking=thought)
        for piece in text:
            made = event(piece)
            if self.logprobs and body.get("logprobs"):
                made["logprobs"] = probabilities([piece], True)["content"]
            yield made
        counts = {"prompt_eval_count": count, "eval_count": counted} if self.usage else {}
        yield event() | {"done": True, "done_reason": reason, **counts}


def words(body: dict[str, Any]) -> int:
    """The tokens of a request's prompt."""
    messages = " ".join(message["content"] for message in body.get("messages") or ())
    return len(str(body.get("prompt") or messages).split())


def used(prompt: int, generated: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": generated}


def probabilities(pieces: list[str], chat: bool) -> dict[str, Any]:
    """The log-probabilities of tokens, in OpenAI's newer form or in that of completions."""
    if not chat:
        return {
            "tokens": pieces, "token_logprobs": [-0.5] * len(pieces),
            "top_logprobs": [{piece: -0.5, " other": -1.5} for piece in pieces],
        }  # fmt: skip
    other = {"token": " other", "bytes": list(b" other"), "logprob": -1.5}
    owns = [{"token": piece, "bytes": list(piece.encode()), "logprob": -0.5} for piece in pieces]
    return {"content": [{**own, "top_logprobs": [own, other]} for own in owns]}


@pytest.fixture
def speaking() -> Iterator[Callable[[str], SpeakingServer]]:
    """Starts servers of a kind."""
    servers: list[tuple[SpeakingServer, threading.Thread]] = []

    def start(kind: str) -> SpeakingServer:
        server = SpeakingServer(kind)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
