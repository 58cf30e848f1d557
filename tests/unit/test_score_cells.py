"""Cells, calls, forms and views of scores."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmwit_magic import api
from llmwit_magic.contract.events import Chunk, End
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.scores import ChoiceProbabilities, ChoiceScore, choice_probabilities
from llmwit_magic.contract.tokens import TokenInfo
from llmwit_magic.contract.wit import FinishDetail, InferencingResult, InferencingUsage
from llmwit_magic.errors import InvalidInput
from llmwit_magic.requests.arguments import request_from
from llmwit_magic.requests.snippets import forms
from llmwit_magic.running.replay import Replay
from llmwit_magic.views.html import ELEMENTS, html_of
from llmwit_magic.views.score_text import CHART_ROWS, chart_lines, choice_label, share
from llmwit_magic.views.sweep_text import plain_table
from llmwit_magic.views.terminal import encodable
from llmwit_magic.views.text import plain
from tests.support.cells import one, refused
from tests.support.fake import FakeEngine, FakeSession, prepared, run_of
from tests.support.hostile import HOSTILE


def choices_of(**logprobs: float) -> ChoiceProbabilities:
    scores = tuple(
        ChoiceScore(choice=name, probability=0, logprob=value) for name, value in logprobs.items()
    )
    return choice_probabilities(scores, "sum", end_of_text=False)


def scored(
    request: Request, choices: ChoiceProbabilities | None = None, **values: float
) -> InferencingResult:
    """A run of the request: with choices, or with these tokens and log-probabilities."""
    tokens = tuple(
        TokenInfo(id=1, bytes=text.encode(), logprob=value, rank=0)
        for text, value in values.items()
    )
    text = choices.best if choices else request.continuation or ""
    run = run_of(
        [prepared(request), Chunk(text, 0, tokens),
         End(FinishDetail.SCORED, InferencingUsage(prompt_token_count=5), choices=choices)],
        request,
    )  # fmt: skip
    return run.result


ASKED = Request(model="m", prompt="p", continuation="ab")
CHOSEN = one("-m m --choice a --choice b --probabilities")


@pytest.mark.parametrize(
    ("line", "cell", "fields"),
    [
        ("--score", "a b\nc\n", {"prompt": "", "continuation": "a b\nc"}),
        ("--continuation ' x'", "p\n", {"prompt": "p", "continuation": " x"}),
        ("--score --continuation x", "p\n", {"prompt": "p", "continuation": "x"}),
        (r"--continuation '\n{{v}}'", "p\n", {"prompt": "p", "continuation": "\n7"}),
        ("--score", "is {{v}}\n", {"prompt": "", "continuation": "is 7", "data_spans": ()}),
        ("--score --no-interpolate", "{{v}}\n", {"continuation": "{{v}}"}),
        ("--chat --continuation x", "p\n", {"chat": True, "continuation": "x"}),
    ],
)
def test_what_a_cell_scores(line: str, cell: str, fields: dict[str, Any]) -> None:
    """With `--score` alone the whole cell; with `--continuation` that text, after the cell."""
    request = one(line, cell, namespace={"v": 7})
    assert {name: getattr(request, name) for name in fields} == fields
    assert request.is_scored


def test_choices_of_a_cell() -> None:
    """Each `--choice` is one; `--probabilities` asks for theirs in the place of an answer."""
    request = one("--choice ' a' --choice b --probabilities --normalize token --end-of-text never")
    assert request.constraint
    assert request.constraint.choices == (" a", "b")
    assert (request.probabilities, request.normalize, request.end_of_text) == (
        True, "token", "never",
    )  # fmt: skip
    assert not one("--choice a --choice b").is_scored


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--score --temperature 0", "--temperature has no effect on a score: leave it out"),
        ("--continuation x --max-tokens 3", "--max-tokens has no effect on a score"),
        ("--choice a --probabilities --seed 1", "--seed has no effect on a score"),
        ("--score --chat", "--score scores the whole cell, which is no chat"),
        ("--score --system x", "--score scores the whole cell, which is no chat"),
        ("--score --tune", "--tune is for answers that are generated"),
        ("--probabilities", "--probabilities: there are no choices"),
        ("--regex a --probabilities", "--probabilities: there are no choices"),
        ("--continuation x --choice a", "leave one out"),
        ("--continuation ''", "it is empty"),
        ("--prompt-logprobs", "--prompt-logprobs: they belong to a score"),
        ("--normalize best", "it must be sum, token or empty-prompt"),
        ("--choice a --normalize token", "--normalize goes with --probabilities"),
        ("--choice a --end-of-text always", "--end-of-text goes with --probabilities"),
    ],
)
def test_what_a_cell_is_refused_for(line: str, said: str) -> None:
    """In one line, in the words of the line."""
    assert said in refused(line)


def test_a_configured_temperature_is_no_reason_to_refuse() -> None:
    """Only what the line says counts."""
    assert one("--score", temperature=0.0).is_scored


@pytest.mark.parametrize(
    "request_",
    [
        Request(model="m", prompt="", continuation=" a {{b}} 'c'\nd"),
        Request(model="m", prompt="p", continuation=" a {{b}} 'c'\nd", prompt_logprobs=True),
        Request(model="m", prompt="p {{q}}", continuation="x", chat=True, top_logprobs=2),
        Request(model="m", prompt="", continuation="a\r\nb"),
        one("-m m --choice ' a' --choice b --probabilities --normalize token", "p\n"),
    ],
    ids=["whole", "continuation", "chat", "line ends", "choices"],
)
def test_a_copied_cell_asks_the_same(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does the copied call."""
    line, _, cell = forms(request_, {})["cell"].partition("\n")
    again = one(line.removeprefix("%%infer "), cell)
    assert again.model_copy(update={"tags": {}}) == request_
    called: list[Request] = []

    class Done(Exception):
        pass

    def start(model: Any, prompt: str, params: Any, **options: Any) -> Any:
        called.append(request_from(model, prompt, params, options))
        raise Done

    monkeypatch.setattr(api, "start", start)
    with pytest.raises(Done):
        exec(forms(request_, {})["Python"], {})
    assert called == [request_]


