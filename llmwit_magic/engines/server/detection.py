"""Which kind of server an address leads to."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from ...contract.events import Report
from ...errors import ModelNotFound
from .addresses import Address
from .dialects.dialect import Dialect
from .dialects.llama_server import LlamaServer
from .dialects.ollama import Ollama
from .dialects.openai_style import LLMWIT_MAGIC, LM_STUDIO, OPENAI, OTHER, SGLANG, VLLM
from .http_client import HttpClient

DIALECTS: tuple[Dialect, ...] = (
    LlamaServer(), VLLM, SGLANG, Ollama(), LM_STUDIO, OPENAI, LLMWIT_MAGIC, OTHER,
)  # fmt: skip
_BY_KIND: Mapping[str, Dialect] = {dialect.kind: dialect for dialect in DIALECTS}
_OWNERS = {
    "llamacpp": "llama-server", "vllm": "vllm", "sglang": "sglang",
    "organization_owner": "lmstudio", "llmwit-magic": "llmwit-magic",
}  # fmt: skip
"""The kind of server by what it writes as the owner of its models."""


async def dialect_of(http: HttpClient, address: Address, report: Report) -> Dialect:
    """The dialect of the address: as it is configured, or as the server's list of models shows."""
    if address.kind is not None:
        return _BY_KIND[address.kind]
    if urlsplit(address.url).hostname == "api.openai.com":
        return OPENAI
    try:
        answer = await http.json(address, "models", report=report)
    except ModelNotFound:
        answer = {}
    owners = [item.get("owned_by") for item in answer.get("data") or () if isinstance(item, dict)]
    if found := next((kind for owner, kind in _OWNERS.items() if owner in owners), None):
        return _BY_KIND[found]
    if "version" in await http.maybe(address, "/api/version"):
        return _BY_KIND["ollama"]
    if "data" not in answer:
        raise ModelNotFound(
            f"{address.url} lists no models at {address.url}/models: the address of most servers "
            "ends with /v1"
        )
    return OTHER
