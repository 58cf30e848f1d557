"""URLs of servers: which names are some, and what none may have, since a row of the log has it."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..errors import InvalidInput


def is_url(model: str) -> bool:
    """Whether a model's name is the URL of a server."""
    return model[:8].lower().startswith(("http://", "https://"))


def checked_url(url: str) -> str:
    """The address of a server without a `/` at the end.

    Raises `InvalidInput` for one that cannot be used. A password or a key may stand in it, so the
    error names only its host.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # its message may repeat any part
        raise InvalidInput(
            "the server's address is not valid: write it as http://host:port/v1"
        ) from None
    at = f" at {host}" if host else ""
    if "@" in parts.netloc:
        raise InvalidInput(
            f"the server's address{at} has a user name or a password in it: put the key into "
            "an environment variable, and name that with 'api_key_env'"
        )
    if parts.query:
        raise InvalidInput(
            f"the server's address{at} has a query (what follows the '?') in it, which no server "
            "gets: leave it out, and name the variable of a key with 'api_key_env'"
        )
    if parts.scheme not in ("http", "https") or not host or parts.fragment:
        raise InvalidInput(
            f"the server's address{at} is not valid: write it as http://host:port/v1"
        )
    return url.rstrip("/")


def checked_model(model: str) -> str:
    """The name of a model. Raises `InvalidInput` for a URL that `checked_url` refuses."""
    if is_url(model):
        checked_url(model.partition("#")[0])
    return model
