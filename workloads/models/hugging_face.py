"""Models in a local Hugging Face folder, read with transformers: safetensors only, no code of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobifarm.agent.editor.manifest import Architecture
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.checkpoint import Checkpoint, Rotary
from mobifarm.workloads.models.safetensors_files import SafetensorsFiles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class _Family:
    """What the models of a family share beyond what their configurations say.

    Attributes:
        norm_offset: added to the weights of the norms.
        scaled_embedding: whether embeddings are multiplied by √d.
        query_key_norm: see Architecture.
        post_norms: see Architecture.
    """

    norm_offset: float = 0.0
    scaled_embedding: bool = False
    query_key_norm: bool = False
    post_norms: bool = False


FAMILIES = {
    "llama": _Family(),
    "qwen2": _Family(),
    "qwen3": _Family(query_key_norm=True),
    "gemma": _Family(norm_offset=1.0, scaled_embedding=True),
    "gemma2": _Family(norm_offset=1.0, scaled_embedding=True, post_norms=True),
    "gemma3_text": _Family(norm_offset=1.0, scaled_embedding=True, post_norms=True, query_key_norm=True),
}
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_FULL, _LOCAL = "full_attention", "sliding_attention"


def load_folder(folder: Path, status: Callable[[str], None], *, max_positions: int) -> Checkpoint:
    """The model in ``folder``; ``status`` is told in words what takes time.

    Raises:
        WorkloadInputError: libraries are missing, the files cannot be read, or the graphs cannot express it.
    """
    _check_config(folder)
    model, tokenizer = _read_form(folder, status)
    status("reading the weights")
    return _checkpoint_of(model, tokenizer, folder, max_positions)


def _read_form(folder: Path, status: Callable[[str], None]) -> tuple[Any, Any]:
    """The transformers model without any weights, and the tokenizer."""
    try:
        import torch  # transformers without torch fails late and in riddles
        import transformers
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise WorkloadInputError(
            f"building this model needs {error.name}: pip install 'mobifarm[models]'"
        ) from error
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        status("reading the tokenizer")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:  # what a damaged configuration raises depends on where it is first used
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WorkloadInputError(f"{folder.name} cannot be read as a model ({reason})") from error
    return model, tokenizer


def _checkpoint_of(model: Any, tokenizer: Any, folder: Path, max_positions: int) -> Checkpoint:
    """What a bundle needs of a model; its weights are read when they are asked for, one at a time."""
    import torch
    import transformers

    architecture = _architecture(model.config, max_positions)
    offset = FAMILIES[architecture.family].norm_offset
    tensors = SafetensorsFiles(folder)
    unused = {"lm_head.weight"} if architecture.tied else set()
    shapes = {name: each.shape for name, each in model.state_dict().items() if name not in unused}
    tensors.require(shapes)

    def weight(name: str) -> NDArray[np.float32]:
        array = tensors.read(name)
        return array + offset if offset and name.endswith("norm.weight") else array

    # Computed from the configuration, outside of what has no weights.
    found = type(model.model.rotary_emb)(model.config)

    def rotary(kind: str) -> Rotary:
        # Families whose local layers turn at other speeds keep a table for either kind.
        prefix = f"{kind}_" if hasattr(found, f"{kind}_inv_freq") else ""
        frequencies = getattr(found, f"{prefix}inv_freq").to(torch.float32).numpy()
        return Rotary(frequencies, float(getattr(found, f"{prefix}attention_scaling")))

    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    first = tokenizer("a").input_ids[0]
    return Checkpoint(
        architecture=architecture,
        weight=weight,
        has=shapes.__contains__,
        rotary=rotary(_FULL),
        local_rotary=rotary(_LOCAL) if architecture.local_layers else None,
        tokenizer_json=backend.to_str(),
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        prepend_bos=tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id,
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )


def _check_config(folder: Path) -> None:
    """Refuse early, and in one sentence, what the graphs cannot express."""
    try:
        found = _refused(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WorkloadInputError(
            f"{folder.name}/config.json is no model configuration: check the folder"
        ) from error
    if found:
        raise WorkloadInputError(
            f"{folder.name} has {', '.join(found)}, which bundles do not support: "
            f"use an unquantised model of the families {', '.join(FAMILIES)}"
        )


def _refused(config: Any) -> list[str]:
    """What of a configuration the graphs cannot express; anything may be raised where it is none."""
    family = config["model_type"]
    # transformers ignores a cap on the attention scores in Gemma 3, and reads "gelu" in Gemma as "…_tanh".
    activation = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    activations = (*_ACTIVATIONS, *(["gelu"] if family == "gemma" else []))
    refusals = {
        f"model_type {family!r}": family not in FAMILIES,
        f"hidden_act {activation!r}": activation not in activations,
        "mlp_bias": bool(config.get("mlp_bias")),
        "quantization_config": "quantization_config" in config,
        "use_bidirectional_attention": bool(config.get("use_bidirectional_attention")),
        "attn_logit_softcapping": family == "gemma3_text" and bool(config.get("attn_logit_softcapping")),
    }
    ropes = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for rope in [value for value in ropes.values() if isinstance(value, dict)] or [ropes]:
        kind = rope.get("rope_type", rope.get("type", "default"))
        refusals[f"rope_type {kind!r}"] = kind not in ("default", "linear", "llama3")
    for kind in set(config.get("layer_types") or ()):
        refusals[f"layer type {kind!r}"] = kind not in (_FULL, _LOCAL)
    return [name for name, refused in refusals.items() if refused]


def _architecture(config: Any, max_positions: int) -> Architecture:
    heads, family = config.num_attention_heads, FAMILIES[config.model_type]
    # Where a configuration of Gemma has both names, this one counts.
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    ropes = config.rope_parameters
    query_scalar = getattr(config, "query_pre_attn_scalar", None)
    layer_types = getattr(config, "layer_types", None) or []
    local_layers = tuple(index for index, kind in enumerate(layer_types) if kind == _LOCAL)
    return Architecture(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        key_value_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        rope_theta=float(ropes.get(_FULL, ropes)["rope_theta"]),
        rms_epsilon=float(config.rms_norm_eps),
        tied=bool(config.tie_word_embeddings),
        max_positions=min(config.max_position_embeddings, max_positions),
        activation=_ACTIVATIONS[activation],
        embedding_scale=config.hidden_size**0.5 if family.scaled_embedding else 1.0,
        attention_scale=None if query_scalar is None else query_scalar**-0.5,
        attention_softcap=getattr(config, "attn_logit_softcapping", None),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        query_key_norm=family.query_key_norm,
        post_norms=family.post_norms,
        local_layers=local_layers,
        window=config.sliding_window if local_layers else None,
    )
