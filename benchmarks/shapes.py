"""What a constraint costs: each token of a record of ten fields, against one without a constraint."""

from __future__ import annotations

import json
import time

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.answer_mask import AnswerMask
from llmwit_magic.engines.backends.ctransformers.evaluator import CTransformersEvaluator
from llmwit_magic.engines.constraints import ConstraintVocabulary
from llmwit_magic.engines.local.model_files import LocalModel
from llmwit_magic.engines.sequence import generate
from llmwit_magic.engines.text_parts import TextParts
from llmwit_magic.engines.threads import AdaptiveThreads
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.tokenizers.building import build_tokenizer

from .compare import Figures, Say, Size
from .loop import TimedModel
from .ways import CONTEXT_LENGTH

FIELDS = {
    "title": {"type": "string", "minLength": 20},
    "author": {"type": "string", "minLength": 10, "maxLength": 40},
    "year": {"type": "integer", "minimum": 1500, "maximum": 2030},
    "language": {"enum": ["English", "French", "German", "Japanese", "other"]},
    "pages": {"type": "integer"},
    "price": {"type": "number", "minimum": 0},
    "published": {"type": "string", "format": "date"},
    "available": {"type": "boolean"},
    "keywords": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 5},
    "summary": {"type": "string", "minLength": 80},
}
SCHEMA = {
    "type": "object", "properties": FIELDS, "required": list(FIELDS), "additionalProperties": False
}  # fmt: skip
PROMPT = "A book as a JSON record:"


def constraint(found: LocalModel, size: Size, say: Say) -> Figures:
    """Milliseconds per token that are not its evaluation, and what comes before the first run.

    The figure that counts is the last one: how much of the time of a token without a constraint
    the constraint adds.
    """
    tokenizer = build_tokenizer(read_header(found.source).metadata)
    model = CTransformersEvaluator(
        str(found.file), model_type=None, context_length=CONTEXT_LENGTH, gpu_layers=0
    )
    threads = AdaptiveThreads()
    wanted = Constraint(kind="json_schema", source=json.dumps(SCHEMA))
    figures: Figures = {}

    def keep(what: str, way: str, value: float) -> None:
        figures.setdefault(what, {}).setdefault(way, []).append(value)

    for number in range(size.rounds):
        say(f"constraint, round {number + 1} of {size.rounds}")
        began = time.perf_counter()
        vocabulary = ConstraintVocabulary(tokenizer)
        keep("before a model's first constraint, ms", "vocabulary", _since(began))
        began = time.perf_counter()
        vocabulary.mask(wanted)
        keep("before a constraint's first run, ms", "grammar", _since(began))
        spent = {}
        for name, mask in (
            ("without", None), ("ten fields", AnswerMask(vocabulary.mask(wanted), vocabulary, None))
        ):  # fmt: skip
            timed = TimedModel(model)
            params = InferencingParams(max_tokens=size.tokens, seed=number)
            events = generate(
                timed, tokenizer, tokenizer.encode(PROMPT), params, TextParts((), []),
                threads=threads, top_logprobs=None, mask=mask,
                report=lambda progress: None, cancelled=lambda: False,
            )  # fmt: skip
            next(events)  # the prompt, and the first token
            began = time.perf_counter()
            tokens = max(1, sum(1 for _ in events) - 1)  # the end is no token
            spent[name] = (_since(began) - 1000 * timed.seconds) / tokens
            keep("a token: all but its evaluation, ms", name, spent[name])
            keep("a token: its evaluation, ms", name, 1000 * timed.seconds / tokens)
        whole = figures["a token: its evaluation, ms"]["without"][-1] + spent["without"]
        added = 100 * (spent["ten fields"] - spent["without"]) / whole
        keep("a constraint adds to a token's time, %", "ten fields", added)
    return figures


def _since(began: float) -> float:
    """Milliseconds."""
    return 1000 * (time.perf_counter() - began)
