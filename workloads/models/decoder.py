"""The two graphs of a bundle, split after the edit layer l. Each is stored in pieces that run one after the
other (see split.py); those of ``upper`` from final_residual on are the manifest's ``read_out``.

``lower``: embeddings [B, T, d], edit_keys [R, f], edit_values [R, d] (R ≥ 1; zeros for no edit)
    → residual [B, T, w], key [B, T, f] (input of layer l's ``down_proj``) and
    value [B, T, d] = down_proj(key) + (key·edit_keysᵀ)·edit_values. Layer l's ``down_proj`` stays f32.
    Where the value is added as it is, w = d and the residual is that after layer l. Where it passes a norm
    first, w = 2d: the value, then the residual that the normed value is added to; ``upper`` does both.

``upper``: layers l+1…L−1 on the tokens that follow a cached prefix. Each of the batch dimensions b is 1 or B.
    residual [b, S, w]; delta [B, d], added to the first d columns at the first of the S positions, so that it
    acts as a change of the value; past [2(L−1−l), b, H, P, h] keys
    and values of the layers above l (key and value alternate); past_lengths [b] int64, how many of the P ≥ 1
    are real, and thus also the first position; rows [b, N] int64, the positions in S to read; targets [b, N]
    int64 → log_probabilities [B, N] of the targets, argmax [B, N] int64, log_softmax [B, N, V],
    final_residual [B, N, d] before the last norm, and present_0 … [B, H, S, h] in the order of ``past``.

Right padding is harmless in both: attention is causal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from mobifarm.agent.editor.manifest import (
    GRAPHS,
    WEIGHTS_FILE,
    Architecture,
    Piece,
    StoredTensor,
)
from mobifarm.workloads.models.attention import Attention, AttentionWriter, RotaryTables
from mobifarm.workloads.models.graph import (
    CONTRIB,
    GraphWriter,
    Linear,
    WeightsFile,
    floats,
    integers,
    store_linear,
)
from mobifarm.workloads.models.quantise import quantise_rows
from mobifarm.workloads.models.share import share_graphs
from mobifarm.workloads.models.split import block_columns, split_model

Weights = Callable[[str], NDArray[np.float32]]
"""Looks up a tensor of the checkpoint by its Hugging Face name; raises KeyError where it has none."""


def write_graphs(
    folder: Path,
    architecture: Architecture,
    weights: Weights,
    has: Callable[[str], bool],
    rotary: tuple[RotaryTables, RotaryTables],
    *,
    edit_layer: int,
    int8: bool,
    progress: Callable[[int], None] = lambda layers_done: None,
) -> tuple[Mapping[str, StoredTensor], Mapping[str, tuple[Piece, ...]]]:
    """Write the pieces of both graphs and ``weights.bin`` into ``folder``.

    Returns:
        The tensors that are read without a graph (see Manifest.tensors) and the pieces (Manifest.graphs).
    """
    with WeightsFile(folder / WEIGHTS_FILE) as file:
        builder = _Builder(architecture, weights, has, rotary, file, edit_layer, int8, progress)
        tensors = builder.embedding()
        lower = split_model(*builder.lower(tensors))
        model, cuts = builder.upper(tensors)
        upper, layers = split_model(model, cuts), cuts.index("final_residual") + 1
        graphs = dict(zip(GRAPHS, (lower, upper[:layers], upper[layers:]), strict=True))
        models, pieces = share_graphs(graphs, file)
    for name, shared in models.items():
        onnx.save(shared, folder / name)
    return tensors.public, pieces


@dataclass(slots=True)
class _Tensors:
    public: dict[str, StoredTensor]
    output: list[Linear] = field(default_factory=list)


@dataclass(slots=True)
class _Builder:
    architecture: Architecture
    weights: Weights
    has: Callable[[str], bool]
    rotary: tuple[RotaryTables, RotaryTables]
    file: WeightsFile
    edit_layer: int
    int8: bool
    progress: Callable[[int], None]

    def embedding(self) -> _Tensors:
        """Store the output projection where it is the embedding too, and else the embedding by rows."""
        tensors = _Tensors({})
        embedding = self.weights("model.embed_tokens.weight")
        if self.architecture.tied:
            self._store_output(tensors, embedding)
        elif self.int8:
            values, scales = quantise_rows(embedding)
            tensors.public["embedding"] = self.file.add(values)
            tensors.public["embedding_scales"] = self.file.add(scales)
        else:
            tensors.public["embedding"] = self.file.add(embedding)
        return tensors

    def _store_output(self, tensors: _Tensors, weight: NDArray[np.float32]) -> None:
        """In blocks of its columns, each a piece: it is far larger than a layer."""
        columns = block_columns(*weight.shape, itemsize=1 if self.int8 else 4)
        for number, start in enumerate(range(0, len(weight), columns)):
            block = store_linear(self.file, weight[start : start + columns], None, int8=self.int8)
            tensors.output.append(block)
            tensors.public[f"output_block_{number:03}"] = block.weight
        if self.int8:
            scales = [block.scales for block in tensors.output if block.scales is not None]
            tensors.public["output_scales"] = self.file.add(np.concatenate(scales))

    def lower(self, tensors: _Tensors) -> tuple[onnx.ModelProto, Sequence[str]]:
        a, graph = self.architecture, GraphWriter("lower")
        shape = graph.node("Shape", "embeddings")
        batch, length = (graph.node("Slice", shape, graph.integers(i), graph.integers(i + 1)) for i in (0, 1))
        attention = AttentionWriter(self, graph, batch, length, first_positions=graph.integers(0))
        residual = graph.node("Reshape", "embeddings", graph.integers(-1, a.hidden))
        if a.embedding_scale != 1:
            residual = graph.node("Mul", residual, graph.scalar(a.embedding_scale))
        graph.cut(residual)
        for layer in range(self.edit_layer):
            residual = self._layer(graph, attention, layer, residual, None)
        residual = attention.write(self.edit_layer, residual, None)
        key = self._mlp_key(graph, self.edit_layer, residual)
        down = self.file.add(self.weights(f"model.layers.{self.edit_layer}.mlp.down_proj.weight").T)
        tensors.public["edited_down_proj"] = down
        overlap = graph.node("FusedMatMul", key, "edit_keys", domain=CONTRIB, transB=1)
        product = graph.node("MatMul", key, graph.stored(down, packed=True))
        value = graph.node("Add", product, graph.node("MatMul", overlap, "edit_values"))
        if a.post_norms:
            residual = graph.node("Concat", value, residual, axis=1)
        else:
            residual = graph.node("Add", residual, value)
        for name, rows, width in (
            ("residual", residual, a.state_width),
            ("key", key, a.intermediate),
            ("value", value, a.hidden),
        ):
            out = graph.node("Concat", batch, length, graph.integers(width), axis=0)
            graph.rename(graph.node("Reshape", rows, out), name)
        self.progress(self.edit_layer + 1)
        model = graph.model(
            [
                floats("embeddings", "B", "T", a.hidden),
                floats("edit_keys", "R", a.intermediate),
                floats("edit_values", "R", a.hidden),
            ],
            [
                floats("residual", "B", "T", a.state_width),
                floats("key", "B", "T", a.intermediate),
                floats("value", "B", "T", a.hidden),
            ],
        )
        return model, graph.cuts

    def upper(self, tensors: _Tensors) -> tuple[onnx.ModelProto, Sequence[str]]:
        a, graph = self.architecture, GraphWriter("upper")
        batch = graph.node("Slice", graph.node("Shape", "delta"), graph.integers(0), graph.integers(1))
        length = graph.node("Slice", graph.node("Shape", "residual"), graph.integers(1), graph.integers(2))
        past_length = graph.node("Slice", graph.node("Shape", "past"), graph.integers(3), graph.integers(4))
        attention = AttentionWriter(
            self, graph, batch, length, first_positions="past_lengths", past_length=past_length
        )
        first = graph.node("Equal", attention.steps, graph.integers(0))
        first = graph.node("Unsqueeze", graph.node("Cast", first, to=1), graph.integers(0, 2))
        injected = graph.node("Mul", graph.node("Unsqueeze", "delta", graph.integers(1)), first)
        if a.post_norms:
            widths = graph.integers(a.hidden, a.hidden)
            value, before = graph.split_node("Split", "residual", widths, outputs=2, axis=2)
            value = self.post_norm(graph, graph.node("Add", value, injected), self.edit_layer, "feedforward")
            residual = graph.node("Add", before, value)
        else:
            residual = graph.node("Add", "residual", injected)
        residual = graph.node("Reshape", residual, graph.integers(-1, a.hidden))
        graph.cut(residual)
        presents: list[str] = []
        for index, layer in enumerate(range(self.edit_layer + 1, a.layers)):
            past = Attention(
                graph.node("Gather", "past", graph.parameter(np.array(2 * index, np.int64)), axis=0),
                graph.node("Gather", "past", graph.parameter(np.array(2 * index + 1, np.int64)), axis=0),
            )
            residual = self._layer(graph, attention, layer, residual, past)
            presents += attention.presents
        self._read_out(graph, tensors, residual, batch, length)
        for index, present in enumerate(presents):
            graph.rename(present, f"present_{index}")
        heads = (a.key_value_heads, "S", a.head_dim)
        model = graph.model(
            [
                floats("residual", "b_residual", "S", a.state_width),
                floats("delta", "B", a.hidden),
                floats("past", len(presents), "b_past", a.key_value_heads, "P", a.head_dim),
                integers("past_lengths", "b_lengths"),
                integers("rows", "b_rows", "N"),
                integers("targets", "b_targets", "N"),
            ],
            [
                floats("log_probabilities", "B", "N"),
                integers("argmax", "B", "N"),
                floats("log_softmax", "B", "N", a.vocabulary),
                floats("final_residual", "B", "N", a.hidden),
                *(floats(f"present_{i}", "B", *heads) for i in range(len(presents))),
            ],
        )
        return model, graph.cuts

    def _read_out(
        self, graph: GraphWriter, tensors: _Tensors, residual: str, batch: str, length: str
    ) -> None:
        """Output projection at the asked positions only."""
        a = self.architecture
        shape = graph.node("Concat", batch, length, graph.integers(a.hidden), axis=0)
        states = graph.node("Reshape", residual, shape)
        count = graph.node("Slice", graph.node("Shape", "rows"), graph.integers(1), graph.integers(2))
        answers = graph.node("Concat", batch, count, axis=0)
        rows = graph.node("Unsqueeze", graph.node("Expand", "rows", answers), graph.integers(2))
        states = graph.node("GatherND", states, rows, batch_dims=1)
        graph.rename(states, "final_residual")
        graph.cut("final_residual")
        states = graph.node("Reshape", "final_residual", graph.integers(-1, a.hidden))
        states = self.norm(graph, states, "model.norm.weight")
        if not tensors.output:
            self._store_output(tensors, self.weights("lm_head.weight"))
        blocks = [graph.linear(states, block) for block in tensors.output]
        for block in blocks:
            graph.cut(block)
        logits = graph.soft_capped(graph.node("Concat", *blocks, axis=1), a.logit_softcap)
        shape = graph.node("Concat", batch, count, graph.integers(a.vocabulary), axis=0)
        logits = graph.node("Reshape", logits, shape)
        log_softmax = graph.node("LogSoftmax", logits, axis=-1)
        targets = graph.node("Unsqueeze", graph.node("Expand", "targets", answers), graph.integers(2))
        picked = graph.node("GatherElements", log_softmax, targets, axis=2)
        graph.rename(graph.node("Squeeze", picked, graph.integers(2)), "log_probabilities")
        graph.rename(graph.node("ArgMax", logits, axis=-1, keepdims=0), "argmax")
        graph.rename(log_softmax, "log_softmax")

    def _layer(
        self,
        graph: GraphWriter,
        attention: AttentionWriter,
        layer: int,
        residual: str,
        past: Attention | None,
    ) -> str:
        residual = attention.write(layer, residual, past)
        key = self._mlp_key(graph, layer, residual)
        value = graph.linear(key, self.linear(f"model.layers.{layer}.mlp.down_proj"))
        self.progress(layer + 1)
        residual = graph.node("Add", residual, self.post_norm(graph, value, layer, "feedforward"))
        graph.cut(residual)
        return residual

    def _mlp_key(self, graph: GraphWriter, layer: int, residual: str) -> str:
        """Input of ``down_proj``: activation(gate)·up."""
        a, name = self.architecture, f"model.layers.{layer}"
        norm = "pre_feedforward_layernorm" if a.post_norms else "post_attention_layernorm"
        states = self.norm(graph, residual, f"{name}.{norm}.weight")
        both = graph.linear(states, self.linear(f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"))
        gate, up = graph.split_node("Split", both, graph.integers(*(a.intermediate,) * 2), outputs=2, axis=1)
        if a.activation == "silu":
            activated = graph.node("QuickGelu", gate, domain=CONTRIB, alpha=1.0)
        else:
            activated = graph.node("FastGelu", gate, domain=CONTRIB)
        return graph.node("Mul", activated, up)

    def norm(self, graph: GraphWriter, states: str, weight: str) -> str:
        """RMS norm with a learned weight."""
        return graph.node(
            "SimplifiedLayerNormalization",
            states,
            graph.parameter(self.weights(weight)),
            axis=-1,
            epsilon=self.architecture.rms_epsilon,
            stash_type=1,
        )

    def linear(self, *names: str) -> Linear:
        """One linear layer out of one or several with the same input."""
        weight = np.concatenate([self.weights(f"{name}.weight") for name in names])
        biases = [self.weights(f"{name}.bias") for name in names if self.has(f"{name}.bias")]
        bias = np.concatenate(biases) if biases else None
        return store_linear(self.file, weight, bias, int8=self.int8)

    def post_norm(self, graph: GraphWriter, states: str, layer: int, block: str) -> str:
        """The norm behind ``attention`` or ``feedforward`` where the architecture has one."""
        if not self.architecture.post_norms:
            return states
        return self.norm(graph, states, f"model.layers.{layer}.post_{block}_layernorm.weight")
