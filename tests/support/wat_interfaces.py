"""Interfaces in WIT as the types of WAT, the text of WebAssembly: ours, Spin's, Pharia's, one of WASI."""

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
            outer.append(f'(alias export $llm "{name}" (func $f-{word(name)}))')
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


def word(name: str) -> str:
    """The name of a function as WAT takes it for an identifier."""
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


FIRST = Interface("llmwit:llm/llm@0.1.0", wit_text("0.1.0"))
SECOND = Interface("llmwit:llm/llm@0.2.0", wit_text("0.2.0"))
SPIN_2 = Interface("fermyon:spin/llm@2.0.0", SPIN)
SPIN_UNVERSIONED = Interface("fermyon:spin/llm", SPIN)
PHARIA_0_3 = Interface("pharia:skill/inference@0.3.11", PHARIA)

ENVIRONMENT = Interface(
    "wasi:cli/environment@0.2.0",
    "interface environment { get-environment: func() -> list<tuple<string, string>>; }",
)
