"""A guest that is built with Spin's own SDK for Python."""

from __future__ import annotations

import wit_world
from spin_sdk import key_value, llm


class WitWorld(wit_world.WitWorld):
    """What the component exports."""

    def ask(self, model: str, prompt: str, max_tokens: int) -> str:
        params = llm.InferencingParams(max_tokens=max_tokens, temperature=0.0, repeat_penalty=1.0)
        return llm.infer_with_options(model, prompt, params).text

    def ask_plainly(self, model: str, prompt: str) -> str:
        return llm.infer(model, prompt).text

    def store(self, key: str) -> str:
        with key_value.open_default() as store:
            return str(store.get(key))
