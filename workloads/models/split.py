"""Cuts a graph into pieces that run one after the other.

The weights of one piece, such as a layer, are all that must be resident at a time: the phone gives the pages
of a piece back before the next one runs. Values that follow from the graph's inputs alone, such as shapes and
masks, are computed in each piece anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

# Of the output projection in one piece, about as much as a layer of a small model.
BLOCK_BYTES = 4 * 2**20


def block_columns(vocabulary: int, hidden: int, *, itemsize: int) -> int:
    """Into how many columns the output projection is cut: into equal blocks, which then share a graph, where
    the vocabulary can be divided by a number of blocks up to twice the smallest that is enough."""
    fewest = -(-vocabulary * hidden * itemsize // BLOCK_BYTES)
    equal = [blocks for blocks in range(fewest, 2 * fewest + 1) if vocabulary % blocks == 0]
    return -(-vocabulary // (equal[0] if equal else fewest))


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
