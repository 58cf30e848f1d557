"""Guests in WAT, the text of WebAssembly: they compile in milliseconds.

`Interface` makes the WAT of an interface's types from its WIT. A guest of `forwarder` exports the
functions of an interface under the same types, and hands each call on to the host's. The canonical
ABI has the same layout on both sides, so the code of the guest is one call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

WIT = Path(__file__).parents[2] / "wit"
_PLAIN = {"bool": 1, "u8": 1, "u32": 4, "u64": 8, "f32": 4, "f64": 8, "char": 4}

SPIN = """
interface llm {
    record inferencing-params {
        max-tokens: u32, repeat-penalty: f32, repeat-penalty-last-n-token-count: u32,
        temperature: f32, top-k: u32, top-p: f32,
    }
    variant error { model-not-supported, runtime-error(string), invalid-input(string), }
    record inferencing-usage { prompt-token-count: u32, generated-token-count: u32, }
    record inferencing-result { text: string, usage: inferencing-usage, }
    record embeddings-usage { prompt-token-count: u32, }
    record embeddings-result { embeddings: list<list<f32>>, usage: embeddings-usage, }
    infer: func(model: string, prompt: string, params: option<inferencing-params>) -> result<inferencing-result, error>;
    generate-embeddings: func(model: string, text: list<string>) -> result<embeddings-result, error>;
}
"""
"""What `fermyon:spin/llm@2.0.0` has."""
PHARIA = """
interface inference {
    record text-score { start: u32, length: u32, score: f64, }
    enum granularity { auto, word, sentence, paragraph, }
    record explanation-request { prompt: string, target: string, model: string, granularity: granularity, }
    enum finish-reason { stop, length, content-filter, }
    record logprob { token: list<u8>, logprob: f64, }
    record distribution { sampled: logprob, top: list<logprob>, }
    record token-usage { prompt: u32, completion: u32, }
    record completion { text: string, finish-reason: finish-reason, logprobs: list<distribution>, usage: token-usage, }
    variant logprobs { no, sampled, top(u8), }
    record completion-params {
        max-tokens: option<u32>, temperature: option<f64>, top-k: option<u32>, top-p: option<f64>,
        stop: list<string>, return-special-tokens: bool, frequency-penalty: option<f64>,
        presence-penalty: option<f64>, logprobs: logprobs,
    }
    record completion-request { model: string, prompt: string, params: completion-params, }
    record completion-params-v2 {
        max-tokens: option<u32>, temperature: option<f64>, top-k: option<u32>, top-p: option<f64>,
        stop: list<string>, return-special-tokens: bool, frequency-penalty: option<f64>,
        presence-penalty: option<f64>, logprobs: logprobs, echo: bool,
    }
    record completion-request-v2 { model: string, prompt: string, params: completion-params-v2, }
    record completion-append { text: string, logprobs: list<distribution>, }
    variant completion-event { append(completion-append), end(finish-reason), usage(token-usage), }
    resource completion-stream { constructor(init: completion-request); next: func() -> option<completion-event>; }
    record message { role: string, content: string, }
    record chat-params {
        max-tokens: option<u32>, temperature: option<f64>, top-p: option<f64>,
        frequency-penalty: option<f64>, presence-penalty: option<f64>, logprobs: logprobs,
    }
    record chat-response { message: message, finish-reason: finish-reason, logprobs: list<distribution>, usage: token-usage, }
    record chat-request { model: string, messages: list<message>, params: chat-params, }
    record message-append { content: string, logprobs: list<distribution>, }
    variant chat-event { message-begin(string), message-append(message-append), message-end(finish-reason), usage(token-usage), }
    resource chat-stream { constructor(init: chat-request); next: func() -> option<chat-event>; }
    explain: func(request: list<explanation-request>) -> list<list<text-score>>;
    complete: func(requests: list<completion-request>) -> list<completion>;
    complete-v2: func(requests: list<completion-request-v2>) -> list<completion>;
    chat: func(requests: list<chat-request>) -> list<chat-response>;
}
"""
"""What `pharia:skill/inference@0.3.11` has."""


def wit_text(version: str) -> str:
    """The WIT of a version of our interface."""
    folder = WIT if version == "0.1.0" else WIT / version
    return (folder / "llm.wit").read_text(encoding="utf-8")


class Interface:
    """The types and functions of an interface in WIT. It has the forms that ours and others use."""

    def __init__(self, name: str, wit: str) -> None:
        self.name = name
        text = re.sub(r"//[^\n]*", "", wit)
        self._body = text[text.index("interface ") :].split("{", 1)[1]
        self.types: dict[str, tuple[str, str]] = {}
        self.functions: dict[str, tuple[list[tuple[str, str]], str]] = {}
        for alias, target in re.findall(r"type ([\w-]+) = ([\w-]+);", self._body):
            self._body = re.sub(rf"(?<![\w-]){alias}(?![\w-])", target, self._body)
        for kind, found, inside in re.findall(
            r"(record|variant|enum|resource) ([\w-]+) \{([^}]*)\}", self._body
        ):
            self.types[found] = (kind, inside)
            if kind == "resource":
                self._methods(found, inside)
        rest = re.sub(r"(record|variant|enum|resource) ([\w-]+) \{([^}]*)\}", "", self._body)
        for found, inside, result in re.findall(r"([\w-]+): func\((.*?)\) -> ([^;]+);", rest):
            self.functions[found] = (_fields(inside), result)

    def _methods(self, name: str, inside: str) -> None:
        for init in re.findall(r"constructor\((.*?)\);", inside):
            self.functions[f"[constructor]{name}"] = (_fields(init), f"own<{name}>")
        for method, params, result in re.findall(r"([\w-]+): func\((.*?)\) -> ([^;]+);", inside):
            params = [("self", f"borrow<{name}>"), *_fields(params)]
            self.functions[f"[method]{name}.{method}"] = (params, result)

    def imported(self) -> str:
        """The import of the interface as `$llm`, and its types as `$t-NAME` of the component."""
        items, outer = [], []
        for name, (kind, inside) in self._in_order():
            if kind == "resource":
                items.append(f'(export "{name}" (type $t-{name} (sub resource)))')
            else:
                items.append(f"(type $d-{name} {self._defined(kind, inside)})")
                items.append(f'(export "{name}" (type $t-{name} (eq $d-{name})))')
            outer.append(f'(alias export $llm "{name}" (type $t-{name}))')
        for name in self.functions:
            items.append(f'(export "{name}" (func {self.signature(name)}))')
            outer.append(f'(alias export $llm "{name}" (func $f-{_word(name)}))')
        return f'(import "{self.name}" (instance $llm {" ".join(items)})) ' + " ".join(outer)

    def signature(self, name: str) -> str:
        params, result = self.functions[name]
        said = " ".join(f'(param "{each}" {self.wat(kind)})' for each, kind in params)
        return f"{said} (result {self.wat(result)})"

    def _in_order(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """The types, each after those that it has."""
        done: set[str] = set()

        def visit(name: str) -> Iterator[tuple[str, tuple[str, str]]]:
            if name in done:
                return
            done.add(name)
            kind, inside = self.types[name]
            for other in self.types if kind in ("record", "variant") else ():
                of = inside if kind == "record" else " ".join(re.findall(r"\((.*?)\)", inside))
                of = " ".join(each for _, each in _fields(of)) if kind == "record" else of
                if re.search(rf"(?<![\w-]){other}(?![\w-])", of):
                    yield from visit(other)
            yield name, self.types[name]

        for name in self.types:
            yield from visit(name)

    def _defined(self, kind: str, inside: str) -> str:
        if kind == "record":
            return "(record " + " ".join(
                f'(field "{name}" {self.wat(inner)})' for name, inner in _fields(inside)
            ) + ")"  # fmt: skip
        cases = _cases(inside)
        if kind == "enum":
            return "(enum " + " ".join(f'"{name}"' for name, _ in cases) + ")"
        return "(variant " + " ".join(
            f'(case "{name}"{" " + self.wat(inner) if inner else ""})' for name, inner in cases
        ) + ")"  # fmt: skip

    def wat(self, kind: str) -> str:
        """A type of WIT in WAT."""
        kind = kind.strip()
        head, _, inside = kind.partition("<")
        inside = inside[:-1]
        if head in ("list", "option"):
            return f"({head} {self.wat(inside)})"
        if head == "tuple":
            return f"(tuple {' '.join(map(self.wat, _parts(inside)))})"
        if head in ("own", "borrow"):
            return f"({head} $t-{inside})"
        if head == "result":
            good, bad = _split(inside)
            return f"(result {self.wat(good)} (error {self.wat(bad)}))"
        if kind in self.types:
            return f"(own $t-{kind})" if self.types[kind][0] == "resource" else f"$t-{kind}"
        return kind

    def size(self, kind: str) -> tuple[int, int]:
        """Size and alignment of a type in memory, in bytes, by the canonical ABI."""
        head, _, inside = kind.strip().partition("<")
        if head in _PLAIN:
            return _PLAIN[head], _PLAIN[head]
        if head in ("string", "list"):
            return 8, 4
        if head == "option":
            return self._tagged([None, inside[:-1]])
        if head == "result":
            return self._tagged(list(_split(inside[:-1])))
        form, text = self.types.get(head, ("resource", ""))
        if form == "resource":
            return 4, 4
        if form == "enum":
            return 1, 1
        if form == "variant":
            return self._tagged([inner or None for _, inner in _cases(text)])
        place, align = 0, 1
        for _, inner in _fields(text):
            size, each = self.size(inner)
            place, align = -(-place // each) * each + size, max(align, each)
        return -(-place // align) * align, align

    def _tagged(self, cases: list[str | None]) -> tuple[int, int]:
        found = [self.size(case) for case in cases if case]
        align = max((each for _, each in found), default=1)
        size = align + max((size for size, _ in found), default=0)
        return -(-size // align) * align, align

    def flat(self, kind: str) -> list[str]:
        """The core types of a value as a parameter, by the canonical ABI."""
        head, _, inside = kind.strip().partition("<")
        if head in _PLAIN:
            return [{"u64": "i64", "f32": "f32", "f64": "f64"}.get(head, "i32")]
        if head in ("string", "list"):
            return ["i32", "i32"]
        if head == "option":
            return ["i32", *self._joined([None, inside[:-1]])]
        if head == "result":
            return ["i32", *self._joined(list(_split(inside[:-1])))]
        form, text = self.types.get(head, ("resource", ""))
        if form == "record":
            return [each for _, inner in _fields(text) for each in self.flat(inner)]
        if form == "variant":
            return ["i32", *self._joined([inner or None for _, inner in _cases(text)])]
        return ["i32"]

    def _joined(self, cases: list[str | None]) -> list[str]:
        joined: list[str] = []
        for case in filter(None, cases):
            for place, each in enumerate(self.flat(case)):
                if place == len(joined):
                    joined.append(each)
                elif joined[place] != each:
                    joined[place] = "i32" if {joined[place], each} == {"i32", "f32"} else "i64"
        return joined

    def core_params(self, name: str) -> list[str]:
        """The core parameters of a function, without the place for its result."""
        flat = [each for _, kind in self.functions[name][0] for each in self.flat(kind)]
        return flat if len(flat) <= 16 else ["i32"]

    def returns_in_memory(self, name: str) -> bool:
        """Whether the result of a function has a place in memory."""
        return len(self.flat(self.functions[name][1])) > 1


def _word(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _fields(text: str) -> list[tuple[str, str]]:
    found = [each.strip() for each in _parts(text) if each.strip()]
    return [(name.strip(), kind.strip()) for name, _, kind in (e.partition(":") for e in found)]


def _cases(text: str) -> list[tuple[str, str]]:
    found = [each.strip() for each in _parts(text) if each.strip()]
    return [(name, inner.rstrip(")")) for name, _, inner in (e.partition("(") for e in found)]


def _parts(text: str) -> list[str]:
    """The parts of a text between its commas, of which those within angles do not count."""
    depth, parts = 0, [""]
    for sign in text:
        depth += (sign == "<") - (sign == ">")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _split(text: str) -> tuple[str, str]:
    good, bad = _parts(text)
    return good.strip(), bad.strip()


MEMORY = """
(core module $libc
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 1024))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.set $next (i32.add (local.get $at) (local.get 3)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
      (drop (memory.grow (i32.add (i32.shr_u (local.get 3) (i32.const 16)) (i32.const 1)))))
    (local.get $at)))
