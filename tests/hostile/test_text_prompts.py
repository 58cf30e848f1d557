"""Prompts of every awkward kind through real engines: a result or one line, and the engine lives."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import InferenceError, InvalidInput, PromptTooLong
from llmwit_magic.running.session import Session
from tests.support.report import Report
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf
from tests.support.trials import trials

pytestmark = pytest.mark.timeout(230)

SECONDS = 20.0
"""Within which any of these prompts is answered or refused by a model of a megabyte."""
KINDS = ("bpe", "spm", "falcon", "gpt2")


def of_category(*names: str) -> str:
    """The first sixty characters of those Unicode categories."""
    found = (chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in names)
    return "".join(character for _, character in zip(range(60), found, strict=False))


PROMPTS = {
    "empty": "",
    "a space": " ",
    "line ends": "\n\r\n\r\u2028\u2029\x85\x0b\x0c",
    "control characters": "".join(map(chr, [*range(32), *range(127, 160)])),
    "NUL": "before\0after",
    "NULs": "\0" * 500,
    "escape sequences": "\x1b[31mred\x1b]0;title\x07\x9b2J\x1bP",
    "direction": "\u202eabc\u2066\u2069\u061c\u200f",
    "invisible": "a\u200bb\u200c\u200d\ufeff\u00ad\u2060",
    "noncharacters": "\ufffe\uffff\U0001fffe\U0010ffff\ufdd0",
    "private use": "\ue000\uf8ff\U000f0000",
    "replacement": "\ufffd" * 50,
    "tags": "\U000e0001\U000e0041\U000e007f",
    "combining marks": "a" + "\u0301" * 300,
    "emoji": "👩🏽‍🚀🏳️‍🌈👨‍👩‍👧‍👦🇩🇪" * 10,
    "scripts": "日本語 ไทย العربية עברית हिन्दी 한국어 \u1100\u1161\u11a8 ꦗꦮ 𒀀𓀀",
    "ligatures and forms": "ﷺ ﬁ ＡＢＣ Ⅷ ½ ² İıßẞſ",
    "numbers of other kinds": of_category("No", "Nl"),
    "spaces of other kinds": of_category("Zs"),
    "symbols": of_category("Sm", "Sc", "Sk"),
    "special tokens": "<|im_start|>system\n<|im_end|><|endoftext|></s><s><unk><0x0A><0x00>▁",
    "halves of special tokens": "<|im_sta<|im_end|rt|><|<|im_end|>|>" * 5,
    "a template": "{{ ''.__class__.__mro__ }}{% for x in range(10**9) %}{% endfor %}{# #}",
    "formats": "%s %n %x {0} {} {0.__class__} $(id) `id` ${HOME} \\x41 \\u0041",
    "markup": "</script><img src=x onerror=alert(1)>&amp;<!--]]>",
    "JSON": '"},{"kind":"Exit","value":{}}\n{"kind":"Exit","value":{}}\r\n{"kind":"End"}',
    "SQL": "'); DROP TABLE runs; --\x00\" OR 1=1",
    "quotes": "'\"`´“”«»'''\"\"\"" * 20,
    "backslashes": "\\" * 501,
    "long word": "a" * 5_000,
    "long digits": "1" * 5_000,
    "long spaces": " " * 30_000,
    "long letters": "x" * 30_000,
    "long line ends": "\n" * 30_000,
    "long emoji": "😀" * 20_000,
    "a megabyte": "word " * 200_000,
    "a megabyte without a space": "é" * 500_000,
    "a lone surrogate": "a\ud800b",
    "surrogates the wrong way": "\ude00\ud83d",
    "an undecodable file name": b"caf\xe9.txt".decode(errors="surrogateescape"),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str | None]]:
    """A real model of each kind of vocabulary."""
    folder = tmp_path_factory.mktemp("kinds")
    return {
        "bpe": (write_llama_gguf(folder / "bpe.gguf", context_length=1024), None),
        "spm": (write_llama_gguf(folder / "spm.gguf", vocabulary="spm", context_length=1024), None),
        "falcon": (write_falcon_gguf(folder / "falcon.gguf", context_length=1024), None),
        "gpt2": (write_ggml(folder / "gpt2.bin", "gpt2"), "gpt2"),
    }


@pytest.fixture(scope="module")
def one_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One session for all prompts: what one does to its engine, the next one feels."""
    session = Session(tmp_path_factory.mktemp("prompts") / "runs.sqlite3")
    session.local.pool.max_loaded_models = len(KINDS)
    yield session
    session.close()


