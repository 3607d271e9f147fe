"""A small writer of ONNX graphs whose weights lie in one memory-mapped file.

Graphs are written operator by operator instead of traced: batch dimensions of 1 that broadcast survive, the
bytes depend on nothing but the weights, and weights are written one by one, never held twice.

Two kinds of linear layer exist. ``fp32`` is a plain MatMul. ``int8`` holds int8 weights (one scale per output
channel) and takes 14-bit activations: every row x is split as x ≈ s·(hi + lo/126) with hi, lo ∈ −63…63 and
s = max|x|/63, and both halves go through the integer matrix product. Its sums are exact integers and a row's
scale depends on that row alone, so the same token gives the same value in every batch, and the rounding is so
fine that finite differences see hardly any noise. Seven bits a half, not eight: the unsigned × signed product
of x86 without VNNI adds pairs in 16 bits, and 2·127·127 is the largest pair that fits.

Measured with SmolLM2-135M, edit layer 9, one thread of an x86 CPU with VNNI, ONNX Runtime 1.32: milliseconds
of a call of ``upper`` with 16 δ on 8 tokens; cosine of 16 central-difference coefficients with those of the
fp32 graph, mean over 6 CounterFact facts, perturbations of norm μ·√576 (‖v0‖ ≈ 37). MatMulNBits is ONNX
Runtime's 8-bit kernel with accuracy level 4.

====================================  ===  ======  =====  =====  ====
linear layers                          ms  μ=0.01  μ=0.1  μ=0.5   μ=1
====================================  ===  ======  =====  =====  ====
fp32                                  199    1.00   1.00   1.00  1.00
two 7-bit halves (used)               128    0.16   0.96   0.99  0.99
MatMulNBits, block 32                 155    0.09   0.07   0.74  0.88
MatMulNBits, block 128                127    0.00   0.16   0.55  0.75
one 8-bit value, scale per token       69    0.13  −0.09   0.38  0.50
one 8-bit value, scale per tensor      65   −0.18  −0.10   0.33  0.50
====================================  ===  ======  =====  =====  ====

The 128 ms were timed with halves of eight bits, the same graph with other constants.

The int8 bundle against the fp32 one on 1,568 tokens of wikitext-2: perplexity 57.3 against 57.5, the same
first choice on 95 % of the tokens, 0.08 nats mean absolute difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mobifarm.agent.editor.manifest import StoredTensor
from mobifarm.workloads.models.quantise import quantise_rows

OPSET = 17
IR_VERSION = 9
CONTRIB = "com.microsoft"
# Weights start on page boundaries, so that mapping one does not touch its neighbour's pages. Small tensors
# are read together with their neighbours.
ALIGNMENT = 4096
SMALL_ALIGNMENT = 64
LARGE_BYTES = 2**16
HALF_RANGE = 63
ZERO_POINT = 64


class WeightsFile:
    """Appends arrays to one file and remembers where they lie."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: BinaryIO = path.open("wb")

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def add(self, array: NDArray[Any]) -> StoredTensor:
        """Append ``array`` (C order, little-endian)."""
        alignment = ALIGNMENT if array.nbytes >= LARGE_BYTES else SMALL_ALIGNMENT
        self._stream.write(b"\0" * (-self._stream.tell() % alignment))
        offset = self._stream.tell()
        self._stream.write(np.ascontiguousarray(array).tobytes())
        return StoredTensor(self.path.name, offset, str(array.dtype), array.shape)


@dataclass(frozen=True, slots=True)
class Linear:
    """A stored weight [K, N] of a linear layer; ``scales`` [N] is set for int8."""

    weight: StoredTensor
    scales: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None


def store_linear(
    weights: WeightsFile, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, *, int8: bool
) -> Linear:
    """Store ``weight`` [N, K] f32 as [K, N]."""
    if not int8:
        return Linear(weights.add(weight.T), None, bias)
    values, scales = quantise_rows(weight)
    return Linear(weights.add(values.T), scales, bias)


