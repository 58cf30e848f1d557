"""`python -m llmwit_magic http`: the HTTP server."""

from __future__ import annotations

import sys
from importlib.util import find_spec

USAGE = "usage: python -m llmwit_magic http [--help]"


def main() -> int:
    """Carry the command out. Returns the exit status."""
    if sys.argv[1:2] != ["http"]:
        print(USAGE, file=sys.stderr)
        return 2
    if not (find_spec("starlette") and find_spec("uvicorn")):
        print('the server needs an extra: pip install "llmwit-magic[http]"', file=sys.stderr)
        return 2
    from .serving.http_command import main as serve

    return serve(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
