"""Conversations with the default model, in real kernels: their cost, and how they go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.backends.blocks import BLOCK
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.conversations import Conversation
from llmwit_magic.running.session import Session
from tests.model.test_faults import generated
from tests.support.kernel import Kernel, Once

QUESTIONS = [
    "Name a fruit.", "Another one?", "And a vegetable?", "Which of them is red?",
    "Name a planet.", "Thank you!",
]  # fmt: skip


@pytest.mark.timeout(180)
@pytest.mark.parametrize("engine", ["ctransformers", "llama.cpp"])
def test_six_turns_in_three_lines(
    new_kernel: Callable[[], Kernel], log_path: Path, engine: str
) -> None:
    """A turn costs what is new in it, and at most once the answer before it.

    The conversation is read back in another kernel, where it goes on at the same price.
    """
    kernel = new_kernel()
    kernel.run(f"from llmwit_magic import Conversation\nquestions = {QUESTIONS}")
    reply = kernel.run(
        f"talk = Conversation(system='Be brief.', engine={engine!r}, params={{'max_tokens': 30}})\n"
        "for question in questions: talk.ask(question)\n"
        "talk"
    )
    assert reply.status == "ok", reply.error
    assert reply.text.count("── user\n") == 6
    assert "llmwit-transcript" in reply.html
    rows = RunLog(log_path).rows()
    assert [row["turn"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["reply_to"] for row in rows] == [None, 1, 2, 3, 4, 5]
    for before, row in pairwise(rows):
        # All of the earlier prompt that stands in completed blocks is not read again.
        evaluated = row["prompt_token_count"] - row["cached_token_count"]
        new = row["prompt_token_count"] - before["prompt_token_count"]
        assert evaluated <= new + BLOCK - 1, (evaluated, new)
    last = rows[-1]
    assert last["cached_token_count"] > last["prompt_token_count"] / 2

    other = new_kernel()
    other.run("from llmwit_magic import Conversation, runs\nimport json")
    told = other.run(
        f"talk = Conversation.load({last['conversation_id']!r})\n"
        "print(json.dumps([talk.messages, talk.ask('Bye.').turn, talk.ask('Bye!').turn]))"
    )
    messages, *turns = json.loads(told.stdout)
    assert turns == [7, 8]
    assert [one["content"] for one in messages[1::2]] == QUESTIONS
    assert [one["content"] for one in messages[2::2]] == [row["text"] for row in rows]
    *_, first, second = RunLog(log_path).rows()
    assert (first["reply_to"], first["engine"]) == (last["run_id"], engine)
    assert second["cached_token_count"] > second["prompt_token_count"] / 2


@pytest.mark.timeout(120)
def test_cells_of_a_conversation(kernel: Kernel, log_path: Path) -> None:
    """A cell goes on, a stopped answer stays, and a full context is refused with both numbers."""
    kernel.run("%%infer --conversation owl --system 'Be brief.' --context-length 160 "
               "--max-tokens 40 --temperature 0\nWhat is an owl?")  # fmt: skip
    reply = kernel.run("%%infer --continue\nWhat does it eat?")
    assert " · turn 2 of owl · " in reply.text
    row = RunLog(log_path).row(-1)
    assert row["history"][0] == {"role": "user", "content": "What is an owl?"}
    assert "What is an owl?" in row["rendered_prompt"]
    reply = kernel.run("%%infer --continue\n" + "And why does it hunt at night? " * 8)
    assert "and the context holds 160, answer included" in reply.error
    assert "--drop-oldest leaves out the oldest turns" in reply.error
    reply = kernel.run("%%infer --continue --drop-oldest\n" + "And why? " * 8)
    assert " · turn 3 of owl · turn" in reply.text
    row = RunLog(log_path).row(-1)
    assert row["dropped_turns"] in (1, 2)
    assert row["prompt_token_count"] + 40 <= 160
    assert row["rendered_prompt"].count("Be brief.") == 1
    told = kernel.run("print(len(_conversation.messages))")
    assert told.stdout.strip() == "7", "the conversation keeps what is not sent"


@pytest.mark.timeout(120)
def test_a_stopped_answer_is_a_turn(kernel: Kernel, log_path: Path) -> None:
    """The next turn sees what stood there when it was stopped."""
    stop = Once(generated, kernel.interrupt)
    reply = kernel.run("%%infer --conversation sea --max-tokens 2000 --temperature 0\n"
                       "Write a long story about the sea.", when=stop)  # fmt: skip
    assert stop.time is not None
    assert reply.error.startswith("Interrupted: stopped after")
    stopped = RunLog(log_path).row(-1)
    assert (stopped["status"], stopped["turn"]) == ("interrupted", 1)
    reply = kernel.run("%%infer --continue --max-tokens 5\nGo on.")
    assert " · turn 2 of sea · " in reply.text
    row = RunLog(log_path).row(-1)
    assert row["history"][1] == {"role": "assistant", "content": stopped["text"]}
    assert stopped["text"].strip() in row["rendered_prompt"]
    assert "── assistant · interrupted · turn 1 of sea" in kernel.run("_conversation").text


def test_without_exact_an_answer_is_not_read_again(
    default_model_source: Path, session: Session
) -> None:
    """llama.cpp keeps what it has generated; only the new message is read."""
    first = Request(
        model=str(default_model_source), prompt="", chat=True, engine="llama.cpp", exact=False,
        params=InferencingParams(max_tokens=20, temperature=0),
    )  # fmt: skip
    talk = Conversation.opened(session, first)
    one, two = talk.ask("Name a fruit.").usage, talk.ask("Another one?").usage
    assert one.prompt_token_count
    assert one.generated_token_count
    assert two.cached_token_count
    assert two.cached_token_count >= one.prompt_token_count + one.generated_token_count - 1
