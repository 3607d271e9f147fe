"""Causal grouped-query attention as nodes of a graph, with its rotary position embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.manifest import Architecture
from mobifarm.workloads.models.checkpoint import Checkpoint, Rotary
from mobifarm.workloads.models.graph import CONTRIB, GraphWriter, Linear


@dataclass(frozen=True, slots=True)
class RotaryTables:
    """Cosines and sines of the rotary position embedding, [max_positions, head_dim / 2] f32 each."""

    cosines: NDArray[np.float32]
    sines: NDArray[np.float32]


def rotary_tables(checkpoint: Checkpoint, max_positions: int) -> tuple[RotaryTables, RotaryTables]:
    """Tables for positions 0 … max_positions−1: of most layers and of the local ones."""

    def tables(rotary: Rotary) -> RotaryTables:
        angles = np.arange(max_positions, dtype=np.float32)[:, None] * rotary.inverse_frequencies
        scaling = np.float32(rotary.scaling)
        return RotaryTables(np.cos(angles) * scaling, np.sin(angles) * scaling)

    return tables(checkpoint.rotary), tables(checkpoint.local_rotary or checkpoint.rotary)


@dataclass(frozen=True, slots=True)
class Attention:
    """Keys and values that a layer's attention reads besides its own: of the cached prefix."""

    past_key: str
    past_value: str


class LayerBuilder(Protocol):
    """What a layer's attention is written with."""

    @property
    def architecture(self) -> Architecture:
        """Shape of the model."""

    @property
    def rotary(self) -> tuple[RotaryTables, RotaryTables]:
        """Of most layers and of the local ones."""

    def norm(self, graph: GraphWriter, states: str, weight: str) -> str:
        """RMS norm with a learned weight."""

    def linear(self, *names: str) -> Linear:
        """One linear layer out of one or several with the same input."""

    def post_norm(self, graph: GraphWriter, states: str, layer: int, block: str) -> str:
        """The norm behind ``attention`` or ``feedforward`` where the architecture has one."""