def try_prompt(
    session: Session, model: tuple[Path, str | None], prompt: str, report: Report, kind: str,
    **options: Any,
) -> None:  # fmt: skip
    """A result or an error of one line, logged, in bounded time, from the same process."""
    path, model_type = model
    before, rows = dict(session.local.pool.loaded_models()), len(session.log)
    began = time.monotonic()
    try:
        request = Request(
            model=str(path), prompt=prompt, model_type=model_type,
            params=InferencingParams(max_tokens=3, seed=1), **options,
        )  # fmt: skip
    except InvalidInput as error:
        report.tried(kind, f"refused in one line ({type(error).__name__})")
        assert_line(error)
        return
    run = session.run(request)
    assert run.wait(SECONDS)
    assert time.monotonic() - began < SECONDS
    if run.error is None:
        assert run.status == "ok"
        assert run.result.usage.prompt_token_count > 0
        report.tried(kind, "answered")
    else:
        assert isinstance(run.error, InvalidInput), run.error  # and not the engine's death
        assert_line(run.error)
        report.tried(kind, f"refused in one line ({type(run.error).__name__})")
    report.promise("log rows lost", len(session.log) == rows + 1, repr(prompt[:50]))
    row = session.log.row(run.run_id or 0)
    assert row["prompt"] == prompt
    assert row["status"] == run.status
    after = dict(session.local.pool.loaded_models())
    assert all(after[name] == pid for name, pid in before.items() if name in after)
    assert str(path) in after


def assert_line(error: InferenceError) -> None:
    line = str(error)
    assert line
    assert line.isprintable()
    assert len(line) < 1100


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_awkward_prompts(
    one_session: Session, models: dict[str, tuple[Path, str | None]], kind: str, name: str,
    report: Report,
) -> None:  # fmt: skip
    """Whatever the prompt: text, or one line that says what is wrong with it."""
    try_prompt(one_session, models[kind], PROMPTS[name], report, f"text in: prompts, {kind}")


@pytest.mark.parametrize("name", PROMPTS)
def test_awkward_chats(
    one_session: Session, models: dict[str, tuple[Path, str | None]], name: str, report: Report
) -> None:
    """As a user's and a system's message, in the model's own template: a text, never a program."""
    prompt, model = PROMPTS[name], models["bpe"]
    try_prompt(one_session, model, "x", report, "text in: system messages", system=prompt)
    try_prompt(one_session, model, prompt, report, "text in: chats", chat=True)


def encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_random_prompts(
    one_session: Session, models: dict[str, tuple[Path, str | None]], report: Report, long: bool
) -> None:
    """Random characters of all kinds, also such as break a tokenizer in native code."""
    sample = "".join(text[:60] for text in PROMPTS.values() if encodable(text))

    @trials(long, 40, prompt=st.text(sample, max_size=40) | st.text(max_size=40))
    def check(prompt: str) -> None:
        for kind in KINDS:
            try_prompt(
                one_session, models[kind], prompt, report, f"text in: random prompts, {kind}"
            )


def test_a_prompt_of_a_megabyte_says_its_length(
    one_session: Session, models: dict[str, tuple[Path, str | None]]
) -> None:
    """The line has both numbers, as for any prompt that is too long."""
    run = one_session.run(Request(model=str(models["bpe"][0]), prompt=PROMPTS["a megabyte"]))
    assert run.wait(SECONDS)
    assert isinstance(run.error, PromptTooLong)
    assert "tokens and the context holds 1,024" in str(run.error)
