"""Chat templates of real model files that never end, or that want more memory than there is."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.local import conversation
from llmwit_magic.errors import ModelNotSupported
from llmwit_magic.running.session import Session
from tests.support.kernel import engines_of
from tests.support.tiny_models import write_llama_gguf

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
#: One call of a function in C, which no signal and no other thread interrupts.
CALL = "{% set a = 'a' * 10000000 %}{{ (a ~ 'b') in ([a ~ 'c'] * 1000000) }}"
DOUBLING = (
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}"
    "{% endfor %}"
)


def request(folder: Path, template: str, **options: Any) -> Request:
    path = write_llama_gguf(folder / "model.gguf", template=template)
    params = InferencingParams(max_tokens=2, seed=1)
    return Request(model=str(path), prompt="A model", params=params, **options)


@pytest.mark.parametrize("template", [LOOP, CALL])
def test_a_template_that_does_not_end_costs_the_engine(
    template: str, session: Session, tmp_path: Path
) -> None:
    """Within ten seconds one line says what to leave out, and the next run has a new engine."""
    asked = request(tmp_path, template, chat=True)
    begin = time.monotonic()
    run = session.run(asked)
    assert run.wait(15)
    assert time.monotonic() - begin < 10
    with pytest.raises(ModelNotSupported, match=r"had not ended after 5 s: leave out --chat"):
        run.raise_failure()
    assert session.local.pool.loaded_models() == []
    assert not engines_of()
    assert session.run(asked.model_copy(update={"chat": False})).wait(15)
    assert session.log.rows()[-1]["status"] == "ok"


def test_a_dry_run_is_bounded_too(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--dry-run` renders the template as well."""
    monkeypatch.setattr(conversation, "TEMPLATE_SECONDS", 0.5)
    with pytest.raises(ModelNotSupported, match="had not ended"):
        session.prepare(request(tmp_path, LOOP, chat=True))


def test_an_endless_template_can_be_cancelled(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an interrupted run then, not a failed one."""
    monkeypatch.setattr(conversation, "CANCEL_SECONDS", 0.5)
    run = session.run(request(tmp_path, LOOP, chat=True))
    assert not run.wait(1.5)
    run.cancel()
    assert run.wait(1.5)
    assert (run.status, run.error) == ("interrupted", None)
    assert not engines_of()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit")
@pytest.mark.parametrize(
    "template", [DOUBLING, "{{ 'a' * 10 ** 10 }}", "{{ 'a' | center(10**10) }}"]
)
def test_a_template_cannot_take_the_memory(template: str, session: Session, tmp_path: Path) -> None:
    """A gigabyte is refused before it is taken; the engine goes on."""
    asked = request(tmp_path, template, chat=True)
    session.run(asked.model_copy(update={"chat": False})).wait(15)
    ((_, pid),) = session.local.pool.loaded_models()
    before = psutil.Process(pid).memory_info().rss
    run = session.run(asked)
    assert run.wait(15)
    with pytest.raises(ModelNotSupported, match="wants more memory"):
        run.raise_failure()
    assert session.local.pool.loaded_models()[0][1] == pid
    peak = next(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    assert peak - before < 400e6
    again = session.run(asked.model_copy(update={"chat": False}))
    assert again.wait(15)
    assert again.status == "ok"


def test_a_template_that_writes_megabytes_is_refused(session: Session, tmp_path: Path) -> None:
    """What no context holds is not tokenised first."""
    run = session.run(request(tmp_path, "{{ 'a ' * 3000000 }}", chat=True))
    assert run.wait(15)
    with pytest.raises(ModelNotSupported, match="a prompt of 6,000,000 characters"):
        run.raise_failure()


def test_a_bos_token_that_is_no_text(session: Session, tmp_path: Path) -> None:
    """A template that writes it gets a replacement sign, and the run goes on."""
    path = write_llama_gguf(
        tmp_path / "model.gguf",
        vocabulary="spm",
        template="{{ bos_token }}{{ messages[0]['content'] }}",
        extra_metadata={"tokenizer.ggml.bos_token_id": 3 + 0xFF},
    )
    params = InferencingParams(max_tokens=2, seed=1)
    run = session.run(Request(model=str(path), prompt="A model", params=params, chat=True))
    assert run.wait(15)
    run.raise_failure()
    assert run.prepared is not None
    assert run.prepared.prompt == "\ufffdA model"
