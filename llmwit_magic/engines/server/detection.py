"""Which kind of server an address leads to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .addresses import Address
from .dialects.dialect import Dialect
from .dialects.llama_server import LlamaServer
from .dialects.openai_style import LM_STUDIO, OPENAI, OTHER, SGLANG, VLLM
from .http_client import HttpClient

DIALECTS: tuple[Dialect, ...] = (LlamaServer(), VLLM, SGLANG, LM_STUDIO, OPENAI, OTHER)
_BY_KIND: Mapping[str, Dialect] = {dialect.kind: dialect for dialect in DIALECTS}
_OWNERS = {
    "llamacpp": "llama-server", "vllm": "vllm", "sglang": "sglang",
    "organization_owner": "lmstudio",
}  # fmt: skip
"""The kind of server by what it writes as the owner of its models."""


async def dialect_of(http: HttpClient, address: Address) -> Dialect:
    """The dialect of the address: as it is configured, or as the server's list of models shows."""
    if address.kind is not None:
        return _BY_KIND[address.kind]
    if urlsplit(address.url).hostname == "api.openai.com":
        return OPENAI
    answer = await http.json(address, "models")
    return _BY_KIND[_kind(answer)]


def _kind(answer: Any) -> str:
    models = answer.get("data") if isinstance(answer, dict) else None
    owners = [item.get("owned_by") for item in models or () if isinstance(item, dict)]
    return next((_OWNERS[owner] for owner in owners if owner in _OWNERS), "other")
