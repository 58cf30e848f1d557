"""The default model marks no reasoning, and a chat with it is what it was."""

from __future__ import annotations

from pathlib import Path

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.reasoning import family_of
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.template import template_of
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.running.session import Session


def test_the_default_model_is_of_no_family(default_model_source: Path) -> None:
    """Neither its chat template nor its vocabulary has marks of reasoning."""
    metadata = read_header(default_model_source).metadata
    assert family_of(template_of(metadata), build_tokenizer(metadata)) is None


def test_a_chat_has_the_text_of_its_rendered_prompt(
    default_model_source: Path, session: Session
) -> None:
    """The same prompt without the template gives the same text, and the tokens count the same."""
    params = InferencingParams(max_tokens=60, seed=7)
    chat = Request(
        model=str(default_model_source), prompt="Write of <think>.", chat=True, params=params
    )
    first = session.run(chat)
    assert first.wait(120)
    plain = chat.model_copy(
        update={"chat": False, "prompt": first.result.prompt, "control_tokens": "all"}
    )
    second = session.run(plain)
    assert second.wait(120)
    one, other = first.result, second.result
    assert (one.reasoning, one.text, one.finish_detail) == ("", other.text, other.finish_detail)
    assert one.usage.generated_token_count == other.usage.generated_token_count
    assert one.usage.reasoning_token_count == 0
