"""A language model of a GGUF file, computed by numpy: what an engine's logits are compared with.

Written from the descriptions of the models, in 64-bit numbers. It rounds where a model's numbers
leave the precision of its weights in every engine made of ggml: keys and values are kept as
float16, they are multiplied with float16, and GELU is looked up for a float16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from llmwit_magic.models.gguf import read_header

Numbers = NDArray[np.floating[Any]]

HALVES = frozenset({
    "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3", "olmo2", "gpt-oss",
})  # fmt: skip
"""Architectures whose rotations turn number i with number i + n / 2; others turn neighbours."""
GEMMA = frozenset({"gemma2", "gemma3"})
WINDOW_PERIOD = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}
"""Of so many blocks, all but the last one see only a window of the text."""


class NumpyModel:
    """The model of a file. `kind` is the type of the numbers that are computed with."""

    def __init__(self, path: Path, kind: type = np.float64) -> None:
        header = read_header(path)
        self.name = header.architecture
        self.value = header.hyperparameter
        self.kind = kind
        data = np.memmap(path, np.uint8, "r", header.data_offset)
        self.tensors: dict[str, Numbers] = {}
        for tensor in header.tensors:
            quantisation = GGMLQuantizationType[tensor.type.name]
            raw = data[tensor.offset : tensor.offset + tensor.nbytes]
            if quantisation == GGMLQuantizationType.F32:
                values = raw.view(np.float32)
            else:
                values = dequantize(raw, quantisation)
            self.tensors[tensor.name] = values.reshape(tensor.shape[::-1]).astype(kind, copy=False)
        self.heads = self.value("attention.head_count")
        self.kv_heads = self.value("attention.head_count_kv", self.heads)
        width = self.value("embedding_length")
        self.head = self.value("attention.key_length", width // self.heads)
        self.rotated = self.value("rope.dimension_count", self.head)

    def logits(self, ids: Sequence[int]) -> Numbers:
        """After each of the tokens, shape (tokens, vocabulary)."""
        x = self.tensors["token_embd.weight"][list(ids)]
        if self.name in GEMMA:
            x = x * math.sqrt(x.shape[1])
        x = x * self.value("embedding_scale", 1.0)
        for number in range(self.value("block_count")):
            x = self._block(x, number)
        output = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
        logits = self._norm(x, "output_norm") @ output.T / self.value("logit_scale", 1.0)
        return self._capped(logits, "final_logit_softcapping")

    def _block(self, x: Numbers, number: int) -> Numbers:
        at = f"blk.{number}."
        latent = f"{at}attn_kv_a_mqa.weight" in self.tensors
        attend = self._latent_attention if latent else self._attention
        scale = self.value("residual_scale", 1.0)
        normed_after = f"{at}post_ffw_norm.weight" in self.tensors
        y = attend(self._norm(x, f"{at}attn_norm"), at, number)
        if normed_after:
            y = self._norm(y, f"{at}post_attention_norm")
        x = x + y * scale
        before = "post_attention_norm" if self.name == "gpt-oss" else "ffn_norm"
        y = self._norm(x, f"{at}{before}")
        chosen = f"{at}ffn_gate_inp.weight" in self.tensors
        y = self._experts(y, at) if chosen else self._feed_forward(y, at)
        if normed_after:
            y = self._norm(y, f"{at}post_ffw_norm")
        return x + y * scale

    # Attention

    def _attention(self, x: Numbers, at: str, number: int) -> Numbers:
        count = len(x)
        if f"{at}attn_qkv.weight" in self.tensors:
            parts = [self.heads * self.head, (self.heads + self.kv_heads) * self.head]
            q, k, v = np.split(self._linear(x, f"{at}attn_qkv"), parts, axis=1)
        else:
            q, k, v = (self._linear(x, f"{at}attn_{name}") for name in "qkv")
        if self.name == "olmo2":  # over all heads together
            q, k = self._norm(q, f"{at}attn_q_norm"), self._norm(k, f"{at}attn_k_norm")
        q, k, v = (y.reshape(count, -1, self.head) for y in (q, k, v))
        if self.name != "olmo2":
            q, k = self._norm(q, f"{at}attn_q_norm"), self._norm(k, f"{at}attn_k_norm")
        period = WINDOW_PERIOD.get(self.name)
        near = period is not None and number % period != period - 1
        q, k = self._rotate(q, near), self._rotate(k, near)
        group = self.heads // self.kv_heads
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        window = self.value("attention.sliding_window") if near else None
        scale = self.value("attention.scale", 1 / math.sqrt(self.head))
        y = self._attend(q, k, v, scale, window, self.tensors.get(f"{at}attn_sinks.weight"))
        return self._linear(y.reshape(count, -1), f"{at}attn_output")

    def _latent_attention(self, x: Numbers, at: str, number: int) -> Numbers:
        """Multi-head latent attention, of the DeepSeek-V2 report, with keys decompressed."""
        rank = self.value("attention.kv_lora_rank")
        size = self.value("attention.key_length_mla")
        q = self._norm(self._linear(x, f"{at}attn_q_a"), f"{at}attn_q_a_norm")
        q = self._linear(q, f"{at}attn_q_b").reshape(len(x), self.heads, size)
        plain = size - self.rotated
        kept = self._linear(x, f"{at}attn_kv_a_mqa")
        latent = self._norm(kept[:, :rank], f"{at}attn_kv_a_norm")
        # One key of all heads is kept: each head's own one is folded into the query.
        q = np.concatenate([
            np.einsum("thp,hrp->thr", q[..., :plain], self.tensors[f"{at}attn_k_b.weight"]),
            self._rotate(q[..., plain:]),
        ], axis=2)  # fmt: skip
        k = np.concatenate([latent[:, None], self._rotate(kept[:, None, rank:])], axis=2)
        k = np.repeat(k, self.heads, axis=1)
        # Section 2.1.2 of the report on YaRN's temperature, as DeepSeek applies it to the scores.
        factor = self.value("rope.scaling.factor")
        stretch = 1 + self.value("rope.scaling.yarn_log_multiplier") * math.log(factor)
        scale = stretch**2 / math.sqrt(size)
        y = self._attend(q, k, np.repeat(latent[:, None], self.heads, axis=1), scale)
        y = np.einsum("thr,hvr->thv", y, self.tensors[f"{at}attn_v_b.weight"])
        return self._linear(y.reshape(len(x), -1), f"{at}attn_output")

    def _attend(
        self, q: Numbers, k: Numbers, v: Numbers, scale: float,
        window: int | None = None, sinks: Numbers | None = None,
    ) -> Numbers:  # fmt: skip
        """All of shape (tokens, heads, numbers)."""
        q, before = (q * scale, 1.0) if self.name in GEMMA | {"phi3"} else (q, scale)
        scores = np.einsum("thd,shd->hts", _half(q), _half(k)) * before
        scores = self._capped(scores, "attn_logit_softcapping")
        distance = np.arange(len(q))[:, None] - np.arange(len(q))[None]
        hidden = (distance < 0) | (distance >= (window or len(q)))
        scores = np.where(hidden, -np.inf, scores)
        if sinks is not None:  # a place to look at that holds nothing
            column = np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
            scores = np.concatenate([scores, column], axis=2)
        weights = _softmax(scores)[..., : len(q)]
        return np.einsum("hts,shd->thd", _half(weights), _half(v)).astype(self.kind)

    def _rotate(self, x: Numbers, near: bool = False) -> Numbers:
        """Rotary positions over the first numbers of each head; `near` is in a block with a window."""
        count = self.rotated // 2
        own_base = near and self.name == "gemma3"
        base = 10000.0 if own_base else self.value("rope.freq_base")
        frequencies = base ** (-np.arange(count) / count)
        size = 1.0
        scaling = self.value("rope.scaling.type")
        if scaling == "linear" and not own_base:
            frequencies /= self.value("rope.scaling.factor")
        elif scaling == "yarn":
            frequencies = self._yarn(frequencies, base)
        for name in ("rope_freqs", "rope_factors_long"):  # the context is longer than the original
            if f"{name}.weight" in self.tensors:
                frequencies /= self.tensors[f"{name}.weight"]
                size = self.value("rope.scaling.attn_factor", 1.0)
        angles = (np.arange(len(x))[:, None] * frequencies)[:, None]
        cos, sin = size * np.cos(angles), size * np.sin(angles)
        halves = self.name in HALVES
        one, other = (
            (slice(0, count), slice(count, 2 * count))
            if halves
            else (slice(0, 2 * count, 2), slice(1, 2 * count, 2))
        )
        turned = x.copy()
        turned[..., one] = x[..., one] * cos - x[..., other] * sin
        turned[..., other] = x[..., one] * sin + x[..., other] * cos
        return turned

    def _yarn(self, frequencies: NDArray[Any], base: float) -> NDArray[Any]:
        """YaRN (Peng et al. 2023, section 3.2): waves that fit often into the context stay."""
        original = self.value("rope.scaling.original_context_length")

        def index(turns: float) -> float:
            return self.rotated * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(0, math.floor(index(32))), min(self.rotated - 1, math.ceil(index(1)))
        ramp = np.clip((np.arange(len(frequencies)) - low) / max(high - low, 0.001), 0, 1)
        return frequencies * (1 - ramp) + frequencies / self.value("rope.scaling.factor") * ramp

    # Layers between

    def _feed_forward(self, x: Numbers, at: str, kind: str = "") -> Numbers:
        if f"{at}ffn_gate{kind}.weight" in self.tensors:
            gate, up = (self._linear(x, f"{at}ffn_{name}{kind}") for name in ("gate", "up"))
        else:
            gate, up = np.split(self._linear(x, f"{at}ffn_up{kind}"), 2, axis=1)
        y = (_gelu(gate) if self.name in GEMMA else _silu(gate)) * up
        return self._linear(y.astype(self.kind), f"{at}ffn_down{kind}")

    def _experts(self, x: Numbers, at: str) -> Numbers:
        scores = self._linear(x, f"{at}ffn_gate_inp")
        used = self.value("expert_used_count")
        if self.value("expert_gating_func") == 2:
            probabilities = 1 / (1 + np.exp(-scores))
        else:
            probabilities = _softmax(scores)
        preferred = probabilities + self.tensors.get(f"{at}exp_probs_b.bias", 0)
        if groups := self.value("expert_group_count"):  # DeepSeek-V3: the best groups first
            grouped = preferred.reshape(len(x), groups, -1)
            best = np.sort(grouped, axis=2)[..., -2:].sum(axis=2)
            worst = np.argsort(-best, axis=1)[:, self.value("expert_group_used_count") :]
            np.put_along_axis(grouped, worst[..., None], -np.inf, axis=1)
            preferred = grouped.reshape(len(x), -1)
        chosen = np.argsort(-preferred, axis=1)[:, :used]
        weights = np.take_along_axis(probabilities, chosen, axis=1)
        if self.name in ("llama", "qwen3moe", "gpt-oss") or self.value("expert_weights_norm"):
            weights = weights / weights.sum(axis=1, keepdims=True)
        weights = weights * self.value("expert_weights_scale", 1.0)
        y = np.stack([
            sum(weight * self._expert(row, at, expert)
                for weight, expert in zip(weights[token], chosen[token], strict=True))
            for token, row in enumerate(x)
        ])  # fmt: skip
        if f"{at}ffn_up_shexp.weight" in self.tensors:
            shared = self._feed_forward(x, at, "_shexp")
            gate = self.tensors.get(f"{at}ffn_gate_inp_shexp.weight")
            y += shared if gate is None else shared / (1 + np.exp(-(x @ gate)))[:, None]
        return y

    def _expert(self, x: Numbers, at: str, expert: int) -> Numbers:
        def linear(y: Numbers, name: str) -> Numbers:
            bias = self.tensors.get(f"{at}ffn_{name}_exps.bias")
            product = self.tensors[f"{at}ffn_{name}_exps.weight"][expert] @ y
            return product if bias is None else product + bias[expert]

        gate, up = linear(x, "gate"), linear(x, "up")
        if self.name == "gpt-oss":  # its own kind of SwiGLU
            gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
            return linear(gate / (1 + np.exp(-1.702 * gate)) * (up + 1), "down")
        return linear(_silu(gate) * up, "down")

    def _linear(self, x: Numbers, name: str) -> Numbers:
        y = x @ self.tensors[f"{name}.weight"].T
        return y + self.tensors[f"{name}.bias"] if f"{name}.bias" in self.tensors else y

    def _norm(self, x: Numbers, name: str) -> Numbers:
        """Root mean square over the last dimension; what has no such norm stays as it is."""
        if f"{name}.weight" not in self.tensors:
            return x
        mean = np.mean(x * x, axis=-1, keepdims=True)
        epsilon = self.value("attention.layer_norm_rms_epsilon")
        return x / np.sqrt(mean + epsilon) * self.tensors[f"{name}.weight"]

    def _capped(self, x: Numbers, name: str) -> Numbers:
        cap = self.value(name)
        return cap * np.tanh(x / cap) if cap else x


def _half(x: Numbers) -> Numbers:
    return x.astype(np.float16).astype(x.dtype)


def _softmax(x: Numbers) -> Numbers:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _silu(x: Numbers) -> Numbers:
    return x / (1 + np.exp(-x))


def _gelu(x: Numbers) -> Numbers:
    x = _half(x)
    return _half(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
