"""What the live view costs on the wire, measured from the messages of a real kernel."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.kernel import Kernel

TOKENS = 2000


@pytest.mark.timeout(300)
def test_two_thousand_tokens_cost_little(kernel: Kernel) -> None:
    """At most 20 messages in any second, under 3 bytes for each byte of text, nothing twice."""
    kernel.run("%config InferMagics.view = 'widget'")
    tokens = text_bytes = data_bytes = messages = busiest = 0
    for seed in range(5, 25):
        limit = TOKENS - tokens
        reply = kernel.run(
            f"%%infer --max-tokens {limit} --temperature 0.9 --repeat-penalty 1.1 --seed {seed}\n"
            "Once upon a time",
            timeout=200,
        )
        assert reply.status == "ok", reply.error
        sent = _custom(reply.messages)
        answer = _values(kernel, "_infer.text, _infer.usage.generated_token_count")
        assert "".join(content.get("t", "") for _, content in sent) == answer[0]
        times = [time for time, _ in sent]
        busiest = max(busiest, max(sum(1 for t in times if 0 <= t - start < 1) for start in times))
        messages += len(sent)
        data_bytes += sum(len(json.dumps(content).encode()) for _, content in sent)
        text_bytes += len(answer[0].encode())
        tokens += answer[1]
        if tokens >= TOKENS:
            break
    print(
        f"{tokens} tokens in {messages} messages, at most {busiest} in a second, "
        f"{data_bytes} bytes of data for {text_bytes} bytes of text "
        f"({data_bytes / text_bytes:.2f})"
    )
    assert tokens >= TOKENS
    assert busiest <= 20
    assert data_bytes < 3 * text_bytes


def _custom(messages: list[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """When each custom message of a widget was sent (s), and what is in it."""
    return [
        (message["header"]["date"].timestamp(), message["content"]["data"]["content"])
        for message in messages
        if message["msg_type"] == "comm_msg"
        and message["content"]["data"].get("method") == "custom"
    ]


def _values(kernel: Kernel, expression: str) -> Any:
    reply = kernel.run(f"import json; print(json.dumps([{expression}]))")
    return json.loads(reply.stdout)