(core instance $libc (instantiate $libc))
"""
"""A memory, and an allocator that never frees."""
OPTIONS = '(memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))'


def forwarder(interface: Interface, more: str = "", core: str = "", imports: str = "") -> str:
    """A component that exports each function of the interface without its own resources.

    `core` are functions of the core module, where `$NAME` is an imported function, and `more` lifts
    them. `imports` are further imports of the core module, as WAT of the instance `host`.
    """
    lowered, wrappers, lifts, given = [], [], [], []
    for name in interface.functions:
        word = _word(name)
        params = interface.core_params(name)
        in_memory = interface.returns_in_memory(name)
        result = "" if in_memory else "(result i32)"
        core_params = " ".join([*params, *(["i32"] if in_memory else [])])
        lowered.append(f"(core func $l-{word} (canon lower (func $f-{word}) {OPTIONS}))")
        given.append(f'(export "{word}" (func $l-{word}))')
        wrappers.append(f'(import "host" "{word}" (func ${word} (param {core_params}) {result}))')
        if name.startswith("["):
            continue
        size = interface.size(interface.functions[name][1])[0]
        pushed = " ".join(f"(local.get {place})" for place in range(len(params)))
        core += f"""
            (func (export "{word}") (param {" ".join(params)}) (result i32) (local $to i32)
              (local.set $to (call $realloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const {size})))
              (call ${word} {pushed} (local.get $to))
              (local.get $to))"""
        lifts.append(
            f'(func (export "{name}") {interface.signature(name)} '
            f'(canon lift (core func $main "{word}") {OPTIONS}))'
        )
    for name, (kind, _) in interface.types.items():
        if kind == "resource":
            lowered.append(f"(core func $drop-{name} (canon resource.drop $t-{name}))")
            given.append(f'(export "drop-{name}" (func $drop-{name}))')
            wrappers.append(f'(import "host" "drop-{name}" (func $drop-{name} (param i32)))')
    return f"""(component {interface.imported()} {MEMORY} {" ".join(lowered)}
      (core module $main
        {" ".join(wrappers)}
        (import "libc" "memory" (memory 1))
        (import "libc" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
        {imports}
        {core})
      (core instance $main (instantiate $main
        (with "host" (instance {" ".join(given)})) (with "libc" (instance $libc))))
      {" ".join(lifts)} {more})"""


FIRST = Interface("llmwit:llm/llm@0.1.0", wit_text("0.1.0"))
SECOND = Interface("llmwit:llm/llm@0.2.0", wit_text("0.2.0"))
SPIN_2 = Interface("fermyon:spin/llm@2.0.0", SPIN)
SPIN_UNVERSIONED = Interface("fermyon:spin/llm", SPIN)
PHARIA_0_3 = Interface("pharia:skill/inference@0.3.11", PHARIA)


def reader(interface: Interface, opens: str, stream: str) -> str:
    """A forwarder that exports `read` too, which opens a stream, reads it and drops it.

    `read: func(most: u32, request) -> list<what next gives>` reads to the end, or `most` times. A
    request that fits into core parameters comes alone: `read: func(request)` reads to the end. It
    traps where the stream cannot be opened. `opens` is the function that opens the stream, and
    `stream` the resource.
    """
    ((_, request),), opened = interface.functions[opens]
    following = interface.functions[f"[method]{stream}.next"][1]
    in_result = opened.startswith("result<")
    size, align = interface.size(following)
    _, request_align = interface.size(request)
    params = interface.core_params(opens)
    flat = len(params) > 1
    given = (
        " ".join(f"(local.get {place})" for place in range(len(params))) if flat
        else f"(i32.add (local.get 0) (i32.const {request_align}))"
    )  # fmt: skip
    most = f"(i32.const {MOST_EVENTS})" if flat else "(i32.load (local.get 0))"
    # The tag of the option, which lies within the result where there is one.
    at = align if following.startswith("result<") else 0
    if in_result:
        begin = f"""
          (local.set $to (call $realloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 64)))
          (call ${_word(opens)} {given} (local.get $to))
          (if (i32.load8_u (local.get $to)) (then unreachable))
          (local.set $stream (i32.load offset=4 (local.get $to)))"""
    else:
        begin = f"""
          (local.set $stream (call ${_word(opens)} {given}))"""
    how_many = "" if flat else '(param "most" u32)'
    core = f"""
        (func (export "read") (param {" ".join(params)}) (result i32)
          (local $to i32) (local $stream i32) (local $list i32) (local $count i32) (local $most i32)
          {begin}
          (local.set $most {most})
          (local.set $list (call $realloc (i32.const 0) (i32.const 0) (i32.const 8)
            (i32.const {size * MOST_EVENTS})))
          (block $over (loop $next
            (br_if $over (i32.ge_u (local.get $count) (local.get $most)))
            (local.set $to (i32.add (local.get $list)
              (i32.mul (local.get $count) (i32.const {size}))))
            (call ${_word(f"[method]{stream}.next")} (local.get $stream) (local.get $to))
            (local.set $count (i32.add (local.get $count) (i32.const 1)))
            (br_if $next (i32.load8_u offset={at} (local.get $to)))))
          (call $drop-{stream} (local.get $stream))
          (local.set $to (call $realloc (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 8)))
          (i32.store (local.get $to) (local.get $list))
          (i32.store offset=4 (local.get $to) (local.get $count))
          (local.get $to))"""
    lift = (
        f'(func (export "read") {how_many} '
        f'(param "request" {interface.wat(request)}) '
        f"(result (list {interface.wat(following)})) "
        f'(canon lift (core func $main "read") {OPTIONS}))'
    )
    return forwarder(interface, lift, core)


MOST_EVENTS = 500
"""What the list of `reader` has room for."""

RUNAWAYS = {
    "loop": '(func (export "go") (loop $again (br $again)))',
    "recursion": '(func $self (export "go") (call $self))',
    "memory": """(func (export "go")
        (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
        (loop $again (i64.store (i32.const 0) (i64.const 1)) (br $again)))""",
    "trap": '(func (export "go") unreachable)',
}
"""The core function `go` of guests that do not end by themselves, or end badly."""


def runaway(core: str, memories: int = 1) -> str:
    """A component that exports `go`, by the text of its core function."""
    more = " ".join("(core instance (instantiate $more))" for _ in range(memories - 1))
    return f"""(component
      (core module $more (memory 1))
      {more}
      (core module $main (memory 1) {core})
      (core instance $main (instantiate $main))
      (func (export "go") (canon lift (core func $main "go"))))"""


def hard_to_compile(levels: int) -> str:
    """A small component with two instances of the one before on each level.

    At 26 levels wasmtime takes 12 seconds and 3.3 GB for it, and twice as much at each further one.
    """
    text = "(component (component $c0)\n"
    for level in range(levels):
        text += (
            f"(component $c{level + 1} (alias outer 1 $c{level} (component $x))"
            " (instance (instantiate $x)) (instance (instantiate $x)))\n"
        )
    return f"{text}(instance (instantiate $c{levels})))"


def calls_for_ever(interface: Interface) -> str:
    """A forwarder whose `go(model, prompt)` asks for a text again and again, with short params."""
    core = """
        (func (export "go") (param i32 i32 i32 i32) (local $to i32)
          (local.set $to (call $realloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 64)))
          (loop $again
            (call $infer (local.get 0) (local.get 1) (local.get 2) (local.get 3)
              (i32.const 1) (i32.const 1) (i32.const 1) (f32.const 1) (i32.const 64)
              (i32.const 0) (i32.const 0) (f32.const 0) (i32.const 40) (f32.const 1)
              (local.get $to))
            (br $again)))"""
    lift = (
        f'(func (export "go") (param "model" string) (param "prompt" string) '
        f'(canon lift (core func $main "go") {OPTIONS}))'
    )
    return forwarder(interface, lift, core)


SLEEPER = """(component
  (import "wasi:io/poll@0.2.0" (instance $io
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $io "pollable" (type $pollable))
  (alias export $io "[method]pollable.block" (func $block))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $p (eq $outer)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (alias export $clock "subscribe-duration" (func $subscribe))
  (core func $l-subscribe (canon lower (func $subscribe)))
  (core func $l-block (canon lower (func $block)))
  (core module $main
    (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "host" "block" (func $block (param i32)))
    (func (export "go") (call $block (call $subscribe (i64.const 15000000000)))))
  (core instance $main (instantiate $main (with "host" (instance
    (export "subscribe" (func $l-subscribe)) (export "block" (func $l-block))))))
  (func (export "go") (canon lift (core func $main "go"))))"""
"""A guest that waits for fifteen seconds within the host's clock, where no tick reaches it."""

SHARING = """(component
  (import "wasi:io/poll@0.2.0" (instance $io (export "pollable" (type $p (sub resource)))))
  (alias export $io "pollable" (type $pollable))
  (import "wasi:http/types@0.2.0" (instance $http
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $p (eq $outer)))
    (export "get" (func (result (own $p))))))
  (alias export $http "get" (func $get))
  (core func $l-get (canon lower (func $get)))
  (core module $main (import "host" "get" (func $get (result i32)))
    (func (export "go")) (func (export "ask") (drop (call $get))))
  (core instance $main (instantiate $main (with "host" (instance (export "get" (func $l-get))))))
  (func (export "go") (canon lift (core func $main "go")))
  (func (export "ask") (canon lift (core func $main "ask"))))"""
"""A guest whose import of HTTP shares a resource with WASI."""

ENVIRONMENT = Interface(
    "wasi:cli/environment@0.2.0",
    "interface environment { get-environment: func() -> list<tuple<string, string>>; }",
)

FOLDERS = f"""(component
  (import "wasi:filesystem/types@0.2.0" (instance $types
    (export "descriptor" (type $d (sub resource)))))
  (alias export $types "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $open
    (alias outer 1 $descriptor (type $outer))
    (export "descriptor" (type $d (eq $outer)))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (alias export $open "get-directories" (func $directories))
  {MEMORY}
  (core func $l-directories (canon lower (func $directories) {OPTIONS}))
  (core module $main
    (import "libc" "memory" (memory 1))
    (import "host" "directories" (func $directories (param i32)))
    (func (export "count") (result i32)
      (call $directories (i32.const 16)) (i32.load (i32.const 20))))
  (core instance $main (instantiate $main (with "libc" (instance $libc))
    (with "host" (instance (export "directories" (func $l-directories))))))
  (func (export "count") (result u32) (canon lift (core func $main "count"))))"""
"""A guest that exports how many folders it sees."""
