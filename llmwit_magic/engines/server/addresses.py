"""Where a model on a server is: the name that a person gives becomes a URL, a model and a key."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from ...contract.record import Record
from ...contract.urls import checked_url, is_url
from ...errors import InvalidInput, ModelNotFound

Kind = Literal[
    "llama-server", "vllm", "sglang", "ollama", "lmstudio", "openai", "llmwit-magic", "other"
]  # fmt: skip

_NAMED = re.compile(r"(?P<server>[A-Za-z0-9_][\w.-]*)::(?P<model>.*)", re.DOTALL)
OWN = "local"
"""The name before `::` of the servers that this package has started itself."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The hosts that are this machine. No proxy stands between, and a key needs no encryption."""
SHORTEST_SECRET = 16
"""A shorter key may be a word, such as `ollama`: it is kept out of errors, but not out of texts."""
KEYRING_SERVICE = "llmwit-magic"
"""The service under which the system's keyring keeps a server's key, with the server's name."""
KEYRING_SECONDS = 30.0


def _variable(name: Any) -> Any:
    """The name of an environment variable. Another value may be a key, so it is not repeated."""
    if name is None or (isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)):
        return name
    raise InvalidInput(
        "api_key_env is not the name of an environment variable: put the key into a variable, and "
        "give the variable's name, such as LAB_KEY"
    )


class ServerConfig(Record):
    """A server as a person configures it."""

    url: str = Field(description="the address that OpenAI's clients would take, such as "
                     "http://gpu-box:8000/v1")  # fmt: skip
    api_key_env: Annotated[str | None, BeforeValidator(_variable)] = Field(
        default=None, description="the environment variable that holds the key"
    )
    api_key_file: str | None = Field(
        default=None, description="the file that holds the key, in the place of a variable"
    )
    kind: Kind | None = Field(
        default=None, description="what runs there; without it, the server is asked"
    )
    plain_http: bool = Field(
        default=False, description="send the key without encryption to another machine too"
    )
    model_sha256: str | None = Field(
        default=None, description="of a server of our own: the hash of its model's file"
    )


@dataclass(frozen=True, slots=True)
class Address:
    """A model on a server."""

    given: str
    """The name as it was given, for messages and the log."""
    url: str
    """The server's address without a `/` at the end."""
    model: str
    """The model's name at the server; empty where the server has one model."""
    kind: Kind | None = None
    key: str | None = field(default=None, repr=False)
    model_sha256: str | None = None
    """The hash of the model's file, of a server of our own."""

    @property
    def host(self) -> str:
        """The host and the port, for people."""
        return urlsplit(self.url).netloc

    @property
    def secret(self) -> str | None:
        """The key, if it is long enough to be looked for in all that the server sends."""
        return self.key if self.key and len(self.key) >= SHORTEST_SECRET else None

    @property
    def sign(self) -> str:
        """What stands before the model in a name like the given one: `lab::` or `http://…#`."""
        server, colons, _ = self.given.partition("::")
        return f"{server}::" if colons and not is_url(self.given) else f"{self.url}#"

    @property
    def root(self) -> str:
        """The address without OpenAI's `/v1`, where the server's own functions stand."""
        return self.url.removesuffix("/v1")


def configured(servers: Mapping[str, Mapping[str, Any]]) -> dict[str, ServerConfig]:
    """The servers of a configuration, checked. Raises `InvalidInput` for one that is not valid.

    `local::NAME` is a server that this process, or the one that started it, has started itself.
    """
    found: dict[str, ServerConfig] = {}
    for name, values in servers.items():
        if name == OWN:
            raise InvalidInput(
                f"the server's name '{OWN}' belongs to %infer_llama_server: take another one"
            )
        if not name.startswith(f"{OWN}::") and not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name):
            raise InvalidInput(f"the server's name {name!r} is not valid: use letters and digits")
        try:
            found[name] = ServerConfig.model_validate(dict(values))
            checked_url(found[name].url)
            if found[name].model_sha256 and not name.startswith(f"{OWN}::"):
                raise InvalidInput("'model_sha256' is for servers of %infer_llama_server only")
        except (InvalidInput, TypeError, ValueError) as error:
            raise InvalidInput(f"the server '{name}': {error}") from None
    return found


