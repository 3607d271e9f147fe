"""Cuts a graph into pieces that run one after the other.

The weights of one piece are all that must be resident at a time: the phone gives the pages of a piece back
before the next one runs. Values that follow from the graph's inputs alone, such as shapes and masks, are
computed in each piece anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import onnx
from onnx import helper, numpy_helper

from mobifarm.workloads.models.graph import Cut, WeightsFile, mark_stored, stored_name

# Of the weights of a piece. Smaller pieces would save little: the output projection is larger anyway.
PIECE_BYTES = 12 * 2**20
# Rotary tables and scales of the vocabulary; every piece would hold a copy of its own.
LARGE_CONSTANT_BYTES = 2**16


def choose_cuts(cuts: Sequence[Cut]) -> list[str]:
    """The fewest of the possible cuts, so that no piece between two of them stores more than PIECE_BYTES;
    but for the last cut, after which nothing more may come."""
    chosen: list[Cut] = []
    for cut, following in pairwise(cuts):
        start = chosen[-1].stored_bytes if chosen else 0
        if following.stored_bytes - start > PIECE_BYTES:
            chosen.append(cut)
    return [cut.value for cut in chosen]


def split_model(model: onnx.ModelProto, cuts: Sequence[str]) -> list[onnx.ModelProto]:
    """The pieces between the cuts, in order. Each takes of the graph's inputs and of the cut values what it
    needs and gives the cut value at its end and the graph's outputs that can be had by then."""
    graph = model.graph
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    belongs: dict[str, int] = {}
    for output in graph.output:
        if output.name in cuts:
            belongs[output.name] = cuts.index(output.name)
        else:
            _, values = _needed(graph, producers, [output.name], set(cuts))
            belongs[output.name] = max((cuts.index(v) + 1 for v in values if v in cuts), default=0)
    return [
        _piece(model, producers, number, cuts, [o for o in graph.output if belongs[o.name] == number])
        for number in range(len(cuts) + 1)
    ]


def name_pieces(graph: str, pieces: Sequence[onnx.ModelProto]) -> Mapping[str, onnx.ModelProto]:
    """Names whose order is that of the pieces."""
    return {f"{graph}_{number:03}": piece for number, piece in enumerate(pieces)}


def store_large_constants(models: Iterable[onnx.ModelProto], file: WeightsFile) -> None:
    """Move large f32 constants of the pieces to the weights file, equal ones once."""
    stored = {}
    for model in models:
        for tensor in model.graph.initializer:
            here = tensor.data_location != onnx.TensorProto.EXTERNAL
            large = here and tensor.ByteSize() >= LARGE_CONSTANT_BYTES
            if not large or tensor.data_type != onnx.TensorProto.FLOAT:
                continue
            array = numpy_helper.to_array(tensor)
            key = (str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).digest())
            if key not in stored:
                stored[key] = file.add(array)
            _rename_input(model.graph, tensor.name, stored_name(stored[key]))
            tensor.ClearField("raw_data")
            model.graph.input.append(mark_stored(tensor, stored[key]))


def _rename_input(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _piece(
    model: onnx.ModelProto,
    producers: Mapping[str, int],
    number: int,
    cuts: Sequence[str],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    graph = model.graph
    outputs = list(outputs)
    if number < len(cuts) and all(output.name != cuts[number] for output in outputs):
        outputs.insert(0, _cut_value(cuts[number]))
    targets = [output.name for output in outputs]
    nodes, values = _needed(graph, producers, targets, set(cuts) - set(targets))
    inputs = [_cut_value(cut) for cut in cuts if cut in values and cut not in targets]
    inputs += [value for value in graph.input if value.name in values]
    initializers = [tensor for tensor in graph.initializer if tensor.name in values]
    chosen = [graph.node[index] for index in sorted(nodes)]
    piece = helper.make_graph(chosen, f"{graph.name}_{number}", inputs, outputs, initializers)
    return helper.make_model(
        piece,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )


def _cut_value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _needed(
    graph: onnx.GraphProto, producers: Mapping[str, int], targets: Sequence[str], given: set[str]
) -> tuple[set[int], set[str]]:
    """Nodes and values that the targets need, where the values ``given`` are not computed."""
    nodes: set[int] = set()
    values: set[str] = set()
    open_values = list(targets)
    while open_values:
        value = open_values.pop()
        if value in values or not value:
            continue
        values.add(value)
        if value in producers and value not in given and producers[value] not in nodes:
            nodes.add(producers[value])
            open_values += graph.node[producers[value]].input
    return nodes, values
