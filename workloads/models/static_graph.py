"""The layers above the edited one and the read-out as a neural processor takes them: static shapes, standard
operators, quantised with static scales.

``layers``: the layers l+1…L−1 on R rows that hold the tokens of several sequences, one after the other.
    residual [1, R, d], and delta [1, R, d] that is added to it (zero but at the subjects); positions [R]
    int32; mask [1, 1, R, P + R], 0 where a row sees a token and packing.MASKED elsewhere: it keeps the
    sequences apart and hides the padding; past_key_i and past_value_i [1, H, P, h], the cached prefixes of
    all sequences, one after the other → final_residual [1, R, d] before the last norm.
``read_out``: final_residual [1, N, d] of the rows whose next token is asked for → logits [1, N, V].

Quantised, every activation passes a QuantizeLinear and a DequantizeLinear with one scale for the tensor, and
a weight is int8 with one scale per output channel. With 16 bits an activation is uint16, but the right side
of a product of two activations is int16 around zero: of uint16, Qualcomm's HTP seems to take eight bits
there; in its emulator the errors are a hundred times as large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mobifarm.agent.editor.manifest import Architecture
from mobifarm.agent.editor.packing import ChunkShape
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.attention import RotaryTables
from mobifarm.workloads.models.quantise import quantise_rows

# The first version with RMSNormalization; one scale for 16 bits has been there since 21.
OPSET = 23
IR_VERSION = 11
_SMALLEST_RANGE = 1e-4

Range = tuple[float, float]
Weights = Callable[[str], NDArray[np.float32]]


class Scheme(StrEnum):
    """How the graphs are quantised."""

    W8A16 = "w8a16"
    W8A8 = "w8a8"


@dataclass(frozen=True, slots=True)
class _Grid:
    """The numbers that a quantised tensor can take."""

    scale: float
    zero_point: int
    dtype: type[np.integer[Any]]


@dataclass(slots=True)
class StaticWriter:
    """Writes one graph, in floating point or quantised with ``ranges``.

    Attributes:
        ranges: smallest and largest value by the name that ``measured`` gives a tensor.
        measured: name of the range → the tensors that share it; filled as the graph is written.
    """

    name: str
    scheme: Scheme | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    measured: dict[str, list[str]] = field(default_factory=dict)
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _initializers: list[TensorProto] = field(default_factory=list)
    _inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    _outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    _grids: dict[str, _Grid] = field(default_factory=dict)
    _count: int = 0

    def input(self, name: str, *shape: int, range_name: str = "", right: bool = False) -> str:
        """A f32 input."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return self._quantised(name, range_name or name, right)

    def integer_input(self, name: str, *shape: int) -> str:
        """An int32 input."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, shape))
        return name

    def output(self, name: str, value: str, *shape: int) -> None:
        """A f32 output."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"give_{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def compute(
        self, operator: str, *inputs: str, range_name: str = "", right: bool = False, **attributes: Any
    ) -> str:
        """A node whose result is a new activation. ``right``: it is the right side of a product."""
        found = self._node(operator, *inputs, **attributes)
        return self._quantised(found, range_name or found, right)

    def move(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node that gives values of its first input in another order, on the same grid."""
        return self._on_grid(self._node(operator, *inputs, **attributes), self._grids.get(inputs[0]))

    def fixed(self, operator: str, *inputs: str, low: float, high: float, **attributes: Any) -> str:
        """A node whose result lies between two known numbers."""
        found = self._node(operator, *inputs, **attributes)
        return self._on_grid(found, self._grid((low, high), right=False))

    def as_right(self, value: str, range_name: str) -> str:
        """The value as the right side of a product, on the grid that has this name."""
        return self._quantised(value, range_name, right=True)

    def integers(self, *values: int) -> str:
        """A constant vector of int64."""
        return self._constant(np.array(values, np.int64))

    def constant(self, array: NDArray[np.float32]) -> str:
        """A constant activation, such as a bias or a table."""
        grid = self._grid((float(array.min()), float(array.max())), right=False)
        if grid is None:
            return self._constant(array.astype(np.float32))
        limits = np.iinfo(grid.dtype)
        values = np.clip(np.rint(array / grid.scale) + grid.zero_point, limits.min, limits.max)
        scale, zero = self._constant(np.float32(grid.scale)), self._constant(grid.dtype(grid.zero_point))
        name = self._node("DequantizeLinear", self._constant(values.astype(grid.dtype)), scale, zero)
        self._grids[name] = grid
        return name

    def linear(self, rows: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> str:
        """x·Wᵀ + b with ``weight`` [N, K]."""
        if self.scheme is None:
            product = self.compute("MatMul", rows, self._constant(np.ascontiguousarray(weight.T)))
        else:
            values, scales = quantise_rows(weight)
            zeros = np.zeros(len(scales), np.int8)
            stored = [self._constant(part) for part in (np.ascontiguousarray(values.T), scales, zeros)]
            product = self.compute("MatMul", rows, self._node("DequantizeLinear", *stored, axis=1))
        return product if bias is None else self.compute("Add", product, self.constant(bias))

    def model(self, also: Sequence[str] = ()) -> onnx.ModelProto:
        """The finished graph, with the tensors ``also`` as further outputs."""
        more = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in also]
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, [*self._outputs, *more], self._initializers
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="mobifarm",
        )

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        # Values have the same names in floating point and quantised: only those count that both have.
        helping = operator in ("QuantizeLinear", "DequantizeLinear")
        if not helping:
            self._count += 1
        name = f"{inputs[0]}:{operator[:1]}" if helping else f"{operator}_{self._count}"
        if helping:
            name = f"{name}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, array: Any) -> str:
        name = f"constant_{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def _quantised(self, value: str, range_name: str, right: bool) -> str:
        self.measured.setdefault(range_name, []).append(value)
        return self._on_grid(value, self._grid(self.ranges.get(range_name, (0.0, 0.0)), right))

    def _grid(self, limits: Range, right: bool) -> _Grid | None:
        if self.scheme is None:
            return None
        # Zero must be on the grid: padding and masks are exact then.
        low, high = min(limits[0], 0.0), max(limits[1], 0.0)
        high = max(high, low + _SMALLEST_RANGE)
        if self.scheme is Scheme.W8A16 and right:
            return _Grid(max(-low, high) / 32767, 0, np.int16)
        dtype: type[np.integer[Any]] = np.uint16 if self.scheme is Scheme.W8A16 else np.uint8
        steps = np.iinfo(dtype).max
        scale = (high - low) / steps
        return _Grid(scale, round(-low / scale), dtype)

    def _on_grid(self, value: str, grid: _Grid | None) -> str:
        if grid is None:
            return value
        scale, zero = self._constant(np.float32(grid.scale)), self._constant(grid.dtype(grid.zero_point))
        stored = self._node("QuantizeLinear", value, scale, zero)
        found = self._node("DequantizeLinear", stored, scale, zero)
        self._grids[found] = grid
        return found

    def step(self, value: str) -> float:
        """The distance of two numbers that the value can take; 0 in floating point."""
        grid = self._grids.get(value)
        return 0.0 if grid is None else float(np.float32(grid.scale))


def check_supported(architecture: Architecture) -> None:
    """Refuse what these graphs do not write yet.

    Raises:
        WorkloadInputError: the model needs it; the message names it.
    """
    lacking = {
        "norms behind attention and MLP": architecture.post_norms,
        "soft caps": architecture.attention_softcap is not None or architecture.logit_softcap is not None,
        "layers with a window": bool(architecture.local_layers),
        f"the activation {architecture.activation}": architecture.activation != "silu",
    }
    named = [name for name, needed in lacking.items() if needed]
    if named:
        raise WorkloadInputError(
            f"there are no graphs for neural processors yet for {architecture.family} models with "
            f"{' and '.join(named)}: use the bundle without --npu"
        )


@dataclass(frozen=True, slots=True)
class StaticModel:
    """A model of which static graphs are written."""

    architecture: Architecture
    weights: Weights
    has: Callable[[str], bool]
    rotary: RotaryTables
    edit_layer: int
    shape: ChunkShape

    def layers(self, writer: StaticWriter) -> float:
        """Write ``layers``; returns the step of its output."""
        a, shape = self.architecture, self.shape
        delta = writer.input("delta", 1, shape.rows, a.hidden)
        residual = writer.compute("Add", writer.input("residual", 1, shape.rows, a.hidden), delta)
        positions = writer.integer_input("positions", shape.rows)
        mask = writer.input("mask", 1, 1, shape.rows, shape.past + shape.rows)
        tables = [
            writer.move(
                "Reshape",
                writer.move("Gather", writer.constant(table), positions, axis=0),
                writer.integers(1, 1, shape.rows, a.head_dim // 2),
            )
            for table in (self.rotary.cosines, self.rotary.sines)
        ]
        for index, layer in enumerate(range(self.edit_layer + 1, a.layers)):
            residual = self._attention(writer, residual, index, layer, mask, tables)
            residual = self._feedforward(writer, residual, layer)
        writer.output("final_residual", residual, 1, shape.rows, a.hidden)
        return writer.step(residual)

    def read_out(self, writer: StaticWriter) -> float:
        """Write ``read_out``; returns the step of its output."""
        a, reads = self.architecture, self.shape.reads
        states = self._norm(writer, writer.input("final_residual", 1, reads, a.hidden), "model.norm")
        name = "model.embed_tokens.weight" if a.tied else "lm_head.weight"
        logits = writer.linear(states, self.weights(name), None)
        writer.output("logits", logits, 1, reads, a.vocabulary)
        return writer.step(logits)

    def _attention(
        self, writer: StaticWriter, residual: str, index: int, layer: int, mask: str, tables: Sequence[str]
    ) -> str:
        a, rows, name = self.architecture, self.shape.rows, f"model.layers.{layer}"
        groups, kv, h = a.heads // a.key_value_heads, a.key_value_heads, a.head_dim
        states = self._norm(writer, residual, f"{name}.input_layernorm")

        def heads(letter: str, count: int) -> str:
            part = self._linear(writer, states, f"{name}.self_attn.{letter}_proj")
            part = writer.move("Reshape", part, writer.integers(1, rows, count, h))
            if a.query_key_norm and letter != "v":
                part = self._norm(writer, part, f"{name}.self_attn.{letter}_norm")
            return writer.move("Transpose", part, perm=[0, 2, 1, 3])

        query = self._rotate(writer, heads("q", a.heads), tables, f"query_{index}")
        key, value = self._rotate(writer, heads("k", kv), tables, f"own_key_{index}"), heads("v", kv)
        sides = []
        for part, what in ((key, "key"), (value, "value")):
            range_name = f"{what}_{index}"
            past = writer.input(
                f"past_{range_name}", 1, kv, self.shape.past, h, range_name=range_name, right=True
            )
            sides.append(writer.move("Concat", past, writer.as_right(part, range_name), axis=2))
        keys, values = sides
        # The queries of a group are stacked as rows, so that keys and values are never repeated.
        query = writer.move("Reshape", query, writer.integers(1, kv, groups * rows, h))
        scale = h**-0.5 if a.attention_scale is None else a.attention_scale
        scores = writer.compute("MatMul", query, writer.move("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = writer.compute("Mul", scores, writer.constant(np.array([scale], np.float32)))
        width = self.shape.past + rows
        scores = writer.move("Reshape", scores, writer.integers(1, a.heads, rows, width))
        scores = writer.compute("Add", scores, mask)
        shares = writer.fixed("Softmax", scores, low=0.0, high=1.0, axis=-1)
        shares = writer.move("Reshape", shares, writer.integers(1, kv, groups * rows, width))
        mixed = writer.compute("MatMul", shares, values)
        mixed = writer.move("Reshape", mixed, writer.integers(1, a.heads, rows, h))
        mixed = writer.move("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = writer.move("Reshape", mixed, writer.integers(1, rows, a.heads * h))
        return writer.compute("Add", residual, self._linear(writer, mixed, f"{name}.self_attn.o_proj"))

    def _rotate(self, writer: StaticWriter, states: str, tables: Sequence[str], range_name: str) -> str:
        half, (cosines, sines) = self.architecture.head_dim // 2, tables
        axes = writer.integers(3)
        first = writer.move("Slice", states, writer.integers(0), writer.integers(half), axes)
        second = writer.move("Slice", states, writer.integers(half), writer.integers(2 * half), axes)
        turned = [
            writer.compute("Mul", part, table)
            for part, table in ((first, cosines), (second, sines), (second, cosines), (first, sines))
        ]
        left = writer.compute("Sub", turned[0], turned[1], range_name=range_name)
        right = writer.compute("Add", turned[2], turned[3], range_name=range_name)
        return writer.move("Concat", left, right, axis=3)

    def _feedforward(self, writer: StaticWriter, residual: str, layer: int) -> str:
        name = f"model.layers.{layer}"
        states = self._norm(writer, residual, f"{name}.post_attention_layernorm")
        gate = self._linear(writer, states, f"{name}.mlp.gate_proj")
        opened = writer.fixed("Sigmoid", gate, low=0.0, high=1.0)
        activated = writer.compute("Mul", gate, opened)
        key = writer.compute("Mul", activated, self._linear(writer, states, f"{name}.mlp.up_proj"))
        return writer.compute("Add", residual, self._linear(writer, key, f"{name}.mlp.down_proj"))

    def _norm(self, writer: StaticWriter, states: str, name: str) -> str:
        return writer.compute(
            "RMSNormalization",
            states,
            writer.constant(self.weights(f"{name}.weight")),
            axis=-1,
            epsilon=self.architecture.rms_epsilon,
        )

    def _linear(self, writer: StaticWriter, rows: str, name: str) -> str:
        bias = self.weights(f"{name}.bias") if self.has(f"{name}.bias") else None
        return writer.linear(rows, self.weights(f"{name}.weight"), bias)
