"""A file that needs a computation which ctransformers leaves out is refused by the key."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.engines.backends.ctransformers.checks import check_runnable
from llmwit_magic.engines.backends.ctransformers.computation import linear_scale
from llmwit_magic.errors import ModelNotSupported
from llmwit_magic.models.gguf import Header, read_header
from tests.support.headers import with_metadata
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Header:
    """A llama with heads of 16 dimensions, trained with 256 tokens."""
    return read_header(write_llama_gguf(folder / "llama.gguf"))


@pytest.fixture(scope="module")
def falcon(folder: Path) -> Header:
    return read_header(write_falcon_gguf(folder / "falcon.gguf"))


def refusal(header: Header) -> str:
    with pytest.raises(ModelNotSupported) as caught:
        check_runnable(header)
    assert type(caught.value) is ModelNotSupported  # not `ModelDamaged`
    return str(caught.value)


# : Name, values that change the computation, values that leave it as it is.
KEYS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "attention.causal": ((False,), (True,)),
    "attention.clamp_kqv": ((8.0,), (0.0,)),
    "attention.max_alibi_bias": ((8.0,), (0.0,)),
    "attention.output_scale": ((0.5,), (0.0, 1.0)),
    "attention.scale": ((1.0, 0.2500625, math.nan), (0.0, 0.25)),
    "attention.sliding_window": ((1, 255), (0, 256, 4096)),
    "attention.temperature_length": ((1024,), (0,)),
    "attention.temperature_scale": ((0.1,), (0.0,)),
    "attention.value_scale": ((0.5,), (0.0, 1.0)),
    "attn_logit_softcapping": ((50.0,), (0.0,)),
    "embedding_scale": ((12.0,), (0.0, 1.0)),
    "final_logit_softcapping": ((30.0,), (0.0,)),
    "logit_scale": ((0.0625,), (0.0, 1.0)),
    "nextn_predict_layers": ((1,), (0,)),
    "rescale_every_n_layers": ((6,), (0,)),
    "residual_scale": ((0.22,), (0.0, 1.0)),
    "rope.scaling.alpha": ((1000.0,), (0.0, 1.0)),
    "rope.scaling.attn_factor": ((2.0, 0.0, math.nan), (1.0,)),
    "rope.scaling.yarn_attn_factor": ((2.0,), (1.0,)),
    "rope.scaling.yarn_ext_factor": ((1.0,), (0.0, -1.0)),
    "rope.scaling.yarn_log_multiplier": ((0.1,), (0.0,)),
}


@pytest.mark.parametrize("name", KEYS)
def test_values_that_change_the_computation(name: str, llama: Header, falcon: Header) -> None:
    """A value that changes the computation is refused with its key. A neutral value is not."""
    changing, neutral = KEYS[name]
    for header in (llama, falcon):
        key = f"{header.architecture}.{name}"
        for value in changing:
            message = refusal(with_metadata(header, {key: value}))
            assert f"'{key}' is {value}: ctransformers does not know it" in message
        for value in neutral:
            check_runnable(with_metadata(header, {key: value}))


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("value", ["text", array("f", [0.0, 1.0]), [b"1"]])
def test_values_of_a_wrong_type(name: str, value: Any, llama: Header) -> None:
    """A value that is no single number is refused too, without any other error."""
    assert f"'llama.{name}'" in refusal(with_metadata(llama, {f"llama.{name}": value}))


def test_keys_without_an_effect(llama: Header) -> None:
    """A yarn ramp that is off, the length before a linear scaling, and labels change nothing."""
    check_runnable(
        with_metadata(
            llama,
            {
                "llama.rope.scaling.yarn_beta_fast": 32.0,
                "llama.rope.scaling.yarn_beta_slow": 1.0,
                "llama.rope.scaling.original_context_length": 128,
                "llama.rope.scaling.finetuned": True,
                "llama.pooling_type": 1,
            },
        )
    )


def test_other_rope_scalings(llama: Header) -> None:
    """The message names yarn."""
    for kind in ("yarn", "longrope"):
        header = with_metadata(llama, {"llama.rope.scaling.type": kind})
        assert f"rope scaling '{kind}'" in refusal(header)
    check_runnable(with_metadata(llama, {"llama.rope.scaling.type": "none"}))


def test_mixture_of_experts(llama: Header) -> None:
    """A mixture of experts is refused by that name. Zero experts are a dense model."""
    header = with_metadata(llama, {"llama.expert_count": 8})
    assert "mixture of experts" in refusal(header)
    check_runnable(with_metadata(llama, {"llama.expert_count": 0}))


@pytest.mark.parametrize(
    ("kind", "factor", "old", "scale"),
    [
        (None, None, None, 1.0),
        (None, 4.0, None, 4.0),
        (None, None, 2.0, 2.0),
        (None, 4.0, 2.0, 4.0),
        (None, 1.0, 2.0, 1.0),
        (None, 0.0, 2.0, 1.0),
        (None, None, 0.0, 1.0),
        ("linear", 4.0, 2.0, 4.0),
        ("none", None, 2.0, 1.0),
        ("none", 4.0, 2.0, 1.0),
    ],
)
def test_linear_scale(
    kind: str | None, factor: float | None, old: float | None, scale: float, llama: Header
) -> None:
    """The newer key goes first.

    Its 0 means no scaling. With the type `none`, neither key counts.
    """
    changes = {"scaling.type": kind, "scaling.factor": factor, "scale_linear": old}
    header = with_metadata(llama, {f"llama.rope.{name}": v for name, v in changes.items()})
    check_runnable(header)
    assert linear_scale(header) == scale