class AttentionWriter:
    """Writes causal grouped-query attention; shapes, positions and mask are computed once per graph.

    The queries of all heads of a group are stacked as rows, so that keys and values are never repeated.
    """

    def __init__(
        self,
        builder: LayerBuilder,
        graph: GraphWriter,
        batch: str,
        length: str,
        *,
        first_positions: str,
        past_length: str | None = None,
    ) -> None:
        a = builder.architecture
        self._builder, self._graph = builder, graph
        self.presents: tuple[str, str] = ("", "")
        groups = a.heads // a.key_value_heads
        size = graph.integers

        def concat(*parts: str) -> str:
            return graph.node("Concat", *parts, axis=0)

        self._sequence = concat(batch, length, size(-1))
        self._split_queries = concat(batch, length, size(a.key_value_heads, groups, a.head_dim))
        self._stack_queries = concat(batch, size(a.key_value_heads, -1, a.head_dim))
        self._unstack_queries = concat(batch, size(a.key_value_heads, groups), length, size(a.head_dim))
        self._split_keys = concat(batch, length, size(a.key_value_heads, a.head_dim))
        self._flatten = size(-1, a.heads * a.head_dim)
        zero, one = graph.constant(np.array(0, np.int64)), graph.constant(np.array(1, np.int64))
        scalar_length = graph.node("Squeeze", length, size(0))
        self.steps = graph.node("Range", zero, scalar_length, one)
        positions = graph.node("Add", graph.node("Unsqueeze", first_positions, size(1)), self.steps)
        self._positions = graph.node("Expand", positions, concat(batch, length))
        # Of a token each: what it sees, [b, 1, S, P + S], and where that stands, [b, P + S].
        visible = graph.node("LessOrEqual", self.steps, graph.node("Unsqueeze", self.steps, size(1)))
        key_positions = positions
        self._past_length_and_own = None
        if past_length is None:
            visible = graph.node("Unsqueeze", visible, size(0, 1))
        else:
            past_steps = graph.node("Range", zero, graph.node("Squeeze", past_length, size(0)), one)
            real = graph.node("Less", past_steps, graph.node("Unsqueeze", first_positions, size(1)))
            count = graph.node("Shape", first_positions)
            past_shape = concat(count, size(1), length, past_length)
            real = graph.node("Expand", graph.node("Unsqueeze", real, size(1, 2)), past_shape)
            visible = graph.node("Expand", visible, concat(count, size(1), length, length))
            visible = graph.node("Concat", real, visible, axis=3)
            past_positions = graph.node("Expand", past_steps, concat(count, past_length))
            key_positions = graph.node("Concat", past_positions, positions, axis=1)
            self._past_length_and_own = concat(past_length, length)
        self._kinds = [self._kind(visible, builder.rotary[0], groups)]
        if a.window is not None:
            distances = graph.node(
                "Sub",
                graph.node("Unsqueeze", positions, size(1, 3)),
                graph.node("Unsqueeze", key_positions, size(1, 2)),
            )
            near = graph.node("Less", distances, graph.constant(np.array(a.window, np.int64)))
            visible = graph.node("And", visible, near)
            self._kinds.append(self._kind(visible, builder.rotary[1], groups))

    def _kind(self, visible: str, rotary: RotaryTables, groups: int) -> tuple[str, str, str]:
        """Mask, cosines and sines of the layers that see what is ``visible``."""
        graph = self._graph
        mask = graph.node("Where", visible, graph.scalar(0), graph.scalar(-1e30))
        mask = graph.node("Tile", mask, graph.integers(1, 1, groups, 1))
        return mask, graph.constant(rotary.cosines), graph.constant(rotary.sines)

    def write(self, layer: int, residual: str, past: Attention | None) -> str:
        """residual [B·S, d] → residual + attention(norm(residual)) [B·S, d]."""
        a, graph = self._builder.architecture, self._graph
        name = f"model.layers.{layer}"
        mask, *tables = self._kinds[layer in a.local_layers]
        states = self._builder.norm(graph, residual, f"{name}.input_layernorm.weight")
        projection = self._builder.linear(*(f"{name}.self_attn.{p}_proj" for p in "qkv"))
        widths = (a.heads * a.head_dim, a.key_value_heads * a.head_dim, a.key_value_heads * a.head_dim)
        query, key, value = graph.split_node(
            "Split", graph.linear(states, projection), graph.integers(*widths), outputs=3, axis=1
        )
        if a.query_key_norm:
            query, key = (
                self._builder.norm(
                    graph,
                    graph.node("Reshape", part, graph.integers(-1, a.head_dim)),
                    f"{name}.self_attn.{letter}_norm.weight",
                )
                for part, letter in ((query, "q"), (key, "k"))
            )
        query = graph.node("Reshape", self._rotate(query, tables), self._split_queries)
        query = graph.node("Transpose", query, perm=[0, 2, 3, 1, 4])
        query = graph.node("Reshape", query, self._stack_queries)
        key, value = (
            graph.node("Transpose", graph.node("Reshape", part, self._split_keys), perm=[0, 2, 1, 3])
            for part in (self._rotate(key, tables), value)
        )
        self.presents = (key, value)
        scores = self._scores(query, key)
        if past is not None:
            scores = graph.node("Concat", self._scores(query, past.past_key), scores, axis=3)
        weights = graph.node("Softmax", graph.node("Add", scores, mask), axis=-1)
        if past is None:
            mixed = graph.node("MatMul", weights, value)
        else:
            assert self._past_length_and_own is not None
            past_weights, weights = graph.split_node(
                "Split", weights, self._past_length_and_own, outputs=2, axis=3
            )
            mixed = graph.node(
                "Add",
                graph.node("MatMul", past_weights, past.past_value),
                graph.node("MatMul", weights, value),
            )
        mixed = graph.node("Reshape", mixed, self._unstack_queries)
        mixed = graph.node("Transpose", mixed, perm=[0, 3, 1, 2, 4])
        mixed = graph.node("Reshape", mixed, self._flatten)
        added = graph.linear(mixed, self._builder.linear(f"{name}.self_attn.o_proj"))
        return graph.node("Add", residual, self._builder.post_norm(graph, added, layer, "attention"))

    def _rotate(self, states: str, tables: Sequence[str]) -> str:
        graph = self._graph
        sequence = graph.node("Reshape", states, self._sequence)
        return graph.node("RotaryEmbedding", sequence, self._positions, *tables, domain=CONTRIB)

    def _scores(self, query: str, key: str) -> str:
        a = self._builder.architecture
        scale = a.head_dim**-0.5 if a.attention_scale is None else a.attention_scale
        scores = self._graph.node("FusedMatMul", query, key, domain=CONTRIB, transB=1, alpha=scale)
        return self._graph.soft_capped(scores, a.attention_softcap)