def names_server(model: str) -> bool:
    """Whether a model's name leads to a server. No other name ever does."""
    return is_url(model) or _NAMED.fullmatch(model) is not None


def knows_server(model: str, servers: Mapping[str, ServerConfig]) -> bool:
    """Whether a name for which `names_server` holds leads to a URL or to one of these servers."""
    server = model.partition("::")[0]
    return is_url(model) or server == OWN or server in servers


def address_of(model: str, servers: Mapping[str, ServerConfig]) -> Address:
    """The address of a name for which `names_server` holds.

    Raises `ModelNotFound` for a server that is not configured, and `InvalidInput` for an address
    that cannot be used.
    """
    match = None if is_url(model) else _NAMED.fullmatch(model)
    if match is None:
        url, _, name = model.partition("#")
        return Address(model, checked_url(url), name)
    if match["server"] == OWN:
        return _own_address(match["model"], servers)
    config = servers.get(match["server"])
    if config is None:
        known = ", ".join(sorted(servers)) or "none"
        raise ModelNotFound(
            f"no server '{match['server']}' is configured (known: {known}): "
            f"%config InferMagics.servers = {{'{match['server']}': {{'url': 'http://…/v1'}}}}"
        )
    url = checked_url(config.url)
    key = _key(match["server"], config)
    if key is not None and not (url.startswith("https:") or config.plain_http or _is_loopback(url)):
        raise InvalidInput(
            f"the key of the server '{match['server']}' would be sent unencrypted to "
            f"{urlsplit(url).netloc}: use https, or 'plain_http': True if the network may see it"
        )
    return Address(model, url, match["model"], config.kind, key)


def own_servers(servers: Mapping[str, ServerConfig]) -> list[str]:
    """The names of the servers of our own, as `local::NAME`; the newest is the last one."""
    return [name for name in servers if name.startswith(f"{OWN}::")]


def _own_address(name: str, servers: Mapping[str, ServerConfig]) -> Address:
    """The address of the server of our own with that name; an empty one is the newest."""
    running = own_servers(servers)
    given = f"{OWN}::{name}" if name else (running or [""])[-1]
    config = servers.get(given)
    if config is None:
        known = ", ".join(running) or "none"
        raise ModelNotFound(
            f"no llama-server {OWN}::{name} runs here (running: {known}): "
            "%infer_llama_server MODEL starts one"
        )
    key = _key(given, config)
    return Address(given, checked_url(config.url), "", config.kind, key, config.model_sha256)


def _key(name: str, config: ServerConfig) -> str | None:
    """The server's key: from its environment variable, its file, or the system's keyring."""
    if config.api_key_env is not None:
        key = os.environ.get(config.api_key_env, "").strip()
        if not key:  # what is not set may be a key that looks like a name, such as hf_…
            raise InvalidInput(
                f"the server '{name}' takes its key from an environment variable, and the one "
                "that its api_key_env names is not set"
            )
        return _sendable(key, f"the environment variable {config.api_key_env}")
    if config.api_key_file is not None:
        try:
            key = Path(config.api_key_file).read_text("utf-8", "replace").strip()
        except OSError as error:
            raise InvalidInput(
                f"the file with the key of the server '{name}' cannot be read: "
                f"{error.strerror or error}"
            ) from None
        return _sendable(key, "the key's file")
    found = _of_keyring(name, int(time.monotonic() // KEYRING_SECONDS))
    return _sendable(found, "the keyring") if found else None


@lru_cache(maxsize=64)
def _of_keyring(name: str, moment: int) -> str:
    """The server's key in the system's keyring; empty where there is none.

    A `moment` is `KEYRING_SECONDS` long. In it, the keyring is asked once: it may take long, and a
    batch has many rows.
    """
    try:
        import keyring

        return str(keyring.get_password(KEYRING_SERVICE, name) or "").strip()
    except Exception:  # no such package, a machine without a keyring, or one that is locked
        return ""


def _sendable(key: str, place: str) -> str:
    if not key.isascii() or not key.isprintable():
        raise InvalidInput(f"the key in {place} has characters that no key can have")
    return key


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK
