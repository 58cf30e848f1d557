"""What can be wrong with the metadata of a GGUF file whose header can be read.

Each function takes the parts of a sound file and gives others, and what is wrong with them. Where
it has a list to go through, `index` says how far; otherwise `numbers` decide.
"""

from __future__ import annotations

import random
from dataclasses import replace

from tests.support.gguf_parts import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I32,
    I64,
    SIZES,
    STRING,
    U8,
    U32,
    Parts,
    array,
    scalar,
    string_array,
    text,
)  # fmt: skip

Changed = tuple[str, Parts]

#: Names of any kind: they end up in messages, in the log, on the screen, or in the loader.
NAMES = (
    b"a\0b", b"a\nb", b"../../../etc/passwd", b"\x1b[2J\x1b]0;x\x07", b"", b"\xff\xfe",
    "\u202egnp.exe".encode(), b"<script>alert(1)</script>", b"%s%n{0.__class__}", b"x" * 70_000,
)  # fmt: skip

#: What must fail at once, and what must be ended.
TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch hostile') }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('/etc/passwd').read() }}",
    "{{ 'a' * 10 ** 10 }}",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}"
    "{% endfor %}{{ ns.s }}",
    "{{ 'x' | center(10 ** 10) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 9 ** 9 ** 9 }}",
    "{% set a = 'a' * 10000000 %}{{ (a ~ 'b') in ([a ~ 'c'] * 1000000) }}",
    "{{ '%99999999999d' | format(1) }}",
    "{% for %}",
    "{{ raise_exception('two\nlines \x1b[2J') }}",
    "\0{{ messages }}",
    "(" * 20_000,
    "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "{{ lipsum(n=100000, html=false, min=100, max=1000) }}",
    "{% include '/etc/passwd' %}{% import 'os' as os %}",
    "",
    "{{ messages[0]['content'] * 100000 }}",
)


def templates(index: int, numbers: random.Random, parts: Parts) -> Changed:
    """A chat template that reaches for Python, never ends, or builds a gigabyte."""
    template = TEMPLATES[index % len(TEMPLATES)]
    changed = parts.with_value("tokenizer.chat_template", STRING, text(template))
    return f"the chat template {template[:60]!r}", changed


