"""The promised answers, in a real kernel with the default model."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from llmwit_magic.runlog.log import RunLog
from tests.support.kernel import Kernel

CAPITAL = "The capital of France is"


def test_stop_sequence_ends_the_answer(kernel: Kernel) -> None:
    """`--temperature 0 --stop .` gives ` Paris`, reason stop, detail and match on record."""
    reply = kernel.run(f"%%infer --temperature 0 --stop .\n{CAPITAL}")
    assert reply.status == "ok", reply.error
    assert reply.text.startswith(' Paris\n── stop · stop sequence "."')
    told = kernel.run("print(repr(_infer.text), _infer.finish_reason, _infer.finish_detail, "
                      "repr(_infer.stop_sequence), _infer.usage.generated_token_count)")  # fmt: skip
    assert told.stdout.strip() == "' Paris' stop stop_sequence '.' 2"


def test_finish_reasons(kernel: Kernel) -> None:
    """Max tokens ends with length, a chat ends with eos, a filter with content_filter."""
    kernel.run(f"%%infer --max-tokens 3 --temperature 0\n{CAPITAL}")
    assert kernel.run("print(_infer.finish_reason, _infer.finish_detail, "
                      "_infer.usage.generated_token_count)").stdout.split() == [
        "length", "max_tokens", "3"]  # fmt: skip
    kernel.run("%%infer --chat --temperature 0 --max-tokens 200\n"
               "Name the largest planet. Answer with one short sentence.")  # fmt: skip
    assert kernel.run("print(_infer.finish_reason, _infer.finish_detail)").stdout.split() == [
        "stop", "eos"]  # fmt: skip
    kernel.run("%config InferMagics.content_filters = ['[Pp]aris']")
    reply = kernel.run(f"%%infer --temperature 0\n{CAPITAL}")
    assert "Paris" not in reply.text + reply.html
    assert kernel.run("print(_infer.finish_reason, repr(_infer.text))").stdout.strip() == (
        "content_filter ' '"
    )


def test_a_function_filters_content(kernel: Kernel) -> None:
    """A content filter may be a function of the kernel; nothing is shown that it cuts."""
    kernel.run("def no_paris(text):\n    return text.find('Par') if 'Par' in text else None")
    kernel.run("%config InferMagics.content_filters = [no_paris]")
    reply = kernel.run(f"%%infer --temperature 0\n{CAPITAL}")
    shown = [str(message["content"].get("data")) for message in reply.messages]
    assert not any("Par" in text for text in shown if text != CAPITAL)
    kernel.run("def broken(text):\n    return 1 / 0")
    kernel.run("%config InferMagics.content_filters = [broken]")
    reply = kernel.run(f"%%infer --temperature 0\n{CAPITAL}")
    assert reply.error.startswith("InvalidInput: the content filter broken raised ZeroDivision")
    kernel.run("%config InferMagics.content_filters = []")
    assert kernel.run(f"%%infer --temperature 0 --stop .\n{CAPITAL}").text.startswith(" Paris")


def test_no_limit_ends_at_eos_or_with_the_context(kernel: Kernel) -> None:
    """Without a limit the answer ends at the end of text or exactly with the context."""
    kernel.run("%%infer --max-tokens none --temperature 0 --context-length 24\n" + CAPITAL)
    assert kernel.run("print(_infer.finish_detail, _infer.usage.prompt_token_count + "
                      "_infer.usage.generated_token_count)").stdout.split() == [
        "context_full", "24"]  # fmt: skip
    kernel.run("%%infer --max-tokens none --temperature 0 --context-length 64\n" + CAPITAL)
    told = kernel.run("print(_infer.finish_detail, _infer.usage.prompt_token_count + "
                      "_infer.usage.generated_token_count)").stdout.split()  # fmt: skip
    assert told[0] in ("eos", "context_full")
    assert told == ["context_full", "64"] or int(told[1]) < 64


@pytest.mark.timeout(300)
def test_the_same_seed_gives_the_same_text(kernel: Kernel, log_path: Path) -> None:
    """A recorded seed repeats its run in another process, after other prompts, with other threads."""
    kernel.run("%%infer --max-tokens 40 --temperature 1.2\nOnce upon a time")
    kernel.run("import json")
    told = kernel.run("print(json.dumps([_infer.params.seed, _infer.text]))").stdout
    seed, text = json.loads(told)
    kernel.run("%%infer --max-tokens 3\nAnother prompt altogether, which spoils the cache")
    kernel.run("%infer_unload")
    # Beside a busy program two threads take seconds for each token: a few tokens must do.
    for threads, tokens in ((1, 40), (2, 6)):
        cell = f"%%infer --max-tokens {tokens} --temperature 1.2 --seed {seed} --threads {threads}"
        kernel.run(f"{cell}\nOnce upon a time", timeout=120)
        again = json.loads(kernel.run("print(json.dumps(_infer.text))").stdout)
        # Cut off after six tokens, the last character may be unfinished.
        assert (
            again == text
            if tokens == 40
            else text.startswith(again.rstrip("\N{REPLACEMENT CHARACTER}"))
        )


def test_a_sweep_is_a_table_over_one_prompt(kernel: Kernel) -> None:
    """All combinations run, the prompt is evaluated once, and the result is a list that shows."""
    reply = kernel.run("%%infer --temperature 0,0.7 --seed 1:2 --max-tokens 4 -o runs4\n" + CAPITAL)
    assert reply.status == "ok", reply.error
    assert reply.text.count("length: max tokens") == 4
    told = kernel.run("print(len(runs4), len({r.run_id for r in runs4}), "
                      "[r.usage.cached_token_count for r in runs4])").stdout.strip()  # fmt: skip
    assert told == "4 4 [0, 4, 4, 4]"
    shown = kernel.run("runs4")
    assert shown.text.splitlines()[0].split() == [
        "run", "temperature", "seed", "repeat_penalty", "text", "finish", "tokens", "seconds",
    ]  # fmt: skip


def test_a_dry_run_runs_nothing(kernel: Kernel, log_path: Path) -> None:
    """`--dry-run` shows the rendered prompt, its tokens, the room left, the params; no row."""
    reply = kernel.run("%%infer --dry-run --chat --system 'Be brief.' --stop '\\n'\nHi {{7}}".replace(
        "{{7}}", "you"))  # fmt: skip
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi you" in reply.text
    assert "prompt tokens" in reply.text
    assert '"\\n"' in reply.text
    assert kernel.run("print(len(get_ipython().find_cell_magic('infer').__self__.session.log))"
                      ).stdout.strip() == "0"  # fmt: skip


PROMPTS = {
    "japanese": "日本語で答えてください",
    "emoji": "🙂👩‍👩‍👧‍👦🏳️‍🌈" * 20,
    "thai": "ภาษาไทยเป็นภาษาที่มีวรรณยุกต์",
    "arabic": "اللغة العربية جميلة",
    "nul": "a\0b",
    "spaces": " " * 5000,
}


@pytest.mark.parametrize("name", PROMPTS)
def test_difficult_prompts_run(kernel: Kernel, name: str) -> None:
    """Scripts, emoji, NUL and long runs of spaces are answered; the kernel lives."""
    reply = kernel.run(f"prompt = {PROMPTS[name]!a}")
    reply = kernel.run("%%infer --max-tokens 5 --seed 1\n{{prompt}}")
    assert reply.status == "ok", reply.error
    assert kernel.run("print(_infer.prompt == prompt)").stdout.strip() == "True"


def test_impossible_prompts_are_refused_by_name(kernel: Kernel) -> None:
    """A lone surrogate, a megabyte and an empty cell get one line each; the kernel lives."""
    kernel.run("lone, long = 'a\\ud800b', 'many words ' * 100_000")
    for prompt, expected in [
        ("{{lone}}", "UsageError: prompt: a lone surrogate"),
        ("{{long}}", "PromptTooLong: the prompt has"),
        ("   ", "UsageError: the cell is empty"),
    ]:
        reply = kernel.run(f"%%infer --max-tokens 5\n{prompt}")
        # IPython writes a usage error as a line of its own.
        assert (reply.error or reply.stdout).startswith(expected), reply
        assert len(reply.traceback) <= 1
    assert kernel.run(f"%%infer --temperature 0 --stop .\n{CAPITAL}").text.startswith(" Paris")


def test_embeddings(kernel: Kernel) -> None:
    """`generate_embeddings` gives one vector of the embedding length for each text."""
    kernel.run("from llmwit_magic import generate_embeddings\n"
               "import numpy as np\n"
               "e = generate_embeddings(None, ['a cat', 'a kitten', 'tax law of 1913'])\n"
               "v = np.array(e.embeddings); v /= np.linalg.norm(v, axis=1, keepdims=True)")  # fmt: skip
    told = kernel.run("print(v.shape, v[0] @ v[1] > v[0] @ v[2], e.usage.prompt_token_count)")
    assert told.stdout.startswith("(3, 576) True")


def test_logprobs_on_request(kernel: Kernel) -> None:
    """`--top-logprobs 3` records id, bytes, log-probability, rank and alternatives of each token."""
    kernel.run(
        f"%%infer --temperature 0 --max-tokens 2 --top-logprobs 3 --repeat-penalty 1\n{CAPITAL}"
    )
    told = kernel.run("t = _infer.tokens[0]\nprint(t.bytes, t.rank, len(t.top), "
                      "t.top[0].logprob == t.logprob, -1 < t.logprob < 0)").stdout.strip()  # fmt: skip
    assert told == "b' Paris' 0 3 True True"


def test_the_log_is_a_typed_table(kernel: Kernel, log_path: Path) -> None:
    """`%infer_log` has this kernel's runs; integers stay integers, times are UTC's."""
    kernel.run(f"%%infer --max-tokens none --temperature 0 --stop . --tag try=1\n{CAPITAL}")
    kernel.run("%%infer -m nosuch\nx")
    kernel.run("%infer_log -o log")
    told = kernel.run(
        "print(list(log['status']), log['max_tokens'].dtype, "
        "log['started_at'].dtype, log.loc[1, 'tag.try'], log['prompt_token_count'].dtype)"
    )
    assert told.stdout.strip() == "['ok', 'error'] Int64 datetime64[us] 1 Int64"
    assert [row["status"] for row in RunLog(log_path).rows()] == ["ok", "error"]


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_notebooks_run(default_model_loaded: Path, tmp_path: Path, path: Path) -> None:
    """Each example, stored without outputs, is executed for real by the README's own script."""
    stored = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in stored.cells)
    done = subprocess.run(
        [sys.executable, "examples/run.py", str(path), "--to", str(tmp_path)],
        cwd=path.parents[1], capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / path.with_suffix(".html").name).stat().st_size > 100_000
    assert "tokens" in done.stdout
    if path.stem == "quickstart":
        assert "Paris" in done.stdout
    if path.stem == "long_texts":
        executed = nbformat.read(tmp_path / path.name, as_version=4)
        outputs = [cell.outputs for cell in executed.cells if cell.cell_type == "code"]
        _, times_the_context = ast.literal_eval(outputs[0][0].data["text/plain"])
        assert times_the_context > 4
        assert outputs[2][0].data["text/plain"] == "True"  # the parts are the text again
        assert outputs[4][-1].data["text/plain"] == "True"  # all of it was in the log


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_of_other_systems(kernel: Kernel, log_path: Path, end: str) -> None:
    """A cell of a file from Windows or an old Mac is the same prompt, with the same answer."""
    lines = ["%%infer --temperature 0 --max-tokens 8 -o µ", "List two animals:", "- cat", ""]
    for separator in ("\n", end):
        assert kernel.run(separator.join(lines)).status == "ok"
    one, other = RunLog(log_path).rows()
    assert one["prompt"] == other["prompt"] == "List two animals:\n- cat"
    assert one["text"] == other["text"]
    assert kernel.run("print(µ.text)").stdout.strip() == one["text"].strip()


def test_values_in_options_of_a_cell(kernel: Kernel, log_path: Path) -> None:
    """Variables stand in the system message, stop sequences and tags; a misspelt one is an error."""
    kernel.run("lang, mark = 'French', '.'")
    cell = "%%infer --max-tokens 4 --system 'In {{lang}}' --stop {{mark}} --tag in={{lang}}\nHi"
    assert kernel.run(cell).status == "ok"
    (row,) = RunLog(log_path).rows()
    assert (row["system"], row["stop"], row["tags"]) == ("In French", ["."], {"in": "French"})
    reply = kernel.run("%%infer --system {{nope}}\nHi")
    assert "there is no variable 'nope'" in reply.stdout
    assert len(RunLog(log_path).rows()) == 1
