"""Values of Python become values of a component by its types, and come back the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy
import pytest

from llmwit_magic import Component
from llmwit_magic.errors import ComponentFailed, InvalidInput
from tests.support.wat_guests import MEMORY, OPTIONS


def echo(kind: str, size: int, flat: str) -> Component:
    """A component whose `echo` returns its argument, of one type, out of a place in memory.

    `flat` are stores of the core parameters, and `size` the bytes of the value.
    """
    return Component(
        f"""(component
      {MEMORY}
      (core module $main
        (import "libc" "memory" (memory 1))
        (import "libc" "realloc" (func $new (param i32 i32 i32 i32) (result i32)))
        {flat.replace("NEW", f"(call $new (i32.const 0) (i32.const 0) (i32.const 8) (i32.const {size}))")})
      (core instance $main (instantiate $main (with "libc" (instance $libc))))
      {kind}
      (export $t "t" (type $type))
      (func (export "echo") (param "it" $t) (result $t)
        (canon lift (core func $main "echo") {OPTIONS})))""".encode()
    )


PLAIN = """(func (export "echo") (param {0}) (result {0}) (local.get 0))"""
TWO = """(func (export "echo") (param i32 i32) (result i32) (local $at i32)
  (local.set $at NEW)
  (i32.{0} (local.get $at) (local.get 0)) (i32.store offset=4 (local.get $at) (local.get 1))
  (local.get $at))"""


def plain(kind: str, core: str = "i32") -> Component:
    return echo(f"(type $type {kind})", 8, PLAIN.format(core))


def two(kind: str, tag: str = "store8") -> Component:
    return echo(f"(type $type {kind})", 8, TWO.format(tag))


@pytest.mark.parametrize(
    ("kind", "core", "value", "back"),
    [
        ("u8", "i32", 255, 255), ("s8", "i32", -128, -128), ("u32", "i32", 2**32 - 1, 2**32 - 1),
        ("u64", "i64", 2**64 - 1, 2**64 - 1), ("s64", "i64", -(2**63), -(2**63)),
        ("u16", "i32", numpy.int64(7), 7), ("bool", "i32", True, True), ("char", "i32", "é", "é"),
        ("f32", "f32", 1.1, 1.1), ("f32", "f32", 3, 3.0), ("f64", "f64", numpy.float32(0.1), 0.1),
        ('(enum "no" "not-yet")', "i32", "not_yet", "not-yet"),
        ('(flags "a" "b-c")', "i32", ["b_c"], ["b-c"]), ('(flags "a" "b-c")', "i32", "a", ["a"]),
        ('(record (field "is-it" bool))', "i32", {"is_it": True}, {"is_it": True}),
        ('(record (field "is-it" bool))', "i32", {"is-it": False}, {"is_it": False}),
    ],
)  # fmt: skip
def test_small_values(kind: str, core: str, value: Any, back: Any) -> None:
    """Numbers, words, flags and records of one field cross both ways."""
    assert plain(kind, core).call("echo", value) == back


@pytest.mark.parametrize(
    ("kind", "tag", "value", "back"),
    [
        ("string", "store", "grüße 🙂", "grüße 🙂"), ("(list u8)", "store", b"\x00\xff", b"\x00\xff"),
        ("(list u8)", "store", "é", "é".encode()), ("(list u8)", "store", [1, 2], b"\x01\x02"),
        ("(list string)", "store", ["a", ""], ["a", ""]),
        ("(list u32)", "store", numpy.arange(3), [0, 1, 2]), ("(list u32)", "store", (), []),
        ("(option u32)", "store8", None, None), ("(option u32)", "store8", 0, 0),
        ("(tuple u32 u32)", "store", (1, 2), (1, 2)), ("(tuple u32 u32)", "store", [1, 2], (1, 2)),
        ('(variant (case "none-of-it") (case "some" u32))', "store8", "none_of_it", "none-of-it"),
        ('(variant (case "none-of-it") (case "some" u32))', "store8", {"some": 3}, {"some": 3}),
        ('(variant (case "a" u32) (case "b" u32))', "store8", {"b": 3}, {"b": 3}),
        ('(variant (case "a" u32) (case "b" bool))', "store8", {"b": True}, {"b": True}),
        ('(variant (case "a" u32) (case "b" bool))', "store8", {"a": 1}, {"a": 1}),
        ('(variant (case "a" bool) (case "b" u32))', "store8", {"b": 1}, {"b": 1}),
    ],
)  # fmt: skip
def test_values_of_two_words(kind: str, tag: str, value: Any, back: Any) -> None:
    """Texts, lists, options, tuples and variants cross both ways."""
    assert two(kind, tag).call("echo", value) == back


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("u8", 256, "it: 256 is not valid: it must be a whole number from 0 to 255"),
        ("u8", True, "it: True is not valid"), ("u8", 1.5, "it: 1.5 is not valid"),
        ("u8", "1", "it: '1' is not valid"), ("bool", 1, "it: 1 is not valid: it must be true or"),
        ("char", "ab", "it must be one character"),
        ('(enum "no" "yes")', "maybe", "it must be one of no, yes"),
        ('(flags "a")', ["b"], "it must be one of a"),
        ('(record (field "is-it" bool))', {}, "it needs 'is-it'"),
        ('(record (field "is-it" bool))', {"is-it": True, "x": 1}, "it has no field 'x'"),
        ('(record (field "is-it" bool))', {"is-it": 1}, r"it\.is-it: 1 is not valid"),
        ('(record (field "is-it" bool))', [True], "it must be a mapping of its fields"),
        ('(record (field "is-it" bool))', {"is_it": True, "\n": 1}, r"it has no field '\\n'"),
        ("u32", int, "it must be a whole number"), ("u32", numpy.array([1, 2]), "a whole number"),
        ("u32", numpy.array([1]), "a whole number"),
        ("u32", 2**64, "18446744073709551616 is not valid"), ("u32", float("nan"), "nan is not valid"),
    ],
)  # fmt: skip
def test_bad_values_are_named(kind: str, value: Any, said: str) -> None:
    """An argument that does not fit is refused with its name, its value and what it must be."""
    with pytest.raises(InvalidInput, match=said):
        plain(kind).call("echo", value)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("string", "\ud800", "without lone surrogates"), ("string", 1, "it must be a text"),
        ("(list u32)", "12", "it must be a list"),
        ("(list u32)", [1, "x"], r"it\[1\]: 'x' is not valid"),
        ("(tuple u32 u32)", [1], "it must be a list of 2 values"),
        ('(variant (case "a") (case "b" u32))', {"a": 1}, "a takes no value"),
        ('(variant (case "a") (case "b" u32))', {"c": 1}, "it must be one of a, b"),
    ],
)  # fmt: skip
def test_bad_values_of_two_words_are_named(kind: str, value: Any, said: str) -> None:
    """The place in a list stands in the message."""
    with pytest.raises(InvalidInput, match=said):
        two(kind, "store").call("echo", value)


class _Odd(str):
    """A text whose methods fail, and that is no number although it says so."""

    def __float__(self) -> float:
        raise ZeroDivisionError("odd\nnumber")

    def __index__(self) -> int:
        raise ZeroDivisionError("odd\nnumber")

    def replace(self, *arguments: Any) -> str:
        raise ZeroDivisionError("odd\nword")


class _OddMapping(dict[Any, Any]):
    def items(self) -> Any:
        raise ZeroDivisionError("odd\nitems")


ODD: list[Any] = [
    None, True, 0, -1, 2**32, -(2**63) - 1, 10**5000, 1.5, -0.0, 1e300, float("nan"), float("inf"), 1j,
    "", "a", "ab", "\ud800", "\0", b"", b"\xff", bytearray(b"a"), memoryview(b"a"), [], [1], [None],
    ["a"], ["\ud800"], (1, 2), [[1]], {}, {"a": 1}, {"b": 1}, {"b": None}, {"a": 1, "b": 2}, {1: 2},
    {("x",): 1}, {"\ud800": 1}, {"ok": 1}, {"err": "\n"}, {"is-it": True}, {"is_it": "x"}, {1}, set(),
    frozenset({"a"}), range(3), (each for each in "ab"), int, str, list, dict, numpy.ndarray,
    numpy.float32, len, object(), NotImplemented, ..., numpy.uint8(1), numpy.float16(1.5),
    numpy.bool_(True), numpy.str_("a"), numpy.bytes_(b"a"), numpy.datetime64("2020-01-01"),
    numpy.array(1), numpy.array([]), numpy.array([1.5]), numpy.array([[1, 2]]), numpy.array(["a"]),
    numpy.array([None], dtype=object), _Odd("a"), _Odd("odd"), _OddMapping(a=1), _OddMapping({"is-it": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "core"),
    [
        ("u8", "i32"), ("s8", "i32"), ("u16", "i32"), ("s16", "i32"), ("u32", "i32"),
        ("s32", "i32"), ("u64", "i64"), ("s64", "i64"), ("f32", "f32"), ("f64", "f64"),
        ("bool", "i32"), ("char", "i32"), ('(enum "a" "b")', "i32"), ('(flags "a" "b")', "i32"),
        ('(record (field "is-it" bool))', "i32"), ("string", ""), ("(list u8)", ""),
        ("(list string)", ""), ("(list (list u32))", ""), ("(option u32)", ""),
        ("(option (option u8))", "i32 i32 i32"), ("(tuple u32 u32)", ""),
        ('(variant (case "a") (case "b" u32))', ""), ('(variant (case "a" u32) (case "b" bool))', ""),
        ('(variant (case "a" (option u8)) (case "b" bool))', "i32 i32 i32"),
        ('(variant (case "a" (option u8)) (case "b" char))', "i32 i32 i32"),
        ("(result u32 (error char))", ""),
    ],
)  # fmt: skip
def test_any_value_of_python_fits_or_is_refused(kind: str, core: str) -> None:
    """Each odd value crosses, or is refused in one line. None raises another error."""
    guest = taker(kind, core or "i32 i32")
    refused = []
    for value in ODD:
        try:
            guest.call("take", value)
        except InvalidInput as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all(said.startswith("it") and len(said.splitlines()) == 1 for said in refused)


def taker(kind: str, flat: str) -> Component:
    """A component whose `take` takes a value of that type, and says its first core parameter."""
    words = flat.split()
    first = {"i64": "(i32.wrap_i64 (local.get 0))", "f32": "(i32.const 0)", "f64": "(i32.const 0)"}
    return Component(
        f"""(component
      {MEMORY}
      (core module $main
        (func (export "take") (param {flat}) (result i32) {first.get(words[0], "(local.get 0)")}))
      (core instance $main (instantiate $main))
      (type $type {kind})
      (export $t "t" (type $type))
      (func (export "take") (param "it" $t) (result u32)
        (canon lift (core func $main "take") {OPTIONS})))""".encode()
    )


def test_a_case_is_not_taken_for_another() -> None:
    """The guest gets the case that was named, also where Python counts its value to another case."""
    option = '(variant (case "a" (option u8)) (case "b" bool))'
    assert taker(option, "i32 i32 i32").call("take", {"a": None}) == 0
    assert taker(option, "i32 i32 i32").call("take", {"b": True}) == 1
    number = '(variant (case "a" u32) (case "b" bool))'
    assert taker(number, "i32 i32").call("take", {"a": 1}) == 0
    assert taker(number, "i32 i32").call("take", {"b": True}) == 1


def test_a_number_that_32_bits_do_not_have_is_refused() -> None:
    """It would come as infinity. An array is no number, also with one item."""
    guest = plain("f32", "f32")
    with pytest.raises(InvalidInput, match="it must be a number of 32 bits"):
        guest.call("echo", 1e300)
    with pytest.raises(InvalidInput, match="it must be a number"):
        guest.call("echo", numpy.array([1.0]))
    assert guest.call("echo", float("inf")) == float("inf")


@pytest.mark.parametrize("fails", [False, True])
def test_an_error_that_is_a_bool_is_raised(fails: bool) -> None:
    """`err(true)` of `result<u32, bool>` is an error, and `ok(1)` is a value."""
    guest = Component(
        f"""(component
          (core module $main (memory (export "memory") 1)
            (func (export "go") (result i32)
              (i32.store8 (i32.const 0) (i32.const {int(fails)}))
              (i32.store8 (i32.const 4) (i32.const 1)) (i32.const 0)))
          (core instance $main (instantiate $main))
          (func (export "go") (result (result u32 (error bool)))
            (canon lift (core func $main "go") (memory (core memory $main "memory")))))""".encode()
    )
    if fails:
        with pytest.raises(ComponentFailed, match="returns an error: True") as error:
            guest.call("go")
        assert error.value.value is True
    else:
        assert guest.call("go") == 1


def test_the_error_of_a_result_is_raised() -> None:
    """`ok` is the value, and an error is raised."""
    guest = Component(
        b"""(component
          (core module $main (func (export "go") (param i32) (result i32) (local.get 0)))
          (core instance $main (instantiate $main))
          (func (export "go") (param "fails" bool) (result (result))
            (canon lift (core func $main "go"))))"""
    )
    assert guest.call("go", False) is None
    with pytest.raises(ComponentFailed, match="go returns an error: 'an error'"):
        guest.call("go", True)


def test_exports_are_named() -> None:
    """A function of an interface is found by its name, if no other has it; else all are told."""
    function = """(component
      (core module $main (func (export "go")))
      (core instance $main (instantiate $main))
      (func $go (canon lift (core func $main "go")))
      (instance $one (export "go" (func $go)) (export "only" (func $go)))
      (export "our:own/one@1.0.0" (instance $one))
      (export "our:own/two" (instance $one)))"""
    guest = Component(function.encode())
    assert guest.exports == (
        "our:own/one@1.0.0#go", "our:own/one@1.0.0#only", "our:own/two#go", "our:own/two#only",
    )  # fmt: skip
    guest.call("our:own/two#go")
    with pytest.raises(InvalidInput, match="is the name of several"):
        guest.call("go")
    with pytest.raises(InvalidInput, match="'gone' is not exported: it exports our:own/one"):
        guest.call("gone")
    with pytest.raises(InvalidInput, match="takes nothing: 1 arguments were given"):
        guest.call("our:own/two#go", 1)


def test_types_have_the_words_of_wit() -> None:
    """The list of exports says what each takes."""
    guest = two('(variant (case "a") (case "b" u32))')
    assert guest.parameters("echo") == {"it": "variant { a, b(u32) }"}
    assert two("(list string)", "store").parameters("echo") == {"it": "list<string>"}
    assert plain('(record (field "is-it" bool))').parameters("echo") == {
        "it": "record { is-it: bool }"
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": 0}, "memory: 0 is not valid"), ({"seconds": -1}, "seconds: -1 is not valid"),
        ({"temperature": 0}, "temperature has no effect on a component"), ({"seed": -1}, "seed"),
        ({"dirs": {"/a": (".", "x")}}, "it must be r or rw"), ({"threads": 0}, "threads"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    """An option that cannot be, or has no effect, is refused by name."""
    with pytest.raises(InvalidInput, match=said):
        Component(b"(component)", **options)


def test_without_wasmtime_one_line_says_what_to_install() -> None:
    """The package works without the extra; only a component needs it."""
    code = (
        "import sys; sys.modules['wasmtime'] = None\n"
        "from llmwit_magic import *\n"
        "try: Component(b'')\n"
        "except InvalidInput as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout == 'components need wasmtime: pip install "llmwit-magic[wasm]"\n'
