"""Four prompts by three temperatures by five seeds with a metric: a few lines, a table, a plot."""

from __future__ import annotations

from tests.support.kernel import Kernel

PROMPTS = """
prompts = {"bare": "The capital of France is", "list": "Italy: Rome\\nSpain: Madrid\\nFrance:",
           "exam": "Fill in. France's capital city is called", "other": "The capital of Italy is"}
def paris(result): return "Paris" in result.text
"""


def test_prompts_are_compared_with_a_metric(kernel: Kernel) -> None:
    """The table has a row for each prompt; at temperature 0 only the other one lacks Paris."""
    kernel.run(PROMPTS)
    reply = kernel.run(
        "%%infer --prompts prompts --temperature 0,0.7,1.2 --seed 1:5 --max-tokens 8 "
        "--metric paris --pivot prompt,temperature --quiet\n{{prompt}}"
    )
    assert reply.status == "ok", reply.error
    table = kernel.run("print(_infer.pivot('prompt', 'temperature').by, len(_infer))").stdout
    assert table.strip() == "('prompt_name', 'temperature') 60"
    greedy = kernel.run(
        "print([sum(r.metric_values['paris'] for r in _infer if r.prompt_name == name and "
        "r.params.temperature == 0) for name in prompts])"
    )
    assert greedy.stdout.strip() == "[5.0, 5.0, 5.0, 0.0]"
    assert "RunPlot of paris" in kernel.run("print(repr(_infer.plot('metric')))").stdout