@dataclass(slots=True)
class GraphWriter:
    """Collects nodes and constants of one graph. Methods that add a node return the name of its output."""

    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    cuts: list[str] = field(default_factory=list)
    _weights: list[onnx.ValueInfoProto] = field(default_factory=list)
    _constants: dict[tuple[str, bytes, tuple[int, ...]], str] = field(default_factory=dict)

    def node(self, operator: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> str:
        """Add a node with one used output."""
        return self.split_node(operator, *inputs, domain=domain, outputs=outputs, **attributes)[0]

    def split_node(
        self, operator: str, *inputs: str, domain: str = "", outputs: int, **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs."""
        label = f"{operator}_{len(self.nodes)}"
        names = [f"{label}:{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=label, domain=domain, **attributes))
        return names

    def rename(self, value: str, name: str) -> None:
        """Give a value the name of a graph output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def constant(self, array: NDArray[Any]) -> str:
        """A small constant held in the graph file itself; equal constants are held once."""
        key = (str(array.dtype), array.tobytes(), array.shape)
        if key not in self._constants:
            self._constants[key] = self.parameter(array)
        return self._constants[key]

    def parameter(self, array: NDArray[Any]) -> str:
        """A constant that belongs to a layer: another layer's may have the same value or not."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        """A constant vector of int64."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A constant f32 scalar."""
        return self.constant(np.array(value, np.float32))

    def stored(self, tensor: StoredTensor, *, packed: bool = False) -> str:
        """A weight in the weights file: an input of the graph, so ONNX Runtime makes no packed copy of it and
        who runs the graph says where it lies in memory.

        Integer products give the same either way; sums of floats come in another order unless ``packed``,
        which makes it a constant.
        """
        name, kind = stored_name(tensor), helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
        if packed:
            self.initializers.append(_external(name, kind, tensor))
        else:
            self._weights.append(helper.make_tensor_value_info(name, kind, tensor.shape))
        return name

    def cut(self, value: str) -> None:
        """Cut the graph after a f32 value. What later pieces need beside such values and the graph's inputs,
        each computes from these anew."""
        self.cuts.append(value)

    def linear(self, rows: str, linear: Linear) -> str:
        """x·Wᵀ + b for ``rows`` [M, K] f32 → [M, N] f32."""
        weight = self.stored(linear.weight, packed=linear.scales is None)
        if linear.scales is None:
            product = self.node("MatMul", rows, weight)
        else:
            product = self._integer_product(rows, weight, linear.scales)
        return product if linear.bias is None else self.node("Add", product, self.parameter(linear.bias))

    def _integer_product(self, rows: str, weight: str, scales: NDArray[np.float32]) -> str:
        absolute = self.node("ReduceMax", self.node("Abs", rows), axes=[1], keepdims=0)
        # The floor keeps an all-zero row from dividing by zero.
        scale = self.node("Max", self.node("Mul", absolute, self.scalar(1 / HALF_RANGE)), self.scalar(1e-20))
        zero_points = self._zero_points(scale)
        high = self.node("QuantizeLinear", rows, scale, zero_points, axis=0)
        rest = self.node("Sub", rows, self.node("DequantizeLinear", high, scale, zero_points, axis=0))
        low_scale = self.node("Mul", scale, self.scalar(0.5 / HALF_RANGE))
        low = self.node("QuantizeLinear", rest, low_scale, zero_points, axis=0)
        one, offset = self.scalar(1), self.constant(np.array(ZERO_POINT, np.uint8))
        halves = [
            self.node(
                "MatMulIntegerToFloat", half, weight, one, self.parameter(half_scales), offset, domain=CONTRIB
            )
            for half, half_scales in ((high, scales), (low, (scales * (0.5 / HALF_RANGE)).astype(np.float32)))
        ]
        return self.node("Mul", self.node("Add", *halves), self.node("Unsqueeze", scale, self.integers(1)))

    def _zero_points(self, row_scales: str) -> str:
        # QuantizeLinear wants as many zero points as scales.
        return self.node(
            "Expand", self.constant(np.array(ZERO_POINT, np.uint8)), self.node("Shape", row_scales)
        )

    def soft_capped(self, values: str, cap: float | None) -> str:
        """c·tanh(x/c), or x where there is no cap c."""
        if cap is None:
            return values
        capped = self.node("Tanh", self.node("Mul", values, self.scalar(1 / cap)))
        return self.node("Mul", capped, self.scalar(cap))

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The finished model; weights stay in their file."""
        inputs = [*inputs, *self._weights]
        graph = helper.make_graph(self.nodes, self.name, inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="mobifarm")


def stored_name(tensor: StoredTensor) -> str:
    """Name of a weight in a graph: the file and its place there, by which the phone finds it."""
    return f"{tensor.file}@{tensor.offset}"


def stored_offset(name: str) -> int | None:
    """Where a weight of that name lies in the weights file; None for other names."""
    _, separator, offset = name.rpartition("@")
    return int(offset) if separator else None


def _external(name: str, kind: int, tensor: StoredTensor) -> TensorProto:
    proto = TensorProto(name=name, data_type=kind, dims=tensor.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", tensor.file), ("offset", tensor.offset), ("length", _bytes(tensor))):
        proto.external_data.add(key=key, value=str(value))
    return proto


def _bytes(tensor: StoredTensor) -> int:
    return int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """A f32 graph input or output."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def integers(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """An int64 graph input or output."""
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)
