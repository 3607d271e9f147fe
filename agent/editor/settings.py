"""Settings of the editing methods: complete, checked whole, with a hash that names them. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints

from mobifarm.agent.errors import InputError

SettingsT = TypeVar("SettingsT")

# A mapping of settings as it stands in a specification, in a request and in a result's passport.
SettingValue = int | float | str

# How much of a bundle's preparation `forward` uses.
PreparedPart = Literal["auto", "surrogate", "subspace", "second_moment", "off"]


def _integer(default: int, minimum: int, maximum: int) -> int:
    value: int = field(default=default, metadata={"minimum": minimum, "maximum": maximum})
    return value


def _number(default: float, minimum: float, maximum: float) -> float:
    value: float = field(default=default, metadata={"minimum": minimum, "maximum": maximum})
    return value


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """Settings of the method ``forward``; lengths are in units of ‖v0‖, the norm of the unedited value.

    Attributes:
        contexts: rewriting prompts: the prompt itself and ``contexts - 1`` fixed prefixes before it.
        probe_contexts: how many of the contexts, in turn, the probes of one step are taken on; the line
            search and the decision to stop see all of them.
        directions: fresh random orthonormal directions per step, at most d.
        memory: how many of the last gradient estimates are probed as well; what pointed downhill a few steps
            ago still does in part, and random directions alone would have to find it again.
        prepared: ``auto`` uses what the bundle has of learned second moments, gradient surrogate and
            directions; ``surrogate`` leaves out the directions, ``subspace`` the surrogate and
            ``second_moment`` both, to tell what each is worth; ``off`` uses nothing of it.
        guided_directions: fresh random directions per step in place of ``directions`` where a gradient
            surrogate guides.
        learned_directions: how many of the bundle's learned directions are probed per step, in turn.
        differences: ``forward`` takes one loss evaluation per direction, ``central`` two.
        perturbation: length of the difference step μ. It must drown the noise of 8-bit activations; on a
            neural processor the search takes longer ones where its losses tell too little, see
            directions.audible_step.
        initial_step: the first line search tries lengths from a quarter to twice this one.
        norm_limit: δ is clamped to this length.
        norm_penalty: weight λ of λ‖δ‖² in the objective, nats.
        kl_weight: weight in the objective of the KL divergence of the next token after "{subject} is a";
            above 0 it costs one more context.
        stop_probability: the edit is done when the target's probability (geometric mean per token and
            over contexts) reaches it and, from 0.5 on, the model writes the target after the bare prompt,
            greedily. With the edit written back it may be 9 % less.
        plateau_probability: the edit is done from here on too, once four steps together gained less than 10 %
            (0.1 nats) and the model writes the target; as much as ``stop_probability`` turns this off.
        step_limit: steps after which the best δ so far is written back.
    """

    contexts: int = _integer(3, 1, 6)
    probe_contexts: int = _integer(1, 1, 6)
    directions: int = _integer(32, 2, 4096)
    memory: int = _integer(4, 0, 64)
    prepared: PreparedPart = "auto"
    guided_directions: int = _integer(6, 2, 4096)
    learned_directions: int = _integer(8, 0, 64)
    differences: Literal["forward", "central"] = "forward"
    perturbation: float = _number(0.5, 1e-6, 10.0)
    initial_step: float = _number(0.5, 1e-3, 10.0)
    norm_limit: float = _number(4.0, 0.01, 100.0)
    norm_penalty: float = _number(0.05, 0.0, 100.0)
    kl_weight: float = _number(0.0, 0.0, 100.0)
    stop_probability: float = _number(0.9, 0.01, 0.9999)
    plateau_probability: float = _number(0.7, 0.01, 0.9999)
    step_limit: int = _integer(60, 1, 100_000)


@dataclass(frozen=True, slots=True)
class MobiEditSettings:
    """Settings of the method ``mobiedit``; the defaults are the published ones where there are any.

    Attributes:
        contexts: rewriting prompts: the prompt itself and ``contexts - 1`` fixed prefixes before it.
        directions: N Gaussian directions per step, two evaluations each.
        perturbation: μ, absolute, not in units of ‖v0‖; a direction has the length √d.
        learning_rate: of the first step; a cosine takes it to 0 at the step limit.
        norm_limit: δ is clamped to this multiple of ‖v0‖.
        norm_penalty: weight λ of λ‖δ‖/‖v0‖² in the objective, nats.
        kl_weight: weight in the objective of the KL divergence of the next token after "{subject} is a".
        stop_every: M, steps between two looks at the target's confidence.
        stop_probability: m, unpublished: the edit is done when the target's probability (geometric mean per
            token and over contexts) is seen to reach it.
        step_limit: steps after which δ is written back as it is.
        cache: ``none``: every evaluation is the whole model on whole sequences; ``stale``: as published, the
            keys and values of the first positions are kept, subject included, until the loss stands still;
            ``exact``: what δ cannot change is computed once.
        held_positions: how many positions the stale cache keeps.
        refresh_gain: the stale cache is filled again when the loss fell by less, nats,
        refresh_steps: over so many steps.
    """

    contexts: int = _integer(6, 1, 6)
    directions: int = _integer(5, 1, 4096)
    perturbation: float = _number(1e-3, 1e-9, 1e3)
    learning_rate: float = _number(0.05, 1e-9, 1e3)
    norm_limit: float = _number(4.0, 0.01, 100.0)
    norm_penalty: float = _number(1e-3, 0.0, 100.0)
    kl_weight: float = _number(0.0625, 0.0, 100.0)
    stop_every: int = _integer(20, 1, 100_000)
    stop_probability: float = _number(0.7, 0.01, 0.9999)
    step_limit: int = _integer(600, 1, 100_000)
    cache: Literal["none", "stale", "exact"] = "none"
    held_positions: int = _integer(10, 1, 1000)
    refresh_gain: float = _number(1e-3, 0.0, 100.0)
    refresh_steps: int = _integer(3, 1, 100_000)


def parse_settings(kind: type[SettingsT], values: Mapping[str, object]) -> SettingsT:
    """Build a settings dataclass from names and values; what is not named keeps its default.

    Whole numbers may come as floats (protobuf's Struct knows no integers).

    Raises:
        InputError: listing every unknown name and every bad value at once.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    errors = [
        f"{name!r} is no setting (known: {', '.join(fields) or 'none'})"
        for name in sorted(values.keys() - fields.keys())
    ]
    accepted: dict[str, SettingValue] = {}
    for name, known in fields.items():
        if name not in values:
            continue
        try:
            accepted[name] = _check(name, hints[name], known.metadata, values[name])
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise InputError("the settings do not fit: " + "; ".join(errors))
    return kind(**accepted)


def _check(name: str, hint: Any, limits: Mapping[str, float], value: object) -> SettingValue:
    if hint not in (int, float):
        choices = hint.__args__
        if value not in choices:
            raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
        return str(value)
    low, high = limits["minimum"], limits["maximum"]
    wanted = "a whole number" if hint is int else "a number"
    problem = f"{name} is {value!r}: give {wanted} from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(problem)
    if hint is int and value != int(value):
        raise ValueError(problem)
    return int(value) if hint is int else float(value)


def canonical_json(values: Mapping[str, object]) -> str:
    """JSON with sorted keys and no spaces: equal settings have equal text."""
    return json.dumps(dict(values), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def settings_hash(values: Mapping[str, object]) -> str:
    """sha256 of the canonical JSON of complete settings, hex."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()
