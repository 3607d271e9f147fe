"""What an edit of a large model would take, from its shape and the tokens of its texts: estimates. Pure.

token_layers are counted as ``agent.editor.contexts.ContextLoss`` counts them. Seconds on a neural processor
come from published rates of prefilling, scaled by the weights of the layers that a token passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mobifarm.agent.editor.manifest import Architecture

# A line search tries 4 lengths, a guided step of `forward` probes some 19 directions on one context of 3: the
# guess, 4 last estimates, 8 learned and 6 random ones. Start, trim and settling take 1, 5 and 1 evaluations.
LINE_SEARCH, PROBES, ONCE = 4, 19, 7
CHUNK_ROWS = 64  # of the graphs for neural processors, see docs/npu.md


class Context(Protocol):
    """A rewriting prompt, see contexts.TokenizedContext."""

    @property
    def input_ids(self) -> Sequence[int]: ...

    @property
    def answer_ids(self) -> Sequence[int]: ...

    @property
    def subject_last(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Rate:
    """A published rate of prefilling.

    Attributes:
        device: whose neural processor.
        model: which model, with what weights and activations.
        tokens_per_second: the rate.
        layer_weights: weights of all layers of that model.
        chunk_tokens: tokens that one call of its graph takes, where that is known.
        source: where the rate stands, or what it was computed from.
    """

    device: str
    model: str
    tokens_per_second: float
    layer_weights: float
    chunk_tokens: int | None
    source: str


LLAMA_3B_WEIGHTS, QWEN_3B_WEIGHTS, QWEN_2B_WEIGHTS = 2.818e9, 2.775e9, 1.214e9
_AI_HUB = "quic/ai-hub-models, llama_v3_2_3b_instruct/perf.yaml: time to first token of 128 tokens"
_MOBIEDIT = (
    "MobiEdit (arXiv 2506.13772), ZsRE: 344 steps × 10 evaluations × 7 sequences × some 15 tokens in {} s; "
    "all of the edit, with a prefix cache that saves some of these tokens"
)
_MOBIEDIT_TOKENS = 344 * 10 * 7 * 15


def _mobiedit(device: str, seconds: float) -> Rate:
    rate = _MOBIEDIT_TOKENS / seconds
    return Rate(device, "Qwen2.5-3B w8a16", rate, QWEN_3B_WEIGHTS, None, _MOBIEDIT.format(seconds))


RATES = (
    Rate("Snapdragon 8 Elite Gen 5", "Llama-3.2-3B w4a16", 128 / 0.058016, LLAMA_3B_WEIGHTS, 128, _AI_HUB),
    Rate("Snapdragon 8 Elite", "Llama-3.2-3B w4a16", 128 / 0.088195, LLAMA_3B_WEIGHTS, 128, _AI_HUB),
    Rate(
        "Snapdragon 8 Gen 3",
        "Qwen1.5-1.8B w8a8",
        564,
        QWEN_2B_WEIGHTS,
        None,
        "llm.npu (arXiv 2407.05858), prompts of 256 tokens, as quoted in UbiquitousLearning/mllm issue 299, "
        "whose author measured 170",
    ),
    _mobiedit("Snapdragon 8 Elite", 1211.83),
    _mobiedit("Snapdragon 8 Gen 3", 1477.67),
    _mobiedit("Snapdragon 8 Gen 2", 1902.88),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one edit; token_layers, and the rows of the read-out as layers with as many weights.

    Attributes:
        once: lower layers and caches, at the start and when the search settles: on the processor.
        evaluations: the loss evaluations: on the neural processor, where there is one.
        per_evaluation: of one loss evaluation.
        read_out: token_layers with as many weights as the output projections of all evaluations.
        chunk_rows: token_layers of the evaluations with the padding of chunks of 64 rows.
        suffix_tokens: the longest text from the subject's last token on.
    """

    once: int
    evaluations: int
    per_evaluation: int
    read_out: float
    chunk_rows: int
    suffix_tokens: int

    @property
    def token_layers(self) -> int:
        """As EditCost.token_layers."""
        return self.once + self.evaluations


def plan_edit(
    a: Architecture,
    edit_layer: int,
    contexts: Sequence[Context],
    evaluations: int,
    *,
    key_contexts: Sequence[Context] = (),
    settled: int = 1,
) -> Plan:
    """The cost of an edit that takes so many loss evaluations and settles so many times."""
    keys = sum(context.subject_last + 1 for context in key_contexts) * (edit_layer + 1)
    count, upper = len(contexts), a.layers - 1 - edit_layer
    padded = count * max(len(context.input_ids) for context in contexts)
    suffix = max(len(context.input_ids) - context.subject_last for context in contexts)
    cached = sum(context.subject_last for context in contexts)
    per_evaluation = count * suffix * upper
    reads = count * max(len(context.answer_ids) for context in contexts) * evaluations
    return Plan(
        once=keys + (1 + settled) * (padded * (edit_layer + 1) + cached * upper),
        evaluations=evaluations * per_evaluation,
        per_evaluation=per_evaluation,
        read_out=reads * a.vocabulary * a.hidden * a.layers / layer_weights(a),
        chunk_rows=_chunks(count, suffix, evaluations) * CHUNK_ROWS * upper,
        suffix_tokens=suffix,
    )


def _chunks(contexts: int, suffix: int, evaluations: int) -> int:
    """Calls of the graph for 64 rows: a sequence is never cut, and the calls of a step are apart."""
    in_one = max(CHUNK_ROWS // suffix, 1)
    steps = max((evaluations - ONCE - LINE_SEARCH) / (LINE_SEARCH + PROBES / contexts), 0)
    line_searches = (steps + 1) * math.ceil(LINE_SEARCH * contexts / in_one)
    once = sum(math.ceil(number * contexts / in_one) for number in (1, 5, 1))
    return round(line_searches + steps * math.ceil(PROBES / in_one)) + once


def layer_weights(a: Architecture) -> int:
    """Weights of all layers' matrices."""
    attention = 2 * a.hidden * a.head_dim * (a.heads + a.key_value_heads)
    return a.layers * (attention + 3 * a.hidden * a.intermediate)


def seconds(plan: Plan, a: Architecture, rate: Rate) -> tuple[float, float]:
    """Of an edit's loss evaluations: with the rows that are needed, and with whole chunks of 64 rows, each as
    long as a chunk of the published graph (weights have to be read either way)."""
    layers_per_second = rate.tokens_per_second * a.layers * rate.layer_weights / layer_weights(a)
    padding = max((rate.chunk_tokens or CHUNK_ROWS) / CHUNK_ROWS, 1)
    return (
        (plan.evaluations + plan.read_out) / layers_per_second,
        (plan.chunk_rows * padding + plan.read_out) / layers_per_second,
    )
