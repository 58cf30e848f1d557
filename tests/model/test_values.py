"""Answers with a shape, in a real kernel with the default model: the value in the notebook."""

from __future__ import annotations

import json
from pathlib import Path

from llmwit_magic.runlog.log import RunLog
from tests.support.kernel import Kernel

SETUP = """from enum import Enum
from pydantic import BaseModel
class Mood(Enum):
    GOOD = "good"
    BAD = "bad"
class Person(BaseModel):
    name: str
    age: int
    mood: Mood
rules = 'start: /[a-c]+/ "!"'"""
ADA = "Ada is 36 years old, and happy."


def said(kernel: Kernel, what: str = "_infer.value, _infer.finish_detail") -> str:
    return kernel.run(f"print({what})").stdout.strip()


def test_cells_state_the_shape_of_their_answers(kernel: Kernel, log_path: Path) -> None:
    """A choice, an Enum, an expression, a record and a grammar; the log has them as JSON."""
    kernel.run(SETUP)
    reply = kernel.run(f"%%infer --choice good --choice 'not good' --temperature 0\n{ADA}")
    assert reply.status == "ok", reply.error
    assert said(kernel) in ("good constraint", "not good constraint", "good eos")
    kernel.run(f"%%infer --choices Mood --seed 1\n{ADA}")
    assert said(kernel) in ("Mood.GOOD constraint", "Mood.BAD constraint")
    kernel.run(rf"%%infer --regex '\d{{4}}-\d\d' --seed 1 --temperature 1.5" f"\n{ADA}")
    assert said(kernel, "len(_infer.value), _infer.value == _infer.text") == "7 True"
    kernel.run(f"%%infer --grammar rules --seed 1\n{ADA}")
    assert said(kernel, "_infer.value[-1]") == "!"
    reply = kernel.run(f"%%infer --json-schema Person --temperature 0\n{ADA}")
    assert said(kernel, "type(_infer.value).__name__, type(_infer.value.mood).__name__") == (
        "Person Mood"
    )
    assert "── value\nname" in reply.text
    assert "<b>mood</b>" in reply.html
    log = RunLog(log_path)
    kinds = [row["constraint_kind"] for row in log.rows()]
    assert kinds == ["choices", "choices", "regex", "grammar", "json_schema"]
    assert list(log[5].value) == ["name", "age", "mood"]
    assert json.loads(log.to_frame(everyone=True)["value"][5]) == log[5].value
    log.close()


def test_a_record_that_was_cut_is_none(kernel: Kernel) -> None:
    """The text is kept, and the line under it says why there is no value."""
    kernel.run(SETUP)
    reply = kernel.run(f"%%infer --json-schema Person --max-tokens 5 --seed 1\n{ADA}")
    assert reply.status == "ok", reply.error
    assert "── length · max tokens · no value: cut by max tokens" in reply.text
    assert said(kernel, "_infer.value, _infer.value_error") == "None cut by max tokens"
    assert said(kernel, "_infer.text").startswith("{")


def test_the_form_of_a_cell_runs_again(kernel: Kernel) -> None:
    """The cell that is copied has the schema of the class on its line, and gives the same text."""
    kernel.run(SETUP)
    kernel.run(f"%%infer --json-schema Person --seed 3\n{ADA}")
    first = said(kernel, "_infer.text")
    form = kernel.run(
        "from llmwit_magic import runs\n"
        "from llmwit_magic.requests.snippets import forms\n"
        "print(forms(runs[1].request, {})['cell'])"
    ).stdout
    reply = kernel.run(form.strip("\n"))
    assert reply.status == "ok", reply.error
    assert said(kernel, "_infer.text") == first
    assert said(kernel, "type(_infer.value).__name__") == "dict"
    kernel.run("from llmwit_magic import replay\nagain = replay(1, returns=Person)")
    assert said(kernel, "type(again.result.value).__name__, again.identical") == "Person True"


def test_what_cannot_be_done_is_one_line(kernel: Kernel) -> None:
    """A dry run shows the shape; a set is refused by name before the run."""
    reply = kernel.run(f"%%infer --choice a --choice b --dry-run\n{ADA}")
    assert '── the answer is one of "a" | "b"' in reply.stdout
    reply = kernel.run("from llmwit_magic import infer\ninfer(None, 'p', returns=set[int])")
    assert reply.error.startswith("ConstraintNotSupported: ")
    assert "uniqueItems" in reply.error
    reply = kernel.run(f"%%infer --json-schema Persn\n{ADA}")
    said = "UsageError: --json-schema: 'Persn' is neither a variable of the notebook nor a file"
    assert reply.stdout.startswith(said)