def names(index: int, numbers: random.Random, parts: Parts) -> Changed:
    """A name that is no name: the model's, a key, a tensor's, the architecture, a tokenizer's."""
    name = NAMES[index % len(NAMES)]
    key = ("general.name", "general.architecture", "tokenizer.ggml.pre", "", " ")[index // 10 % 5]
    if key.strip():
        return f"{key} {name[:20]!r}", parts.with_value(key, STRING, text(name))
    if key:
        return f"a key {name[:20]!r}", replace(parts, values=[*parts.values, (name, U32, bytes(4))])
    tensors = list(parts.tensors)
    tensors[-1] = replace(tensors[-1], name=name)
    return f"a tensor {name[:20]!r}", replace(parts, tensors=tensors)


def wrong_types(index: int, numbers: random.Random, parts: Parts) -> Changed:
    """A value of another type, sometimes with bytes that do not fit it."""
    place = numbers.randrange(len(parts.values))
    key, kind, payload = parts.values[place]
    new = numbers.choice([other for other in (*SIZES, STRING, ARRAY, 13, 2**31) if other != kind])
    how = numbers.choice(("converted", "relabelled"))
    if how == "converted" and new in SIZES:
        payload = scalar(new, 1)
    elif how == "converted" and new == STRING:
        payload = text("1")
    elif how == "converted" and new == ARRAY:
        item = numbers.choice((U8, U32, F32, F64, I64, BOOL))
        payload = array(item, 2, scalar(item, 1) * 2)
    values = [*parts.values]
    values[place] = (key, new, payload)
    return f"{key.decode()} {how} to type {new}", replace(parts, values=values)


def duplicates(index: int, numbers: random.Random, parts: Parts) -> Changed:
    """A key or a tensor that occurs twice, alike or not."""
    if index % 3 == 2:
        tensor = numbers.choice(parts.tensors)
        return f"{tensor.name.decode()} twice", replace(parts, tensors=[*parts.tensors, tensor])
    key, kind, payload = numbers.choice(parts.values)
    if index % 3:
        kind, payload = U32, scalar(U32, numbers.getrandbits(32))
    place = numbers.randrange(len(parts.values) + 1)
    values = [*parts.values[:place], (key, kind, payload), *parts.values[place:]]
    return f"{key.decode()} twice", replace(parts, values=values)


def arrays(index: int, numbers: random.Random, parts: Parts) -> Changed:
    """Arrays in arrays, arrays whose count lies, and long arrays that are what they say."""
    depth, length = numbers.choice((1, 2, 100, 50_000)), numbers.choice((10_000, 300_000))
    lie = numbers.choice((2**31, 2**32, 2**63, 2**64 - 1, length + 1))
    what, payload = (
        (f"{depth} arrays in each other", (array(ARRAY, 1) * depth) + array(U8, 0)),
        (f"{lie} arrays in one", array(ARRAY, lie)),
        (f"{length} empty arrays in one", array(ARRAY, length, array(U8, 0) * length)),
        (f"{lie} numbers, it says", array(F64, lie, bytes(8 * length))),
        (f"{lie} texts, it says", array(STRING, lie, bytes(8 * length))),
        (f"{length} numbers", array(U32, length, bytes(4 * length))),
        (f"{length} empty texts", array(STRING, length, bytes(8 * length))),
        (f"{length} texts of three letters", array(STRING, length, text("abc") * length)),
    )[index % 8]
    key = numbers.choice(("general.tags", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"))
    return f"{key}: {what}", parts.with_value(key, ARRAY, payload)


def hyperparameters(index: int, numbers: random.Random, parts: Parts) -> Changed:
    """Noughts, NaN and infinities where the loader divides, multiplies and allocates."""
    keys = [v for v in parts.values if v[0].startswith((b"llama.", b"falcon."))]
    number_keys = [v for v in keys if v[1] in (U32, F32)]
    key, kind, _ = number_keys[index % len(number_keys)]
    whole = (0, 1, 2, 3, 5, 7, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
    reals = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e-45, 3e38)
    value = numbers.choice(whole) if kind == U32 else numbers.choice(reals)
    return f"{key.decode()} = {value}", parts.with_value(key.decode(), kind, scalar(kind, value))


def vocabularies(index: int, numbers: random.Random, parts: Parts) -> Changed:
    """Tokens, scores, types, merges and special ids that disagree with each other."""
    tokens = parts.strings("tokenizer.ggml.tokens")
    size, place = len(tokens), numbers.randrange(len(tokens))
    odd = numbers.choice((b"", b"\0", b"a\0b", b"\xff", b"<0xZZ>", tokens[place - 1], b"a" * 10**6))
    pairs = (
        b"",
        b" ",
        b"  ",
        b"x",
        b"\xff \xff",
        b"no pair",
        b"a\0 b",
        tokens[-1] + b" " + odd[:9],
    )
    kind = numbers.choice((0, 1, 2, 3, 4, 5, 6, 7, -1, 2**31 - 1))
    score = numbers.choice((float("nan"), float("inf"), float("-inf"), 3e38))
    bad_id = numbers.choice((size - 1, size, 2**31, 2**32 - 1))
    name = numbers.choice(("bos", "eos", "unknown", "padding", "eot", "fim_pre"))
    what, key, payload = (
        ("one token less", "tokens", string_array(tokens[:-1])),
        ("tokens in another order", "tokens", string_array(numbers.sample(tokens, size))),
        (f"the token {odd[:9]!r}", "tokens", string_array([*tokens[:place], odd, *tokens[place + 1 :]])),
        ("the same token everywhere", "tokens", string_array([odd[:9]] * size)),
        ("merges of nothing", "merges", string_array([numbers.choice(pairs) for _ in range(99)])),
        ("merges of any tokens", "merges", string_array(
            [b" ".join(numbers.sample(tokens, 2)) for _ in range(3000)])),
        (f"all of type {kind}", "token_type", array(I32, size, scalar(I32, kind) * size)),
        ("types of any kind", "token_type", array(I32, size, b"".join(
            scalar(I32, numbers.randrange(8)) for _ in range(size)))),
        (f"all of score {score}", "scores", array(F32, size, scalar(F32, score) * size)),
        ("one score more", "scores", array(F32, size + 1, bytes(4 * size + 4))),
    )[index % 10] if index % 12 < 10 else (f"{name} {bad_id}", "", b"")  # fmt: skip
    if not key:
        return what, parts.with_value(f"tokenizer.ggml.{name}_token_id", U32, scalar(U32, bad_id))
    return what, parts.with_value(f"tokenizer.ggml.{key}", ARRAY, payload)
