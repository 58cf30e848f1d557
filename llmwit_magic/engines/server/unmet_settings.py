"""Settings of a request that a server cannot honour, and what is said of them."""

from __future__ import annotations

import re
from collections.abc import Collection

from ...contract.events import Prepared
from ...contract.request import Request
from ...contract.wit import LARGEST_DRAWN_SEED
from ...errors import ConstraintNotSupported, InvalidInput

_OF_CONSTRAINTS = re.compile(
    r"schema|grammar|gbnf|ebnf|regex|pattern|response_format|structured|guided|format",
    re.IGNORECASE,
)
"""What a server speaks of where it refuses a constraint."""


def about_the_constraint(error: InvalidInput, request: Request, prepared: Prepared) -> InvalidInput:
    """The error of a refused request, of its own class where the server speaks of the constraint."""
    held = request.constraint is not None and "constraint" not in prepared.not_honoured
    if held and type(error) is InvalidInput and _OF_CONSTRAINTS.search(str(error)):
        return ConstraintNotSupported(str(error))
    return error


def refuse_local_settings(request: Request, loads: Collection[str]) -> None:
    """Raise `InvalidInput` for a setting that is about loading a model here."""
    fields = ("model_type", "engine", "context_length", "gpu_layers", "device", "threads",
              "chat_template")  # fmt: skip
    for name in fields:
        if name not in loads and getattr(request, name) != Request.model_fields[name].default:
            raise InvalidInput(
                f"{name}: a server has loaded its model already, and cannot honour it: leave it out"
            )


def refuse_unhonoured(request: Request, unmet: list[str], kind: str) -> None:
    """Raise `InvalidInput` for a setting that a person gave and the server cannot honour.

    A value that is the contract's default was not asked for by a person, and a seed may have been
    drawn. The row of the log says that these were not honoured.
    """
    if "unsupported" in request.accept:
        return
    standard = type(request.params)(temperature=request.params.temperature)
    for name in unmet:
        if name in ("top_logprobs", "template_options"):
            given = True
        elif name == "seed":
            given = (request.params.seed or 0) > LARGEST_DRAWN_SEED
        else:
            given = getattr(request.params, name) != getattr(standard, name)
        if given:
            raise InvalidInput(
                f"{name}: {kind} cannot honour it: leave it out, or --accept unsupported runs "
                "without it"
            )
