"""A bundle's decoder in torch, with gradients: the same arithmetic as the bundle's graphs, in f32.

Tokens before the subject's last one are cached once, so that a forward and backward pass costs the upper
layers on the few tokens after it, for many facts at a time. Padding is on the right and harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from mobifarm.workloads.models.checkpoint import Checkpoint, Rotary


@dataclass(frozen=True, slots=True)
class Past:
    """Keys and values [B, H, P, h] of one layer for a prefix."""

    key: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """residual [B, S, d] after the layer; state [B, S, w], what it is made of (see TorchDecoder.leave);
    key [B, S, f] and value [B, S, d], in- and output of ``down_proj``; past: keys and values of the
    attention."""

    residual: torch.Tensor
    state: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    past: Past


@dataclass(frozen=True, slots=True)
class RankOneEdits:
    """One rank-one edit per sequence: value += (key·keys[b]) values[b]; keys [B, f], values [B, d]."""

    keys: torch.Tensor
    values: torch.Tensor

    def of_key(self, key: torch.Tensor) -> torch.Tensor:
        """What is added for each key: [B, S, f] → [B, S, d]."""
        return (key * self.keys[:, None]).sum(dim=-1, keepdim=True) * self.values[:, None]


class _Layer:
    def __init__(self, checkpoint: Checkpoint, index: int) -> None:
        prefix = f"model.layers.{index}"

        def parameter(name: str) -> torch.Tensor:
            return torch.tensor(checkpoint.weight(f"{prefix}.{name}"))

        names = [f"self_attn.{p}_proj" for p in "qkv"]
        a = checkpoint.architecture
        self.attention_norm = parameter("input_layernorm.weight")
        self.post_attention_norm = self.post_mlp_norm = None
        if a.post_norms:
            self.post_attention_norm = parameter("post_attention_layernorm.weight")
            self.mlp_norm = parameter("pre_feedforward_layernorm.weight")
            self.post_mlp_norm = parameter("post_feedforward_layernorm.weight")
        else:
            self.mlp_norm = parameter("post_attention_layernorm.weight")
        self.query_norm = self.key_norm = None
        if a.query_key_norm:
            self.query_norm = parameter("self_attn.q_norm.weight")
            self.key_norm = parameter("self_attn.k_norm.weight")
        self.projection = torch.cat([parameter(f"{name}.weight") for name in names])
        self.bias = None
        if checkpoint.has(f"{prefix}.{names[0]}.bias"):
            self.bias = torch.cat([parameter(f"{name}.bias") for name in names])
        self.output = parameter("self_attn.o_proj.weight")
        self.output_bias = None
        if checkpoint.has(f"{prefix}.self_attn.o_proj.bias"):
            self.output_bias = parameter("self_attn.o_proj.bias")
        self.gate_up = torch.cat([parameter(f"mlp.{name}_proj.weight") for name in ("gate", "up")])
        self.down = parameter("mlp.down_proj.weight")


class TorchDecoder:
    """The model of a checkpoint. Weights need no gradient; activations do where their inputs do."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        a = self.architecture = checkpoint.architecture
        self.embedding = torch.tensor(checkpoint.weight("model.embed_tokens.weight"))
        self.output = self.embedding if a.tied else torch.tensor(checkpoint.weight("lm_head.weight"))
        self.final_norm = torch.tensor(checkpoint.weight("model.norm.weight"))
        local_rotary = checkpoint.local_rotary or checkpoint.rotary
        self._rotary = [_tables(rotary, a.max_positions) for rotary in (checkpoint.rotary, local_rotary)]
        self._activate: Callable[[torch.Tensor], torch.Tensor] = functional.silu
        if a.activation == "gelu_tanh":
            self._activate = partial(functional.gelu, approximate="tanh")
        self._layers = [_Layer(checkpoint, index) for index in range(a.layers)]

    def embed(self, token_ids: np.ndarray) -> torch.Tensor:
        """[B, T] int64 → [B, T, d]."""
        return self.embedding[torch.tensor(token_ids)] * self.architecture.embedding_scale

    def run(
        self,
        residual: torch.Tensor,
        layers: Sequence[int],
        *,
        pasts: Sequence[Past] | None = None,
        past_lengths: torch.Tensor | None = None,
        addend: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> list[LayerOutput]:
        """Some layers in a row.

        Args:
            residual: [B, S, d], before the first of the layers.
            layers: indices, ascending without gaps.
            pasts: prefix of each of the layers, if any.
            past_lengths: [B] how many positions of the prefixes are real.
            addend: what is added to the value of the first of the layers, [B, S, f] keys → [B, S, d].
        """
        batch, length, _ = residual.shape
        a = self.architecture
        mask = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, 1, length, length)
        first = torch.zeros(batch, dtype=torch.int64)
        past_positions = first[:, None][:, :0]
        if pasts is not None:
            assert past_lengths is not None
            first, steps = past_lengths, torch.arange(pasts[0].key.shape[2])
            real = (steps < first[:, None])[:, None, None].expand(batch, 1, length, len(steps))
            mask = torch.cat([real, mask], dim=3)
            past_positions = steps.expand(batch, -1)
        positions = first[:, None] + torch.arange(length)
        kinds = [(self._at(0, positions), mask)]
        if a.window is not None:
            seen = torch.cat([past_positions, positions], dim=1)
            near = positions[:, None, :, None] - seen[:, None, None] < a.window
            kinds.append((self._at(1, positions), mask & near))
        outputs = []
        for number, index in enumerate(layers):
            past = None if pasts is None else pasts[number]
            kind = kinds[index in a.local_layers]
            outputs.append(self._run_layer(index, residual, *kind, past, addend if number == 0 else None))
            residual = outputs[-1].residual
        return outputs

    def leave(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """Residual [B, S, d] after the layer from its state [B, S, w], as the bundle's upper graph makes it.

        A change of the layer's value is a change of the state's first d columns. Where the value is added as
        it is, w = d and the state is the residual; where it passes a norm first, w = 2d: the value, then the
        residual that the normed value is added to.
        """
        norm = self._layers[layer].post_mlp_norm
        if norm is None:
            return state
        value, before = state.chunk(2, dim=-1)
        return before + self.norm(value, norm)

    def _at(self, kind: int, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cosines, sines = self._rotary[kind]
        return cosines[positions][:, None], sines[positions][:, None]

    def _run_layer(
        self,
        index: int,
        residual: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        past: Past | None,
        addend: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> LayerOutput:
        a, layer = self.architecture, self._layers[index]
        batch, length, _ = residual.shape
        projected = functional.linear(self.norm(residual, layer.attention_norm), layer.projection, layer.bias)
        shape = (batch, length, a.heads + 2 * a.key_value_heads, a.head_dim)
        by_head = projected.reshape(shape).transpose(1, 2)
        values_from = a.heads + a.key_value_heads
        query, key, value = by_head[:, : a.heads], by_head[:, a.heads : values_from], by_head[:, values_from:]
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = self.norm(query, layer.query_norm), self.norm(key, layer.key_norm)
        query, key = _rotate(query, *rotary), _rotate(key, *rotary)
        own = Past(key, value)
        if past is not None:
            key, value = torch.cat([past.key, key], dim=2), torch.cat([past.value, value], dim=2)
        mixed = self._attend(query, key, value, mask).transpose(1, 2).reshape(batch, length, -1)
        added = functional.linear(mixed, layer.output, layer.output_bias)
        if layer.post_attention_norm is not None:
            added = self.norm(added, layer.post_attention_norm)
        residual = residual + added
        gate, up = functional.linear(self.norm(residual, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
        mlp_key = self._activate(gate) * up
        mlp_value = functional.linear(mlp_key, layer.down)
        if addend is not None:
            mlp_value = mlp_value + addend(mlp_key)
        state = torch.cat([mlp_value, residual], dim=-1) if a.post_norms else residual + mlp_value
        return LayerOutput(self.leave(index, state), state, mlp_key, mlp_value, own)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """[B, heads, S, h] out of queries of that shape, keys and values [B, H, P + S, h]."""
        a = self.architecture
        if a.attention_softcap is None:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=a.attention_scale, enable_gqa=True
            )
        groups = a.heads // a.key_value_heads
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scale = a.head_dim**-0.5 if a.attention_scale is None else a.attention_scale
        scores = _soft_capped(query @ key.transpose(2, 3) * scale, a.attention_softcap)
        return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ value

    def down_projections(self) -> list[torch.Tensor]:
        """Weights [d, f] of ``down_proj``, by layer."""
        return [layer.down for layer in self._layers]

    def norm(self, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm."""
        return functional.rms_norm(states, (states.shape[-1],), weight, self.architecture.rms_epsilon)

    def log_softmax(self, states: torch.Tensor) -> torch.Tensor:
        """Final residual [..., d] → log-probabilities [..., V]."""
        logits = functional.linear(self.norm(states, self.final_norm), self.output)
        return functional.log_softmax(_soft_capped(logits, self.architecture.logit_softcap), dim=-1)


def _tables(rotary: Rotary, max_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [max_positions, head_dim]."""
    angles = torch.arange(max_positions)[:, None] * torch.tensor(rotary.inverse_frequencies)
    angles = torch.cat([angles, angles], dim=1)
    return torch.cos(angles) * rotary.scaling, torch.sin(angles) * rotary.scaling


def _soft_capped(values: torch.Tensor, cap: float | None) -> torch.Tensor:
    return values if cap is None else cap * torch.tanh(values / cap)


def _rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    left, right = states.chunk(2, dim=-1)
    return states * cosines + torch.cat([-right, left], dim=-1) * sines
