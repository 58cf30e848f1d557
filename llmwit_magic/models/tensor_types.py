"""The types of the tensors in GGUF files, by their number in the file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorType:
    """How a tensor stores its elements: each block of `block` elements takes `size` bytes."""

    name: str
    block: int
    size: int


# All types that can be read. Which of them an engine can run is decided in `checks.py`.
TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 40),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
}
# Types that no engine here loads, so their sizes are not needed: ggml has given up the retired ones,
# and has only recently added the newest ones.
RETIRED_TYPES = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip
NEWEST_TYPES = {40: "NVFP4", 41: "Q1_0", 42: "Q2_0"}
# A greater number is no type: ggml numbers its types one by one, and its forks have hundreds.
MAX_TYPE = 1023


def unread_type(number: int) -> str | None:
    """A description of a type that is not in `TENSOR_TYPES`; None for a number that is no type."""
    if number in RETIRED_TYPES:
        return f"{RETIRED_TYPES[number]}, which ggml has given up"
    if number in NEWEST_TYPES:
        return f"{NEWEST_TYPES[number]}, newer than ctransformers"
    if number <= MAX_TYPE:
        return f"{number}, which this version does not know: newer than it, or of a fork of ggml"
    return None
