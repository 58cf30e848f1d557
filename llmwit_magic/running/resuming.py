"""What a batch need not run again: rows of the log, and rows that are equal to another one."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..contract.record import lists
from ..contract.request import Request
from ..contract.spans import Spans
from ..contract.wit import InferencingParams, ModelInfo
from ..errors import LogError
from ..runlog.log import RunLog
from ..runlog.rows import Row, request_row
from .row_settings import OF_REQUESTS

RESULTS = ("text", "finish_reason", "finish_detail", "prompt_token_count",
           "generated_token_count", "status", "error_type", "error_message", "run_id")  # fmt: skip
"""The columns of the log that a batch adds to its DataFrame."""
RESULTS_OF_SOME = ("reasoning",)
"""Further ones, which it adds only where a row has a value for them."""
VALUES = ("value", "value_error", "choice_scores")
"""Further ones, of which it makes the typed columns where the batch has a constraint, and the
probabilities of choices."""
KEPT = (*RESULTS, *RESULTS_OF_SOME, *VALUES)

_SAME = ("prompt", "system", "history", "chat", "chat_template", "template_options", "control_tokens",
         "model_type",
         "context_length_requested", "content_filters", "constraint_hash", "continuation",
         "prompt_logprobs", "probabilities_requested", "normalize", "end_of_text", "stop", *(name for name in InferencingParams.model_fields if name not in ("stop", "seed")),
         "seed")  # fmt: skip
"""The columns in which a row of the log must equal a request to be taken for its answer. Beside
them, the engine and the hash of the model must be the same. Where the engine knows no hash, the
name and the path must be: a name may lead to another server or model than it did. An exact request
takes exact rows only, but for servers, which promise none. The seed stands last."""
_ALSO = ("model", "model_path", "model_sha256", "engine", "exact", "gpu_layers", "data_spans")
_READ = (*_SAME, *KEPT)


class KnownRows:
    """The rows of a batch in the log that ended well. Each serves one row of the DataFrame.

    The log may have a million of them. So only a hash and a number is kept of each, and the rest
    is read when it is needed.
    """

    def __init__(
        self,
        log: RunLog,
        request: Request,
        models: Mapping[str, ModelInfo],
        seeded: bool | None = None,
    ) -> None:
        """`models` are the models of the batch by the names that its requests have. `seeded` says
        whether its rows have seeds; by default, whether the request has one."""
        self._log = log
        self._seeded = request.params.seed is not None if seeded is None else seeded
        self._numbers: dict[int, list[int]] = defaultdict(list)
        self._spans: dict[int, Spans] = {}
        """The spans of data that kept a control token from being recognised, by run."""
        with suppress(LogError):  # without a readable log, all rows are run again
            for page in log.finished_pages(request.group_id or "", (*_SAME, *_ALSO)):
                for number, *values in page:
                    model, path, sha256, engine, exact, layers, spans = values[len(_SAME) :]
                    # A server says nothing of GPU layers; see `DeviceInfo.is_server`.
                    exact_enough = exact != 0 or not request.exact or layers is None
                    if not _serves(models, model, path, sha256, engine, exact_enough):
                        continue
                    self._numbers[hash(self._key(values[: len(_SAME)]))].append(number)
                    if spans:
                        self._spans[number] = lists(json.loads(spans))

    def _key(self, values: Sequence[Any]) -> tuple[Any, ...]:
        # Where the request leaves the seed open, a row of any seed will do.
        return (*values[:-1], values[-1] if self._seeded else None)

    def take(self, requests: Sequence[Request]) -> list[Row | None]:
        """A row of the log for each request, or None. No row is taken twice."""
        if not self._numbers:
            return [None] * len(requests)
        keys = []
        for request in requests:
            row = request_row(request)
            keys.append(self._key([row[name] for name in _SAME]))
        chosen = [
            self._choose(hash(key), wanted) for key, wanted in zip(keys, requests, strict=True)
        ]
        found: dict[int, Row] = {}
        with suppress(LogError):
            numbers = [number for number in chosen if number is not None]
            for values in self._log.numbered(numbers, _READ):
                row = dict(zip(_READ, values, strict=True))
                found[row["run_id"]] = row
        rows: list[Row | None] = []
        for key, number in zip(keys, chosen, strict=True):
            taken = found.get(number) if number is not None else None
            # Two keys may have the same hash.
            same = taken is not None and self._key([taken[name] for name in _SAME]) == key
            rows.append({name: taken[name] for name in KEPT} if taken and same else None)
        return rows

    def _choose(self, key: int, request: Request) -> int | None:
        numbers = self._numbers.get(key, [])
        for place, number in enumerate(numbers):
            # Other values may make the same text. What was data in the earlier run, where that
            # mattered, must be data in this one.
            if set(self._spans.get(number, ())) <= set(request.data_spans):
                return numbers.pop(place)
        return None


def _serves(
    models: Mapping[str, ModelInfo], name: str, path: str | None, sha256: str | None,
    engine: str | None, exact_enough: bool,
) -> bool:  # fmt: skip
    """Whether a row of the log with that model answers for one of the batch's models."""
    ran = engine or "ctransformers"  # version 0.1 had no other
    return any(
        sha256 == info.sha256
        and (exact_enough if sha256 is not None else (name, path) == (given, info.path))
        for given, info in models.items()
        if info.engine in (None, ran)
    )


class EqualRows:
    """Finds the rows of a batch that ask for the same as an earlier one.

    They do where a seed is given, or none is needed because the likeliest tokens are taken or
    nothing is generated. Their tags must be equal too, since a tag is how a person finds the run
    of a row.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}

    def first(self, place: int, request: Request) -> int:
        """The place of the first row that asks for the same; it is `place` for that row itself."""
        params = request.params
        draws = params.temperature != 0 and not request.is_scored
        if draws and params.seed is None:
            return place
        # All else is the same in all rows of a batch.
        said = (request.prompt, request.data_spans, request.history, sorted(request.tags.items()),
                params, [getattr(request, name) for name in sorted(OF_REQUESTS)])  # fmt: skip
        name = hashlib.blake2b(repr(said).encode("utf-8", "replace"), digest_size=16).digest()
        return self._first.setdefault(name, place)
