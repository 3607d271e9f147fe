"""A decoder of the Llama family in torch, with gradients: the same arithmetic as the bundle's graphs, in f32.

Tokens before the subject's last one are cached once, so that a forward and backward pass costs the upper
layers on the few tokens after it, for many facts at a time. Padding is on the right and harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from mobifarm.workloads.models.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Past:
    """Keys and values [B, H, P, h] of one layer for a prefix."""

    key: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """residual [B, S, d] after the layer; key [B, S, f] and value [B, S, d], in- and output of ``down_proj``;
    past: keys and values of the attention."""

    residual: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    past: Past


@dataclass(frozen=True, slots=True)
class RankOneEdits:
    """One rank-one edit per sequence: value += (key·keys[b]) values[b]; keys [B, f], values [B, d]."""

    keys: torch.Tensor
    values: torch.Tensor


class _Layer:
    def __init__(self, checkpoint: Checkpoint, index: int) -> None:
        prefix = f"model.layers.{index}"

        def parameter(name: str) -> torch.Tensor:
            return torch.tensor(checkpoint.weight(f"{prefix}.{name}"))

        names = [f"self_attn.{p}_proj" for p in "qkv"]
        self.attention_norm = parameter("input_layernorm.weight")
        self.mlp_norm = parameter("post_attention_layernorm.weight")
        self.projection = torch.cat([parameter(f"{name}.weight") for name in names])
        self.bias = None
        if checkpoint.has(f"{prefix}.{names[0]}.bias"):
            self.bias = torch.cat([parameter(f"{name}.bias") for name in names])
        self.output = parameter("self_attn.o_proj.weight")
        self.gate_up = torch.cat([parameter(f"mlp.{name}_proj.weight") for name in ("gate", "up")])
        self.down = parameter("mlp.down_proj.weight")


class TorchDecoder:
    """The model of a checkpoint. Weights need no gradient; activations do where their inputs do."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        a = self.architecture = checkpoint.architecture
        self.embedding = torch.tensor(checkpoint.weight("model.embed_tokens.weight"))
        self.output = self.embedding if a.tied else torch.tensor(checkpoint.weight("lm_head.weight"))
        self.final_norm = torch.tensor(checkpoint.weight("model.norm.weight"))
        angles = torch.arange(a.max_positions)[:, None] * torch.tensor(checkpoint.inverse_frequencies)
        angles = torch.cat([angles, angles], dim=1)
        scaling = checkpoint.rotary_scaling
        self._cosines, self._sines = torch.cos(angles) * scaling, torch.sin(angles) * scaling
        self._layers = [_Layer(checkpoint, index) for index in range(a.layers)]

    def embed(self, token_ids: np.ndarray) -> torch.Tensor:
        """[B, T] int64 → [B, T, d]."""
        return self.embedding[torch.tensor(token_ids)]

    def run(
        self,
        residual: torch.Tensor,
        layers: Sequence[int],
        *,
        pasts: Sequence[Past] | None = None,
        past_lengths: torch.Tensor | None = None,
        edits: RankOneEdits | None = None,
    ) -> list[LayerOutput]:
        """Some layers in a row.

        Args:
            residual: [B, S, d], before the first of the layers.
            layers: indices, ascending without gaps.
            pasts: prefix of each of the layers, if any.
            past_lengths: [B] how many positions of the prefixes are real.
            edits: added to the first of the layers' ``down_proj``.
        """
        batch, length, _ = residual.shape
        mask = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, 1, length, length)
        first = torch.zeros(batch, dtype=torch.int64)
        if pasts is not None:
            assert past_lengths is not None
            first, steps = past_lengths, torch.arange(pasts[0].key.shape[2])
            real = (steps < first[:, None])[:, None, None].expand(batch, 1, length, len(steps))
            mask = torch.cat([real, mask], dim=3)
        positions = first[:, None] + torch.arange(length)
        rotary = self._cosines[positions][:, None], self._sines[positions][:, None]
        outputs = []
        for number, index in enumerate(layers):
            past = None if pasts is None else pasts[number]
            outputs.append(
                self._run_layer(
                    self._layers[index], residual, rotary, mask, past, edits if number == 0 else None
                )
            )
            residual = outputs[-1].residual
        return outputs

    def _run_layer(
        self,
        layer: _Layer,
        residual: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        past: Past | None,
        edits: RankOneEdits | None,
    ) -> LayerOutput:
        a = self.architecture
        batch, length, _ = residual.shape
        projected = functional.linear(self.norm(residual, layer.attention_norm), layer.projection, layer.bias)
        shape = (batch, length, a.heads + 2 * a.key_value_heads, a.head_dim)
        by_head = projected.reshape(shape).transpose(1, 2)
        values_from = a.heads + a.key_value_heads
        query, key, value = by_head[:, : a.heads], by_head[:, a.heads : values_from], by_head[:, values_from:]
        query, key = _rotate(query, *rotary), _rotate(key, *rotary)
        own = Past(key, value)
        if past is not None:
            key, value = torch.cat([past.key, key], dim=2), torch.cat([past.value, value], dim=2)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        residual = residual + functional.linear(
            mixed.transpose(1, 2).reshape(batch, length, -1), layer.output
        )
        gate, up = functional.linear(self.norm(residual, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
        mlp_key = functional.silu(gate) * up
        mlp_value = functional.linear(mlp_key, layer.down)
        if edits is not None:
            overlap = (mlp_key * edits.keys[:, None]).sum(dim=-1, keepdim=True)
            mlp_value = mlp_value + overlap * edits.values[:, None]
        return LayerOutput(residual + mlp_value, mlp_key, mlp_value, own)

    def down_projections(self) -> list[torch.Tensor]:
        """Weights [d, f] of ``down_proj``, by layer."""
        return [layer.down for layer in self._layers]

    def norm(self, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm."""
        return functional.rms_norm(states, (states.shape[-1],), weight, self.architecture.rms_epsilon)

    def log_softmax(self, states: torch.Tensor) -> torch.Tensor:
        """Final residual [..., d] → log-probabilities [..., V]."""
        logits = functional.linear(self.norm(states, self.final_norm), self.output)
        return functional.log_softmax(logits, dim=-1)


def _rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    left, right = states.chunk(2, dim=-1)
    return states * cosines + torch.cat([-right, left], dim=-1) * sines
