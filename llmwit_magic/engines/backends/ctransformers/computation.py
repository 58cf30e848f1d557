"""What a model needs computed that ctransformers does not compute, and how positions are scaled.

Where a file asks for such a thing, ctransformers computes something else and does
not say so. So the file is refused. The keys mean what they mean to llama.cpp, in
its `llama-model.cpp`, `llama-context.cpp` and `models/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ....models.gguf import Header

# The values that change nothing, for each key after `<architecture>.`. The first value is the one
# that ctransformers computes with. The others mean the same.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.output_scale": (1.0, 0.0),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0.0,),
    "attention.value_scale": (1.0, 0.0),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (1.0, 0.0),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (1.0, 0.0),
    "nextn_predict_layers": (0,),
    "rescale_every_n_layers": (0,),
    "residual_scale": (1.0, 0.0),
    "rope.scaling.alpha": (1.0, 0.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    # Without this factor, the beginning and end of yarn's ramp (`yarn_beta_…`) mean nothing.
    "rope.scaling.yarn_ext_factor": (0.0, -1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}


def unlike_ctransformers(header: Header) -> str | None:
    """What the file asks for that ctransformers would leave out, or None.

    The sizes of the model have been checked before.
    """
    if header.hyperparameter("expert_count", 0):
        return "a mixture of experts: ctransformers runs dense models only"
    scaling = header.hyperparameter("rope.scaling.type", "linear")
    if scaling not in ("none", "linear"):
        return f"rope scaling '{scaling}': ctransformers knows only the linear one"
    for name, neutral in _NEUTRAL.items():
        value = header.hyperparameter(name, neutral[0])
        if value not in neutral:
            return _asks(header, name, value, neutral[0])
    size = header.hyperparameter("embedding_length") // header.hyperparameter(
        "attention.head_count"
    )
    scale, usual = header.hyperparameter("attention.scale", 0.0), 1 / math.sqrt(size)
    if scale != 0 and not (isinstance(scale, float) and math.isclose(scale, usual, rel_tol=1e-5)):
        return _asks(header, "attention.scale", scale, usual)
    window = header.hyperparameter("attention.sliding_window", 0)
    length = header.hyperparameter("context_length")
    if window != 0 and not (isinstance(window, int) and window >= length):
        return _asks(header, "attention.sliding_window", window, length)
    return None


def _asks(header: Header, name: str, value: Any, instead: Any) -> str:
    return (
        f"'{header.architecture}.{name}' is {value}: ctransformers does not know it and would "
        f"compute with {instead}"
    )


def linear_scale(header: Header) -> float:
    """The number by which llama.cpp divides positions; 1 is no scaling.

    A file that names no type of scaling means the linear one. With the type `none`, no factor
    counts. `scaling.factor` goes before `scale_linear`, the key that ctransformers knows. A
    factor of 0 is no scaling.
    """
    if header.hyperparameter("rope.scaling.type", "linear") == "none":
        return 1.0
    factor = header.hyperparameter("rope.scaling.factor")
    if factor is None:
        factor = header.hyperparameter("rope.scale_linear", 1.0)
    return float(factor) or 1.0
