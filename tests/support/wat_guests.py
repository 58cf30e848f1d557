"""Guests in WAT, the text of WebAssembly: they compile in milliseconds.

A guest of `forwarder` exports the functions of an interface under the same types, and hands each
call on to the host's. The canonical ABI has the same layout on both sides, so the code of the guest
is one call.
"""

from __future__ import annotations

from tests.support.wat_interfaces import Interface, word

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
        label = word(name)
        params = interface.core_params(name)
        in_memory = interface.returns_in_memory(name)
        result = "" if in_memory else "(result i32)"
        core_params = " ".join([*params, *(["i32"] if in_memory else [])])
        lowered.append(f"(core func $l-{label} (canon lower (func $f-{label}) {OPTIONS}))")
        given.append(f'(export "{label}" (func $l-{label}))')
        wrappers.append(f'(import "host" "{label}" (func ${label} (param {core_params}) {result}))')
        if name.startswith("["):
            continue
        size = interface.size(interface.functions[name][1])[0]
        pushed = " ".join(f"(local.get {place})" for place in range(len(params)))
        core += f"""
            (func (export "{label}") (param {" ".join(params)}) (result i32) (local $to i32)
              (local.set $to (call $realloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const {size})))
              (call ${label} {pushed} (local.get $to))
              (local.get $to))"""
        lifts.append(
            f'(func (export "{name}") {interface.signature(name)} '
            f'(canon lift (core func $main "{label}") {OPTIONS}))'
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
          (call ${word(opens)} {given} (local.get $to))
          (if (i32.load8_u (local.get $to)) (then unreachable))
          (local.set $stream (i32.load offset=4 (local.get $to)))"""
    else:
        begin = f"""
          (local.set $stream (call ${word(opens)} {given}))"""
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
            (call ${word(f"[method]{stream}.next")} (local.get $stream) (local.get $to))
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
