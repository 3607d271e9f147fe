"""Finds pieces of the same form, so that they share one graph file and one session of the phone.

The layers of a decoder differ by their weights, scales and norms alone. Where these are inputs, one graph
serves all of them: sessions cost the phone memory, and so do constants in each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mobifarm.agent.editor.manifest import Piece
from mobifarm.workloads.models.graph import LARGE_BYTES, WeightsFile, stored_offset


def share_graphs(
    graphs: Mapping[str, Sequence[onnx.ModelProto]], file: WeightsFile
) -> tuple[dict[str, onnx.ModelProto], dict[str, tuple[Piece, ...]]]:
    """Graph files (name → model) and for each graph its pieces, made of them.

    A constant that is not the same in all pieces of a form, or is large, goes to the weights ``file``.
    """
    neutral = {name: [_neutral(model) for model in models] for name, models in graphs.items()}
    forms: dict[bytes, list[_Neutral]] = {}
    for piece in (piece for pieces in neutral.values() for piece in pieces):
        forms.setdefault(piece.form, []).append(piece)
    stored = {form: _names_to_store(pieces) for form, pieces in forms.items()}
    models: dict[str, onnx.ModelProto] = {}
    files: dict[bytes, str] = {}
    store = _Store(file)
    shared: dict[str, tuple[Piece, ...]] = {}
    for graph, pieces in neutral.items():
        made = []
        for number, piece in enumerate(pieces):
            if piece.form not in files:
                files[piece.form] = f"{graph}_{number:03}.onnx"
                models[files[piece.form]] = piece.model_with_inputs(stored[piece.form])
            offsets = [store.offset(piece.constants[name]) for name in stored[piece.form]]
            weights = (*piece.weights, *offsets)
            made.append(Piece(files[piece.form], piece.inputs, weights, piece.outputs))
        shared[graph] = tuple(made)
    return models, shared


@dataclass(frozen=True, slots=True)
class _Neutral:
    """A piece whose names say nothing but the order in which they appear; inputs are values, then weights."""

    model: onnx.ModelProto
    form: bytes
    inputs: tuple[str, ...]
    weights: tuple[int, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, NDArray[Any]]

    def model_with_inputs(self, names: Sequence[str]) -> onnx.ModelProto:
        """The graph with these constants as further inputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        for name in names:
            array = self.constants[name]
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        return model


def _neutral(original: onnx.ModelProto) -> _Neutral:
    model = onnx.ModelProto()
    model.CopyFrom(original)
    graph = model.graph
    values = [value for value in graph.input if stored_offset(value.name) is None]
    weights = [value for value in graph.input if stored_offset(value.name) is not None]
    names = {value.name: f"input_{number}" for number, value in enumerate(values)}
    names |= {value.name: f"output_{number}" for number, value in enumerate(graph.output)}
    # Constants and weights in the order of their use, which is the same in pieces of the same form.
    others = {value.name for value in weights} | {tensor.name for tensor in graph.initializer}
    for name in (name for node in graph.node for name in (*node.input, *node.output)):
        if name and name not in names:
            names[name] = f"{'constant' if name in others else 'value'}_{len(names)}"
    used = sorted(weights, key=lambda value: _number(names[value.name]))
    constants = {
        names[tensor.name]: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_location != onnx.TensorProto.EXTERNAL
    }
    inputs, outputs = tuple(value.name for value in values), tuple(value.name for value in graph.output)
    offsets = tuple(stored_offset(value.name) or 0 for value in used)
    chosen = [*values, *used]
    del graph.input[:]
    graph.input.extend(chosen)
    graph.name = "piece"
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    graph.initializer.sort(key=lambda tensor: _number(tensor.name))
    return _Neutral(model, _form(model), inputs, offsets, outputs, constants)


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _form(model: onnx.ModelProto) -> bytes:
    """What pieces of the same form have in common: all but the values of constants."""
    blank = onnx.ModelProto()
    blank.CopyFrom(model)
    for tensor in blank.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            tensor.ClearField("raw_data")
    return blank.SerializeToString(deterministic=True)


def _names_to_store(pieces: Sequence[_Neutral]) -> list[str]:
    def to_store(name: str) -> bool:
        first = pieces[0].constants[name]
        large = first.dtype == np.float32 and first.nbytes >= LARGE_BYTES
        return large or any(piece.constants[name].tobytes() != first.tobytes() for piece in pieces[1:])

    return [name for name in pieces[0].constants if to_store(name)]


class _Store:
    """Appends arrays to the weights file, equal ones once."""

    def __init__(self, file: WeightsFile) -> None:
        self._file = file
        self._offsets: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def offset(self, array: NDArray[Any]) -> int:
        key = (str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._offsets:
            self._offsets[key] = self._file.add(array).offset
        return self._offsets[key]
