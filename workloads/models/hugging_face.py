"""Models in a local Hugging Face folder, read with transformers: safetensors only, no code of the model."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobifarm.agent.editor.manifest import Architecture
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FAMILIES = ("llama", "qwen2")


def load_folder(folder: Path, status: Callable[[str], None], *, max_positions: int) -> Checkpoint:
    """The model in ``folder``; ``status`` is told in words what takes time.

    Raises:
        WorkloadInputError: libraries are missing, the files cannot be read, or the graphs cannot express it.
    """
    _check_config(folder)
    return _checkpoint_of(*_read_model(folder, status), max_positions)


def _read_model(folder: Path, status: Callable[[str], None]) -> tuple[Any, Any]:
    try:
        import torch  # noqa: F401  (transformers without torch fails late and in riddles)
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
        status("reading the weights")
        # Its own progress bars would break ours; errors still arrive as exceptions.
        with contextlib.redirect_stderr(io.StringIO()):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WorkloadInputError(f"{folder.name} cannot be read as a model ({reason})") from error
    return model, tokenizer


def _checkpoint_of(model: Any, tokenizer: Any, max_positions: int) -> Checkpoint:
    """What a bundle needs of a transformers model and its tokenizer; tensors are converted one by one."""
    import torch
    import transformers

    state = model.state_dict()
    rotary = model.model.rotary_emb

    def weight(name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = state[name].to(torch.float32).numpy()
        return array

    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    first = tokenizer("a").input_ids[0]
    return Checkpoint(
        architecture=_architecture(model.config, max_positions),
        weight=weight,
        has=state.__contains__,
        inverse_frequencies=rotary.inv_freq.to(torch.float32).numpy(),
        rotary_scaling=float(rotary.attention_scaling),
        tokenizer_json=backend.to_str(),
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        prepend_bos=tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id,
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )


def _check_config(folder: Path) -> None:
    """Refuse early, and in one sentence, what the graphs cannot express."""
    try:
        config = json.loads((folder / "config.json").read_text())
        family = config["model_type"]
    except (OSError, ValueError, KeyError) as error:
        raise WorkloadInputError(
            f"{folder.name}/config.json is no model configuration: check the folder"
        ) from error
    refusals = {
        f"model_type {family!r}": family not in FAMILIES,
        f"hidden_act {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "mlp_bias": bool(config.get("mlp_bias")),
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "quantization_config": "quantization_config" in config,
    }
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    refusals[f"rope_type {kind!r}"] = kind not in ("default", "linear", "llama3")
    found = [name for name, refused in refusals.items() if refused]
    if found:
        raise WorkloadInputError(
            f"{folder.name} has {', '.join(found)}, which bundles do not support: "
            f"use an unquantised model of the families {', '.join(FAMILIES)}"
        )


def _architecture(config: Any, max_positions: int) -> Architecture:
    heads = config.num_attention_heads
    return Architecture(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        key_value_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        rope_theta=float(config.rope_parameters["rope_theta"]),
        rms_epsilon=float(config.rms_norm_eps),
        tied=bool(config.tie_word_embeddings),
        max_positions=min(config.max_position_embeddings, max_positions),
    )