def test_what_a_call_is_refused_for() -> None:
    """Options that generate, and choices that are none."""
    for call, said in (
        (lambda: api.score("p", "c", temperature=0), "temperature has no effect on a score"),
        (lambda: api.score("p", "c", params={}), "params has no effect on a score"),
        (lambda: api.score("p", "c", content_filters=("a",)), "content_filters has no effect"),
        (lambda: api.score("p", None), "continuation: None is not valid"),  # type: ignore[arg-type]
        (lambda: api.score("p", ""), "continuation: it is empty"),
        (lambda: api.tune("p", continuation="c"), "tune is for answers that are generated"),
        (lambda: api.choose("p", "yes"), "choices: 'yes' is no list of texts"),
        (lambda: api.choose("p", []), "choices: "),
        (lambda: api.choose("p", ["", "a"]), "choices: '' is no choice"),
        (lambda: api.choose("p", ["a"], normalize="best"), "normalize: 'best' is not valid"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidInput) as caught:
            call()  # type: ignore[no-untyped-call]
        assert said in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_an_engine_without_scores_refuses_by_name() -> None:
    """Before the run, as for all that an engine cannot honour."""
    session = FakeSession(FakeEngine())
    with pytest.raises(InvalidInput, match="the engine of m gives no scores: leave out continu"):
        session.run(ASKED)
    with pytest.raises(InvalidInput, match="leave out probabilities"):
        session.run(one("-m m --choice a --probabilities"))
    session.close()


def test_the_line_under_a_score() -> None:
    """It has the counts, the log-probability and the perplexity, and no seed."""
    result = scored(ASKED, a=-1.0, b=-3.0)
    assert result.score
    assert plain(result).startswith(
        "ab\n── scored · 5 prompt + 2 scored tokens · log-probability −4.00"
    )
    assert "perplexity 7.39" in plain(result)
    assert "seed" not in plain(result)
    assert (result.logprob, result.probabilities) == (-4, None)


def test_scores_side_by_side() -> None:
    """A sweep over models shows what each score came to."""
    text = plain_table([scored(ASKED, a=-1.0, b=-3.0), scored(CHOSEN, choices_of(a=-0.5, b=-2.0))])
    _, first, second = text.splitlines()
    assert "scored: log-probability −4.00" in first
    assert "5 + 2" in first
    assert "scored: a 81.8%" in second


def test_the_first_token_of_a_text_is_shown_without_a_shade() -> None:
    """It has no log-probability where nothing is in front of it. The others keep their places."""
    result = scored(ASKED.model_copy(update={"continuation": "The sea"}), **{" sea": -9.0})
    markup = html_of(result)
    assert re.search(
        r'>\nThe<span class="llmwit-token" style="background-color[^>]*> sea</span>', markup
    )


def test_a_replay_of_another_score_differs() -> None:
    """By the score, though the text is the same."""
    one_, other = scored(ASKED, a=-1.0), scored(ASKED, a=-1.5)
    replay = Replay(one_, other)  # type: ignore[arg-type]
    assert not replay.identical
    assert "the log-probability is -1.5, and was -1.0" in replay.verdict
    asked = one("-m m --choice a --choice b --probabilities")
    first, second = (scored(asked, choices_of(a=-1, b=value)) for value in (-1.5, -2))
    replay = Replay(first, second)  # type: ignore[arg-type]
    assert not replay.identical
    assert "the probabilities are 'a' 0.73" in replay.verdict


def test_a_bar_chart_in_text() -> None:
    """The most probable choice first; a space that counts is a sign."""
    lines = chart_lines(choices_of(**{" no": -2.0, "yes": -0.5, "": -20.0}))
    assert [line.split()[0] for line in lines[:2]] == ["yes", "␣no"]
    assert lines[0].count("█") > 3 * lines[1].count("█") > 0
    assert (choice_label("  a b "), share(0.5), share(0.00013), share(1e-7)) == (
        "␣␣a b␣", "50.0%", "0.013%", "1e-05%",
    )  # fmt: skip
    many = choices_of(**{f"c{number}": -float(number) for number in range(50)})
    assert len(chart_lines(many)) == CHART_ROWS + 1
    assert chart_lines(many)[-1] == "… and 30 more in .probabilities"
    encodable("\n".join(lines), "ascii").encode("ascii")


def test_a_bar_chart_in_html_is_a_table() -> None:
    """Of elements that every notebook shows; the bars have their width."""
    markup = html_of(scored(CHOSEN, choices_of(a=-0.5, b=-2.0)))
    assert set(re.findall(r"<(\w+)", markup)) <= ELEMENTS
    rows = re.findall(r"<tr>(.*?)</tr>", markup, re.DOTALL)
    assert [re.sub(r"<[^>]*>", "", row).split() for row in rows] == [
        ["choice", "probability"], ["a", "81.8%"], ["b", "18.2%"],
    ]  # fmt: skip
    assert "width:81.76%" in markup


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_choices_are_text(text: str) -> None:
    """In a chart as everywhere."""
    result = scored(CHOSEN, choices_of(**{text or "x": -0.5, "b": -2.0}))
    assert set(re.findall(r"<(\w+)", html_of(result))) <= ELEMENTS
    assert all("\n" not in line and "\x1b" not in line for line in chart_lines(result.choices))  # type: ignore[arg-type]
