"""The addresses that a link in an answer may have: those that a browser reads as they look."""

from __future__ import annotations

import re
from urllib.parse import quote

_WEB = re.compile(
    r"(?P<scheme>https?)://(?P<host>[^/?#@:\[\]\\%]+)(?P<port>:\d{1,5})?(?P<rest>[/?#].*)?",
    re.IGNORECASE,
)
_MAIL = re.compile(r"mailto:[\w.+-]+@[a-z0-9-]+(\.[a-z0-9-]+)+", re.IGNORECASE | re.ASCII)
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", re.ASCII)
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.ASCII)
_DOTTED = re.compile(r"(0|[1-9]\d{0,2})(\.(0|[1-9]\d{0,2})){3}", re.ASCII)
_KEPT = "!$&'()*+,;=:@/?#[]%~"
"""What stays as it is behind the host. Other characters become percent signs and numbers."""


def safe_address(address: str) -> str | None:
    """The address in ASCII letters, as a browser reads it; None for one that is shown as text.

    It begins with http, https or mailto. It has no user name before its host, no escapes in its
    host, and no number that a browser would read as another host. A host in another script is
    shown as its punycode. An address of mail has no subject, text or further receivers.
    """
    if _MAIL.fullmatch(address):
        return address
    found = _WEB.fullmatch(address)
    if found is None or any(ord(character) <= 32 or character == "\\" for character in address):
        return None
    try:
        host = found["host"].encode("idna").decode().lower()
        rest = quote(found["rest"] or "", safe=_KEPT)
    except UnicodeError:  # a label that is empty or too long, or half of a character
        return None
    if not _HOST.fullmatch(host):
        return None
    last = host.rstrip(".").rpartition(".")[2]
    if _NUMBER.fullmatch(last) and not _DOTTED.fullmatch(host):
        return None
    return f"{found['scheme'].lower()}://{host}{found['port'] or ''}{rest}"
